"""The one exception for mistakes that a user can make and mend, and the checks of plain values."""

from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """A value from outside cannot be used.

    The message says what was wrong, what was expected and what to do, on one line: the command
    line prints it as it is and exits with status 2.
    """

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))  # an array in it has many lines


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """`value` as an int, if it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """`value` as a float, if it is a real number. (NaN is one; no range has it.)"""
    if getattr(value, "ndim", None) == 0:  # an array of one number
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} must be a number, got {value!r}")
    return float(value)


class PriorWarning(UserWarning):
    """A noise schedule leaves so much of the signal at t = T that sampling from noise misses it.

    Raised by `minidiff.diffusion.schedules`; the command line prints it once, as one line.
    """
