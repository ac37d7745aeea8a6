"""Verification labels: how an equation of a chapter was checked, said where it happens.

Each function checks something about the equation with the number `eq`, prints one line, and notes
the label; a check that fails raises AssertionError and so fails the chapter. `ledger` prints what
was checked. A test compares the labels with those that the text claims below each equation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff import backend
from minidiff.autograd import Tensor

LABELS = {
    "symbolic": "symbolic",
    "exact": "exact",
    "for_all": "property",
    "monte_carlo": "Monte Carlo",
    "published": "published",
}
"""The label that each function of this module gives."""

verified: dict[str, list[str]] = {}


def symbolic(eq: str, *residuals: Any) -> None:
    """SymPy simplifies each residual (an expression, or a matrix or list of them) to zero."""
    entries = list(_entries(residuals))
    assert entries, "there is no residual to look at"
    for residual in entries:
        left = sympy.simplify(residual)
        assert left == 0, f"({eq}) leaves the residual {left}"
    _note(eq, "symbolic", "residual 0")


def exact(eq: str, value: Any, expected: Any, *, tol: float = 1e-10) -> None:
    """`value` equals `expected`, in float64, within `tol` of the largest element of `expected`.

    Tensors, arrays of either backend and numbers; or two lists (tuples) of them.
    """
    lists = isinstance(value, list | tuple), isinstance(expected, list | tuple)
    assert lists[0] == lists[1], "compare a list with a list"
    pairs = zip(value, expected, strict=True) if lists[0] else [(value, expected)]
    for a, b in ((_host(a), _host(b)) for a, b in pairs):
        assert a.shape == b.shape, f"({eq}) shapes {a.shape} and {b.shape} differ"
        error = np.abs(a - b).max(initial=0) / (np.abs(b).max(initial=0) or 1)
        assert error <= tol, f"({eq}) the relative error {error:.3g} exceeds {tol:g}"
    _note(eq, "exact", f"equal to {tol:g}, relative")


def for_all(eq: str, *, examples: int = 100, **inputs: Any) -> Callable[[Callable], Callable]:
    """Run the decorated function, which asserts, on random inputs: hypothesis strategies by name.

    The inputs are the same at every run. A counterexample is shrunk to a small one and raised.
    """

    def decorate(f: Callable) -> Callable:
        plan = settings(max_examples=examples, derandomize=True, database=None, deadline=None)
        plan(given(**inputs)(f))()
        _note(eq, "property", f"no counterexample in {examples} tries")
        return f

    return decorate


def normal(*shape: int) -> st.SearchStrategy[Any]:
    """Arrays of independent draws of N(0, 1) in float64, as an input of `for_all`."""

    def draw(seed: int) -> Any:
        return backend.asarray(np.random.default_rng(seed).standard_normal(shape))

    return st.builds(draw, st.integers(0, 2**32 - 1))


def monte_carlo(eq: str, draws: Any, expected: float) -> None:
    """The mean of independent `draws` lies within five standard errors of `expected`.

    The seed is fixed, so the check cannot fail by chance; and it prints the smallest difference
    that it can see. If the effect that matters is smaller, use `exact`.
    """
    x = _host(draws).ravel()
    mean, error = float(x.mean()), float(x.std(ddof=1)) / x.size**0.5
    assert abs(mean - expected) <= 5 * error, f"({eq}) {mean} ± {error}, expected {expected}"
    _note(
        eq,
        "Monte Carlo",
        f"{mean:.4g} where {expected:.4g} is expected\n"
        f"  standard error {error:.1g} (N = {x.size:,}), "
        f"smallest visible difference {5 * error:.1g}",
    )


def published(eq: str, value: Any, number: str, source: str) -> None:
    """`value` rounds to `number`, which is printed in `source`: to half a unit of its last digit.

    The number is a string, "4.04e-05" or "0.020", since its digits say how exactly it is known.
    """
    digits = Decimal(number)
    off = abs(float(_host(value)) - float(digits))
    half_a_unit = 0.5 * 10.0 ** int(digits.as_tuple().exponent)
    assert off <= half_a_unit * (1 + 1e-9), f"({eq}) {value}, but {source} has {number}"
    _note(eq, "published", f"{number} in {source}")


def ledger() -> None:
    """Print each equation that was checked so far, with its labels."""
    for eq in sorted(verified, key=lambda eq: [int(part) for part in eq.split(".")]):
        print(f"({eq:5}".rstrip() + f"){'':{6 - len(eq)}}{', '.join(verified[eq])}")


def _note(eq: str, label: str, result: str) -> None:
    labels = verified.setdefault(eq, [])
    if label not in labels:
        labels.append(label)
    print(f"✓ ({eq}) {label}: {result}")


def _host(a: Any) -> np.ndarray:
    return np.asarray(backend.to_numpy(a.data if isinstance(a, Tensor) else a), dtype=np.float64)


def _entries(a: Any) -> Iterable[Any]:
    if isinstance(a, sympy.MatrixBase | list | tuple):
        for part in a:
            yield from _entries(part)
    else:
        yield a
