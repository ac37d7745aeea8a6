"""What a caller may give for a count, a number, or some numbers; ranges are checked where used."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import InputError


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """`value` as an int, if it is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """`value` as a float, if it is a real number. (NaN is one; no range has it.)"""
    if np.ndim(value) == 0 and isinstance(value, np.ndarray):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """`values` as a float64 array on the host, if they are numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, got {values!r}") from None
