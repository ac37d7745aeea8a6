"""Where coefficients (float64, on the host) meet images (any dtype, on any device)."""

from typing import Any

import numpy as np

from minidiff import backend
from minidiff.errors import InputError
from minidiff.ops.checks import check_floats

Array = Any
"""An array of the chosen backend; NumPy and CuPy share no type that a checker could name."""


def per_image(c: Any, x: Array) -> Any:
    """The coefficient `c` in a form that multiplies `x` without changing its dtype or device.

    Parameters
    ----------
    c : float or host array of shape (N,)
        One coefficient for all images, or one for each. Float64: it is rounded to the dtype of
        `x` only here, since a difference such as 1 - abar_1 would lose four digits in float32.
    x : array of shape (N, ...)

    Returns
    -------
    A Python float (which takes the dtype of what it multiplies), or an array of shape
    (N, 1, ..., 1) with the dtype and the array module of `x`.
    """
    check_floats("diffusion", images=x)
    if np.ndim(c) == 0:
        return float(c)
    if x.ndim == 0 or c.shape != x.shape[:1]:
        raise InputError(
            f"t of shape {c.shape} does not fit images of shape {x.shape}: "
            "give one t, or one for each image"
        )
    column = c.reshape(c.shape + (1,) * (x.ndim - 1))
    return backend.array_module(x).asarray(column, dtype=x.dtype)


def check_like(a: Any, x: Array, name: str, like: str) -> None:
    """Refuse `a` of another shape or dtype than `x`.

    By broadcasting another shape could pass unseen; another dtype would turn the precision of all
    that follows into that of one of the two.
    """
    for value, known in ((a, name), (x, like)):
        if not hasattr(value, "dtype"):
            raise InputError(f"{known} must be an array, got {type(value).__name__}")
    if a.shape != x.shape:
        raise InputError(f"{name} must have the shape of {like}, {x.shape}, got {a.shape}")
    if a.dtype != x.dtype:
        raise InputError(
            f"{name} must have the dtype of {like}, {x.dtype}, got {a.dtype}: "
            f"convert it with .astype({x.dtype})"
        )


def floats(*coefficients: Any) -> tuple[Any, ...]:
    """The coefficients, with NumPy's scalars as Python floats.

    A ``np.float64`` times a float32 array is float64; a Python float times it is float32.
    """
    return tuple(float(c) if np.ndim(c) == 0 else c for c in coefficients)
