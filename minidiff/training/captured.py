"""A training step, an evaluation of the network and a whole sampler as graphs of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff import backend, ops
from minidiff.backend.graphs import Captured, supported
from minidiff.backend.philox import Philox
from minidiff.diffusion import objectives, process
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.samplers import State, final
from minidiff.optim import tick, update_by
from minidiff.training.parallel import SlicedGenerator
from minidiff.unet import Conditions, UNet

if TYPE_CHECKING:
    from minidiff.training.trainer import Trainer

Array = Any
Labels = np.ndarray | None
States = Callable[[Denoiser, Array, Any, Labels], Iterable[State]]
"""A sampler with all its options: (denoiser, x_T, rng, labels) -> its states."""

BATCHES = 4
"""The fewest batches for which a whole sampler is captured: the first of them is launched kernel
by kernel, and to capture the second takes the host about as long.
"""
EVALUATIONS = 250
"""The most evaluations of a network in one graph. It holds each of their launches, some hundreds,
and memory for each; and the more evaluations, the less does it matter what is between them.
"""


class CapturedStep:
    """`Trainer.train_step` with all work of the device in two graphs: the gradient, the update.

    The host draws times and labels and computes what follows from them, numbers for each image.
    Noise and dropout are drawn in the graph, from the key of the step.

    The gradients of several processes are added up between the graphs: by way of the host that
    cannot be captured, and whether NCCL's sum can is for a machine with two GPUs to tell.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._gradient, self._update = Captured(self._to_gradient), Captured(self._to_weights)

    def __call__(self, rows: np.ndarray, t: np.ndarray, labels: Labels) -> tuple[Array, Array]:
        """Do the step of these draws; its loss and the norm of its gradient, on the device."""
        trainer, step = self.trainer, self.trainer.step + 1
        mine, dtype = trainer.ranks.rows(len(rows)), trainer.images.dtype
        given = trainer.model.conditions(t[mine], None if labels is None else labels[mine], dtype)
        key = backend.key(trainer.config.seed, step)
        numbers = self._numbers(t[mine]).astype(dtype)
        (loss,) = self._gradient(rows[mine], key, numbers, *_present(given))
        trainer.ranks.allreduce(trainer.flat.grad)
        trainer.ranks.allreduce(loss)

        clock = tick(trainer.optimizer, trainer.ema, lr=trainer.lr(step))
        (norm,) = self._update(np.array(clock))
        return loss[0], norm

    def _numbers(self, t: np.ndarray) -> np.ndarray:
        """Five numbers for each image, (5, N) in float64: what x_0 is multiplied by to give x_t and
        the target, the same for eps, and the weight of its loss.
        """
        schedule, o = self.trainer.schedule, self.trainer.config.objective

        def at(x0: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            xt = process.q_sample(schedule, x0, t, eps)
            return xt, objectives.TARGETS[o.target](schedule, xt, t, x0, eps)

        # both are linear in x_0 and eps, so their values at (1, 0) and (0, 1) say all
        zero, one = np.zeros((len(t), 1, 1, 1)), np.ones((len(t), 1, 1, 1))
        weight = o.weights(schedule, t)
        columns = *at(one, zero), *at(zero, one), one if weight is None else weight
        return np.stack([a.reshape(len(t)) for a in columns])

    def _to_gradient(self, rows: Array, key: Array, numbers: Array, *given: Array) -> tuple[Array]:
        """The loss (1,); the gradient is left in the flat vector."""
        trainer, n = self.trainer, self.trainer.config.batch_size
        mine, rng = trainer.ranks.rows(n), Philox(key)
        x0 = trainer.images[rows]
        eps = rng.standard_normal((n, *x0.shape[1:]), dtype=x0.dtype)[mine]
        c, c_target, s, s_target, weight = (numbers[i] for i in range(5))
        xt, target = (
            a.reshape(-1, 1, 1, 1) * x0 + b.reshape(-1, 1, 1, 1) * eps
            for a, b in ((c, s), (c_target, s_target))
        )
        dropout = rng if trainer.ranks.size == 1 else SlicedGenerator(rng, mine, n)

        trainer.model.zero_grad()
        error = trainer.model(xt, Conditions(*given), rng=dropout) - target
        losses = ops.mean(error * error, axis=(1, 2, 3))
        loss = ops.sum(losses * weight) / n  # the share of these images in the mean of all
        loss.backward()
        return (loss.data.reshape(1),)

    def _to_weights(self, clock: Array) -> tuple[Array]:
        """The norm of the gradient. `clock` holds the numbers of the step, see `optim.tick`."""
        trainer = self.trainer
        limit = trainer.config.grad_clip
        return (update_by(clock, trainer.optimizer, trainer.ema, max_norm=limit),)


def denoiser(model: UNet) -> Denoiser:
    """`model.denoise` as graphs, one for each size of batch that it is asked for.

    The weights are read where they are at each call; to change them in place is allowed. Where the
    backend has no graphs it is `model.denoise` itself.
    """
    if not supported():
        return model.denoise
    graphs: dict[Any, Captured] = {}

    def evaluate(x: Array, *conditions: Array) -> tuple[Array]:
        return (model.denoise(x, Conditions(*conditions)),)

    def captured(xt: Array, t: np.ndarray, labels: Labels = None) -> Array:
        conditions = _present(model.conditions(t, labels, xt.dtype))
        kind = xt.shape, xt.dtype, len(conditions)
        if kind not in graphs:
            graphs[kind] = Captured(evaluate)
        return graphs[kind](xt, *conditions)[0]

    return captured


def sampler(model: UNet, states: States, shape: tuple[int, ...], batches: int) -> Loop | None:
    """A sampler as one graph for `batches` batches of `shape`, or None where that does not pay.

    It pays where the backend has graphs, from `BATCHES` batches on, if the sampler evaluates the
    network `EVALUATIONS` times at most. Else `denoiser` is the way.
    """
    if not supported() or batches < BATCHES:
        return None
    loop = Loop(model, states, shape)
    return loop if loop.evaluations <= EVALUATIONS else None


class Loop:
    """A sampler from its noise to its last state, all of it one graph: for those who want finished
    images only.

    What a sampler asks its denoiser, times and labels, depends on its options and not on the
    images. A rehearsal tells: images of one number each, from a denoiser that says 0 and takes
    note. In the graph the denoiser counts the questions and takes what was noted for each.

    Parameters
    ----------
    model : the network
    states : a sampler, with guidance and whatever else is between it and the network
    shape : of a batch, (N, H, W, C)
    """

    def __init__(self, model: UNet, states: States, shape: tuple[int, ...]) -> None:
        self.model, self.states, self.shape = model, states, shape
        null = model.config.num_classes
        self._labels: Labels = None if null is None else np.full(shape[0], null)
        sizes = [len(t) for t, _ in self._rehearse()]
        self._ends = list(accumulate(sizes, initial=0))
        self.evaluations = len(sizes)
        self._graph = Captured(self._run)

    def __call__(self, key: np.ndarray, labels: Labels) -> Array:
        """The finished images for labels (N,), float32, with all draws from this key."""
        self._labels = labels
        times, labels_asked = zip(*self._rehearse(), strict=True)
        distinct, places = np.unique(np.concatenate(times), return_inverse=True)
        features = self.model.time_features(distinct, "float32")
        given: tuple[Array, ...] = ()
        if labels is not None:
            given = self.model.label_rows(np.concatenate(labels_asked), "float32")
        return self._graph(key, features, places, *given)[0]

    def _rehearse(self) -> list[tuple[np.ndarray, Labels]]:
        """The times and labels of every question, each for all images that it is about."""
        asked: list[tuple[np.ndarray, Labels]] = []

        def note(xt: Array, t: np.ndarray, labels: Labels = None) -> Array:
            asked.append((t, labels))
            return np.zeros_like(xt)

        x_T = np.zeros((self.shape[0], *(1 for _ in self.shape[1:])), np.float32)
        final(self.states(note, x_T, backend.host_generator(0), self._labels))
        return asked

    def _run(self, key: Array, features: Array, places: Array, *labels: Array) -> tuple[Array]:
        rng = Philox(key)
        parts = (slice(*ends) for ends in pairwise(self._ends))

        def answer(xt: Array, t: np.ndarray, **cond: Any) -> Array:
            part = next(parts)
            return self.model.denoise(
                xt, Conditions(features[places[part]], *(a[part] for a in labels))
            )

        x_T = rng.standard_normal(self.shape, dtype=np.float32)
        return (final(self.states(answer, x_T, rng, self._labels)),)


def _present(conditions: Conditions) -> tuple[Array, ...]:
    return tuple(a for a in conditions if a is not None)
