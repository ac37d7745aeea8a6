"""What a caller may give for some numbers; ranges are checked where they are used."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import InputError


def check_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """`values` as a float64 array on the host, if they are numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, got {values!r}") from None
