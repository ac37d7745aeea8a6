"""The kernel distance: the squared maximum mean discrepancy of two samples of features."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import InputError, check_count
from minidiff.metrics.arrays import check_features, check_same_kind


class Distance(NamedTuple):
    """Mean and standard deviation over the subsets (0 for one subset)."""

    mean: float
    std: float


def squared_mmd(features: Any, other_features: Any) -> float:
    """MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), over pairs of different images.

    With the kernel k(x, y) = (x . y / d + 1)^3 of Binkowski et al. 2018, section 4. Pairs of an
    image with itself are left out (Gretton et al. 2012, section 2), so that its mean over samples
    is the distance of the distributions at every N: of equal ones it is 0, and about half of the
    values are negative.

    Parameters
    ----------
    features, other_features : arrays of shapes (N, d) and (M, d), N and M >= 2
        Of the same network.
    """
    x = check_features(features, "features")
    y = check_features(other_features, "other_features")
    check_same_kind(x, y)
    return float(_within(x) + _within(y) - 2 * _kernel(x, y).mean())


def kid(
    features: Any,
    other_features: Any,
    *,
    rng: np.random.Generator,
    subsets: int = 100,
    size: int = 1000,
) -> Distance:
    """Kernel inception distance: `squared_mmd` of random subsets, mean and standard deviation.

    Binkowski et al. 2018, section 4. Subsets cost less than one large product, and tell how much
    the value scatters. The mean is as unbiased as that of all features.

    Parameters
    ----------
    features, other_features : arrays of shapes (N, d) and (M, d)
    rng : numpy.random.Generator
        Chooses the subsets, without repetition within one.
    subsets : int, >= 1
    size : int, >= 2
        Images of each sample in a subset; N and M if they are fewer.
    """
    x = check_features(features, "features")
    y = check_features(other_features, "other_features")
    check_same_kind(x, y)
    check_count("subsets", subsets)
    check_count("size", size, least=2)
    if not hasattr(rng, "choice"):
        raise InputError("the subsets are drawn: pass rng, such as numpy.random.default_rng(0)")

    def some(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return a[rng.choice(len(a), size=min(size, len(a)), replace=False)]

    values = np.array([squared_mmd(some(x), some(y)) for _ in range(subsets)])
    return Distance(float(values.mean()), float(values.std()))


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: NDArray[np.float64]) -> float:
    """Mean of k(x, x') over pairs of different rows."""
    k, n = _kernel(x, x), len(x)
    return (k.sum() - np.trace(k)) / (n * (n - 1))
