"""The noise process in continuous time: stochastic differential equations, forward and reverse.

Time is a real number, 0 <= t <= 1; t = 0 is clean data. All three have a drift that is linear in x
and a diffusion that does not depend on it (Song et al. 2021, eq. 5):

    dx = a(t) x dt + g(t) dw,    x(t) given x(0) ~ N(signal(t) x(0), sigma(t)^2 I)

``VP`` is what the chain of DDPM becomes with ever more and ever smaller steps, ``VE`` that of NCSN,
and ``SubVP`` has the signal of VP with less noise. `SDE.chain` are the steps that have them for
limit. Up to a scale of x that changes in time, an SDE is its signal-to-noise ratio: `SDE.schedule`
is the `Schedule` that has the same one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.diffusion.arrays import Array, floats, per_image
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.names import lookup, with_options
from minidiff.diffusion.schedules import Schedule, check_steps
from minidiff.errors import InputError, check_number


class SDE(ABC):
    """dx = a(t) x dt + g(t) dw.

    Song et al. 2021 (score SDE), eq. 5.

    In all methods `t` is a real number, or a host array of N of them, in [0, 1]; `x` and `score`
    are arrays of shape (N, ...), and so is what is made of them. Coefficients are computed on the
    host in float64: Python floats for one t, arrays of shape (N,) for N.
    """

    @abstractmethod
    def rate(self, t: Any) -> Any:
        """a(t) of the drift a(t) x."""

    @abstractmethod
    def diffusion(self, t: Any) -> Any:
        """g(t): noise of variance g^2 dt is added in dt."""

    @abstractmethod
    def marginal(self, t: Any) -> tuple[Any, Any]:
        """(signal, sigma) of x(t) | x(0) ~ N(signal x(0), sigma^2 I) (Song et al. 2021, eq. 29).

        ``mixture.at(*sde.marginal(t))`` is then the distribution of x(t) for data from a mixture
        (see `oracle`), with its score.
        """

    @abstractmethod
    def chain(self, T: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(c, variance) of x_i = c_i x_{i-1} + sqrt(variance_i) z, whose limit is the SDE.

        The i-th of T steps goes to time i / T. Float64 arrays of shape (T + 1,) with c_0 = 1 and
        variance_0 = 0. What x_i is given x_0 differs from `marginal` by O(1 / T), or not at all.
        """

    def drift(self, x: Array, t: Any) -> Array:
        """f(x, t) = a(t) x."""
        return per_image(self.rate(t), x) * x

    def sample(self, x0: Array, t: Any, eps: Array) -> Array:
        """x(t) = signal(t) x_0 + sigma(t) eps, a draw of `marginal` from standard normal `eps`."""
        if eps.shape != x0.shape:
            raise InputError(f"eps must have the shape of x0, {x0.shape}, got {eps.shape}")
        signal, sigma = self.marginal(t)
        return per_image(signal, x0) * x0 + per_image(sigma, x0) * eps

    def reverse_drift(self, x: Array, t: Any, score: Array) -> Array:
        """f - g^2 score: dx = (f - g^2 grad log p_t(x)) dt + g dw, from t = 1 to 0 (dt < 0).

        Song et al. 2021, eq. 6. The noise is `diffusion` in both directions.
        """
        # eq. (7.17)
        return self.drift(x, t) - per_image(np.square(self.diffusion(t)), x) * score

    def probability_flow(self, x: Array, t: Any, score: Array) -> Array:
        """dx/dt = f - g^2 score / 2: no noise, and the same distribution of x(t) at every t.

        Song et al. 2021, eq. 13.
        """
        # eq. (7.16)
        return self.drift(x, t) - per_image(np.square(self.diffusion(t)) / 2, x) * score

    def schedule(self, T: int) -> Schedule:
        """The schedule of T steps whose signal-to-noise ratio at i is that of the SDE at i / T.

        Its x_i is x(i / T) / sqrt(signal^2 + sigma^2), exactly so for every T.
        """
        signal, sigma = self.marginal(_times(T))
        return Schedule.from_sigmas(sigma / signal)


@dataclass(frozen=True)
class VP(SDE):
    """Variance preserving: dx = -beta(t)/2 x dt + sqrt(beta(t)) dw (Song et al. 2021, eq. 11).

    beta(t) = beta_min + t (beta_max - beta_min). With B(t) its integral from 0, the signal is
    exp(-B/2) and sigma^2 = 1 - exp(-B). With these end points it is the limit of
    ``schedules.linear(T, scale="reference")``.

    Parameters
    ----------
    beta_min, beta_max : float, 0 < beta_min <= beta_max
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        low, high = (check_number(n, getattr(self, n)) for n in ("beta_min", "beta_max"))
        if not 0 < low <= high < math.inf:
            raise InputError(
                "0 < beta_min <= beta_max must hold, "
                f"got beta_min = {self.beta_min} and beta_max = {self.beta_max}"
            )

    def beta(self, t: Any) -> Any:
        """beta(t), the rate at which variance is added."""
        return floats(self.beta_min + _check(t) * (self.beta_max - self.beta_min))[0]

    def integral(self, t: Any) -> Any:
        """B(t), the integral of beta from 0 to t."""
        t = _check(t)
        return floats(t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2))[0]

    def rate(self, t: Any) -> Any:
        """-beta(t) / 2."""
        return -self.beta(t) / 2

    def diffusion(self, t: Any) -> Any:
        """sqrt(beta(t))."""
        return floats(np.sqrt(self.beta(t)))[0]

    def marginal(self, t: Any) -> tuple[Any, Any]:
        """(exp(-B/2), sqrt(1 - exp(-B)))."""
        B = self.integral(t)
        return floats(np.exp(-B / 2), np.sqrt(-np.expm1(-B)))  # eq. (7.15)

    def chain(self, T: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z, beta_i = beta(i/T) / T.

        Song et al. 2021, eq. 10: that of DDPM.
        """
        beta = self._steps_of_beta(T)
        return _with_start(np.sqrt(1 - beta), beta)

    def _steps_of_beta(self, T: int) -> NDArray[np.float64]:
        beta = self.beta(_times(T)) / len(_times(T))
        if beta[-1] >= 1:
            raise InputError(f"{T} steps are too few: beta(1) / T = {beta[-1]:g} must be below 1")
        return beta


@dataclass(frozen=True)
class SubVP(VP):
    """As `VP`, with less noise: g^2 = beta(t) (1 - exp(-2 B(t))) (Song et al. 2021, eq. 12).

    The signal is exp(-B/2) and sigma = 1 - exp(-B), the square of that of VP in place of its root:
    never more, and hardly less where B is large.
    """

    def diffusion(self, t: Any) -> Any:
        """sqrt(beta(t) (1 - exp(-2 B)))."""
        return floats(np.sqrt(self.beta(t) * -np.expm1(-2 * self.integral(t))))[0]

    def marginal(self, t: Any) -> tuple[Any, Any]:
        """(exp(-B/2), 1 - exp(-B))."""
        B = self.integral(t)
        return floats(np.exp(-B / 2), -np.expm1(-B))

    def chain(self, T: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i (1 - exp(-2 B(i/T)))) z, beta_i as in VP.

        The paper gives it no chain of its own; this is the step of VP with the noise of eq. 12.
        """
        beta = self._steps_of_beta(T)
        return _with_start(np.sqrt(1 - beta), beta * -np.expm1(-2 * self.integral(_times(T))))


@dataclass(frozen=True)
class VE(SDE):
    """Variance exploding: dx = sqrt(d(s^2)/dt) dw with s(t) = sigma_min (sigma_max / sigma_min)^t.

    Song et al. 2021, eq. 9, with the levels of their appendix C. No drift: the signal stays 1, and
    sigma(t)^2 = s(t)^2 - sigma_min^2, which is 0 at t = 0. (They then drop sigma_min^2, which is
    to count their data as having it already.)

    Parameters
    ----------
    sigma_min, sigma_max : float, 0 < sigma_min < sigma_max
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        low, high = (check_number(n, getattr(self, n)) for n in ("sigma_min", "sigma_max"))
        if not 0 < low < high < math.inf:
            raise InputError(
                "0 < sigma_min < sigma_max must hold, "
                f"got sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max}"
            )

    def rate(self, t: Any) -> Any:
        """0."""
        return floats(0.0 * _check(t))[0]

    def diffusion(self, t: Any) -> Any:
        """s(t) sqrt(2 log(sigma_max / sigma_min))."""
        log_ratio = math.log(self.sigma_max / self.sigma_min)
        g = self.sigma_min * np.exp(log_ratio * _check(t)) * math.sqrt(2 * log_ratio)
        return floats(g)[0]

    def marginal(self, t: Any) -> tuple[Any, Any]:
        """(1, sqrt(s(t)^2 - sigma_min^2))."""
        t = _check(t)
        log_ratio = math.log(self.sigma_max / self.sigma_min)
        return floats(1 + 0 * t, self.sigma_min * np.sqrt(np.expm1(2 * log_ratio * t)))

    def chain(self, T: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x_i = x_{i-1} + sqrt(s_i^2 - s_{i-1}^2) z (Song et al. 2021, eq. 8).

        At the times i / T it is the SDE itself, for every T.
        """
        sigma2 = np.square(self.marginal(_times(T))[1])
        return _with_start(np.ones(len(sigma2)), np.diff(sigma2, prepend=0.0))


SDES: dict[str, type[SDE]] = {"vp": VP, "sub_vp": SubVP, "ve": VE}


def make(name: str, **options: Any) -> SDE:
    """The SDE called `name`; `options` are its parameters."""
    return with_options(lookup(SDES, name, "SDE"), f"SDE {name!r}", **options)()


def _check(t: Any) -> Any:
    """`t` as a float or a float64 array, if all of it is in [0, 1]."""
    t = check_numbers("the time of an SDE", t)
    if not np.all((t >= 0) & (t <= 1)):  # NaN is refused too
        raise InputError(f"the time of an SDE lies in [0, 1] (t / T of a schedule), got {t}")
    return float(t) if t.ndim == 0 else t


def _times(T: int) -> NDArray[np.float64]:
    """1/T, 2/T, ..., 1."""
    return np.arange(1, check_steps(T) + 1) / T


def _with_start(
    c: NDArray[np.float64], variance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.concatenate([[1.0], c]), np.concatenate([[0.0], variance])
