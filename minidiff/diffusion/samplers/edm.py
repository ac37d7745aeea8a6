"""EDM's stochastic sampler: Heun's method with noise added before each step."""

import math
from collections.abc import Generator
from typing import Any

from numpy.typing import ArrayLike

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State, check_rng, descend
from minidiff.diffusion.samplers.rk2 import step as rk2_step
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import SigmaDenoiser, finite_levels, levels
from minidiff.errors import InputError, check_number


def edm(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any = None,
    steps: Any = 50,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    sigmas: ArrayLike | None = None,
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """A Heun step from sigma_hat = (1 + gamma) sigma, once noise has raised sigma to it.

    Karras et al. 2022, Algorithm 2, with gamma = min(S_churn / S, sqrt(2) - 1) for S steps where
    S_tmin <= sigma <= S_tmax, else 0. s_churn = 0 is Heun's method. sigma_hat stays at sigma_T or
    below, the noisiest level that the model knows. NFE: 2S - 1.

    Parameters
    ----------
    rng : generator with ``standard_normal(shape, dtype=)``
        Needed if s_churn > 0: draws one array like x_T in each step that adds noise.
    s_churn, s_tmin, s_tmax, s_noise : float >= 0
        How much noise, in which range of sigma, and its standard deviation (1, or a little more
        against the loss of detail). Raised levels lie between those of the schedule: the denoiser
        is asked at real times.

    All others, and what is yielded, are those of `euler`.
    """
    options = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
    for name, value in options.items():
        if not check_number(name, value) >= 0 or (name != "s_tmax" and math.isinf(value)):
            raise InputError(f"{name} must be a number >= 0, got {value}")
    if s_churn > 0:
        check_rng(rng, f"s_churn = {s_churn} adds noise")
    n = len(levels(schedule, steps, spacing, sigmas)[0]) - 1
    gamma = min(s_churn / n, math.sqrt(2) - 1)
    highest = float(finite_levels(schedule)[-1])

    def step(D: SigmaDenoiser, x: Array, sigma: float, lower: float) -> tuple[Array, Array]:
        raised = min((1 + gamma) * sigma, highest) if s_tmin <= sigma <= s_tmax else sigma
        if raised > sigma:
            z = rng.standard_normal(x.shape, dtype=x.dtype)
            x = x + (s_noise * math.sqrt(raised**2 - sigma**2)) * z  # eq. (11.11)
        return rk2_step(D, x, max(raised, sigma), lower, alpha=1.0)

    return descend(
        step, denoiser, schedule, x_T,
        steps=steps, sigmas=sigmas, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip
