"""Noise schedules: how fast the forward process destroys an image.

Time is the papers': t = 1, ..., T, and t = 0 is clean data. Every array of a schedule has length
T + 1 with ``abar[0] == 1``, so that ``abar[t]`` is the papers' symbol and no formula needs an index
shifted by one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.names import lookup, with_options
from minidiff.errors import InputError, PriorWarning, check_count, check_number

REFERENCE_T = 1000
"""The number of steps that published betas, such as 1e-4 to 0.02, are meant for."""

LARGEST_SIGMA = 1e150
"""Squares of noise levels below it are numbers of float64."""


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """The variances beta_t of the forward process and what follows from them.

    Made by `from_betas`, `from_abar`, `from_sigmas`, or a named schedule such as `linear`. The
    betas are the one truth: ``abar`` is always the product of their alphas, so the two cannot
    disagree.

    Attributes
    ----------
    beta : float64 array of shape (T + 1,)
        Variance added by step t, in (0, 1); ``beta[0] == 0``. beta_T, and no other, may be 1.
    alpha : float64 array of shape (T + 1,)
        1 - beta_t.
    abar : float64 array of shape (T + 1,)
        alpha_1 ... alpha_t, the share of the signal's variance left at t; ``abar[0] == 1``,
        strictly decreasing, positive but for abar_T = 0 if beta_T = 1.

    All are on the host and read-only.

    With beta_T = 1 (see `zero_terminal_snr`) x_T is noise and nothing else. q and its posteriors
    are what they are for any schedule, but eps says nothing of x_0 at T: what has to divide by
    sqrt(abar_T) or sqrt(alpha_T) refuses to. v = -x_0 there, so a model of v can be asked.

    Raises
    ------
    InputError
        If a beta is not finite or not in (0, 1), or so small that abar does not decrease in
        float64, or if so many are so large that abar vanishes there before a beta_T = 1.
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
        good = (beta[1:] > 0) & (beta[1:] < 1)  # NaN is bad too
        good[-1] |= beta[-1] == 1
        if not good.all():
            t = int(np.argmin(good)) + 1
            raise InputError(
                f"every beta must lie in (0, 1), but beta_{t} = {beta[t]} (only the last may be 1)"
            )
        alpha = 1 - beta
        abar = np.cumprod(alpha)  # eq. (3.4)
        stuck = np.flatnonzero((np.diff(abar) >= 0) | ((abar[1:] == 0) & (alpha[1:] > 0)))
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
        betas = check_numbers("betas", betas)
        if betas.ndim != 1:
            raise InputError(f"betas must be one-dimensional, got shape {betas.shape}")
        return cls(np.concatenate([[0.0], betas]))

    @classmethod
    def from_abar(cls, abar: ArrayLike) -> Schedule:
        """beta_t = 1 - abar_t / abar_{t-1}, from abar_1, ..., abar_T (without abar_0 = 1).

        The product of the alphas returns the given values up to rounding (about T * 1e-16).
        abar_T may be 0.
        """
        abar = check_numbers("abar", abar)
        if abar.ndim != 1 or not (np.all(abar[:-1] > 0) and np.all(abar[-1:] >= 0)):
            raise InputError(
                "abar must be one-dimensional with all values in (0, 1) (only the last may be 0)"
            )
        before = np.concatenate([[1.0], abar[:-1]])
        if not np.all(falls := abar < before):
            t = int(np.argmin(falls))
            raise InputError(
                f"abar must decrease from abar_0 = 1 on, but abar_{t} = {before[t]:.3g} and "
                f"abar_{t + 1} = {abar[t]:.3g}"
            )
        return cls.from_betas(1 - abar / before)

    @classmethod
    def from_sigmas(cls, sigmas: ArrayLike) -> Schedule:
        """abar_t = 1 / (1 + sigma_t^2), from rising noise levels sigma_1, ..., sigma_T.

        The schedule whose `sigma` they are: that of the variance-exploding process
        x_0 + sigma_t n (Song et al. 2021, score SDE, eq. 8), seen as a variance-preserving one
        (see `parameterizations.ve_from_vp`).
        """
        sigmas = check_numbers("sigmas", sigmas)
        if sigmas.ndim != 1 or not (np.all(sigmas > 0) and np.all(sigmas < LARGEST_SIGMA)):
            raise InputError(
                f"sigmas must be one-dimensional with values above 0 and below {LARGEST_SIGMA:g}"
            )
        if np.any(np.diff(sigmas) <= 0):
            raise InputError(
                "sigmas must rise from sigma_1 to sigma_T; those of a sampler fall (and end in 0)"
            )
        before = np.concatenate([[0.0], sigmas[:-1]])
        return cls.from_betas((sigmas - before) * (sigmas + before) / (1 + sigmas**2))

    @property
    def T(self) -> int:
        """Number of steps of the forward process."""
        return len(self.beta) - 1

    @property
    def snr(self) -> NDArray[np.float64]:
        """Signal-to-noise ratio abar_t / (1 - abar_t), shape (T + 1,); infinite at t = 0."""
        # eq. (3.9)
        return np.concatenate([[np.inf], self.abar[1:] / (1 - self.abar[1:])])

    @property
    def log_snr(self) -> NDArray[np.float64]:
        """Natural logarithm of `snr`, shape (T + 1,); infinite at t = 0 (and where snr is 0)."""
        with np.errstate(divide="ignore"):
            return np.log(self.snr)

    @property
    def sigma(self) -> NDArray[np.float64]:
        """Noise level sqrt((1 - abar_t) / abar_t) of x_t / sqrt(abar_t), shape (T + 1,).

        That of Song et al. 2021 (score SDE), eq. 8, and the time of Karras et al. 2022. The SNR is
        1 / sigma^2. It is 0 at t = 0, and infinite if abar_T = 0.
        """
        with np.errstate(divide="ignore"):
            return np.sqrt((1 - self.abar) / self.abar)

    def __repr__(self) -> str:
        return (
            f"Schedule(T={self.T}, beta_1={self.beta[1]:.3g}, beta_T={self.beta[-1]:.3g}, "
            f"abar_T={self.abar[-1]:.3g})"
        )


def prior_bits(schedule: Schedule, dims: int = 3072) -> float:
    """KL(q(x_T | x_0) || N(0, I)) in bits, at most: for an image whose `dims` values are all +-1.

    dims / 2 (abar_T (x_0^2 - 1) - log(1 - abar_T)) nats at x_0^2 = 1, the largest for images in
    [-1, 1]: the prior term L_T of the bound (Ho et al. 2020, eq. 5). It is what the start x_T ~
    N(0, I) of a sampler gives away. 3072 is an image of 32 x 32 in three colours, for which
    ``linear(1000)`` has 0.089 bits and ``linear(500)`` 14.1.
    """
    return float(-0.5 * np.log1p(-schedule.abar[-1]) / math.log(2) * dims)  # eq. (3.16)


def linear(
    T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, scale: str = "none"
) -> Schedule:
    """beta_t rises linearly from `beta_1` to `beta_T` (Ho et al. 2020, section 4).

    Parameters
    ----------
    T : int
    beta_1, beta_T : float in (0, 1)
        End points, meant for T = 1000 (all betas alike give `constant`).
    scale : "none" or "reference"
        "none" takes the end points as they are, whatever T is: with few steps much of the signal
        is left at t = T (abar_T = 0.13 at T = 200), and a `PriorWarning` says so. "reference"
        multiplies them by 1000 / T (as the code of Nichol & Dhariwal 2021 does), so that every T
        has about the same abar_T. Its limit for large T is exp(-10.05) = 4.32e-5 and not 0: it is
        the SDE `sde.VP`.
    """
    beta_1, beta_T = _check_beta("beta_1", beta_1), _check_beta("beta_T", beta_T)
    # eq. (3.10)
    return _named(_of_betas(np.linspace(beta_1, beta_T, check_steps(T)), scale))


def cosine(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """abar_t = f(t) / f(0) with f(t) = cos^2((t/T + s) / (1 + s) * pi/2).

    Nichol & Dhariwal 2021, eq. 17. Since f(T) = 0, beta_T would be 1: it, and no other, is clipped
    at `beta_max`, and abar_T is what the clipped beta gives (2.4e-9 at T = 1000). The offset `s`
    keeps beta_1 from vanishing.
    """
    if not 0 <= check_number("s", s) < math.inf:
        raise InputError(f"cosine needs a finite s >= 0, got {s}")
    t = np.arange(check_steps(T) + 1)
    f = np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2  # eq. (3.13)
    return _named(_clipped(f, beta_max))


def sigmoid(
    T: int = 1000,
    start: float = -3.0,
    end: float = 3.0,
    tau: float = 1.0,
    beta_max: float = 0.999,
) -> Schedule:
    """abar_t = f(t) / f(0) with f(t) = S(end / tau) - S((start + (end - start) t/T) / tau).

    S is the logistic function (Jabri et al. 2023; Chen 2023, Algorithm 1). Larger images want a
    smaller `tau` or a later `start`. As in `cosine`, f(T) = 0 and beta_T alone is clipped at
    `beta_max` (the papers bound abar_T from below, by 1e-9).
    """
    start, end, tau = (
        check_number("start", start),
        check_number("end", end),
        check_number("tau", tau),
    )
    if not (start < end and tau > 0):
        raise InputError(f"sigmoid needs start < end and tau > 0, got {start}, {end} and {tau}")
    if not (abs(start) + abs(end)) / tau < math.inf:
        raise InputError(f"sigmoid: start / tau and end / tau are no numbers, got tau = {tau}")
    t = np.arange(check_steps(T) + 1)
    S = np.tanh((start + (end - start) * (t / T)) / tau / 2) / 2  # less 1/2, which cancels
    return _named(_clipped(S[-1] - S, beta_max))


def quadratic(
    T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012, scale: str = "none"
) -> Schedule:
    """sqrt(beta_t) rises linearly: "scaled linear", also known as "quad".

    With these end points it is the schedule of latent diffusion (Rombach et al. 2022), at whose
    end abar_T = 0.0047: see `zero_terminal_snr`. `scale` as in `linear`.
    """
    beta_1, beta_T = _check_beta("beta_1", beta_1), _check_beta("beta_T", beta_T)
    return _named(_of_betas(np.linspace(beta_1**0.5, beta_T**0.5, check_steps(T)) ** 2, scale))


def constant(T: int = 1000, beta: float = 0.01, scale: str = "none") -> Schedule:
    """beta_t = beta, so abar_t = (1 - beta)^t: one that Ho et al. 2020, appendix B, tried.

    With T it goes to 0; with ``scale="reference"`` (see `linear`) to exp(-1000 beta).
    """
    return _named(_of_betas(np.full(check_steps(T), _check_beta("beta", beta)), scale))


def karras(
    T: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Schedule:
    """The schedule whose noise levels sigma_1, ..., sigma_T are the T of `karras_sigmas`.

    Karras et al. 2022, eq. 5.
    """
    levels = karras_sigmas(check_steps(T), sigma_min, sigma_max, rho)
    return _named(Schedule.from_sigmas(levels[-2::-1]))


def karras_sigmas(
    steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> NDArray[np.float64]:
    """sigma_i = (sigma_max^(1/rho) + i/(S-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then 0.

    Karras et al. 2022, eq. 5: i = 0, ..., S - 1 for S = `steps`. The levels that a sampler's
    option ``sigmas`` takes; the larger rho, the closer they are where there is little noise
    (rho = 1 spaces them evenly, infinity would space their logarithms so).

    Returns
    -------
    float64 array of shape (steps + 1,), strictly decreasing from sigma_max (to sigma_min, if
    there is more than one step) to 0.
    """
    sigma_min, sigma_max = (
        check_number("sigma_min", sigma_min),
        check_number("sigma_max", sigma_max),
    )
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(f"0 < sigma_min < sigma_max must hold, got {sigma_min} and {sigma_max}")
    if not check_number("rho", rho) > 0:
        raise InputError(f"rho must be > 0, got {rho}")
    if max(abs(math.log(sigma_min)), abs(math.log(sigma_max))) > 700 * rho:
        raise InputError(f"rho = {rho} is too small for these levels: sigma^(1/rho) is no number")
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), check_steps(steps, "steps"))
    levels = np.append(roots**rho, 0.0)
    levels[0] = sigma_max  # not a rounding above it, which a schedule might not reach
    if not np.all(np.diff(levels) < 0):
        raise InputError(
            f"the {steps} levels from {sigma_max} to {sigma_min} with rho = {rho} are not all "
            "different in float64; use fewer steps, a smaller rho, or levels further apart"
        )
    return levels


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """`schedule` with sqrt(abar) shifted and stretched so that abar_T = 0 and abar_1 stays.

    sqrt(abar_t)' = (sqrt(abar_t) - sqrt(abar_T)) sqrt(abar_1) / (sqrt(abar_1) - sqrt(abar_T))
    (Lin et al. 2024, Algorithm 1). Training then knows the pure noise that sampling starts from.
    What cannot be asked of a model of eps at T any more, a model of v can: see `Schedule`. So
    sample with ``denoiser.Predicting(model, "v")``. A denoiser of eps starts at T - 1:
    ``steps=timesteps.subset(T - 1, S)``. Of the linear schedule of 1000 steps abar is 4e-9 there.

    Raises
    ------
    InputError
        If T = 1: the first abar is then the last.
    """
    if schedule.T < 2:
        raise InputError("a schedule of T = 1 cannot keep its first abar and lose its last")
    root = np.sqrt(schedule.abar[1:])
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return Schedule.from_abar(root**2)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "quadratic": quadratic,
    "constant": constant,
    "karras": karras,
}


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
    try:
        values = np.asarray(t)
    except ValueError:  # lists of several lengths
        raise InputError(f"t must be an integer or an array of integers, got {t!r}") from None
    if values.dtype.kind not in "iu":
        raise InputError(f"t must be an integer or an array of integers, got {values.dtype}")
    if values.size and not first <= values.min() <= values.max() <= schedule.T:
        raise InputError(
            f"t must lie in {first}..{schedule.T} (t = 0 is clean data), "
            f"got {values.min()}..{values.max()}"
        )
    return int(values) if values.ndim == 0 else values.astype(np.int64)


def _named(schedule: Schedule) -> Schedule:
    """`schedule`, with a warning if it does not end in noise: its name lets nobody expect that."""
    bits = prior_bits(schedule)
    if bits > 0.1:
        warnings.warn(
            f"the prior term is {bits:.3g} bits for an image of 3072 values +-1: at T = "
            f"{schedule.T} this schedule keeps abar_T = {schedule.abar[-1]:.2g} of the signal, "
            "and a sampler that starts from noise has none of it; use more steps, larger betas, "
            "scale='reference', or zero_terminal_snr",
            PriorWarning,
            stacklevel=3,  # where the named schedule is called
        )
    return schedule


def _check_beta(name: str, value: Any) -> float:
    """`value` as a float, if it is a number in (0, 1)."""
    beta = check_number(name, value)
    if not 0 < beta < 1:
        raise InputError(f"every beta must lie in (0, 1), but {name} = {beta}")
    return beta


def _of_betas(betas: NDArray[np.float64], scale: str) -> Schedule:
    """The schedule of these betas times the `scale`, all of them below 1."""
    T = len(betas)
    # eq. (3.12)
    factor = lookup({"none": 1.0, "reference": REFERENCE_T / T}, scale, "scale")
    betas = betas * factor
    if betas[-1] >= 1:
        raise InputError(
            f"every beta must lie in (0, 1), but beta_{T} = {betas[-1]}"
            + (f" after scaling by {factor:g}: use more steps" if factor > 1 else "")
        )
    return Schedule.from_betas(betas)


def _clipped(f: NDArray[np.float64], beta_max: float) -> Schedule:
    """The schedule of abar_t = f(t) / f(0), its betas clipped at `beta_max`."""
    if not np.all(np.diff(f) < 0):
        raise InputError(
            "abar must decrease from each step to the next; with these options it is flat"
        )
    beta_max = check_number("beta_max", beta_max)
    return Schedule.from_betas(np.minimum(1 - f[1:] / f[:-1], beta_max))  # eq. (3.14)


def check_steps(T: int, name: str = "T, the number of steps,") -> int:
    """`T` as an int, if it is a whole number >= 1; `name` is what an error calls it."""
    return check_count(name, T)
