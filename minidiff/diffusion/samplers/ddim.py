"""DDIM: a family of processes with the marginals of q, from deterministic to ancestral."""

import math
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np

from minidiff.diffusion import process, timesteps
from minidiff.diffusion.arrays import Array, floats
from minidiff.diffusion.denoiser import Denoiser, evaluate
from minidiff.diffusion.parameterizations import Clip, check_clip
from minidiff.diffusion.samplers.base import State, affine_step, check_start
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError, check_number


def coefficients(schedule: Schedule, s: Any, t: Any, eta: float = 0.0) -> tuple[Any, Any, Any]:
    """(c_0, c_eps, sigma) of the step x_s = c_0 x_0 + c_eps eps + sigma z.

    c_0 = sqrt(abar_s), c_eps = sqrt(1 - abar_s - sigma^2) and sigma = eta sqrt(variance of
    q(x_s | x_t, x_0)) (Song et al. 2021, eq. 12 and 16; their alpha is abar here). `s` and `t` are
    integers or arrays of them. The square root is bare: too large an eta gives NaN here, and
    `ddim` refuses it.
    """
    sigma2 = eta**2 * np.asarray(process.posterior(schedule, s, t)[2])
    abar_s = schedule.abar[s]  # eq. (10.1), and sigma by eq. (10.4)
    return floats(np.sqrt(abar_s), np.sqrt(1 - abar_s - sigma2), np.sqrt(sigma2))


def largest_eta(schedule: Schedule, times: Any) -> float:
    """The largest eta for which 1 - abar_s - sigma^2 >= 0 in every jump of `times` (T, ..., 0).

    At least 1; 1.354 for the linear schedule with all of its 1000 steps. Infinite for one step,
    which has no noise to scale.
    """
    t, s = np.asarray(times[:-1]), np.asarray(times[1:])
    t, s = t[s > 0], s[s > 0]  # the last jump adds no noise, whatever eta is
    variance = process.posterior(schedule, s, t)[2]  # eq. (10.5)
    largest = np.sqrt(np.min((1 - schedule.abar[s]) / variance, initial=np.inf))
    # A hair less, so that rounding cannot make the difference negative; at 1 it never is.
    return max(1.0, float(largest) * (1 - 1e-12))


def ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any = None,
    steps: Any = 50,
    eta: float = 0.0,
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z (Song et al. 2021, eq. 12).

    sigma = eta sqrt(posterior variance of the jump). eta = 0 is deterministic, eta = 1 is DDPM with
    the posterior variance. NFE: one a step.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise; float32 or float64, and so is everything that follows.
    rng : generator with ``standard_normal(shape, dtype=)``
        Needed if eta > 0: draws one array like x_T in each step but the last.
    steps : int, None or int array
        Number of steps, None for all T, or the times themselves (see `timesteps.resolve`).
    eta : float
        From 0 to at least 1; one that makes a variance negative is refused (see `largest_eta`).
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images. eps is computed again to fit it.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        One for each time visited, from x_T itself to the sample at t = 0: steps + 1 of them.
    """
    check_start(x_T)
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()
    _check_eta(eta, largest_eta(schedule, times))
    if eta > 0 and rng is None:
        raise InputError(f"eta = {eta} draws noise: pass rng, such as backend.generator(seed)")
    clip = check_clip(clip)

    def states() -> Generator[State, None, None]:
        x = x_T
        for t, s in pairwise(times):
            x0, eps = evaluate(denoiser, schedule, x, t, clip, cond)
            yield State(t, x, x0)
            c_0, c_eps, sigma = coefficients(schedule, s, t, eta)  # eq. (10.3)
            x = affine_step(c_0, x0, c_eps, eps, sigma, rng)  # c_0 x_0 + c_eps eps + sigma z
            del eps  # one array less while the next is made
        yield State(0, x, x)

    return states()


def _check_eta(eta: float, largest: float) -> None:
    if not 0 <= check_number("eta", eta) < math.inf:
        raise InputError(f"eta must be >= 0 and finite, got {eta}")
    if eta > largest:
        allowed = math.floor(largest * 1e4) / 1e4  # rounded down, so that what is named works
        raise InputError(
            f"eta = {eta} makes 1 - abar_s - sigma^2 negative; "
            f"the largest for this schedule and these steps is {allowed}"
        )
