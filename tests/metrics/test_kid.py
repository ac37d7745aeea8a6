"""The kernel distance: against the double loop, and unbiased."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.errors import InputError
from minidiff.metrics.kid import kid, squared_mmd
from tests import strategies


def kernel(x, y):
    return (np.dot(x, y) / len(x) + 1) ** 3


@given(strategies.seeds, st.integers(2, 6), st.integers(2, 6), st.integers(1, 4))
def test_it_is_the_sum_over_pairs(seed, n, m, d):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) + 1

    def within(a):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if i != j]
        return np.mean([kernel(a[i], a[j]) for i, j in pairs])

    between = np.mean([kernel(a, b) for a in x for b in y])
    assert_allclose(squared_mmd(x, y), within(x) + within(y) - 2 * between, atol=1e-9)
    assert_allclose(squared_mmd(x, y), squared_mmd(y, x), atol=1e-9)


def test_it_is_unbiased():
    """200 pairs of samples of one Gaussian: within 5 standard errors of 0, and some below it."""
    rng = np.random.default_rng(0)
    values = np.array([squared_mmd(*rng.standard_normal((2, 30, 4))) for _ in range(200)])
    assert abs(values.mean()) < 5 * values.std() / np.sqrt(200)
    assert 50 < (values < 0).sum() < 150


def test_its_mean_is_the_distance_of_the_distributions_at_any_size():
    """In one dimension (x y + 1)^3 has 3, 3 and 1 for weights of the first three moments."""
    rng = np.random.default_rng(1)
    moments = [np.array([0.0, 1.0, 0.0]), np.array([1.0, 2.0, 4.0])]  # E x, x^2, x^3 of N(m, 1)
    expected = ((moments[0] - moments[1]) ** 2 * np.array([3, 3, 1])).sum()
    for n in (5, 50):
        values = np.array(
            [
                squared_mmd(rng.standard_normal((n, 1)), 1 + rng.standard_normal((n, 1)))
                for _ in range(4000 // n)
            ]
        )
        assert abs(values.mean() - expected) < 5 * values.std() / np.sqrt(len(values))


def test_subsets():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((60, 3)) + 1
    assert_allclose(
        kid(x, y, rng=np.random.default_rng(0), subsets=2)[:2], (squared_mmd(x, y), 0), atol=1e-9
    )
    some = kid(x, y, rng=np.random.default_rng(0), subsets=50, size=20)
    assert abs(some.mean - squared_mmd(x, y)) < 5 * some.std / np.sqrt(50)
    assert some.std > 0
    assert some == kid(x, y, rng=np.random.default_rng(0), subsets=50, size=20)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"subsets": 0}, "subsets must be a whole number >= 1"),
        ({"size": 1}, "size must be a whole number >= 2"),
        ({"size": 2.5}, "size must be a whole number"),
        ({"rng": None}, "pass rng"),
    ],
)
def test_bad_options_are_refused(options, what):
    with pytest.raises(InputError, match=what):
        kid(np.zeros((4, 2)), np.ones((4, 2)), **{"rng": np.random.default_rng(0)} | options)


def test_features_of_two_networks_are_refused():
    with pytest.raises(InputError, match="the same network"):
        squared_mmd(np.zeros((4, 2)), np.zeros((4, 3)))
