"""One run in several processes: what they tell each other, and nothing else.

Every process ("rank") holds the whole model and does the whole step, but it evaluates the network
for its own rows of the batch only; the gradients are then summed (data parallelism). All draws
are made for the whole batch and then sliced, so that a run in N processes is that of one process,
up to the rounding of the sum. Rank 0 alone reads and writes files.

`world` is the communicator of this process: `Communicator`, which has nobody to talk to, or, where
an MPI launcher started the program (``mpiexec -n 2 minidiff train ...``), one over mpi4py. No
other module imports mpi4py.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar

import numpy as np

from minidiff import backend
from minidiff.backend import nccl
from minidiff.diffusion.denoiser import Denoiser
from minidiff.errors import InputError

Array = Any
P = ParamSpec("P")
V = TypeVar("V")

# What launchers tell the processes that they start: MPICH and its kin, Open MPI, PMIx.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_LOCAL_RANK")

_PIECE = 1 << 20
"""Numbers that are summed at a time: the MPI library takes as much memory again, and for pieces
that fit the cache less time.
"""


class Communicator:
    """One process alone: the interface, with nobody on the other side.

    Attributes
    ----------
    rank : number of this process, 0, ..., size - 1
    size : how many processes work on the run
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone reads and writes files."""
        return self.rank == 0

    def allreduce(self, array: Array) -> None:
        """Put the sum of `array` over the processes into it, to the same bits in each of them."""

    def broadcast(self, value: V) -> V:
        """The `value` of rank 0, any object that can be pickled."""
        return value

    def gather(self, value: V) -> list[V]:
        """The values of all processes in the order of their ranks, in each of them."""
        return [value]

    def barrier(self, seconds: float = math.inf) -> bool:
        """Wait for all processes, asleep, and at most so long: whether they came.

        If they did not, some of them are elsewhere, and all that is left to do is `abort`.
        """
        return True

    def abort(self, code: int) -> None:
        """End all processes at once, with this exit code."""
        os._exit(code)

    # ------------------------------------------------------- what follows from these

    def rows(self, n: int) -> slice:
        """Which of n rows are those of this process: as even a division as there is."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def on_first(self, function: Callable[P, V], *args: P.args, **kwargs: P.kwargs) -> V:
        """What `function` returns on rank 0, where alone it is called; all raise its errors.

        The errors are those that a user can mend: InputError, OSError and MemoryError.
        """
        if self.size == 1:
            return function(*args, **kwargs)
        result: Any = None
        if self.first:
            try:
                result = function(*args, **kwargs), None
            except (InputError, OSError, MemoryError) as error:
                result = None, error
        value, raised = self.broadcast(result)
        if raised is not None:
            raise raised
        return value

    def maximum(self, number: int) -> int:
        """The largest of the numbers of all processes, in each of them."""
        return max(self.gather(number))

    def check_same(self, array: Array, what: str) -> None:
        """Refuse to go on if `array` has not the same bits in every process.

        Raises
        ------
        InputError
            In every process; it names `what`, and the ranks that differ from rank 0.
        """
        if self.size == 1:
            return
        mine = hashlib.blake2b(backend.to_numpy(array).tobytes(), digest_size=16).digest()
        hashes = self.gather(mine)
        if others := [str(rank) for rank, h in enumerate(hashes) if h != hashes[0]]:
            raise InputError(
                f"{what} differ between the processes (rank {', '.join(others)} from rank 0 of "
                f"{self.size}), so this is no longer one run; the last checkpoint is kept. All "
                "processes must run on machines of one kind, with the same versions installed"
            )

    def share(self, denoiser: Denoiser) -> Denoiser:
        """The same denoiser, each process evaluating it for its own rows of the batch.

        All processes must ask it the same, as they do if each runs the same sampler.
        """
        if self.size == 1:
            return denoiser

        def shared(xt: Array, t: Any, **cond: Any) -> Array:
            rows = self.rows(len(xt))
            eps = backend.array_module(xt).zeros_like(xt)
            if rows.start < rows.stop:
                mine = {name: value[rows] for name, value in cond.items()}
                eps[rows] = denoiser(xt[rows], t[rows], **mine)
            self.allreduce(eps)  # the rows of the others are 0 here
            return eps

        return shared


class MPI(Communicator):
    """The processes that an MPI launcher started, over mpi4py."""

    def __init__(self) -> None:
        started, local = _told(_SIZES), _told(_LOCAL_RANKS)
        try:
            from mpi4py import MPI as mpi
        except (ImportError, RuntimeError) as error:  # the latter: there is no MPI library
            raise InputError(
                f"several processes need mpi4py and an MPI library ({error}); install both with "
                'pip install "minidiff[mpi]", or leave mpiexec away'
            ) from error
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        if started not in (None, self.size):
            library = mpi.Get_library_version().split("\n")[0].strip("\0 ")
            raise InputError(
                f"the launcher started {started} processes, but mpi4py ({library}) sees "
                f"{self.size}: they belong to different MPI libraries; use the mpiexec of the "
                "library that mpi4py uses, which for the packages of pip is in the same folder as "
                "python"
            )
        # Of its own, so that a process that waits meets no message of those that go on.
        self._door = self._comm.Dup()
        nccl.use_own_device(self.rank if local is None else local)
        self._add_up = nccl.reducer(self.rank, self.size, self.broadcast, self.gather)

    def allreduce(self, array: Array) -> None:
        """See `Communicator`. Arrays of a GPU go by NCCL where it is, else by way of the host."""
        if self._add_up is not None:
            self._add_up(array)
            return
        host = backend.to_numpy(array)
        flat = np.ascontiguousarray(host).reshape(-1)  # a copy, if its numbers lie in no order
        for start in range(0, flat.size, _PIECE):
            self._comm.Allreduce(self._mpi.IN_PLACE, flat[start : start + _PIECE])
        if host is not array or not np.may_share_memory(flat, host):
            array[...] = backend.asarray(flat.reshape(host.shape))

    def broadcast(self, value: V) -> V:
        """See `Communicator`."""
        return self._comm.bcast(value)

    def gather(self, value: V) -> list[V]:
        """See `Communicator`."""
        return self._comm.allgather(value)

    def barrier(self, seconds: float = math.inf) -> bool:
        """See `Communicator`."""
        all_here, deadline = self._door.Ibarrier(), time.monotonic() + seconds
        while not all_here.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def abort(self, code: int) -> None:
        """See `Communicator`."""
        self._comm.Abort(code)


class SlicedGenerator:
    """Draws for a whole batch of `n` and returns `rows` of it: what one process needs of them.

    So dropout, whose draws have the shape of whatever it meets in the network, falls on the same
    numbers in any division of the batch. The price is that every process draws for all.
    """

    def __init__(self, generator: Any, rows: slice, n: int) -> None:
        self._generator, self._rows, self._n = generator, rows, n

    def random(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Uniform on [0, 1), for an array whose first axis is `rows` of the batch."""
        return self._generator.random((self._n, *shape[1:]), dtype=dtype)[self._rows]


ALONE = Communicator()


def launched_rank() -> int | None:
    """The rank that an MPI launcher gave this process; None if none started it."""
    return _told(_RANKS)


def _told(names: tuple[str, ...]) -> int | None:
    """The number in the first of these environment variables that is set; None if none is."""
    for name in names:
        if (value := os.environ.get(name)) is not None:
            if not value.isdecimal():
                raise InputError(
                    f"{name}={value!r} in the environment must be a whole number >= 0, as MPI "
                    "launchers write it; unset it, or start the processes by mpiexec"
                )
            return int(value)
    return None


@cache
def world() -> Communicator:
    """The communicator of this process.

    Raises
    ------
    InputError
        If an MPI launcher started it, and mpi4py is absent or of another MPI library, or if the
        environment holds what no launcher writes.
    """
    return ALONE if launched_rank() is None else MPI()
