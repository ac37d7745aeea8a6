"""Ancestral sampling: each step draws from the model's p(x_s | x_t)."""

import math
from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any

from minidiff import backend
from minidiff.diffusion import process, timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, predict, predicts
from minidiff.diffusion.names import lookup
from minidiff.diffusion.parameterizations import Clip, check_clip, pair
from minidiff.diffusion.samplers.base import State, affine_step, check_rng, check_start
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

Variance = str | Callable[[int, int], float]
"""How a step's sigma^2 is found: by a name, or by a function of s and t."""


def coefficients(
    schedule: Schedule, s: int, t: int, variance: Variance = "posterior"
) -> tuple[float, float, float]:
    """(c_0, c_t, sigma) of the step x_s = c_0 x_0 + c_t x_t + sigma z.

    sigma^2 is the variance of q(x_s | x_t, x_0), "posterior", or that of q(x_t | x_s), "beta": the
    two choices of Ho et al. 2020, section 3.2, where s = t - 1; or `variance(s, t)`. At s = 0 it
    is 0 for all.
    """
    c_0, c_t, tilde = process.posterior(schedule, s, t)
    if s == 0:
        return c_0, c_t, 0.0
    if callable(variance):
        sigma2 = float(variance(s, t))
        if not 0 <= sigma2 < math.inf:
            raise InputError(f"variance({s}, {t}) must be a number >= 0, got {sigma2}")
        return c_0, c_t, math.sqrt(sigma2)
    beta = process.forward(schedule, s, t)[1]  # eq. (9.4)
    return c_0, c_t, math.sqrt(lookup({"posterior": tilde, "beta": beta}, variance, "variance"))


def learned_sigma(schedule: Schedule, s: int, t: int, v: Array) -> Array:
    """The sigma, for each element, of sigma^2 = exp(v log beta + (1 - v) log beta-tilde).

    Nichol & Dhariwal 2021, eq. 15, with the two variances of the jump from t to s (see
    `coefficients`), 0 < s < t: v = 0 is "posterior", v = 1 is "beta", and v is not confined to
    [0, 1]. (Their code has networks predict 2 v - 1.)
    """
    tilde = process.posterior(schedule, s, t)[2]
    beta = process.forward(schedule, s, t)[1]
    # eq. (9.8)
    return math.sqrt(tilde) * backend.array_module(v).exp((0.5 * math.log(beta / tilde)) * v)


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any,
    steps: Any = None,
    variance: Variance = "posterior",
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """x_s = c_0 x_0 + c_t x_t + sigma z, the mean of q(x_s | x_t, x_0) plus noise.

    Algorithm 2 of Ho et al. 2020, with x_0 predicted by the denoiser; with `steps` < T by jumps,
    whose posterior is the same formula. No noise is added in the last step. NFE: one a step.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise; float32 or float64, and so is everything that follows.
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws one array like x_T in each step but the last.
    steps : int, None or int array
        Number of steps, None for all T, or the times themselves (see `timesteps.resolve`).
    variance : "posterior", "beta", "learned" or function (s, t) -> sigma^2
        What sigma^2 is, see `coefficients`. The first is right for data that is a single point, the
        second for data N(0, I). "learned" is for a denoiser that returns (eps, v) and lies between
        the two as v says, see `learned_sigma`.
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        One for each time visited, from x_T itself to the sample at t = 0: steps + 1 of them.
    """
    check_start(x_T)
    check_rng(rng, "DDPM draws noise in every step")
    learned = variance == "learned"
    if not callable(variance):
        lookup(dict.fromkeys(("posterior", "beta", "learned")), variance, "variance")
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()
    clip = check_clip(clip)
    source = predicts(denoiser)

    def states() -> Generator[State, None, None]:
        x = x_T
        for t, s in pairwise(times):
            prediction, v = predict(denoiser, x, t, cond)
            if learned and v is None:
                raise InputError(
                    'variance="learned" needs a denoiser that returns (eps, v); '
                    "this one returns eps alone"
                )
            x0 = pair(schedule, x, t, prediction, source=source, clip=clip)[0]
            yield State(t, x, x0)
            c_0, c_t, sigma = coefficients(schedule, s, t, "posterior" if learned else variance)
            scale = learned_sigma(schedule, s, t, v) if learned and s > 0 else sigma
            x = affine_step(c_0, x0, c_t, x, scale, rng)  # eq. (9.2)
        yield State(0, x, x)

    return states()
