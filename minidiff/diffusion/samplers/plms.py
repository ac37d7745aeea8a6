"""Pseudo linear multistep: the step of DDIM with an eps extrapolated from the last four."""

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any

from minidiff.diffusion import timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, in_eps, predict
from minidiff.diffusion.parameterizations import Clip, check_clip, denoised
from minidiff.diffusion.samplers.base import State, affine_step, check_start
from minidiff.diffusion.samplers.ddim import coefficients
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),  # eq. (11.7)
)
"""Adams-Bashforth formulas for one to four values; the weight of the newest comes first."""

MIN_STEPS = 4

Start = Callable[[Callable[..., Array], Callable[..., Array], Array, int, int, Array], Array]
"""eps' = start(eps, phi, x_t, t, s, e_t), a one-step method, with eps(x, t) and phi(x, t, s, e)."""


def multistep(history: Sequence[Array]) -> Array:
    """(55 e_t - 59 e_{t+h} + 37 e_{t+2h} - 9 e_{t+3h}) / 24 of the eps so far, the newest last.

    Liu et al. 2022, section 3; of fewer than four, the formula for that many.
    """
    newest_first = history[: -len(WEIGHTS) - 1 : -1]
    weights = WEIGHTS[len(newest_first) - 1]
    total = weights[0] * newest_first[0]
    for weight, eps in zip(weights[1:], newest_first[1:], strict=True):
        total += weight * eps
    return total


def transfer(schedule: Schedule, x: Array, t: int, s: int, eps: Array, clip: Clip = None) -> Array:
    """phi(x_t, eps, t, s), the step of DDIM from t to s < t with a given eps.

    Liu et al. 2022, section 3. The x0 that this eps means is clipped as `clip` says.
    """
    x0, eps = denoised(schedule, x, t, eps, clip)
    c_0, c_eps, sigma = coefficients(schedule, s, t)  # eq. (11.8)
    return affine_step(c_0, x0, c_eps, eps, sigma, None)


def improved_euler(
    eps: Callable[..., Array], phi: Callable[..., Array], x: Array, t: int, s: int, e1: Array
) -> Array:
    """(e_1 + e_2) / 2, with e_2 at the end of a step with e_1: how S-PNDM starts.

    Liu et al. 2022, section 3.
    """
    return (e1 + eps(phi(x, t, s, e1), s)) / 2


def plms(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any = None,
    steps: Any = 50,
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """x_s = phi(x_t, eps', t, s), with eps' from the multistep formulas of order 2, 3 and then 4.

    Liu et al. 2022 (arXiv:2202.09778), section 3, without its Runge-Kutta steps: the first step is
    a pseudo improved Euler step. The formulas are for equal steps, and phi is exact only for equal
    eps, hence "pseudo": second order with equal steps in t; with equal steps in sigma third, which
    is the order of the start. NFE: S + 1.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise; float32 or float64, and so is everything that follows.
    rng : ignored
        So that all samplers can be called alike.
    steps : int >= 4, None or int array
        Number of steps, None for all T, or the times themselves (see `timesteps.resolve`).
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the x_0 of each transfer; (-1, 1) for images.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        One for each time visited, from x_T itself to the sample at t = 0: steps + 1 of them.
    """
    return pseudo(
        improved_euler, 1, denoiser, schedule, x_T,
        steps=steps, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip


def pseudo(
    start: Start,
    starts: int,
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    steps: Any,
    spacing: str,
    clip: Clip,
    cond: dict[str, Any],
) -> Generator[State, None, None]:
    """The states of a sampler whose first `starts` steps are by `start`, the others `multistep`."""
    check_start(x_T)
    clip = check_clip(clip)
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()
    if len(times) - 1 < MIN_STEPS:
        raise InputError(
            f"PNDM and PLMS need {MIN_STEPS} steps or more for their four-step formula, "
            f"got {len(times) - 1}; ddim takes any number"
        )

    denoiser = in_eps(denoiser, schedule)

    def eps(x: Array, t: int) -> Array:
        return predict(denoiser, x, t, cond)[0]

    def phi(x: Array, t: int, s: int, e: Array) -> Array:
        return transfer(schedule, x, t, s, e, clip)

    def states() -> Generator[State, None, None]:
        x = x_T
        history: list[Array] = []
        for i, (t, s) in enumerate(pairwise(times)):
            history = [*history[-3:], eps(x, t)]
            yield State(t, x, denoised(schedule, x, t, history[-1], clip)[0])
            mixed = start(eps, phi, x, t, s, history[-1]) if i < starts else multistep(history)
            x = phi(x, t, s, mixed)
        yield State(0, x, x)

    return states()
