"""Sums over the GPUs of several processes by NCCL, from device to device. Never run so far."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from minidiff import backend

Array = Any


def use_own_device(number: int) -> None:
    """Let this process, of this number among those of its machine, work on a GPU that no other one
    has, if there are enough; to be called before anything is put on a GPU. Nothing happens on
    NumPy.
    """
    if backend.name != "cupy":
        return
    cuda = backend.xp.cuda
    cuda.Device(number % cuda.runtime.getDeviceCount()).use()


def _library() -> Any:
    """CuPy's way to NCCL, or None."""
    if backend.name != "cupy":
        return None
    from cupy.cuda import nccl  # no attribute of cupy.cuda until it is imported

    return nccl if nccl.available else None


def reducer(
    rank: int, size: int, broadcast: Callable[[Any], Any], gather: Callable[[Any], list[Any]]
) -> Callable[[Array], None] | None:
    """A function that puts the sum of an array over all processes into it, in each of them.

    None where that cannot be: on NumPy, without NCCL (it comes in a package of its own,
    ``nvidia-nccl-cu12``), or where two processes share a GPU, which NCCL refuses. All processes
    must call this, and all get a function or all get None.

    Parameters
    ----------
    rank, size : of this process, and of the run
    broadcast : gives each process the value of rank 0
    gather : gives each process the values of all
    """
    nccl, device = _library(), None
    if nccl is not None:
        cuda = backend.xp.cuda
        device = os.uname().nodename, cuda.runtime.deviceGetPCIBusId(cuda.Device().id)
    devices = gather(device)
    if None in devices or len(set(devices)) < size:
        return None
    key = broadcast(nccl.get_unique_id() if rank == 0 else None)
    communicator = nccl.NcclCommunicator(size, key, rank)
    types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}

    def add_up(array: Array) -> None:
        place, stream = array.data.ptr, backend.xp.cuda.get_current_stream().ptr
        communicator.allReduce(
            place, place, array.size, types[array.dtype.name], nccl.NCCL_SUM, stream
        )

    return add_up
