"""Noise levels: the same process with sigma for its time, as Karras et al. 2022 write it.

With sigma_t = sqrt((1 - abar_t) / abar_t), x_t / sqrt(abar_t) is x_0 + sigma_t n for standard
normal n: an image of constant signal whose noise grows. In these coordinates the probability flow
is dx/dsigma = (x - D(x; sigma)) / sigma, without a schedule in it (Karras et al. 2022, eq. 4 with
sigma(t) = t and s(t) = 1).

Two adapters go from a denoiser eps(x_t, t) to D(x; sigma) and back. A schedule has the levels of
t = 1, ..., T only; between them log sigma is taken to be linear in t, and from t = 0 to 1 sigma
itself. So a network is asked at a fractional t where a sampler needs a level in between.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import backend
from minidiff.diffusion import timesteps
from minidiff.diffusion.arrays import Array, check_like, per_image
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.denoiser import Denoiser, predict, predicts
from minidiff.diffusion.parameterizations import Clip, check_clip
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

SigmaDenoiser = Callable[[Array, float], Array]
"""x0 = D(x, sigma): the clean image in x = x_0 + sigma n, for one sigma > 0 and all images."""


def finite_levels(schedule: Schedule) -> NDArray[np.float64]:
    """``schedule.sigma`` without an infinite sigma_T: shape (T + 1,), or (T,) if abar_T = 0."""
    return schedule.sigma[: schedule.T + bool(np.isfinite(schedule.sigma[-1]))]


def sigma_of(schedule: Schedule, t: Any) -> NDArray[np.float64]:
    """``schedule.sigma[t]`` for real times 0 <= t <= T, interpolated as described above.

    Float64, of the shape of `t`. Where abar_T = 0, t = T is refused: sigma_T is infinite.
    """
    t = check_numbers("t", t)
    known = finite_levels(schedule)
    last = len(known) - 1
    if not np.all((t >= 0) & (t <= last)):  # NaN is refused too
        why = "" if last == schedule.T else " (sigma_T is infinite: start at T - 1)"
        raise InputError(f"t must lie in 0..{last}{why}, got {t.min()}..{t.max()}")
    between = np.exp(np.interp(t, np.arange(1, last + 1), np.log(known[1:])))
    index = np.round(t).astype(np.int64)
    return np.where(t == index, known[index], np.where(t < 1, t * known[1], between))


def t_of(schedule: Schedule, sigma: Any) -> NDArray[np.float64]:
    """The real time t at which `sigma_of` is `sigma`, 0 <= sigma <= sigma_T.

    Float64, of the shape of `sigma`; a time within rounding of an integer is that integer.
    """
    sigma = check_numbers("sigma", sigma)
    known = finite_levels(schedule)
    if not np.all((sigma >= 0) & (sigma <= known[-1] * (1 + 1e-9))):
        raise InputError(
            f"sigma must lie in 0..{known[-1]:.6g}, the levels of this schedule, "
            f"got {sigma.min():.6g}..{sigma.max():.6g}"
        )
    log_sigma = np.log(np.maximum(sigma, known[1]))
    t = np.interp(log_sigma, np.log(known[1:]), np.arange(1, len(known)))
    t = np.where(sigma < known[1], sigma / known[1], t)
    return np.where(np.abs(t - np.round(t)) < 1e-8, np.round(t), t)


def sigma_denoiser(
    denoiser: Denoiser, schedule: Schedule, *, clip: Clip = None, **cond: Any
) -> SigmaDenoiser:
    """D(x; sigma) = x - sigma eps(x / sqrt(1 + sigma^2), t_of(sigma)), clipped as `clip` says.

    Karras et al. 2022, table 1, column VP, where c_noise is the time of the level. `cond` is passed
    on to the denoiser. From v it is x / (1 + sigma^2) - sigma v / sqrt(1 + sigma^2).
    """
    clip, source = check_clip(clip), predicts(denoiser)

    def D(x: Array, sigma: float) -> Array:
        t = float(t_of(schedule, sigma))
        scale = 1 / math.sqrt(1 + sigma**2)  # eq. (11.4)
        # x_t goes in without a name: it is free again once the denoiser has seen it.
        x0 = predict(denoiser, x * scale, int(t) if t.is_integer() else t, cond)[0]
        if source == "eps":
            x0 = -sigma * x0
            x0 += x
        elif source == "v":
            x0 = (-sigma * scale) * x0
            x0 += (scale * scale) * x
        if clip is None:
            return x0
        x0 = clip(x0) if callable(clip) else backend.array_module(x0).clip(x0, *clip)
        check_like(x0, x, "x0", "x")
        return x0

    return D


def eps_denoiser(D: Callable[[Array, Any], Array], schedule: Schedule) -> Denoiser:
    """eps(x_t, t) = (x - D(x; sigma_t)) / sigma_t with x = x_t / sqrt(abar_t): a denoiser from D.

    Karras et al. 2022, table 1, solved for the network.

    It answers at any real t > 0, so a D that is known in closed form is exact between the levels of
    the schedule as well. `D` gets one float for sigma if all times are equal, else a host array
    (N,).
    """

    def denoiser(xt: Array, t: Any, **cond: Any) -> Array:
        each = sigma_of(schedule, t)
        if not np.all(each > 0):
            raise InputError("t = 0 is clean data: there is no noise to predict")
        sigma = float(each.flat[0]) if each.size and np.all(each == each.flat[0]) else each
        x = xt * per_image(np.sqrt(1 + np.square(sigma)), xt)
        return (x - D(x, sigma)) / per_image(sigma, xt)

    return denoiser


def levels(
    schedule: Schedule, steps: Any, spacing: str, sigmas: ArrayLike | None
) -> tuple[list[float], list[float]]:
    """(times, sigmas) that a sampler visits: those of `steps`, or `sigmas` if they are given.

    Given levels must decrease strictly from sigma_T or below to 0; their times are real numbers.
    """
    if sigmas is None:
        times = timesteps.resolve(schedule.T, steps, spacing)
        return times.tolist(), sigma_of(schedule, times).tolist()
    values = check_numbers("sigmas", sigmas)
    if values.ndim != 1 or len(values) < 2 or values[-1] != 0 or not np.all(np.diff(values) < 0):
        raise InputError(f"sigmas must be two or more that decrease strictly to 0, got {sigmas!r}")
    real: list[float] = t_of(schedule, values).tolist()
    return [int(t) if t.is_integer() else t for t in real], values.tolist()
