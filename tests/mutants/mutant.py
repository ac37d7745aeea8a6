"""A mutant: the package with one mistake, made by changing a line of it while it runs.

A mutant says which text of which function is exchanged for which other. The function is compiled
anew from its changed source, and its code put in the place of the old one. So every name that
leads to the function leads to the mistake: imports, tables of functions, options fixed by partial.

Neither pytest nor any test is needed to import this, so that whoever explains a mistake can show
its lines (`Mutant.diff`) and run it (`Mutant.applied`, `Mutant.function`).
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Edit:
    """`old`, which occurs once in the source of a function, becomes `new`."""

    where: str
    """"package.module:function" or "package.module:Class.method"."""
    old: str
    new: str

    def target(self) -> FunctionType:
        """The function of the package."""
        module, path = self.where.split(":")
        # Not by attributes of packages: samplers.ddpm is the function, not the module.
        found = reduce(getattr, path.split("."), importlib.import_module(module))
        return inspect.unwrap(found.fget if isinstance(found, property) else found)

    def mutated(self) -> FunctionType:
        """The function with the mistake, apart from the package."""
        f = self.target()
        lines, first = inspect.getsourcelines(f)
        source = textwrap.dedent("".join(lines))
        found = source.count(self.old)
        if found != 1:
            raise LookupError(f"{self.where} has {self.old!r} {found} times, and must have it once")
        (definition,) = ast.parse(source.replace(self.old, self.new)).body
        definition.decorator_list = []
        tree = ast.increment_lineno(ast.Module([definition], []), first - 1)
        flags = f.__code__.co_flags & __future__.annotations.compiler_flag
        code = compile(tree, f.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
        names = dict(f.__globals__)
        exec(code, names)
        return names[f.__name__]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the package has the mistake."""
        f, wrong = self.target(), self.mutated()
        before = f.__code__, f.__defaults__, f.__kwdefaults__
        f.__code__, f.__defaults__, f.__kwdefaults__ = (
            wrong.__code__, wrong.__defaults__, wrong.__kwdefaults__
        )  # fmt: skip
        try:
            yield
        finally:
            f.__code__, f.__defaults__, f.__kwdefaults__ = before


@dataclass(frozen=True)
class Generates:
    """What a sampler with the mistake generates, its denoiser being optimal for Gaussian data."""

    sampler: str
    options: dict[str, Any]
    unit: float
    """Variance for data N(0, 1)."""
    point: float
    """Variance for data N(0.5, 1e-8)."""


@dataclass(frozen=True)
class Mutant:
    """A mistake that people make, and the tests that see it."""

    id: str
    name: str
    """Goes on after "the code": "adds noise to the finished image"."""
    origin: str
    """Where it was seen: the number of an erratum, a thread, a paper that it misreads."""
    misconception: str
    """What one believes who makes it, and what is so."""
    edits: tuple[Edit, ...]
    killed_by: tuple[str, ...]
    """Tests, "folder/file.py::test" below tests/: with the mistake one of them fails at least."""
    generates: Generates | None = None

    @property
    def diff(self) -> str:
        """The lines that are exchanged."""
        blocks = []
        for edit in self.edits:
            old, new = (
                textwrap.indent(textwrap.dedent(text).strip("\n"), sign)
                for text, sign in ((edit.old, "- "), (edit.new, "+ "))
            )
            blocks.append("\n".join(filter(None, (edit.where, old, new))))
        return "\n".join(blocks)

    @property
    def function(self) -> Callable[..., Any]:
        """The first function that it changes, with the mistake; the package stays as it is."""
        wrong = self.edits[0].mutated()
        wrong.__doc__ = self.misconception
        return wrong

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the package has the mistake. What tests remember of it is forgotten after."""
        with ExitStack() as stack:
            stack.callback(_forget)
            for edit in self.edits:
                stack.enter_context(edit.applied())
            _forget()
            yield


def _forget() -> None:
    """Empty the caches of the test modules: they hold results of the code as it was."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tests.") and not name.startswith("tests.mutants."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
