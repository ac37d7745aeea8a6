"""Euler's method down to a lower level than asked for, and fresh noise back up to it."""

import math
from collections.abc import Generator
from typing import Any

from numpy.typing import ArrayLike

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State, check_rng, descend
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import SigmaDenoiser


def split(sigma: float, lower: float) -> tuple[float, float]:
    """(sigma_down, sigma_up) with sigma_down^2 + sigma_up^2 = lower^2.

    Song et al. 2021 (score SDE), appendix F.

    sigma_up = lower sqrt(1 - lower^2 / sigma^2) is the standard deviation of the noise at `lower`
    given that at `sigma` and the clean image; sigma_down = lower^2 / sigma.
    """
    ratio = lower / sigma
    return lower * ratio, lower * math.sqrt(1 - ratio * ratio)  # eq. (11.12)


def euler_ancestral(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any,
    steps: Any = 50,
    sigmas: ArrayLike | None = None,
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """x' = D + (sigma_down / sigma) (x - D) + sigma_up z: an Euler step to sigma_down, then noise.

    Ancestral sampling of the variance-exploding chain (Song et al. 2021, arXiv:2011.13456, appendix
    F). In x_t it is DDPM with the posterior variance. NFE: one a step.

    Parameters
    ----------
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws one array like x_T in each step but the last.

    All others, and what is yielded, are those of `euler`.
    """
    check_rng(rng, "euler_ancestral draws noise in every step")

    def step(D: SigmaDenoiser, x: Array, sigma: float, lower: float) -> tuple[Array, Array]:
        down, up = split(sigma, lower)
        x0 = D(x, sigma)
        x = x - x0
        x *= down / sigma
        x += x0
        if up > 0:
            z = rng.standard_normal(x.shape, dtype=x.dtype)
            z *= up
            x += z
        return x, x0

    return descend(
        step, denoiser, schedule, x_T,
        steps=steps, sigmas=sigmas, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip
