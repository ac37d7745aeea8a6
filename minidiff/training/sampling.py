"""Images from the model of a run: which classes, from which noise, by which sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.diffusion import guidance, samplers
from minidiff.diffusion.denoiser import Denoiser, Predicting
from minidiff.diffusion.samplers import State
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError
from minidiff.training import captured, checkpoint
from minidiff.training.parallel import ALONE, Communicator
from minidiff.training.run import Run
from minidiff.unet import UNet

Array = Any
Watch = Callable[[slice, State], None]


def load_model(run: Run, weights: str = "ema") -> UNet:
    """The network of `run` with the weights of its newest checkpoint.

    Parameters
    ----------
    run : the run
    weights : "ema" for their average, which draws better; "model" for the last ones

    Raises
    ------
    InputError
        If there is no checkpoint yet, or it is damaged or of another network.
    """
    last = run.last_checkpoint()
    if last is None:
        raise InputError(
            f"{run.folder} has no checkpoint yet; 'minidiff train --out {run.folder} --resume' "
            "goes on with it"
        )
    model = UNet(run.config.unet, rng=backend.host_generator(0))
    arrays = checkpoint.load_weights(last, weights)
    try:
        model.load_state_dict(arrays)
    except InputError as error:
        raise checkpoint.damaged(last / "weights.safetensors", error) from error
    return model.eval()


def label_plan(n: int, classes: Sequence[int]) -> np.ndarray:
    """Labels int64 (n,) for n images, sorted, each class as often as any other or once more."""
    if n < 1 or not classes:
        raise InputError(f"there must be at least one image and one class, got {n}, {classes}")
    return np.sort(np.array(classes, dtype=np.int64)[np.arange(n) % len(classes)])


def sample(
    model: UNet,
    schedule: Schedule,
    n: int,
    labels: np.ndarray | None = None,
    *,
    target: str = "eps",
    ranks: Communicator = ALONE,
    sampler: str = "ddim",
    w: float = 0.0,
    seed: int = 0,
    batch: int = 250,
    only_last: bool = False,
    **options: Any,
) -> Iterator[tuple[slice, State]]:
    """Draw n images from noise, batch by batch, and yield every state on the way.

    The state with ``t == 0`` holds the finished images of its rows, in [-1, 1]. The same arguments
    give the same bits on NumPy; another `batch` gives other images.

    Parameters
    ----------
    model : the network
    schedule : of the run that trained it
    n : how many images
    labels : int (n,), the class of each; None for a model without classes
    target : what the run trained it to predict, ``config.objective.target``
    ranks : the processes among which each batch is divided; all of them call this and get all
        images
    sampler : its name, see `samplers`
    w : guidance weight, see `guidance.classifier_free`; 0 for none
    seed : of the noise
    batch : how many images are drawn at a time
    only_last : whether the last state of a batch is enough. A GPU may then draw many batches
        faster, each as one graph, see `captured.sampler`; of these there is no other state
    **options : of the sampler, such as ``steps`` and ``eta``

    Yields
    ------
    (rows, state)
        The rows of the n images that this state is about.
    """
    if min(n, batch) < 1:
        raise InputError(f"n and batch must be at least 1, got n={n}, batch={batch}")
    c = model.config
    _check_labels(labels, n, w, c.num_classes)
    run_sampler = samplers.make(sampler, clip=(-1.0, 1.0), **options)

    def states(denoise: Denoiser, x_T: Array, rng: Any, labels: np.ndarray | None) -> Any:
        denoiser: Denoiser = Predicting(denoise, target)
        if labels is None:
            return run_sampler(denoiser, schedule, x_T, rng=rng)
        assert c.num_classes is not None
        denoiser = guidance.classifier_free(denoiser, w=w, null=c.num_classes)
        return run_sampler(denoiser, schedule, x_T, rng=rng, labels=labels)

    image = (c.image_size, c.image_size, c.in_channels)
    whole = only_last and ranks.size == 1
    loop = captured.sampler(model, states, (batch, *image), n // batch) if whole else None
    denoise = ranks.share(captured.denoiser(model))
    for i, start in enumerate(range(0, n, batch)):
        rows = slice(start, min(start + batch, n))
        asked, size = None if labels is None else labels[rows], rows.stop - start
        if loop is not None and size == batch:
            x = loop(backend.key(seed, step=i), asked)
            yield rows, State(0, x, x)
            continue
        rng = backend.generator(seed, step=i)
        x_T = rng.standard_normal((size, *image), dtype=np.float32)
        for state in states(denoise, x_T, rng, asked):
            yield rows, state


def _check_labels(labels: Any, n: int, w: float, classes: int | None) -> None:
    """Refuse labels that are not those of n images of this many classes."""
    if classes is None:
        if labels is not None or w:
            raise InputError(
                "this model was trained without classes: it takes neither classes nor w"
            )
        return
    if labels is None:
        raise InputError(f"this model has {classes} classes; say which to draw")
    kinds = np.asarray(labels)
    if kinds.shape != (n,) or kinds.dtype.kind not in "iu":
        raise InputError(f"{n} images need {n} whole numbers for labels, got {labels!r}")
    if kinds.min() < 0 or kinds.max() > classes:
        raise InputError(
            f"labels must lie in 0..{classes} ({classes} = no class), got "
            f"{kinds.min()}..{kinds.max()}"
        )


def draw(
    model: UNet,
    schedule: Schedule,
    n: int,
    labels: np.ndarray | None = None,
    *,
    watch: Watch | None = None,
    only_last: bool | None = None,
    **options: Any,
) -> np.ndarray:
    """The n finished images of `sample`, float32 (n, H, W, C) on the host; `watch` sees each state.

    With `only_last`, and by default without `watch`, it may be the last of each batch alone.
    `options` are those of `sample`.
    """
    only_last = watch is None if only_last is None else only_last
    finished = []
    # what overflows, as with an enormous w, is found when the images become bytes, and told then
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, state in sample(model, schedule, n, labels, only_last=only_last, **options):
            if watch is not None:
                watch(rows, state)
            if state.t == 0:
                finished.append(backend.to_numpy(state.x))
    return np.concatenate(finished)


def total_steps(n: int, *, steps: int, batch: int) -> int:
    """How many steps `sample` takes, over all batches; `samplers.nfe` says what each costs."""
    return -(-n // max(1, batch)) * steps
