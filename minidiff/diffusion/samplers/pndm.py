"""PNDM: pseudo Runge-Kutta for the first steps, then pseudo linear multistep."""

from collections.abc import Callable, Generator
from typing import Any

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State
from minidiff.diffusion.samplers.plms import pseudo
from minidiff.diffusion.schedules import Schedule

STARTS = 3
"""Runge-Kutta steps: with the next evaluation, four eps for the four-step formula."""


def middle(s: int, t: int) -> int:
    """The time halfway between s < t, rounded down: a network knows whole times."""
    return (s + t) // 2


def runge_kutta(
    eps: Callable[..., Array], phi: Callable[..., Array], x: Array, t: int, s: int, e1: Array
) -> Array:
    """(e_1 + 2 e_2 + 2 e_3 + e_4) / 6, the classical method with phi for its steps.

    Liu et al. 2022, section 3: e_2 and e_3 halfway, e_4 at s.
    """
    m = middle(s, t)
    e2 = eps(phi(x, t, m, e1), m)
    e3 = eps(phi(x, t, m, e2), m)
    e4 = eps(phi(x, t, s, e3), s)
    return (e1 + 2 * (e2 + e3) + e4) / 6  # eq. (11.9)


def pndm(
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
    """x_s = phi(x_t, eps', t, s), eps' by Runge-Kutta three times, then by the four-step formula.

    F-PNDM, Algorithm 2 of Liu et al. 2022 (arXiv:2202.09778). Second order with equal steps in t,
    fourth with equal steps in sigma. NFE: S + 9.

    Parameters and what is yielded are those of `plms`: steps >= 4.
    """
    return pseudo(
        runge_kutta, STARTS, denoiser, schedule, x_T,
        steps=steps, spacing=spacing, clip=clip, cond=cond,
    )  # fmt: skip
