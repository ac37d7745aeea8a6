"""Choosing something by its name, as configs and the command line do."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeVar

from minidiff.errors import InputError

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`; an unknown name is an `InputError` that lists the known ones."""
    try:
        return table[name]
    except (KeyError, TypeError):
        known = ", ".join(table)
        raise InputError(f"unknown {kind} {name!r}; choose one of {known}") from None


def with_options(function: Callable[..., T], what: str, **options: Any) -> Callable[..., T]:
    """`function` with `options` fixed; an option that it does not have is an `InputError`.

    Options are the parameters that have a default, except a generator. The check matters where
    `function` takes ``**cond``: a misspelled option would travel on to the denoiser.
    """
    parameters = signature(function).parameters.values()
    known = [p.name for p in parameters if p.default is not Parameter.empty and p.name != "rng"]
    for name in options:
        if name not in known:
            raise InputError(f"{what} has no option {name!r}; its options are {', '.join(known)}")
    return partial(function, **options)
