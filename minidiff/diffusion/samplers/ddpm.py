"""Ancestral sampling: each step draws from the model's p(x_s | x_t)."""

import math
from collections.abc import Generator
from itertools import pairwise
from typing import Any

from minidiff.diffusion import process, timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, evaluate
from minidiff.diffusion.names import lookup
from minidiff.diffusion.parameterizations import Clip, check_clip
from minidiff.diffusion.samplers.base import State, check_start
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError


def coefficients(
    schedule: Schedule, s: int, t: int, variance: str = "posterior"
) -> tuple[float, float, float]:
    """(c_0, c_t, sigma) of the step x_s = c_0 x_0 + c_t x_t + sigma z.

    sigma^2 is the variance of q(x_s | x_t, x_0), "posterior", or that of q(x_t | x_s), "beta": the
    two choices of Ho et al. 2020, section 3.2, where s = t - 1. At s = 0 it is 0 for both.
    """
    c_0, c_t, tilde = process.posterior(schedule, s, t)
    beta = process.forward(schedule, s, t)[1]
    sigma2 = lookup({"posterior": tilde, "beta": beta}, variance, "variance")
    return c_0, c_t, math.sqrt(sigma2) if s > 0 else 0.0


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any,
    steps: Any = None,
    variance: str = "posterior",
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
    variance : "posterior" or "beta"
        What sigma^2 is, see `coefficients`. The first is right for data that is a single point, the
        second for data N(0, I).
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
    if rng is None:
        raise InputError(
            "DDPM draws noise in every step: pass rng, such as backend.generator(seed)"
        )
    coefficients(schedule, 0, 1, variance)  # refuses an unknown variance now
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()
    clip = check_clip(clip)

    def states() -> Generator[State, None, None]:
        x = x_T
        for t, s in pairwise(times):
            x0, _ = evaluate(denoiser, schedule, x, t, clip, cond)
            yield State(t, x, x0)
            c_0, c_t, sigma = coefficients(schedule, s, t, variance)
            x = c_0 * x0 + c_t * x
            if sigma > 0:
                x += sigma * rng.standard_normal(x.shape, dtype=x.dtype)
        yield State(0, x, x)

    return states()
