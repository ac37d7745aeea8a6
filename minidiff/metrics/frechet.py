"""The squared Frechet distance of two Gaussians, which is FID if they fit features of images."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff.errors import InputError
from minidiff.metrics.arrays import check_features, check_same_kind, real


def squared_frechet(
    mean: ArrayLike, covariance: ArrayLike, other_mean: ArrayLike, other_covariance: ArrayLike
) -> float:
    """d^2 = |m - m'|^2 + tr(C + C' - 2 (C^{1/2} C' C^{1/2})^{1/2}) of N(m, C) and N(m', C').

    The squared Wasserstein-2 distance (Dowson & Landau 1982; Heusel et al. 2017, section 4). The
    usual form has (C C')^{1/2}, which has the same trace; but C C' is not symmetric, and its root
    comes out complex or not at all where a covariance is singular. Here both roots are those of
    symmetric matrices, by their eigenvalues, in float64: singular covariances, as those of fewer
    images than features are, need no care. Eigenvalues that rounding has made negative count as 0.

    Parameters
    ----------
    mean, other_mean : arrays of shape (d,)
    covariance, other_covariance : arrays of shape (d, d)
        Symmetric, without a negative eigenvalue.

    Raises
    ------
    InputError
        If shapes do not fit, or a number is not finite, or a covariance is none.
    """
    m, root, trace = _checked(mean, covariance, "")
    other_m, _, other_trace = _checked(other_mean, other_covariance, "other_")
    if m.shape != other_m.shape:
        raise InputError(
            f"Gaussians of {m.size} and of {other_m.size} dimensions cannot be compared"
        )
    product = root @ np.asarray(other_covariance, dtype=np.float64) @ root
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(_symmetric(product)), 0)).sum()
    off = m - other_m
    return max(0.0, float(off @ off + trace + other_trace - 2 * overlap))


def squared_frechet_of_samples(features: Any, other_features: Any) -> float:
    """`squared_frechet` of the Gaussians that fit two samples of features: FID.

    Heusel et al. 2017, section 4. It is biased upwards, by about 1/N: equal distributions have
    a distance above 0, and values of different N do not compare. It also sees two moments only.

    Parameters
    ----------
    features, other_features : arrays of shapes (N, d) and (M, d), N and M >= 2
        Of the same network.
    """
    a = check_features(features, "features")
    b = check_features(other_features, "other_features")
    check_same_kind(a, b)
    return squared_frechet(*moments(a), *moments(b))


def moments(features: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (d,) and covariance (d, d), over N - 1, of features (N, d): what FID compares.

    Heusel et al. 2017, section 4.
    """
    x = check_features(features, "features")
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _checked(
    mean: ArrayLike, covariance: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(m, C^{1/2}, tr C) of a Gaussian, if it is one."""
    try:
        m, c = (real(a) for a in (mean, covariance))
    except (TypeError, ValueError):
        raise InputError(f"{name}mean and {name}covariance must be arrays of numbers") from None
    if m.ndim != 1 or not m.size or c.shape != (m.size, m.size):
        raise InputError(
            f"{name}mean and {name}covariance must have shapes (d,) and (d, d), "
            f"got {m.shape} and {c.shape}"
        )
    if not (np.isfinite(m).all() and np.isfinite(c).all()):
        raise InputError(f"{name}mean and {name}covariance must be finite")
    size = np.abs(c).max()
    if np.abs(c - c.T).max() > 1e-6 * size:  # that of float32 is symmetric to about 1e-7
        raise InputError(f"{name}covariance must be symmetric")
    variances, axes = np.linalg.eigh(_symmetric(c))
    if variances[0] < -1e-6 * size:
        raise InputError(
            f"{name}covariance has a negative eigenvalue, {variances[0]:.3g}: it is none"
        )
    return m, axes * np.sqrt(np.maximum(variances, 0)) @ axes.T, float(np.trace(c))


def _symmetric(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric part; eigh looks at one triangle only."""
    return (a + a.T) / 2
