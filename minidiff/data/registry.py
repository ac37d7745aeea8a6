"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from minidiff.data.dataset import Dataset
from minidiff.data.digits import load_digits
from minidiff.errors import InputError

LOADERS: dict[str, Callable[[], Dataset]] = {"digits": load_digits}


def names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return tuple(LOADERS)


def load(name: str) -> Dataset:
    """The data set called `name`; an unknown name is an InputError that lists the known ones."""
    if name not in LOADERS:
        raise InputError(f"there is no data set {name!r}; choose one of: {', '.join(names())}")
    return LOADERS[name]()
