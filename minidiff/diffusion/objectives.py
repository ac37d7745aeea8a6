"""What a model is trained to minimise."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.process import q_sample
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError


def simple(
    model: Callable[..., Any], schedule: Schedule, x0: Array, t: Any, eps: Array, **cond: Any
) -> Tensor:
    """L_simple = mean of (eps - eps_theta(x_t, t))^2 (Ho et al. 2020, eq. 14).

    Its minimum is not 0: no model can know eps from x_t. With data N(0, 1) the best one reaches
    abar_t at time t.

    Parameters
    ----------
    model : callable (xt, t, **cond) -> Tensor (or array) of the shape of xt
    schedule : Schedule
    x0 : array of shape (N, ...)
        Clean data.
    t : int array of shape (N,), 1 <= t <= T
        See `draw_t`.
    eps : array like x0
        Standard normal noise.
    **cond
        Passed on to the model: ``labels``, and ``rng`` for a model with dropout.

    Returns
    -------
    Scalar Tensor: the mean over images and their elements.
    """
    prediction = model(q_sample(schedule, x0, t, eps), t, **cond)
    if prediction.shape != eps.shape:
        raise InputError(
            f"the model returned shape {prediction.shape} for images of shape {eps.shape}"
        )
    return ops.mse(prediction, eps)


def draw_t(schedule: Schedule, n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n independent times, uniform on 1, ..., T (`rng`: a generator on the host)."""
    return rng.integers(1, schedule.T, size=n, endpoint=True)


def drop_labels(
    labels: ArrayLike, *, p_uncond: float = 0.2, null: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The labels, each replaced by `null` with probability `p_uncond`, row by row.

    So one network learns the conditional and the unconditional model that classifier-free guidance
    combines (Ho & Salimans 2022, Algorithm 1).

    Parameters
    ----------
    labels : integers of shape (N,)
    p_uncond : float in [0, 1]
    null : int
        The class that stands for "no label"; none of `labels` may be it.
    rng : numpy.random.Generator
        Gives N numbers whatever `p_uncond` is.

    Returns
    -------
    int64 array of shape (N,), a copy.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels must be N integers, got shape {labels.shape} of type {labels.dtype}"
        )
    if not 0 <= p_uncond <= 1:
        raise InputError(f"p_uncond is a probability, in [0, 1], got {p_uncond}")
    drop = rng.random(len(labels)) < p_uncond  # never true at 0, always at 1: random() < 1
    return np.where(drop, null, labels).astype(np.int64)
