"""DDIM backwards: the noise from which DDIM makes a given image."""

import math
from collections.abc import Generator
from itertools import pairwise
from typing import Any

from minidiff.diffusion import timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, in_eps, predict
from minidiff.diffusion.samplers.base import State, affine_step, check_start
from minidiff.diffusion.schedules import Schedule


def ddim_inversion(
    denoiser: Denoiser,
    schedule: Schedule,
    x_0: Array,
    *,
    steps: Any = 50,
    spacing: str = "trailing",
    **cond: Any,
) -> Generator[State, None, None]:
    """x_t = sqrt(abar_t) x_0(x_s, s) + sqrt(1 - abar_t) eps(x_s, s), from s up to t > s.

    Euler steps of the probability flow from the image to the noise (Song et al. 2021, section 4.3
    and eq. 14). A DDIM step down uses eps at its noisy end, and this one at its clean end, so
    `ddim` with eta = 0 brings back x_0 up to an error of order 1 / steps. Clean data has no eps:
    the model is asked at t = 1 there, the least noise that it knows. NFE: one a step.

    Parameters
    ----------
    denoiser : Denoiser
        Without guidance, or with little: errors grow with it.
    schedule : Schedule
    x_0 : array of shape (N, ...)
        Images; float32 or float64, and so is everything that follows.
    steps : int, None or int array
        As for `ddim`, which then visits the same times the other way: number of steps, None for
        all T, or the times themselves, from the noisiest to 0.
    spacing : str
        See `timesteps.subset`.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        One for each time visited, from x_0 itself at t = 0 to the noise: steps + 1 of them. The
        x0 of a state is the prediction that made it, and in the first state x itself.
    """
    check_start(x_0)
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()[::-1]
    denoiser = in_eps(denoiser, schedule)

    def states() -> Generator[State, None, None]:
        x = x0 = x_0
        yield State(0, x, x0)
        for s, t in pairwise(times):
            eps = predict(denoiser, x, max(s, 1), cond)[0]
            signal, noise = math.sqrt(schedule.abar[s]), math.sqrt(1 - schedule.abar[s])
            x0 = (x - noise * eps) / signal if s > 0 else x  # eq. (10.9)
            abar = float(schedule.abar[t])
            x = affine_step(math.sqrt(abar), x0, math.sqrt(1 - abar), eps, 0.0, None)
            yield State(t, x, x0)

    return states()
