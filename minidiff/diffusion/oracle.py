"""Data whose optimal denoiser is known in closed form: a model without a network, and no error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import backend
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Data x_0 ~ N(mean, covariance).

    Attributes
    ----------
    mean : float64 array of any shape
        The shape of one image; d is the number of its elements.
    covariance : float64 array of shape (d, d)
        Of the elements in C order; symmetric, no negative eigenvalue. A singular one is allowed.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    _axes: NDArray[np.float64] = field(init=False, repr=False)
    _variances: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mean = np.array(self.mean, dtype=np.float64)
        covariance = np.array(self.covariance, dtype=np.float64)
        if covariance.shape != (mean.size, mean.size):
            raise InputError(
                f"a mean of {mean.size} elements needs a covariance of shape "
                f"{(mean.size, mean.size)}, got {covariance.shape}"
            )
        if not np.allclose(covariance, covariance.T, rtol=1e-10, atol=0):
            raise InputError("the covariance must be symmetric and finite")
        variances, axes = np.linalg.eigh(covariance)
        if variances[0] < -1e-10 * abs(variances[-1]):
            raise InputError(f"the covariance has a negative eigenvalue, {variances[0]:.3g}")
        values = {"mean": mean, "covariance": covariance}
        values |= {"_axes": axes, "_variances": np.maximum(variances, 0)}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def isotropic(cls, mean: ArrayLike, variance: float) -> Gaussian:
        """N(mean, variance I)."""
        return cls(np.asarray(mean), variance * np.eye(np.size(mean)))

    def marginal(
        self, schedule: Schedule, t: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and covariance of x_t: sqrt(abar_t) m and abar_t C + (1 - abar_t) I, 0 <= t <= T."""
        abar = float(schedule.abar[check_t(schedule, t, first=0)])
        eye = np.eye(self.mean.size)
        return np.sqrt(abar) * self.mean, abar * self.covariance + (1 - abar) * eye

    def eps(self, schedule: Schedule, xt: Array, t: Any) -> Array:
        """E[eps | x_t] = sqrt(1 - abar_t) (abar_t C + (1 - abar_t) I)^{-1} (x_t - sqrt(abar_t) m).

        The noise that the best possible model predicts; -sqrt(1 - abar_t) times the score.

        Parameters
        ----------
        schedule : Schedule
        xt : array of shape (N, *mean.shape)
        t : int or int array of shape (N,), 1 <= t <= T

        Returns
        -------
        array like xt
        """
        if xt.shape[1:] != self.mean.shape:
            shape = ", ".join(["N", *map(str, self.mean.shape)])
            raise InputError(f"x_t must have shape ({shape}) for this Gaussian, got {xt.shape}")
        xp = backend.array_module(xt)
        abar = schedule.abar[check_t(schedule, t)].reshape(-1, 1)  # (N, 1) or (1, 1)
        gain = np.sqrt(1 - abar) / (abar * self._variances + (1 - abar))  # along each axis
        centre = np.sqrt(abar) * self.mean.reshape(-1)
        axes, gain, centre = (xp.asarray(a, dtype=xt.dtype) for a in (self._axes, gain, centre))
        flat = xt.reshape(len(xt), -1) - centre
        return ((flat @ axes * gain) @ axes.T).reshape(xt.shape)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The optimal denoiser of this data; it ignores any condition."""
        return lambda xt, t, **cond: self.eps(schedule, xt, t)

    def sample(self, n: int, *, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw n images x_0: an array of shape (n, *mean.shape) on the host."""
        z = rng.standard_normal((n, self.mean.size))
        flat = z * np.sqrt(self._variances) @ self._axes.T
        return self.mean + flat.reshape(n, *self.mean.shape)
