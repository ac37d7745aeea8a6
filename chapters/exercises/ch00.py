"""Exercises of the preface: what a check can see, how many draws it takes, equal or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from chapterlib.checker import Exercise

# --- 0.1 what can this check see? ----------------------------------------------------------------

visible = Exercise(
    arguments=("draws",),
    results=("difference",),
    reference=lambda draws: 5 * draws.std(ddof=1) / math.sqrt(draws.size),
    cases=lambda: [
        (np.array([2.0, 4.0]),),
        (np.array([3.0, -2.0, 5.0, 7.0, 2.0]),),
        (np.array([10.0, 13.0, 12.0, 17.0, 11.0, 14.0, 15.0, 19.0, 12.0]),),
    ],
)


@visible.mistake("gives a single standard error")
def _one(draws: Any) -> Any:
    """One draw in three is farther off than that, with nothing wrong. The line is at five (0.2)."""
    return draws.std(ddof=1) / math.sqrt(draws.size)


@visible.mistake("forgets to divide by the root of N")
def _of_one_draw(draws: Any) -> Any:
    """That is the spread of the draws themselves. Their average is more reliable (0.1)."""
    return 5 * draws.std(ddof=1)


@visible.mistake("divides by N, not by its root")
def _by_n(draws: Any) -> Any:
    """The *variance* of the average is divided by N, its standard deviation by the root (0.1)."""
    return 5 * draws.std(ddof=1) / draws.size


@visible.mistake("takes the variance for the standard deviation")
def _variance(draws: Any) -> Any:
    """The variance has the unit of the draws squared, and cannot be a distance between means."""
    return 5 * draws.var(ddof=1) / math.sqrt(draws.size)


@visible.mistake("divides by N, where N - 1 draws are free")
def _biased(draws: Any) -> Any:
    """The spread is measured from the average of the same draws, which lies closer to them than the
    true mean does. N - 1 makes up for that: ddof=1. (For large N it is all the same.)
    """
    return 5 * draws.std() / math.sqrt(draws.size)


# --- 0.2 how many draws? -------------------------------------------------------------------------

draws_needed = Exercise(
    arguments=("sigma", "difference"),
    results=("N",),
    reference=lambda sigma, difference: (5 * sigma / difference) ** 2,
    cases=lambda: [(2.0, 4.0), (3.0, 0.5), (0.5, 0.01), (7.0, 0.25)],
)


@draws_needed.mistake("forgets the square")
def _no_square(sigma: float, difference: float) -> Any:
    """The error falls with the *root* of N. Half the difference needs four times the draws."""
    return 5 * sigma / difference


@draws_needed.mistake("squares sigma and the difference, but not the five")
def _five_not_squared(sigma: float, difference: float) -> Any:
    """All of 5 sigma / difference is squared: the five makes 25 (0.5)."""
    return 5 * (sigma / difference) ** 2


@draws_needed.mistake("forgets the five standard errors")
def _one_error(sigma: float, difference: float) -> Any:
    """With so few draws the difference is as large as a single standard error, and that is nothing
    unusual.
    """
    return (sigma / difference) ** 2


@draws_needed.mistake("has the fraction upside down")
def _inverted(sigma: float, difference: float) -> Any:
    """A small difference takes many draws."""
    return (5 * difference / sigma) ** 2


# --- 0.3 equal or not ----------------------------------------------------------------------------


def _largest(a: Any, b: Any) -> Any:
    return np.abs(a - b).max(), np.abs(b).max()


def _by_the_largest(a: Any, b: Any, tol: float) -> bool:
    error, size = _largest(a, b)
    return bool(error <= tol * size)


equal = Exercise(
    arguments=("a", "b", "tol"),
    results=("equal",),
    reference=_by_the_largest,
    cases=lambda: [
        (np.array([2.0]), np.array([2.0]), 0.01),
        (np.array([2.0]), np.array([3.0]), 0.01),
        (np.array([3.0]), np.array([2.0]), 0.01),
        (np.array([np.nan]), np.array([2.0]), 0.01),
        (np.array([500.0]), np.array([499.0]), 0.01),
        (np.array([0.0002]), np.array([0.0003]), 0.01),
        (np.array([3.0, 2.0]), np.array([2.0, 3.0]), 0.01),
        (np.array([100.0, 0.5]), np.array([100.0, 0.0]), 0.01),
        (np.array([200.0, *[2.0] * 9]), np.array([197.0, *[2.0] * 9]), 0.01),
    ],
)


@equal.mistake("lets errors cancel")
def _cancel(a: Any, b: Any, tol: float) -> Any:
    """Too dark here and too bright there add up to nothing. Take absolute values before you sum, or
    better the largest. (This one stood in the tests of a library.)
    """
    return abs((a - b).sum()) <= tol * np.abs(b).max()


@equal.mistake("forgets the absolute value")
def _one_sided(a: Any, b: Any, tol: float) -> Any:
    """a - b is negative where a is too small, and a negative number is below every tolerance."""
    return (a - b).max() <= tol * np.abs(b).max()


@equal.mistake("lets nan pass")
def _nan(a: Any, b: Any, tol: float) -> Any:
    """Every comparison with nan is false, so `error > tol` does not find it. Ask whether the error
    *is* small enough: `error <= tol`.
    """
    error, size = _largest(a, b)
    return not error > tol * size


@equal.mistake("compares with the tolerance itself, whatever the size of the numbers")
def _absolute(a: Any, b: Any, tol: float) -> Any:
    """Then it matters whether lengths are measured in meters or in miles. The tolerance is a share
    of the largest number (0.6).
    """
    return _largest(a, b)[0] <= tol


@equal.mistake("measures each difference by its own number")
def _each(a: Any, b: Any, tol: float) -> Any:
    """Where b has a 0 nothing but exactly 0 would do; and sums that should vanish never vanish on a
    computer. Take the largest of b for all (0.6).
    """
    return bool((np.abs(a - b) <= tol * np.abs(b)).all())


@equal.mistake("takes the mean of the errors")
def _mean(a: Any, b: Any, tol: float) -> Any:
    """A single wrong number among many is hidden by the mean. Bugs like to sit at an edge, in one
    place: look at the largest error.
    """
    return np.abs(a - b).mean() <= tol * np.abs(b).max()


EXERCISES = {"0.1": visible, "0.2": draws_needed, "0.3": equal}
