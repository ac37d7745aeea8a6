"""The few hot primitives behind one signature each.

`reference` holds their definitions, a few lines of plain array code: the specification, what any
array library runs, and what tests hold every fast version against. `numpy` and `cupy` hold fast
versions that override a definition by carrying its name. Operations ask `kernels.of(xp)` and never
know which they got. ``MINIDIFF_KERNELS=reference``, or ``with definitions_only():``, runs the
definitions everywhere.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

from minidiff.backend.kernels import reference
from minidiff.errors import InputError

_choice = os.environ.get("MINIDIFF_KERNELS") or "fast"
if _choice not in ("fast", "reference"):
    raise InputError(f"MINIDIFF_KERNELS={_choice!r} is unknown; choose fast or reference")
_HAVE_FAST = ("numpy", "cupy")


def public(module: ModuleType) -> dict[str, object]:
    """The kernels that a module or package defines, by name."""
    return {
        name: f
        for name, f in vars(module).items()
        if inspect.isfunction(f)
        and f"{f.__module__}.".startswith(f"{module.__name__}.")
        and not name.startswith("_")
    }


@functools.cache
def _table(library: str, choice: str) -> SimpleNamespace:
    table = public(reference)
    if choice == "fast" and library in _HAVE_FAST:
        fast = public(importlib.import_module(f"{__name__}.{library}"))
        if extra := sorted(fast.keys() - table.keys()):
            raise AssertionError(f"kernels without a definition: {', '.join(extra)}")
        table |= fast
    return SimpleNamespace(**table)


def of(xp: ModuleType) -> SimpleNamespace:
    """The kernels for arrays of the module `xp`."""
    return _table(xp.__name__, _choice)


def fast() -> bool:
    """Whether fast kernels are in use, where there are any."""
    return _choice == "fast"


@contextmanager
def definitions_only() -> Iterator[None]:
    """Within it every kernel is its definition."""
    global _choice
    before, _choice = _choice, "reference"
    try:
        yield
    finally:
        _choice = before
