"""Training as DDPM's Algorithm 1: a trainer holds the state, `train` runs it in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.autograd import Tensor
from minidiff.backend import graphs
from minidiff.data import Dataset, batch_indices, load
from minidiff.diffusion import objectives, time_draws
from minidiff.errors import InputError
from minidiff.optim import DECAYS, EMA, Adam, AdamW, update
from minidiff.training import memory
from minidiff.training.captured import CapturedStep
from minidiff.training.checkpoint import Checkpoint
from minidiff.training.config import TrainConfig
from minidiff.training.metrics import MetricsLog
from minidiff.training.parallel import ALONE, Communicator, SlicedGenerator
from minidiff.training.run import Run
from minidiff.unet import UNet

Array = Any


class Trainer:
    """Everything that changes while a model is trained, and the step that changes it.

    Parameters
    ----------
    config : what decides the run
    data : the images; those that the config names, unless given
    ranks : the processes that train together, see `parallel.world`; by default this one alone

    Attributes
    ----------
    model, optimizer : the network, and Adam's moments
    ema : the averaged weights, which rank 0 alone keeps (None elsewhere): training never reads them
    schedule : the forward process
    step : how many steps are done

    Raises
    ------
    InputError
        If the network does not fit the images or the memory, or if there are more processes than
        images in a batch.
    """

    def __init__(
        self, config: TrainConfig, data: Dataset | None = None, *, ranks: Communicator = ALONE
    ) -> None:
        data = data or load(config.data)
        _check_fit(config, data)
        if config.batch_size < ranks.size:
            raise InputError(
                f"batch_size is {config.batch_size}, too small for {ranks.size} processes: each "
                "needs an image in every step; start fewer, or set a larger batch_size"
            )
        memory.check_training(config, ranks.size)
        self.config, self.ranks = config, ranks
        self.images, self.labels = backend.asarray(data.images), data.labels
        self.schedule = config.make_schedule()
        self.model = UNet(config.unet, rng=backend.host_generator(config.seed)).train()
        self.flat = self.model.flatten()
        self.optimizer = (
            Adam(self.flat, config.lr)
            if config.optimizer == "adam"
            else AdamW(self.flat, config.lr, weight_decay=config.weight_decay)
        )
        self.ema = EMA(self.flat, config.ema_decay) if ranks.first else None
        self.step = 0
        self._captured = CapturedStep(self) if graphs.supported() else None

    def train_step(self) -> tuple[Array, Array]:
        """One gradient step on || eps - eps_theta(sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, t) ||^2.

        Ho et al. (2020), Algorithm 1, with classes dropped for guidance (Ho & Salimans 2022,
        Algorithm 1), or on another objective that the config names. All draws are functions of
        (seed, step), made for the whole batch; several processes take their rows of them. Returns
        the loss and the norm of its gradient, scalars on the device: to read them is to wait for
        the device.
        """
        c, n, step = self.config, self.config.batch_size, self.step + 1
        host = backend.host_generator(c.seed, step)

        rows = batch_indices(len(self.labels), n, seed=c.seed, step=step)
        t = time_draws.draw(c.objective.times, self.schedule, n, rng=host, step=step)
        labels = self._labels(rows, host)
        if self._captured is not None:
            total, norm = self._captured(rows, t, labels)
            self.step = step
            return total, norm

        device = backend.generator(c.seed, step)
        eps = device.standard_normal((n, *self.images.shape[1:]), dtype=self.images.dtype)
        self.model.zero_grad()
        mine = self.ranks.rows(n)
        if self.ranks.size == 1:
            loss = self._loss(rows, t, eps, labels, device)
            loss.backward()
            total = loss.data
        else:
            labels = None if labels is None else labels[mine]
            rng = SlicedGenerator(device, mine, n)
            loss = self._loss(rows[mine], t[mine], eps[mine], labels, rng)
            loss = loss * ((mine.stop - mine.start) / n)  # the share of these rows in the mean
            loss.backward()
            self.ranks.allreduce(self.flat.grad)
            sums = loss.data.reshape(1)
            self.ranks.allreduce(sums)
            total = sums[0]
        norm = update(self.optimizer, self.ema, max_norm=c.grad_clip, lr=self.lr(step))
        self.step = step
        return total, norm

    def lr(self, step: int) -> float:
        """The learning rate of step 1, 2, ...: it rises over the warm-up, then stays or decays."""
        c = self.config
        if step < c.warmup:
            return c.lr * step / c.warmup
        first = max(1, c.warmup)
        return c.lr * DECAYS[c.lr_decay](step - first + 1, c.steps - first + 1)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the network of every process has the averaged weights."""
        own = self.flat.data.copy()
        try:
            self.flat.data[...] = 0 if self.ema is None else self.ema.data
            self.ranks.allreduce(self.flat.data)  # the others have 0 here
            yield
        finally:
            self.flat.data[...] = own

    def state(self) -> Checkpoint:
        """What a checkpoint holds, copied to the host; only rank 0 knows all of it."""
        assert self.ema is not None
        with self.ema.swapped():
            ema = _to_host(self.model.state_dict())
        optimizer = self.optimizer.state_dict()
        return Checkpoint(
            step=self.step,
            model=_to_host(self.model.state_dict()),
            ema=ema,
            optimizer=_to_host({name: optimizer[name] for name in ("m", "v")}),
            counters={"optimizer": optimizer["steps"], "ema": self.ema.updates},
        )

    def load_state(self, state: Checkpoint) -> None:
        """Go on from `state`; an InputError if it is of another model."""
        self.model.load_state_dict(state.ema)
        if self.ema is not None:
            self.ema.data[...] = self.flat.data
            self.ema.updates = state.counters["ema"]
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer | {"steps": state.counters["optimizer"]})
        self.step = state.step

    def _loss(
        self, rows: np.ndarray, t: np.ndarray, eps: Array, labels: np.ndarray | None, rng: Any
    ) -> Tensor:
        """The mean loss of these rows of the data at the times t, with the noise eps."""
        o, x0 = self.config.objective, self.images[backend.asarray(rows)]
        if (o.target, o.weight) == ("eps", "uniform"):
            return objectives.simple(self.model, self.schedule, x0, t, eps, labels=labels, rng=rng)
        losses = objectives.squared_error(
            self.model, self.schedule, x0, t, eps, target=o.target, labels=labels, rng=rng
        )
        return objectives.mean(losses, o.weights(self.schedule, t))

    def _labels(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        null = self.config.unet.num_classes
        if null is None:
            return None
        return objectives.drop_labels(
            self.labels[rows], p_uncond=self.config.p_uncond, null=null, rng=rng
        )


@dataclass(frozen=True)
class Record:
    """What a step was like: `step` counts from 1, `lr` is the learning rate that it used.

    `loss` and `grad_norm` are scalars on the device; ``float(record.loss)`` waits for the device.
    `images_per_s` is the speed of training since the last record in the metrics.
    """

    step: int
    loss: Array
    lr: float
    grad_norm: Array
    images_per_s: float


def train(trainer: Trainer, run: Run) -> Generator[Record, None, None]:
    """Train in the folder of `run` to the last step of its config, a record for each step.

    It goes on from the newest checkpoint in the folder, if there is one, to the same bits as if
    it had never stopped (on NumPy). Every `checkpoint_every` steps and after the last one a
    checkpoint is written. A caller who stops early closes the generator (``contextlib.closing``
    does), which saves the step that was just done.

    Several processes (`Trainer.ranks`) call it together, and stop after the same step if they
    stop. Rank 0 alone reads and writes in the folder.

    Raises
    ------
    InputError
        If the loss or its gradient is no longer finite (nothing is saved then), if the checkpoint
        is damaged or of another model, if another process trains in the folder, if trainer and
        run have not the same config, or if the processes no longer have the same weights.
    OSError
        If the disk is full, say; the older checkpoint is then still there.
    """
    config, ranks = trainer.config, trainer.ranks
    if config != run.config:
        raise InputError(f"the trainer has another config than the run in {run.folder}")
    with ExitStack() as stack:
        ranks.on_first(stack.enter_context, run.locked())
        run.rewind(trainer.load_state, ranks)
        ranks.on_first(run.write_config)
        log = MetricsLog(run.metrics if ranks.first else Path(os.devnull))
        stack.callback(log.close)

        def save() -> None:
            log.sync()
            run.save(trainer.state())

        start, window = trainer.step, _Window(trainer)
        try:
            while trainer.step < config.steps:
                record = window.step()
                step = record.step
                saves = step % config.checkpoint_every == 0 or step == config.steps
                if saves or step == start + 1:
                    ranks.check_same(trainer.flat.data, f"the weights after step {step}")
                if saves or step % config.log_every == 0:
                    log.append(window.read())
                if saves:
                    ranks.on_first(save)
                yield record
        except GeneratorExit:
            # Not a word to the other processes: this one may be alone in stopping, by an error.
            if window.losses:
                log.append(window.read())
            if ranks.first:
                run.save(trainer.state())
            raise


@dataclass
class _Window:
    """The steps since the metrics were last written, whose losses are still on the device."""

    trainer: Trainer
    losses: list[Array] = field(default_factory=list)
    norms: list[Array] = field(default_factory=list)
    seconds: float = 0.0

    def step(self) -> Record:
        start = time.perf_counter()
        # what overflows is found when the losses are read, and told as an error then
        with np.errstate(over="ignore", invalid="ignore"):
            loss, norm = self.trainer.train_step()
        self.losses.append(loss)
        self.norms.append(norm)
        self.seconds += time.perf_counter() - start
        step = self.trainer.step
        return Record(step, loss, self.trainer.lr(step), norm, self._images_per_s())

    def read(self) -> dict[str, float]:
        """The means of the window as a record of the metrics; begins the next window."""
        start = time.perf_counter()
        values = backend.to_numpy(backend.xp.stack([*self.losses, *self.norms]))
        self.seconds += time.perf_counter() - start
        losses, norms = values.astype(np.float64).reshape(2, -1)
        step, lr = self.trainer.step, self.trainer.lr(self.trainer.step)
        finite = np.isfinite(losses) & np.isfinite(norms)
        if not finite.all():
            first = int(np.argmin(finite))
            raise InputError(
                f"training diverged at step {step - len(losses) + first + 1}: loss "
                f"{losses[first]}, gradient norm {norms[first]}, learning rate {lr:g}; nothing "
                "of it is saved, an earlier checkpoint stays; train anew with a smaller lr, a "
                "longer warmup or a smaller grad_clip"
            )
        record = {
            "step": step,
            "loss": _rounded(losses.mean()),
            "lr": _rounded(lr),
            "grad_norm": _rounded(norms.mean()),
            "images_per_s": _rounded(self._images_per_s()),
        }
        self.losses, self.norms, self.seconds = [], [], 0.0
        return record

    def _images_per_s(self) -> float:
        return len(self.losses) * self.trainer.config.batch_size / self.seconds


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _to_host(arrays: dict[str, Array]) -> dict[str, np.ndarray]:
    # a copy: the model's own arrays change with the next step
    return {name: np.array(backend.to_numpy(a)) for name, a in arrays.items()}


def _check_fit(config: TrainConfig, data: Dataset) -> None:
    """Refuse a network that does not fit the images, and say which setting would."""
    unet, (height, width, channels) = config.unet, data.shape
    if height != width:
        raise InputError(f"the images of {data.name} are {height}x{width}; they must be square")
    fitting = {"image_size": height, "in_channels": channels}
    if unet.out_channels is not None:
        fitting["out_channels"] = channels  # one eps for each pixel value
    if unet.num_classes is not None:
        fitting["num_classes"] = data.num_classes
    for key, value in fitting.items():
        if getattr(unet, key) != value:
            raise InputError(
                f"unet.{key} is {getattr(unet, key)}, but the data set {data.name} needs {value}"
            )
