"""Euler's method for the probability flow in sigma."""

from collections.abc import Generator
from typing import Any

from numpy.typing import ArrayLike

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State, descend
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import SigmaDenoiser


def step(D: SigmaDenoiser, x: Array, sigma: float, lower: float) -> tuple[Array, Array]:
    """x' = x + (sigma' - sigma) (x - D) / sigma = D + (sigma' / sigma) (x - D); also D itself.

    Karras et al. 2022, eq. 4.
    """
    x0 = D(x, sigma)
    x = x - x0  # eq. (11.2)
    x *= lower / sigma
    x += x0
    return x, x0


def euler(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any = None,
    steps: Any = 50,
    sigmas: ArrayLike | None = None,
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """dx/dsigma = (x - D(x; sigma)) / sigma by Euler's method: DDIM with eta = 0, in sigma.

    Karras et al. 2022, eq. 4 with sigma(t) = t; that it is DDIM is their section 3 and appendix
    C.3. First order. NFE: one a step.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise; float32 or float64, and so is everything that follows.
    rng : ignored
        So that all samplers can be called alike.
    steps : int, None or int array
        Number of steps, None for all T, or the times themselves (see `timesteps.resolve`).
    sigmas : None or float array
        Levels to visit in place of `steps`: strictly decreasing, from sigma_T or below to 0. A
        denoiser is asked at real times then (see `sigma.t_of`).
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        One for each level visited, from x_T itself to the sample at t = 0.
    """
    return descend(
        step, denoiser, schedule, x_T,
        steps=steps, sigmas=sigmas, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip
