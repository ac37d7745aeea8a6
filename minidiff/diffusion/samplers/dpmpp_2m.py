"""DPM-Solver++(2M): the linear part solved exactly, and the prediction of x0 extrapolated."""

import math
from collections.abc import Generator
from typing import Any

from numpy.typing import ArrayLike

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State, descend
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import SigmaDenoiser


def dpmpp_2m(
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
    """x' = (sigma' / sigma) x + (1 - sigma' / sigma) ((1 + 1/(2r)) D_i - 1/(2r) D_{i-1}).

    Lu et al. 2022b (arXiv:2211.01095), Algorithm 2, divided by sqrt(abar): r is the length of the
    last step over that of this one, in lambda = -log sigma, and D_{i-1} the prediction at the last
    level. The first step has no D_{i-1}, and the last, to sigma = 0, is infinitely long in lambda:
    both use D_i alone. Second order down to any level sigma > 0. NFE: one a step.

    Parameters and what is yielded are those of `euler`.
    """
    last: list[tuple[float, Array]] = []  # level and prediction of the step before

    def step(D: SigmaDenoiser, x: Array, sigma: float, lower: float) -> tuple[Array, Array]:
        x0 = ahead = D(x, sigma)
        if last and lower > 0:
            before, x0_before = last.pop()
            two_r = 2 * math.log(before / sigma) / math.log(sigma / lower)  # eq. (11.10)
            ahead = (1 + 1 / two_r) * x0
            ahead -= (1 / two_r) * x0_before
        last[:] = [(sigma, x0)]
        x = x - ahead
        x *= lower / sigma
        x += ahead
        return x, x0

    return descend(
        step, denoiser, schedule, x_T,
        steps=steps, sigmas=sigmas, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip
