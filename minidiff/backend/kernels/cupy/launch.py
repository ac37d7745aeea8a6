"""From CUDA sources beside this file to kernels that can be launched.

A source is compiled when its first kernel is launched, for the device that is there, and CuPy
keeps the result in a folder of the user's. What a kernel is given must have the types that it
declares; here a Python int stands for ``int``, a float for the type of the arrays, and
``xp.int64(n)`` for ``long long``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from minidiff.backend.kernels.reference import Array
from minidiff.errors import InputError

HERE = Path(__file__).parent
REAL = {"float32": "float", "float64": "double"}
THREADS = 256
"""Threads of a block where nothing speaks for another number."""


def source(name: str) -> str:
    """The text that is compiled for ``name.cu``."""
    return (
        f'{(HERE / "common.cuh").read_text()}\n#line 1 "{name}.cu"\n'
        + (HERE / f"{name}.cu").read_text()
    )


def options(dtype: str, *defines: str) -> tuple[str, ...]:
    """What the compiler is told beside the architecture. CuPy adds that float32 numbers below
    1.2e-38 count as zero; nothing else is loosened.
    """
    return ("--std=c++17", f"-DREAL={REAL[dtype]}", *(f"-D{d}" for d in defines))


@functools.cache
def _kernel(xp: Any, name: str, kernel: str, dtype: str, defines: tuple[str, ...]) -> Any:
    module = _module(xp, name, dtype, defines)
    return module.get_function(kernel)


@functools.cache
def _module(xp: Any, name: str, dtype: str, defines: tuple[str, ...]) -> Any:
    return xp.RawModule(code=source(name), options=options(dtype, *defines))


def launch(
    xp: Any, name: str, kernel: str, grid: tuple[int, ...], args: tuple[Any, ...], *,
    threads: int = THREADS, defines: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Run `kernel` of ``name.cu`` in a grid of blocks of `threads` on contiguous arrays.

    The first array decides the type of all numbers.
    """
    if min(grid) < 1:  # nothing to do
        return
    dtype = next(a.dtype for a in args if hasattr(a, "flags") and a.dtype.kind == "f")
    given = tuple(
        xp.int32(a) if type(a) is int else dtype.type(a) if type(a) is float else a for a in args
    )
    _kernel(xp, name, kernel, dtype.name, defines)(grid, (threads,), given)


def blocks(n: int, threads: int = THREADS, most: int = 65_535) -> int:
    """How many blocks cover `n` numbers; a kernel whose threads go on from there needs no more
    than `most`.
    """
    return min(-(-n // threads), most)


def contiguous(xp: Any, *arrays: Array | None) -> list[Any]:
    """The arrays without gaps, and of one type, as a kernel reads them; None stays None."""
    dtype = xp.result_type(*(a.dtype for a in arrays if a is not None))
    if dtype.name not in REAL:
        raise InputError(f"the kernels of a GPU take {' or '.join(REAL)}, got {dtype.name}")
    return [None if a is None else xp.ascontiguousarray(a, dtype) for a in arrays]


def aligned(*arrays: Array) -> bool:
    """Whether each array begins where four float32 can be moved at once."""
    return all(a.data.ptr % 16 == 0 for a in arrays)


def packs(xp: Any, n: int, *arrays: Array) -> Any:
    """How many fours of `n` numbers can be moved at once: all that there are, or none."""
    return xp.int64(n // 4 if aligned(*arrays) else 0)
