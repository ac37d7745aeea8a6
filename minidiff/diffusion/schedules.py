"""Noise schedules: how fast the forward process destroys an image.

Time is the papers': t = 1, ..., T, and t = 0 is clean data. Every array of a schedule has length
T + 1 with ``abar[0] == 1``, so that ``abar[t]`` is the papers' symbol and no formula needs an index
shifted by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff.diffusion.names import lookup, with_options
from minidiff.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """The variances beta_t of the forward process and what follows from them.

    Made by `from_betas`, `from_abar`, or a named schedule such as `linear`. The betas are the one
    truth: ``abar`` is always the product of their alphas, so the two cannot disagree.

    Attributes
    ----------
    beta : float64 array of shape (T + 1,)
        Variance added by step t, in (0, 1); ``beta[0] == 0``.
    alpha : float64 array of shape (T + 1,)
        1 - beta_t.
    abar : float64 array of shape (T + 1,)
        alpha_1 ... alpha_t, the share of the signal's variance left at t; ``abar[0] == 1``,
        strictly decreasing, positive.

    All are on the host and read-only.

    Raises
    ------
    InputError
        If a beta is not finite or not in (0, 1), or so small that abar does not decrease in
        float64, or if so many are so large that abar vanishes there.
    """

    beta: NDArray[np.float64]
    alpha: NDArray[np.float64] = field(init=False)
    abar: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        beta = np.array(self.beta, dtype=np.float64)
        if beta.ndim != 1 or len(beta) < 2 or beta[0] != 0:
            raise InputError(
                f"a schedule holds beta_0 = 0, beta_1, ..., beta_T with T >= 1, got shape "
                f"{beta.shape}; Schedule.from_betas takes beta_1, ..., beta_T"
            )
        bad = np.flatnonzero(~((beta[1:] > 0) & (beta[1:] < 1)))  # NaN is bad too
        if len(bad):
            t = int(bad[0]) + 1
            raise InputError(f"every beta must lie in (0, 1), but beta_{t} = {beta[t]}")
        alpha = 1 - beta
        abar = np.cumprod(alpha)
        stuck = np.flatnonzero((np.diff(abar) >= 0) | (abar[1:] == 0))
        if len(stuck):
            t = int(stuck[0]) + 1
            raise InputError(
                f"abar must decrease and stay positive, but in float64 abar_{t - 1} = "
                f"{abar[t - 1]:.3g} and abar_{t} = {abar[t]:.3g} (beta_{t} = {beta[t]:.3g}); "
                "use a beta that is not that small, or fewer steps"
            )
        for name, values in (("beta", beta), ("alpha", alpha), ("abar", abar)):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @classmethod
    def from_betas(cls, betas: ArrayLike) -> Schedule:
        """The schedule with variances beta_1, ..., beta_T (T values, the first is for t = 1)."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1:
            raise InputError(f"betas must be one-dimensional, got shape {betas.shape}")
        return cls(np.concatenate([[0.0], betas]))

    @classmethod
    def from_abar(cls, abar: ArrayLike) -> Schedule:
        """beta_t = 1 - abar_t / abar_{t-1}, from abar_1, ..., abar_T (without abar_0 = 1).

        The product of the alphas returns the given values up to rounding (about T * 1e-16).
        """
        abar = np.asarray(abar, dtype=np.float64)
        if abar.ndim != 1 or not np.all(abar > 0):
            raise InputError("abar must be one-dimensional with all values in (0, 1)")
        return cls.from_betas(1 - abar / np.concatenate([[1.0], abar[:-1]]))

    @property
    def T(self) -> int:
        """Number of steps of the forward process."""
        return len(self.beta) - 1

    @property
    def snr(self) -> NDArray[np.float64]:
        """Signal-to-noise ratio abar_t / (1 - abar_t), shape (T + 1,); infinite at t = 0."""
        return np.concatenate([[np.inf], self.abar[1:] / (1 - self.abar[1:])])

    @property
    def log_snr(self) -> NDArray[np.float64]:
        """Natural logarithm of `snr`, shape (T + 1,); infinite at t = 0."""
        return np.log(self.snr)

    def __repr__(self) -> str:
        return (
            f"Schedule(T={self.T}, beta_1={self.beta[1]:.3g}, beta_T={self.beta[-1]:.3g}, "
            f"abar_T={self.abar[-1]:.3g})"
        )


def linear(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    """beta_t rises linearly from `beta_1` to `beta_T` (Ho et al. 2020, section 4).

    The end points are meant for T = 1000 and are not rescaled for another T: with few steps much
    of the signal is left at t = T (abar_T = 0.13 at T = 200).
    """
    return Schedule.from_betas(np.linspace(beta_1, beta_T, _steps(T)))


def cosine(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """abar_t = f(t) / f(0) with f(t) = cos^2((t/T + s) / (1 + s) * pi/2).

    Nichol & Dhariwal 2021, eq. 17. Since f(T) = 0, beta_T would be 1: it, and no other, is clipped
    at `beta_max`, and abar_T is what the clipped beta gives (2.4e-9 at T = 1000). The offset `s`
    keeps beta_1 from vanishing.
    """
    t = np.arange(_steps(T) + 1)
    f = np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2
    return Schedule.from_betas(np.minimum(1 - f[1:] / f[:-1], beta_max))


SCHEDULES = {"linear": linear, "cosine": cosine}


def make(name: str, T: int = 1000, **options: Any) -> Schedule:
    """The schedule called `name` with T steps; `options` are those of its function."""
    return with_options(lookup(SCHEDULES, name, "schedule"), f"schedule {name!r}", T=T, **options)()


def check_t(schedule: Schedule, t: Any, *, first: int = 1) -> Any:
    """`t` (an integer or an array of them) as int or int64 array, if all of first <= t <= T.

    Everything that takes a time from its caller checks it here. An index that is off by one would
    pass unseen otherwise: NumPy reads ``abar[-1]`` as abar_T, and CuPy wraps any index.
    """
    if type(t) is int and first <= t <= schedule.T:
        return t  # at once: a sampler comes by in every step
    values = np.asarray(t)
    if values.dtype.kind not in "iu":
        raise InputError(f"t must be an integer or an array of integers, got {values.dtype}")
    if values.size and not first <= values.min() <= values.max() <= schedule.T:
        raise InputError(
            f"t must lie in {first}..{schedule.T} (t = 0 is clean data), "
            f"got {values.min()}..{values.max()}"
        )
    return int(values) if values.ndim == 0 else values.astype(np.int64)


def _steps(T: int) -> int:
    if not isinstance(T, int | np.integer) or isinstance(T, bool) or T < 1:
        raise InputError(f"T, the number of steps, must be a whole number >= 1, got {T!r}")
    return int(T)
