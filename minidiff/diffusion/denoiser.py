"""The one interface between a model and everything that samples from it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff.autograd import Tensor
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.parameterizations import Clip, denoised
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

Denoiser = Callable[..., Array]
"""eps = f(xt, t, **cond): the noise in x_t, as far as f can tell.

`xt` is an array of shape (N, ...), `t` a host array of N integers, and what the prediction is
conditioned on comes by name (``labels``, a host array of N integers). Returns an array like `xt`.
A U-Net's ``denoise``, a guided model and the closed forms of `oracle` are denoisers.
"""


def evaluate(
    denoiser: Denoiser, schedule: Schedule, xt: Array, t: int, clip: Clip, cond: dict[str, Any]
) -> tuple[Array, Array]:
    """(x0, eps) at one time `t` for all images: one evaluation, clipped as `clip` says.

    Raises
    ------
    InputError
        If the denoiser returns a Tensor, or an array of another shape than `xt`; by broadcasting,
        either could pass unseen.
    """
    eps = denoiser(xt, np.full(len(xt), t, dtype=np.int64), **cond)
    if isinstance(eps, Tensor):
        raise InputError("the denoiser returned a Tensor; pass model.denoise instead of the model")
    if eps.shape != xt.shape:
        raise InputError(f"the denoiser returned shape {eps.shape} for images of shape {xt.shape}")
    return denoised(schedule, xt, t, eps, clip)
