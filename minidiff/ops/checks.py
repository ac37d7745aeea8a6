"""What an operation computes with: arrays of float32 or float64."""

from __future__ import annotations

from minidiff.autograd import Array
from minidiff.errors import InputError


def check_floats(op: str, **arrays: Array) -> None:
    """Refuse what is no array of float32 or float64.

    Integers would be rounded, or wrap, on the way, and float16 has too few digits for sums.
    """
    for name, a in arrays.items():
        dtype = getattr(a, "dtype", None)
        if dtype is None or dtype.char not in ("f", "d"):
            raise InputError(
                f"{op}: {name} must be an array of float32 or float64, "
                f"got {type(a).__name__ if dtype is None else dtype}"
            )
