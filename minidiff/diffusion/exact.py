"""What a sampler generates, exactly: no draws, hence no sampling error.

For Gaussian data the optimal denoiser is affine in x_t. A sampler is then an affine map from its
noise (x_T and every later draw, all standard normal) to x_0, and what it generates is a Gaussian
whose mean is the map's offset and whose covariance is A A^T, A being the map's matrix. `propagate`
finds that map for any sampler by running it. `from_coefficients` follows the mean and covariance
through the steps of a sampler whose coefficients are known: much less work, and another way to the
same numbers.
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError


class Affine(NamedTuple):
    """x_0 = offset + matrix z for standard normal z = (x_T, first draw, second draw, ...)."""

    offset: NDArray[np.float64]
    """Shape (d,)."""
    matrix: NDArray[np.float64]
    """Shape (d, K d) for K arrays of noise."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of what is generated, shape (d,)."""
        return self.offset

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of what is generated, shape (d, d)."""
        return self.matrix @ self.matrix.T

    @property
    def gaussian(self) -> Gaussian:
        """The distribution of what is generated, N(mean, covariance), as a model of data."""
        return Gaussian(self.mean, self.covariance)


def propagate(run: Callable[[Any, Any], Any], shape: tuple[int, ...]) -> Affine:
    """The affine map of a sampler, found by running the sampler itself on basis vectors.

    Every row of a batch is sampled independently, so one run does it: row 0 gets zeros for noise,
    each other row a one in one element of one array of noise. Costs (number of steps) evaluations
    of about (number of steps) * d rows.

    Parameters
    ----------
    run : callable (x_T, rng) -> x_0
        A whole sampler on float64 arrays of shape (N, *shape), such as
        ``lambda x, rng: final(ddpm(denoiser, schedule, x, rng=rng))``.
    shape : tuple of int
        Shape of one image.

    Raises
    ------
    InputError
        If the sampler is not affine (its x0 is clipped, or the denoiser is not affine): one more
        row, with noise everywhere, is compared with what the map says. Or if what comes of a row
        depends on the others of its batch (see `samplers.predictor_corrector`).
    """
    d = int(np.prod(shape))

    def few(k: int) -> NDArray[np.float64]:
        """The k-th array of noise for the first row and the last, which are 0 and the probe."""
        return np.stack([np.zeros(d), probe_at(k)]).reshape(2, *shape)

    def probe_at(k: int) -> NDArray[np.float64]:  # a vector in no special direction
        return 1.5 * np.cos(np.arange(k * d, (k + 1) * d) ** 2)

    counter = _Scripted(lambda k: few(k + 1))
    alone = run(few(0), counter).reshape(2, d)
    columns = (1 + counter.draws) * d
    rows = columns + 2

    def noise(k: int) -> NDArray[np.float64]:
        """The k-th array of noise (0 is x_T) for every row."""
        z = np.zeros((rows, d))
        own = slice(k * d, (k + 1) * d)
        z[1:-1][own] = np.eye(d)
        z[-1] = probe_at(k)
        return z.reshape(rows, *shape)

    x0 = run(noise(0), _Scripted(lambda k: noise(k + 1))).reshape(rows, d)
    offset, matrix = x0[0], (x0[1:-1] - x0[0]).T
    probe = np.concatenate([probe_at(k) for k in range(1 + counter.draws)])
    expected, atol = offset + matrix @ probe, 1e-8 * (1 + np.abs(matrix).sum())
    if not np.allclose(x0[-1], expected, rtol=1e-8, atol=atol):
        raise InputError(
            "this sampler is not affine in its noise (is x0 clipped, or the denoiser not affine?), "
            "so a mean and a covariance do not describe what it generates"
        )
    if not np.allclose(alone, x0[[0, -1]], rtol=1e-8, atol=atol):
        raise InputError(
            "what this sampler makes of an image depends on the others of its batch, so one map "
            "does not describe it"
        )
    return Affine(offset, matrix)


def from_coefficients(
    step: Callable[[int, int], tuple[float, float, float]],
    data: Gaussian,
    schedule: Schedule,
    times: Iterable[int],
    *,
    of: str = "xt",
) -> Gaussian:
    """What steps x_s = c_0 x_0 + c x + sigma z make of standard normal noise, exactly.

    x_0 is the prediction of the optimal denoiser of `data`, which is affine in x_t; so along each
    principal axis of the data a mean and a variance are all that a step changes. The work is one
    multiplication for each step and axis.

    Parameters
    ----------
    step : callable (s, t) -> (c_0, c, sigma)
        Such as ``lambda s, t: ddpm.coefficients(schedule, s, t)``.
    data : oracle.Gaussian
    schedule : Schedule
    times : the times that are visited, from the first to 0, such as ``timesteps.subset(T, 50)``
    of : "xt" or "eps"
        What c multiplies: x_t, as in DDPM's step, or the predicted eps, as in DDIM's.

    Returns
    -------
    The distribution of the last x.
    """
    if of not in ("xt", "eps"):
        raise InputError(f'c multiplies "xt" or "eps", got {of!r}')
    if len(data.weights) != 1:
        raise InputError("the optimal denoiser of a mixture of several components is not affine")
    variances, axes = np.linalg.eigh(data.covariance)
    centre = axes.T @ data.mean.reshape(-1)
    mean, variance = np.zeros_like(centre), np.ones_like(centre)
    for t, s in pairwise(times):
        signal, noise2 = math.sqrt(schedule.abar[t]), 1 - schedule.abar[t]
        # Along an axis x_0 = m + to_x0 (x_t - signal m) and eps = to_eps (x_t - signal m).
        total = signal**2 * variances + noise2
        to_x0, to_eps = signal * variances / total, math.sqrt(noise2) / total
        c_0, c, sigma = step(int(s), int(t))
        # eq. (9.5)
        slope = c_0 * to_x0 + (c if of == "xt" else c * to_eps)
        # At x_t = signal m: x_0 = m and eps = 0.
        at_centre = c_0 * centre + (c * signal * centre if of == "xt" else 0.0)
        mean = at_centre + slope * (mean - signal * centre)
        variance = slope**2 * variance + sigma**2
    return Gaussian((axes @ mean).reshape(data.shape), axes * variance @ axes.T)


def condition(
    mean: ArrayLike, covariance: ArrayLike, given: ArrayLike, values: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance of some variables of N(mean, covariance), given the others.

    With b for the given ones and a for the rest, C_ab their covariance:

        mean       = m_a + C_ab C_bb^{-1} (x_b - m_b)
        covariance = C_aa - C_ab C_bb^{-1} C_ba

    Everything Gaussian in diffusion follows from it: with C_st = sqrt(abar_t / abar_s) C_ss it is
    the posterior q(x_s | x_t, x_0), and E[x_0 | x_t].

    Parameters
    ----------
    mean : array of shape (n,)
    covariance : array of shape (n, n)
    given : indices of the k variables whose values are known
    values : the k values

    Returns
    -------
    (mean, covariance) of the n - k others, in their order.
    """
    mean, covariance = (np.asarray(a, dtype=np.float64) for a in (mean, covariance))
    b = np.atleast_1d(np.asarray(given))
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    n = mean.size
    if mean.shape != (n,) or covariance.shape != (n, n):
        raise InputError(
            f"mean and covariance must have shapes (n,) and (n, n), got {mean.shape} and "
            f"{covariance.shape}"
        )
    if b.dtype.kind not in "iu" or len(set(b.tolist())) != b.size or not set(b) <= set(range(n)):
        raise InputError(f"`given` must be different indices in 0..{n - 1}, got {given!r}")
    if values.shape != b.shape:
        raise InputError(f"{b.size} given variables need {b.size} values, got {values.size}")
    a = np.setdiff1d(np.arange(n), b)  # eq. (4.8)
    gain = np.linalg.solve(covariance[np.ix_(b, b)], covariance[np.ix_(b, a)]).T
    return (
        mean[a] + gain @ (values - mean[b]),
        covariance[np.ix_(a, a)] - gain @ covariance[np.ix_(b, a)],
    )


class _Scripted:
    """Stands in for a generator: the k-th call returns the k-th array of a script."""

    def __init__(self, script: Callable[[int], NDArray[np.float64]]) -> None:
        self.script = script
        self.draws = 0

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        z = self.script(self.draws)
        self.draws += 1
        return z.astype(dtype, copy=False).reshape(shape)
