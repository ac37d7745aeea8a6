"""Ancestral sampling: each step draws from the model's p(x_s | x_t)."""

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any

import numpy as np

from minidiff.diffusion import process, timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, evaluate
from minidiff.diffusion.names import lookup
from minidiff.diffusion.parameterizations import Clip, check_clip
from minidiff.diffusion.samplers.base import State, check_start
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

VARIANCES: dict[str, Callable[[Schedule, int, int], float]] = {
    "posterior": lambda schedule, s, t: process.posterior(schedule, s, t)[2],
    "beta": lambda schedule, s, t: process.forward(schedule, s, t)[1],
}
"""The two choices of Ho et al. 2020, section 3.2, for a jump from t to s; the first is beta-tilde_t
and the second beta_t when s = t - 1."""


def coefficients(
    schedule: Schedule, s: int, t: int, variance: str = "posterior"
) -> tuple[float, float, float]:
    """(c_0, c_t, sigma) of the step x_s = c_0 x_0 + c_t x_t + sigma z; sigma is 0 at s = 0."""
    c_0, c_t, _ = process.posterior(schedule, s, t)
    sigma2 = lookup(VARIANCES, variance, "variance")(schedule, s, t) if s > 0 else 0.0
    return c_0, c_t, float(np.sqrt(sigma2))


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
        sigma^2: the lower or the upper of the two that the paper names.
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
    lookup(VARIANCES, variance, "variance")
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
