"""The second-order Runge-Kutta methods, as one sampler with a parameter."""

from collections.abc import Generator
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State, descend
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import SigmaDenoiser
from minidiff.errors import InputError, check_number


def step(
    D: SigmaDenoiser, x: Array, sigma: float, lower: float, alpha: float
) -> tuple[Array, Array]:
    """One step from `sigma` to `lower`: (x at lower, D(x; sigma)).

    Karras et al. 2022, Algorithm 3.

    With h = lower - sigma and d = (x - D(x; sigma)) / sigma, to the level sigma' = sigma + alpha h
    at first: x' = x + alpha h d, with d' there. The step is h ((1 - w) d + w d') with
    w = 1 / (2 alpha). If sigma' is 0, where there is no d', it is Euler's.
    """
    x0 = D(x, sigma)
    between = lower if alpha == 1 else sigma + alpha * (lower - sigma)
    if between == 0:
        return x0, x0
    d = x - x0
    d /= sigma
    there = (between - sigma) * d
    there += x
    d_there = there - D(there, between)
    d_there /= between
    w, h = 1 / (2 * alpha), lower - sigma  # eq. (11.6)
    d *= h * (1 - w)
    d += x
    d_there *= h * w
    d += d_there
    return d, x0


def rk2(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any = None,
    steps: Any = 50,
    alpha: float = 1.0,
    sigmas: ArrayLike | None = None,
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """x' = x + h ((1 - 1/(2 alpha)) d + 1/(2 alpha) d'), with d' a share alpha of the way on.

    Karras et al. 2022, Algorithm 3 (appendix D.2) with sigma(t) = t and s(t) = 1. alpha = 1 is
    Heun's method, 1/2 the midpoint method, 2/3 Ralston's. Second order down to any level sigma > 0.
    NFE: two a step, and at alpha = 1 one less, since the last step ends at sigma = 0, where it is
    Euler's.

    Parameters
    ----------
    alpha : float, 0 < alpha <= 1
        Below 1 the denoiser is asked between the levels of the schedule, at real times.
    clip : None, (low, high) or function
        What is done to each predicted x_0; a sample may exceed it a little if alpha < 1.

    All others, and what is yielded, are those of `euler`.
    """
    if not 0 < check_number("alpha", alpha) <= 1:
        raise InputError(
            f"alpha must lie in (0, 1]: 1 Heun, 1/2 midpoint, 2/3 Ralston; got {alpha}"
        )
    return descend(
        partial(step, alpha=float(alpha)), denoiser, schedule, x_T,
        steps=steps, sigmas=sigmas, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip
