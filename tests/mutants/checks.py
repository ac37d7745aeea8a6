"""Runs tests by their names, in this process and without pytest's machinery: often, quickly."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests.mutants.collection import BY_ID
from tests.mutants.mutant import Mutant

Case = tuple[str, Callable[[], Any]]
FAILED = (AssertionError, pytest.fail.Exception)  # the second is that of pytest.raises
EXAMPLES = settings(
    max_examples=30,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
)


@cache
def cases(node: str) -> tuple[Case, ...]:
    """The calls that a test consists of, one for each of its parameters.

    "file.py::test[a, b]" are those among whose parameters, as they are printed, are a and b.
    """
    node, _, wanted = node.removesuffix("]").partition("[")
    path, *names = node.split("::")
    found: Any = importlib.import_module("tests." + path.removesuffix(".py").replace("/", "."))
    for name in names:
        found = getattr(found() if inspect.isclass(found) else found, name)
    columns = [
        _values(*mark.args[:2])
        for mark in getattr(found, "pytestmark", ())
        if mark.name == "parametrize"
    ]
    made = []
    for row in product(*columns):
        arguments = {name: value for part in row for name, value in part.items()}
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        if all(part in shown for part in wanted.split(", ")):
            made.append((f"{node}({shown})", partial(_run, found, arguments)))
    if not made:
        raise LookupError(f"no case of {node} has {wanted!r} among its parameters")
    return tuple(made)


def _values(names: Any, rows: Any) -> list[dict[str, Any]]:
    names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    made = []
    for row in rows:
        values = row.values if hasattr(row, "marks") else row if len(names) > 1 else (row,)
        made.append(dict(zip(names, values, strict=True)))
    return made


def _run(test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Call a test; one by hypothesis with few examples, of which none is made smaller."""
    f = getattr(test, "__func__", test)
    if not hasattr(f, "hypothesis"):
        test(**arguments)
        return
    usual = f._hypothesis_internal_use_settings
    f._hypothesis_internal_use_settings = EXAMPLES
    try:
        test(**arguments)
    finally:
        f._hypothesis_internal_use_settings = usual


def failing(mutant: Mutant) -> Iterator[Case]:
    """The cases of its tests that fail with the mutant, by an assertion and not by a crash."""
    with mutant.applied():
        for node in mutant.killed_by:
            for case in cases(node):
                try:
                    case[1]()
                except FAILED:
                    yield case
                except Exception:  # a crash is no judgement
                    continue


@cache
def killer(id: str) -> str | None:
    """The first case that kills a mutant, if without the mutant it passes."""
    case = next(failing(BY_ID[id]), None)
    if case is None:
        return None
    _passes(case)
    return case[0]


@cache
def _passes(case: Case) -> None:
    """Run a case on the package as it is: a test that fails anyway would kill every mutant."""
    case[1]()
