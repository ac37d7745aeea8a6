"""The Inception score: its bounds, its identity with entropies, and its splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.errors import InputError
from minidiff.metrics.inception import inception_score
from tests import strategies


@st.composite
def answers(draw):
    """p(y | x), some of it 0."""
    rng = np.random.default_rng(draw(strategies.seeds))
    n, k = draw(st.integers(1, 30)), draw(st.integers(1, 10))
    p = rng.gamma(draw(st.sampled_from([0.05, 0.5, 5.0])), size=(n, k)) + 1e-300
    p[rng.random((n, k)) < draw(st.sampled_from([0.0, 0.3]))] = 0
    p[:, 0] += p.sum(1) == 0
    return p / p.sum(1, keepdims=True)


def entropy(p):
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


@given(answers())
def test_it_lies_between_1_and_the_number_of_classes(p):
    assert 1 - 1e-9 <= inception_score(p).mean <= p.shape[1] + 1e-9


@given(answers())
def test_its_logarithm_is_variety_less_doubt(p):
    expected = entropy(p.mean(0)) - entropy(p).mean()
    assert_allclose(np.log(inception_score(p).mean), expected, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_its_bounds_are_reached(k):
    assert_allclose(inception_score(np.full((20, k), 1 / k)).mean, 1)
    assert_allclose(inception_score(np.tile(np.eye(k), (3, 1))).mean, k)
    assert_allclose(inception_score(np.eye(k)[np.zeros(9, int)]).mean, 1)


def test_the_divergence_is_that_of_an_answer_from_the_mean_of_all():
    """The other direction would be log(16/15)/2 = 0.032 in place of 0.031."""
    p = np.array([[0.625, 0.375], [0.375, 0.625]])
    expected = np.exp(0.625 * np.log(1.25) + 0.375 * np.log(0.75))
    assert_allclose(inception_score(p).mean, expected, rtol=1e-12)
    assert abs(expected - np.exp(-0.5 * np.log(1.25 * 0.75))) > 5e-4


@given(answers(), st.data())
def test_splits_have_scores_of_their_own(p, data):
    splits = data.draw(st.integers(1, len(p)))
    each = [inception_score(part).mean for part in np.array_split(p, splits)]
    got = inception_score(p, splits=splits)
    assert_allclose(got, [np.mean(each), np.std(each)], atol=1e-12)
    assert inception_score(p).std == 0


@pytest.mark.parametrize(
    ("p", "splits", "what"),
    [
        (np.ones((4, 2)), 1, "softmax"),
        (np.array([[1.5, -0.5]]), 1, "softmax"),
        (np.ones(4), 1, r"\(N, d\)"),
        (np.full((4, 2), np.nan), 1, "finite"),
        (np.full((4, 2), 0.5), 0, r"1\.\.4"),
        (np.full((4, 2), 0.5), 5, r"1\.\.4"),
        (np.full((4, 2), 0.5), 2.0, "whole number"),
    ],
)
def test_what_are_no_probabilities_is_refused(p, splits, what):
    with pytest.raises(InputError, match=what):
        inception_score(p, splits=splits)
