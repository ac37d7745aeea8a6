"""What the metrics accept for features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import InputError


def real(numbers: Any) -> NDArray[np.float64]:
    """`numbers` as float64; of complex ones nothing is thrown away in silence."""
    return np.asarray(numbers).astype(np.float64, casting="same_kind")


def check_features(features: Any, name: str, *, least: int = 2) -> NDArray[np.float64]:
    """`features` as a float64 array of shape (N, d) with N >= `least`; all of it is finite."""
    try:
        values = real(features)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of numbers on the host") from None
    if values.ndim != 2 or len(values) < least or values.shape[1] == 0:
        raise InputError(
            f"{name} must have shape (N, d), one row for each of N >= {least} images, "
            f"got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{name} must be finite, and has NaN or infinity in it")
    return values


def check_same_kind(a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    """Refuse features of different lengths: they come from different networks."""
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features of {a.shape[1]} and of {b.shape[1]} numbers cannot be compared: both "
            "samples must go through the same network"
        )
