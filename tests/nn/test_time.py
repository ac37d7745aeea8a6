"""Embeddings of time against their closed forms, with every convention spelled out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff import nn
from minidiff.errors import InputError

T = np.array([0, 1, 2, 17, 500, 999, 1000])


@pytest.mark.parametrize("order", ["sin_cos", "cos_sin"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("dim", "max_period"), [(4, 10_000.0), (32, 10_000.0), (10, 100.0)])
def test_sinusoidal_embedding_is_its_closed_form(dim, max_period, shift, order):
    half = dim // 2
    expected = np.empty((len(T), dim))
    for n, t in enumerate(T):
        for i in range(half):
            angle = t * max_period ** (-i / (half - shift))
            sine, cosine = (i, i + half) if order == "sin_cos" else (i + half, i)
            expected[n, sine], expected[n, cosine] = math.sin(angle), math.cos(angle)
    layer = nn.SinusoidalEmbedding(dim, max_period=max_period, shift=shift, order=order)
    np.testing.assert_allclose(layer(T, np.float64), expected, atol=1e-12)
    single = layer(T)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-7)  # though angles reach 1000


def test_the_default_is_ddpms():
    """Sines first, and a slowest frequency of exactly 1/10000."""
    e = nn.SinusoidalEmbedding(4)(np.array([3]), np.float64)
    np.testing.assert_allclose(
        e, [[math.sin(3), math.sin(3e-4), math.cos(3), math.cos(3e-4)]], rtol=1e-12
    )


def test_the_order_does_not_matter_to_a_linear_layer_that_follows():
    a, b = (nn.SinusoidalEmbedding(8, order=o)(T, np.float64) for o in ("sin_cos", "cos_sin"))
    assert not np.allclose(a, b)
    weight = np.random.default_rng(0).standard_normal((8, 3))
    np.testing.assert_allclose(a @ weight, b @ np.roll(weight, 4, axis=0), rtol=1e-12)


def test_times_are_told_apart():
    e = nn.SinusoidalEmbedding(32)(np.arange(1001), np.float64)
    squared = 2 * (16 - e @ e.T) + np.eye(1001)  # every row has the norm 4
    assert squared.min() > 0.25


def test_sinusoidal_embedding_is_not_trained_or_saved():
    layer = nn.SinusoidalEmbedding(8)
    assert layer.parameters() == []
    assert layer.state_dict() == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 7}, ["even", "7"]),
        ({"dim": 2}, ["at least 4", "2"]),
        ({"dim": 8, "order": "sincos"}, ["'sincos'", "sin_cos", "cos_sin"]),
        ({"dim": 4, "shift": 2}, ["shift", "2"]),
        ({"dim": 8, "shift": -1}, ["shift", "-1"]),
        ({"dim": 8, "max_period": 0}, ["max_period", "0"]),
    ],
)
def test_impossible_sinusoids_are_refused(options, words):
    with pytest.raises(InputError) as error:
        nn.SinusoidalEmbedding(**options)
    assert all(word in str(error.value) for word in words)


def fourier(dim, seed=0, **options):
    return nn.FourierEmbedding(dim, rng=np.random.default_rng(seed), **options)


@pytest.mark.parametrize("dim", [0, 1, 7])
def test_impossible_fourier_features_are_refused(dim):
    with pytest.raises(InputError, match=f"even and at least 2, got {dim}"):
        fourier(dim)


def test_fourier_embedding_is_its_closed_form():
    layer = fourier(10, scale=3.0, period=50.0)
    angles = 2 * math.pi * np.outer(T / 50, layer.frequencies.astype(np.float64))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(layer(T, np.float64), expected, atol=1e-12)
    assert layer(T).dtype == np.float32
    np.testing.assert_allclose(layer(T), expected, atol=1e-7)


@given(
    scale=st.floats(0.1, 30), du=st.floats(-1, 1), start=st.floats(0, 1), seed=st.integers(0, 99)
)
@settings(max_examples=30)
def test_fourier_features_have_a_gaussian_kernel(scale, du, start, seed):
    """E cos(2 pi f du) = exp(-2 pi^2 scale^2 du^2), within 5 standard errors of 20,000 f."""
    n, period = 20_000, 1000.0
    e = fourier(2 * n, seed, scale=scale, period=period)
    a, b = e(period * np.array([start, start + du]), np.float64)
    kernel = lambda u: math.exp(-2 * (math.pi * scale * u) ** 2)  # noqa: E731
    standard_error = math.sqrt(((1 + kernel(2 * du)) / 2 - kernel(du) ** 2) / n)
    # the frequencies are kept in float32, which moves each cosine by 1e-7 of its angle
    rounding = 1e-7 * 2 * math.pi * scale * 5
    assert abs(a @ b / n - kernel(du)) <= 5 * standard_error + rounding


def test_frequencies_are_normal_with_the_given_scale():
    f = fourier(200_000, scale=16.0).frequencies.astype(np.float64)
    assert abs(f.std() / 16 - 1) < 5 / math.sqrt(2 * f.size)
    assert abs(f.mean()) < 5 * 16 / math.sqrt(f.size)


def test_frequencies_are_saved_and_not_trained():
    layer, other = fourier(8), fourier(8, seed=1)
    assert layer.parameters() == []
    assert list(layer.state_dict()) == ["frequencies"]
    assert not np.allclose(layer(T), other(T))
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(layer(T), other(T))
    layer.frequencies[...] = 0  # the other has a copy
    assert other.frequencies.all()
