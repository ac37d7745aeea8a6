"""The one interface between a model and everything that samples from it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff.autograd import Tensor
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.parameterizations import Clip, denoised
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

Denoiser = Callable[..., Any]
"""eps = f(xt, t, **cond): the noise in x_t, as far as f can tell.

`xt` is an array of shape (N, ...), `t` a host array of N times, and what the prediction is
conditioned on comes by name (``labels``, a host array of N integers). Returns an array like `xt`.
A U-Net's ``denoise``, a guided model and the closed forms of `oracle` are denoisers.

Times are integers, 1 <= t <= T. Only samplers that ask between the levels of a schedule (see
`sigma`) give real numbers, and only for those questions.

A denoiser that has learned its variance returns a pair (eps, v), both like `xt`; `samplers.ddpm`
says what v is. Any other sampler takes eps and lets v go.
"""


def predict(denoiser: Denoiser, xt: Array, t: float, cond: dict[str, Any]) -> tuple[Array, Any]:
    """(eps, v) at one time `t` for all images: one evaluation; v is None where it is not learned.

    Raises
    ------
    InputError
        If the denoiser returns a Tensor, or an array of another shape than `xt`; by broadcasting,
        either could pass unseen.
    """
    kind = np.int64 if isinstance(t, int) else np.float64
    prediction = denoiser(xt, np.full(len(xt), t, dtype=kind), **cond)
    both = prediction if isinstance(prediction, tuple) else (prediction, None)
    if len(both) != 2:
        raise InputError(f"the denoiser returned {len(both)} things; it returns eps or (eps, v)")
    for array in both if both[1] is not None else both[:1]:
        if isinstance(array, Tensor):
            raise InputError(
                "the denoiser returned a Tensor; pass model.denoise instead of the model"
            )
        if array.shape != xt.shape:
            raise InputError(
                f"the denoiser returned shape {array.shape} for images of shape {xt.shape}"
            )
    return both


def evaluate(
    denoiser: Denoiser, schedule: Schedule, xt: Array, t: int, clip: Clip, cond: dict[str, Any]
) -> tuple[Array, Array]:
    """(x0, eps) at one time `t` for all images: one evaluation, clipped as `clip` says."""
    return denoised(schedule, xt, t, predict(denoiser, xt, t, cond)[0], clip)
