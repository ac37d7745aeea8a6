"""Work of the device that is captured once, as a CUDA graph, and then replayed as a whole.

To launch a kernel costs some microseconds of Python, and a training step launches hundreds: a
small network would leave a GPU idle most of the time. A replay is a single launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidiff import backend
from minidiff.errors import InputError

Array = Any

WARM_UP = 2
"""Calls that run as they are before the capture: they compile kernels, let cuBLAS take its memory
and fill the memory pool, none of which can be part of a graph.
"""


def supported() -> bool:
    """Whether the backend captures graphs; where it does not, all runs as it is written."""
    return hasattr(getattr(backend.xp, "cuda", None), "Graph")


class Captured:
    """``f(*inputs)``, captured after `WARM_UP` calls and replayed from then on.

    Every call does the work of f exactly once. What f may do: launch kernels on its inputs and on
    arrays that stay where they are (the flat vectors of a model). What it may not: bring data from
    the host, since a replay would bring the same again, or wait for the device; CuPy raises an
    error for both. All that changes from call to call is an input.

    The memory that f uses is its own: a graph refers to addresses, and a pool that others use
    would give them away. Results are copies, so they outlive the next call.

    Parameters
    ----------
    f : takes arrays of the device, returns a tuple of arrays of the device
    """

    def __init__(self, f: Callable[..., tuple[Array, ...]]) -> None:
        self._f, self._calls = f, 0
        self._inputs: list[Array] = []
        self._results: tuple[Array, ...] = ()
        self._graph: Any = None
        if supported():
            # a stream of its own, since the default one cannot be captured; the two still wait
            # for each other, as CUDA's default stream does with all that do not refuse it
            self._stream = backend.xp.cuda.Stream()
            self._pool = backend.xp.cuda.MemoryPool()

    def __call__(self, *inputs: Any) -> tuple[Array, ...]:
        """The results of f for `inputs`, arrays of the host or the device, of the same shapes and
        dtypes at every call.
        """
        if not supported():
            return self._f(*(backend.asarray(a) for a in inputs))
        with self._stream:
            self._bring(inputs)
            if self._calls < WARM_UP:
                with backend.xp.cuda.using_allocator(self._pool.malloc):
                    self._results = self._f(*self._inputs)
            else:
                if self._graph is None:
                    self._capture()
                self._graph.launch()
            self._calls += 1
            return tuple(a.copy() for a in self._results)

    def _bring(self, inputs: tuple[Any, ...]) -> None:
        """Copy the inputs to where the graph reads them."""
        xp = backend.xp
        if not self._inputs:
            self._inputs = [xp.empty(a.shape, a.dtype) for a in inputs]
        shapes = [(a.shape, a.dtype) for a in self._inputs]
        if [(a.shape, a.dtype) for a in inputs] != shapes:
            raise InputError(
                f"a captured graph was given {[(a.shape, str(a.dtype)) for a in inputs]}; its "
                f"inputs are {[(shape, str(dtype)) for shape, dtype in shapes]}"
            )
        for own, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, xp.ndarray):
                own[...] = given
            else:
                own.set(given)

    def _capture(self) -> None:
        self._results = ()
        self._stream.begin_capture()
        try:
            with backend.xp.cuda.using_allocator(self._pool.malloc):
                self._results = self._f(*self._inputs)
        except BaseException:
            self._stream.end_capture()  # a stream that is left capturing refuses everything else
            raise
        self._graph = self._stream.end_capture()
