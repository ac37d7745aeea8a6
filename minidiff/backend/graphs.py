"""Work of the device that is captured once, as a CUDA graph, and then replayed as a whole.

To launch a kernel costs some microseconds of Python, and a training step launches hundreds: a
small network would leave a GPU idle most of the time. A replay is a single launch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from minidiff import backend
from minidiff.backend import kernels
from minidiff.errors import InputError

Array = Any

WARM_UP = 1
"""Calls that run as they are before the capture: they compile the kernels, which takes seconds and
is nothing that a graph could hold.
"""


def supported() -> bool:
    """Whether the backend captures graphs; where it does not, all runs as it is written.

    So it does with ``MINIDIFF_KERNELS=reference``: the definitions multiply with cuBLAS.
    """
    return kernels.fast() and hasattr(getattr(backend.xp, "cuda", None), "Graph")


@functools.cache
def _place(xp: Any) -> tuple[Any, Any]:
    """The stream on which all graphs are captured, and the pool that their memory comes from.

    A pool that cannot get more memory gives its free blocks back to the device, and to a pool the
    blocks that a replay writes to are free. What this one was given is therefore never given back.
    """
    kept = []

    def keep(size: int) -> Any:
        kept.append(xp.cuda.Memory(size))
        return xp.cuda.MemoryPointer(kept[-1], 0)

    return xp.cuda.Stream(non_blocking=True), xp.cuda.MemoryPool(keep)


class Captured:
    """``f(*inputs)``, captured after `WARM_UP` calls and replayed from then on.

    Every call does the work of f exactly once. What f may do: launch kernels on its inputs and on
    arrays that stay where they are (the flat vectors of a model). What it may not: bring data from
    the host, since a replay would bring the same again; wait for the device; call cuBLAS or
    another library that CuPy does not let into a graph (so no ``@`` and no `sort`: see
    `kernels.cupy.products`). CuPy raises an error for each. All that changes from call to call is
    an input. What f computes on the host is computed at the capture, and stays.

    Memory. A graph refers to addresses, and holds no array. Those of its inputs and results are
    kept here; all others come from a pool whose free blocks only graphs are given: they take
    turns on the default stream, and what one leaves there no other one needs. The results of a
    call are copies, so they outlive the next one.

    Order. Only a stream other than the default one can be captured, but a graph is launched on any:
    here on the caller's, between what was asked before and after, as if f had run. Nothing is ever
    executed on the stream of the capture.

    Parameters
    ----------
    f : takes arrays of the device, returns a tuple of arrays of the device
    """

    def __init__(self, f: Callable[..., tuple[Array, ...]]) -> None:
        self._f, self._calls = f, 0
        self._kinds: list[tuple[Any, str]] = []  # shape and dtype of each input
        self._inputs: list[Array] = []
        self._results: tuple[Array, ...] = ()
        self._graph: Any = None

    def __call__(self, *inputs: Any) -> tuple[Array, ...]:
        """The results of f for `inputs`, arrays of the host or the device, of the same shapes and
        dtypes at every call.
        """
        # from the host by way of pinned memory of CuPy's, which waits for nothing: what the caller
        # then does to his array does not matter
        given = [backend.asarray(a) for a in inputs]
        if not supported():
            return self._f(*given)
        self._check(given)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._f(*given)
        if self._graph is None:
            self._capture(given)
        for own, new in zip(self._inputs, given, strict=True):
            own[...] = new
        self._graph.launch()
        return tuple(a.copy() for a in self._results)

    def _check(self, given: list[Array]) -> None:
        kinds = [(a.shape, str(a.dtype)) for a in given]
        self._kinds = self._kinds or kinds
        if kinds != self._kinds:
            raise InputError(f"a captured graph was given {kinds}; its inputs are {self._kinds}")

    def _capture(self, given: list[Array]) -> None:
        xp = backend.xp
        xp.get_default_memory_pool().free_all_blocks()  # what the warm-up took is not needed twice
        self._inputs = [a.copy() for a in given]
        stream, pool = _place(xp)
        with stream, xp.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            try:
                results = self._f(*self._inputs)
            except BaseException:
                with contextlib.suppress(Exception):  # a capture that is spoilt says so at its end
                    stream.end_capture()  # one that is left open refuses everything else
                raise
            self._graph, self._results = stream.end_capture(), results
