"""The generator of the device."""

from __future__ import annotations

from typing import Any

from minidiff import backend
from minidiff.backend import kernels

Array = Any


class Philox:
    """A counter-based generator, Philox4x32-10: Salmon et al. (2011), "Parallel random numbers: as
    easy as 1, 2, 3".

    What it draws is a pure function of its key and of how often it has drawn before. The key stays
    an array of the device, and nothing on the host depends on it. In a captured graph, where the
    key is an input, a generator that is made of it inside therefore draws other numbers at each
    replay. Elsewhere `backend.generator` is simpler.

    Parameters
    ----------
    key : uint32 (2,), as `backend.key` makes it, where the numbers shall be
    """

    def __init__(self, key: Array) -> None:
        self._key, self._draws = key, 0

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = "float64") -> Array:
        """Numbers of N(0, 1), float32 or float64."""
        return self._draw("normal", shape, dtype)

    def random(self, shape: tuple[int, ...], dtype: Any = "float64") -> Array:
        """Numbers that are uniform on [0, 1), float32 or float64."""
        return self._draw("uniform", shape, dtype)

    def _draw(self, kernel: str, shape: tuple[int, ...], dtype: Any) -> Array:
        xp = backend.array_module(self._key)
        numbers = getattr(kernels.of(xp), kernel)(xp, self._key, self._draws, shape, dtype)
        self._draws += 1
        return numbers
