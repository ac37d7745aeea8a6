"""What a sampler generates, exactly: no draws, hence no sampling error.

For Gaussian data the optimal denoiser is affine in x_t. A sampler is then an affine map from its
noise (x_T and every later draw, all standard normal) to x_0, and what it generates is a Gaussian
whose mean is the map's offset and whose covariance is A A^T, A being the map's matrix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        row, with noise everywhere, is compared with what the map says.
    """
    d = int(np.prod(shape))
    counter = _Scripted(lambda k: np.zeros((1, *shape)))
    run(np.zeros((1, *shape)), counter)
    columns = (1 + counter.draws) * d
    rows = columns + 2
    probe = 1.5 * np.cos(np.arange(columns) ** 2)  # a vector in no special direction

    def noise(k: int) -> NDArray[np.float64]:
        """The k-th array of noise (0 is x_T) for every row."""
        z = np.zeros((rows, d))
        own = slice(k * d, (k + 1) * d)
        z[1:-1][own] = np.eye(d)
        z[-1] = probe[own]
        return z.reshape(rows, *shape)

    x0 = run(noise(0), _Scripted(lambda k: noise(k + 1))).reshape(rows, d)
    offset, matrix = x0[0], (x0[1:-1] - x0[0]).T
    expected = offset + matrix @ probe
    if not np.allclose(x0[-1], expected, rtol=1e-8, atol=1e-8 * (1 + np.abs(matrix).sum())):
        raise InputError(
            "this sampler is not affine in its noise (is x0 clipped, or the denoiser not affine?), "
            "so a mean and a covariance do not describe what it generates"
        )
    return Affine(offset, matrix)


class _Scripted:
    """Stands in for a generator: the k-th call returns the k-th array of a script."""

    def __init__(self, script: Callable[[int], NDArray[np.float64]]) -> None:
        self.script = script
        self.draws = 0

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        z = self.script(self.draws)
        self.draws += 1
        return z.astype(dtype, copy=False).reshape(shape)
