"""The Frechet distance: closed forms, SciPy's matrix root, and what leaves it unchanged."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.errors import InputError
from minidiff.metrics.frechet import moments, squared_frechet, squared_frechet_of_samples
from tests import strategies


@st.composite
def gaussians(draw, d, full=False):
    """(mean, covariance) of any rank from 0 to d, or of rank d."""
    rng = np.random.default_rng(draw(strategies.seeds))
    rank = d if full else draw(st.integers(0, d))
    a = rng.standard_normal((d, rank)) * 10.0 ** draw(st.integers(-2, 2))
    return 3 * rng.standard_normal(d), a @ a.T


@st.composite
def pairs(draw, full=False):
    d = draw(st.integers(1, 7))
    return *draw(gaussians(d, full)), *draw(gaussians(d, full))


def size(mean, covariance, other_mean, other_covariance):
    """What rounding errors are measured by: root of 1e-16 times the variances, for a root."""
    return 1 + np.trace(covariance) + np.trace(other_covariance)


def test_a_shift_counts_squared():
    assert squared_frechet(np.zeros(2), np.eye(2), np.array([2.0, 0.0]), np.eye(2)) == 4


@given(st.floats(-5, 5), st.floats(0, 10), st.floats(-5, 5), st.floats(0, 10))
def test_in_one_dimension_it_is_the_distance_of_means_and_deviations(m, s, other_m, other_s):
    got = squared_frechet([m], [[s**2]], [other_m], [[other_s**2]])
    assert_allclose(
        got, (m - other_m) ** 2 + (s - other_s) ** 2, atol=1e-12 * (1 + s + other_s) ** 2
    )


@given(strategies.seeds, st.integers(1, 8))
def test_of_covariances_that_commute(seed, d):
    """Along common axes it is the one-dimensional distance, summed."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    s, other_s = rng.uniform(0, 3, (2, d)) * (rng.random((2, d)) > 0.3)
    off = rng.standard_normal(d)
    got = squared_frechet(np.zeros(d), axes * s**2 @ axes.T, off, axes * other_s**2 @ axes.T)
    assert_allclose(got, off @ off + ((s - other_s) ** 2).sum(), atol=1e-6)


@given(pairs(full=True))
def test_the_root_of_the_product_by_scipy(pair):
    m, c, other_m, other_c = pair
    root = scipy.linalg.sqrtm(c @ other_c)
    expected = ((m - other_m) ** 2).sum() + np.trace(c + other_c - 2 * np.real(root))
    assert_allclose(squared_frechet(*pair), expected, atol=1e-6 * size(*pair))


@given(pairs())
def test_equal_ones_have_no_distance(pair):
    m, c = pair[:2]
    assert 0 <= squared_frechet(m, c, m, c) <= 1e-10 * (1 + np.trace(c))


@given(pairs())
def test_it_is_finite_symmetric_and_not_negative_at_any_rank(pair):
    got = squared_frechet(*pair)
    assert type(got) is float
    assert 0 <= got < np.inf
    assert_allclose(got, squared_frechet(*pair[2:], *pair[:2]), atol=1e-6 * size(*pair))


@given(pairs(), strategies.seeds)
def test_turned_shifted_and_stretched(pair, seed):
    m, c, other_m, other_c = pair
    d, rng = len(m), np.random.default_rng(seed)
    axes, shift = np.linalg.qr(rng.standard_normal((d, d)))[0], rng.standard_normal(d)
    turned = (
        2 * axes @ m + shift, 4 * axes @ c @ axes.T,
        2 * axes @ other_m + shift, 4 * axes @ other_c @ axes.T,
    )  # fmt: skip
    assert_allclose(squared_frechet(*turned), 4 * squared_frechet(*pair), atol=1e-5 * size(*pair))


@given(strategies.seeds, st.integers(2, 12), st.integers(2, 12), st.integers(1, 8))
def test_of_samples_of_any_size(seed, n, m, d):
    """The trace of the root is the sum of singular values of the product of both samples."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), 1 + 2 * rng.standard_normal((m, d))
    a, b = (x - x.mean(0)) / np.sqrt(n - 1), (y - y.mean(0)) / np.sqrt(m - 1)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    off = x.mean(0) - y.mean(0)
    expected = off @ off + (a * a).sum() + (b * b).sum() - 2 * overlap
    assert_allclose(squared_frechet_of_samples(x, y), expected, atol=1e-5)
    assert_allclose(moments(x)[1], np.cov(x.T).reshape(d, d), atol=1e-12)


def test_samples_of_one_gaussian_have_a_distance_that_falls_with_their_size():
    """The bias: values of different N do not compare."""
    rng = np.random.default_rng(0)

    def typical(n):
        return np.mean(
            [squared_frechet_of_samples(*rng.standard_normal((2, n, 8))) for _ in range(20)]
        )

    small, large = typical(100), typical(1000)
    assert 7 < small / large < 14


EYE = np.eye(2)


@pytest.mark.parametrize(
    ("mean", "covariance", "what"),
    [
        (np.zeros(2), np.eye(3), r"shapes \(d,\) and \(d, d\)"),
        (np.zeros((2, 1)), EYE, "shapes"),
        (np.zeros(0), np.zeros((0, 0)), "shapes"),
        (np.array([0, np.nan]), EYE, "finite"),
        (np.zeros(2), np.full((2, 2), np.inf), "finite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.4, 1.0]]), "symmetric"),
        (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalue"),
        (["a", "b"], EYE, "numbers"),
        (np.zeros(3), np.eye(3), "3 and of 2 dimensions"),
    ],
)
def test_what_is_no_gaussian_is_refused(mean, covariance, what):
    with pytest.raises(InputError, match=what):
        squared_frechet(mean, covariance, np.zeros(2), EYE)


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [
        (np.zeros((1, 2)), np.zeros((4, 2)), "N >= 2"),
        (np.zeros(4), np.zeros((4, 2)), r"\(N, d\)"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "the same network"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "other_features must be finite"),
        ([["a"]], np.zeros((4, 2)), "numbers"),
    ],
)
def test_what_are_no_features_is_refused(x, y, what):
    with pytest.raises(InputError, match=what):
        squared_frechet_of_samples(x, y)


def test_complex_features_are_refused():
    """Their imaginary parts would be thrown away."""
    with pytest.raises(InputError, match="numbers"):
        squared_frechet_of_samples(np.ones((3, 2)) * 1j, np.ones((3, 2)))
    with pytest.raises(InputError, match="numbers"):
        squared_frechet([0, 1j], np.eye(2), [0, 0], np.eye(2))
