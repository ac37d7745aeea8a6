"""Kernels for CuPy on the array double, compiled for the processor and run thread by thread."""

import numpy as np
import pytest

from minidiff.backend import kernels
from minidiff.backend.kernels import cupy as fast
from tests import double
from tests.gpu import emulator


@pytest.fixture(scope="module")
def emulated():
    """The module of the double with the kernels of CuPy; new arrays hold NaN."""
    if emulator.COMPILER is None:
        pytest.skip("no g++ to compile the kernels with")
    with pytest.MonkeyPatch.context() as patch:
        yield emulate(patch)


def emulate(patch):
    definitions = kernels.of
    table = kernels.public(kernels.reference) | kernels.public(fast)

    def of(xp):
        if xp is double.xp and kernels._choice == "fast":
            return type("Table", (), {name: staticmethod(f) for name, f in table.items()})
        return definitions(xp)

    def empty(shape, dtype=float, *args, **kwargs):
        return double.Array(np.full(shape, _poison(dtype), dtype))

    def empty_like(a, dtype=None, *args, **kwargs):
        return empty(a.shape, dtype or a.dtype)

    patch.setattr(kernels, "of", of)
    for name, value in (
        ("RawModule", emulator.RawModule), ("empty", empty), ("empty_like", empty_like)
    ):  # fmt: skip
        patch.setitem(vars(double.xp), name, value)
    return double.xp


def _poison(dtype):
    return np.nan if np.dtype(dtype).kind == "f" else 77
