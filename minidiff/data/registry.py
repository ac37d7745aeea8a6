"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidiff.data.dataset import Dataset
from minidiff.data.digits import digits
from minidiff.errors import InputError


class Source(NamedTuple):
    """Where a data set comes from: what reads its arrays, and how its classes are called."""

    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]


SOURCES = {"digits": Source(digits, tuple("0123456789"))}


def names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return tuple(SOURCES)


def load(name: str) -> Dataset:
    """The data set called `name`; an unknown name is an InputError that lists the known ones."""
    source = _find(name)
    return Dataset(name, *source.read(), source.class_names)


def class_names(name: str) -> tuple[str, ...]:
    """What the classes of a data set are called, in the order of its labels; reads no file."""
    return _find(name).class_names


def _find(name: str) -> Source:
    if not isinstance(name, str) or name not in SOURCES:
        raise InputError(f"there is no data set {name!r}; choose one of: {', '.join(names())}")
    return SOURCES[name]
