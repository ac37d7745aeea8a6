"""A label is printed when its check holds, and only then."""

import numpy as np
import pytest
import sympy as sp
from chapterlib import labels
from chapterlib.labels import exact, for_all, ledger, monte_carlo, normal, published, symbolic
from hypothesis import strategies as st

from minidiff.autograd import Tensor


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(labels, "verified", {})


def test_symbolic():
    x = sp.Symbol("x")
    symbolic("1.1", sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1, sp.Matrix([x - x]), [0])
    for wrong in (x, sp.Matrix([0, x]), [0, [x]]):
        with pytest.raises(AssertionError, match="leaves the residual x"):
            symbolic("1.1", wrong)
    with pytest.raises(AssertionError, match="no residual"):
        symbolic("1.1", [])


def test_exact():
    exact("1.1", Tensor(np.array([1.0, 2.0])), np.array([1.0, 2.0 + 1e-11]))
    exact("1.1", [1.0, np.zeros(2)], [1.0, np.zeros(2)])
    with pytest.raises(AssertionError, match="relative error"):
        exact("1.1", np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-9]))
    with pytest.raises(AssertionError, match="relative error"):
        exact("1.1", np.array([np.nan]), np.array([1.0]))
    with pytest.raises(AssertionError, match="shapes"):
        exact("1.1", np.ones(2), np.ones((1, 2)))
    with pytest.raises(ValueError):
        exact("1.1", [1.0], [1.0, 2.0])


def test_for_all():
    seen = []

    @for_all("1.1", n=st.integers(0, 9), x=normal(2, 3))
    def holds(n, x):
        seen.append(n)
        assert x.shape == (2, 3)

    assert len(set(seen)) == 10
    with pytest.raises(AssertionError):

        @for_all("1.1", n=st.integers(0, 9))
        def fails(n):
            assert n < 9


def test_monte_carlo_tells_what_it_could_see(capsys):
    draws = np.random.default_rng(0).standard_normal(10_000)
    monte_carlo("1.1", draws, 0.0)
    out = capsys.readouterr().out
    assert "standard error 0.01 (N = 10,000), smallest visible difference 0.05" in out
    with pytest.raises(AssertionError):
        monte_carlo("1.1", draws, 0.06)


def test_published_demands_all_digits_of_the_number(capsys):
    published("1.1", np.float64(0.0097949), "0.00979", "a table")
    published("1.1", 4.0358e-5, "4.036e-05", "a table")
    assert capsys.readouterr().out.startswith("✓ (1.1) published: 0.00979 in a table\n")
    for wrong, number in ((0.009796, "0.00979"), (0.0201, "0.02000"), (np.nan, "0.02")):
        with pytest.raises(AssertionError, match="but a table has"):
            published("1.1", wrong, number, "a table")


def test_ledger_lists_in_order_of_the_numbers(capsys):
    for eq in ("1.10", "1.9", "1.10"):
        symbolic(eq, 0)
    exact("1.9", 1.0, 1.0)
    capsys.readouterr()
    ledger()
    assert capsys.readouterr().out == "(1.9)   symbolic, exact\n(1.10)  symbolic\n"


def test_a_check_that_fails_leaves_no_label():
    with pytest.raises(AssertionError):
        exact("1.1", 1.0, 2.0)
    assert labels.verified == {}
