"""How much memory there is for arrays."""

from __future__ import annotations

from minidiff import backend

_MEMINFO = "/proc/meminfo"
_LIMIT = "/sys/fs/cgroup/memory.max"
"""What a container may take, which sees the memory of the whole machine otherwise."""


def available() -> int | None:
    """Bytes that arrays of the chosen backend can still take; None where the system tells none.

    Of the device for CuPy. On the host it is what Linux can free without swapping, and at most
    what the container may have.
    """
    if backend.name == "cupy":
        free, _ = backend.xp.cuda.runtime.memGetInfo()
        return int(free + backend.xp.get_default_memory_pool().free_bytes())
    here = [
        _number(_MEMINFO, "MemAvailable:", 1024),
        _number(_LIMIT, "", 1),
    ]
    return min((n for n in here if n is not None), default=None)


def _number(file: str, name: str, unit: int) -> int | None:
    """The number after `name` in a file of the system; None if it is not there."""
    try:
        with open(file, encoding="ascii") as lines:
            words = next(line.removeprefix(name).split() for line in lines if line.startswith(name))
            return int(words[0]) * unit
    except (OSError, StopIteration, ValueError):  # no such system, no such line, or "max"
        return None
