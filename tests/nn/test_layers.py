"""The plain layers: shapes, parameters, how they start, and gradients through all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff import nn, ops
from minidiff.autograd import Tensor
from minidiff.errors import InputError
from tests.nn.check import check_module, perturb
from tests.strategies import seeds

# name: (make(rng), shape of the input, shape of the output, number of parameters)
LAYERS = {
    "Linear": (lambda rng: nn.Linear(3, 4, rng=rng), (2, 5, 3), (2, 5, 4), 3 * 4 + 4),
    "Linear, no bias": (lambda rng: nn.Linear(3, 4, rng=rng, bias=False), (2, 3), (2, 4), 12),
    "Linear, zero": (lambda rng: nn.Linear(3, 4, rng=rng, zero=True), (3,), (4,), 16),
    "Conv2d": (lambda rng: nn.Conv2d(3, 4, rng=rng), (2, 5, 6, 3), (2, 5, 6, 4), 9 * 12 + 4),
    "Conv2d 1x1": (lambda rng: nn.Conv2d(3, 4, 1, rng=rng), (2, 5, 6, 3), (2, 5, 6, 4), 12 + 4),
    "Conv2d 5x5": (lambda rng: nn.Conv2d(1, 2, 5, rng=rng), (1, 4, 4, 1), (1, 4, 4, 2), 52),
    "Conv2d, down": (
        lambda rng: nn.Conv2d(3, 4, rng=rng, stride=2, padding=((0, 1), (0, 1))),
        (2, 6, 8, 3),
        (2, 3, 4, 4),
        112,
    ),
    "Conv2d 4x4, valid": (
        lambda rng: nn.Conv2d(2, 3, 4, rng=rng, padding=0),
        (1, 5, 6, 2),
        (1, 2, 3, 3),
        16 * 6 + 3,
    ),
    "GroupNorm": (lambda rng: nn.GroupNorm(6, 3), (2, 4, 5, 6), (2, 4, 5, 6), 12),
    "GroupNormSilu": (lambda rng: nn.GroupNormSilu(6, 3), (2, 4, 5, 6), (2, 4, 5, 6), 12),
    "GroupNorm of rows": (lambda rng: nn.GroupNorm(6, 1), (2, 6), (2, 6), 12),
    "LayerNorm": (lambda rng: nn.LayerNorm(5), (2, 3, 5), (2, 3, 5), 10),
    "SelfAttention": (
        lambda rng: nn.SelfAttention(6, 2, groups=3, rng=rng),
        (2, 3, 4, 6),
        (2, 3, 4, 6),
        12 + 4 * (36 + 6),
    ),
}
each_layer = pytest.mark.parametrize(
    ("make", "shape_in", "shape_out", "parameters"), LAYERS.values(), ids=LAYERS
)


@each_layer
def test_shape_dtype_and_number_of_parameters(make, shape_in, shape_out, parameters):
    layer = make(np.random.default_rng(0))
    assert layer.num_parameters == parameters == sum(p.data.size for p in layer.parameters())
    for dtype in (np.float32, np.float64):
        y = layer.astype(dtype)(np.ones(shape_in, dtype))
        assert isinstance(y, Tensor)
        assert (y.shape, y.dtype) == (shape_out, dtype)


@each_layer
@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_input_and_of_every_parameter(make, shape_in, shape_out, parameters, seed):
    rng = np.random.default_rng(seed)
    check_module(make(rng), rng.standard_normal(shape_in), rng=rng)


@each_layer
def test_same_generator_same_weights(make, shape_in, shape_out, parameters):
    first, again, other = (make(np.random.default_rng(seed)) for seed in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a.data, b.data)
    drawn = [a.data.std() > 0 for a in first.parameters()]
    differ = [
        not np.array_equal(a.data, b.data)
        for a, b in zip(first.parameters(), other.parameters(), strict=True)
    ]
    assert drawn == differ


def test_linear_is_its_formula():
    layer = perturb(nn.Linear(3, 4, rng=np.random.default_rng(0)))
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(x).data, x @ layer.weight.data + layer.bias.data, rtol=1e-6)


@given(seed=seeds, channels=st.sampled_from([2, 4, 6]), groups=st.sampled_from([1, 2]))
@settings(max_examples=20)
def test_group_norm_starts_as_plain_normalization(seed, channels, groups):
    x = 5 + 3 * np.random.default_rng(seed).standard_normal((2, 4, 4, channels))
    y = nn.GroupNorm(channels, groups).astype(np.float64)(x).data
    for sample in y.reshape(2, -1, groups, channels // groups).transpose(0, 2, 1, 3):
        for group in sample:
            assert abs(group.mean()) < 1e-12
            assert group.var() == pytest.approx(1, rel=1e-4)


@given(seed=seeds, groups=st.sampled_from([1, 2]), per_sample=st.booleans())
@settings(max_examples=20)
def test_group_norm_and_silu_in_one_are_their_parts(seed, groups, per_sample):
    rng = np.random.default_rng(seed)
    layer = perturb(nn.GroupNormSilu(6, groups).astype(np.float64))
    plain = nn.GroupNorm(6, groups).astype(np.float64)
    plain.load_state_dict(layer.state_dict())
    x, (s, b) = rng.standard_normal((3, 4, 4, 6)), rng.standard_normal((2, 3, 6))
    before = rng.standard_normal((3, 6) if per_sample else 6)
    np.testing.assert_allclose(layer(x).data, ops.silu(plain(x)).data, rtol=1e-12)
    spread = before.reshape(-1, 1, 1, 6)
    u = plain(x + spread).data * (1 + s[:, None, None]) + b[:, None, None]
    y = layer(x, before=Tensor(before), after=(Tensor(s), Tensor(b))).data
    np.testing.assert_allclose(y, ops.silu(u).data, rtol=1e-10, atol=1e-12)


def test_layer_norm_starts_as_plain_normalization():
    x = 5 + 3 * np.random.default_rng(0).standard_normal((2, 3, 50))
    y = nn.LayerNorm(50).astype(np.float64)(x).data
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=-1), 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (lambda rng: nn.Linear(200, 300, rng=rng), 200, 300),
        (lambda rng: nn.Conv2d(20, 40, rng=rng), 9 * 20, 9 * 40),
        (lambda rng: nn.Conv2d(40, 20, 1, rng=rng), 40, 20),
    ],
    ids=["linear", "conv", "conv 1x1"],
)
def test_weights_start_uniform_with_the_variance_of_the_average_fan(layer, fan_in, fan_out):
    layer = layer(np.random.default_rng(0))
    w = layer.weight.data.ravel().astype(np.float64)
    variance = 2 / (fan_in + fan_out)
    a = np.sqrt(3 * variance)
    assert np.abs(w).max() <= a * (1 + 1e-6)
    # the standard error of the mean square of a uniform variable is sqrt(4/5) of it / sqrt(n)
    assert abs(np.mean(w**2) / variance - 1) < 5 * np.sqrt(0.8 / w.size)
    assert abs(w.mean()) < 5 * np.sqrt(variance / w.size)
    assert not layer.bias.data.any()


@pytest.mark.parametrize("make", [nn.Linear, nn.Conv2d])
def test_a_zero_start_gives_zero_and_yet_learns(make):
    layer = make(3, 4, rng=np.random.default_rng(0), zero=True)
    x = np.random.default_rng(1).standard_normal((2, 3, 3, 3)).astype(np.float32)
    y = layer(x)
    assert not y.data.any()
    y.backward(np.ones_like(y.data))
    assert all(p.grad.any() for p in layer.parameters())


def test_a_zero_start_draws_as_much_as_another():
    """So that the layers after it start the same either way."""
    states = []
    for zero in (False, True):
        rng = np.random.default_rng(0)
        nn.Linear(3, 4, rng=rng, zero=zero)
        nn.Conv2d(3, 4, rng=rng, zero=zero)
        states.append(rng.random())
    assert states[0] == states[1]


def test_embedding_looks_up_rows_and_adds_up_their_gradients():
    layer = nn.Embedding(5, 3, rng=np.random.default_rng(0))
    indices = np.array([[4, 0], [4, 4]])
    y = layer(indices)
    assert layer.num_parameters == 15
    np.testing.assert_array_equal(y.data, layer.weight.data[indices])
    y.backward(np.ones((2, 2, 3), np.float32))
    np.testing.assert_array_equal(layer.weight.grad[:, 0], [1, 0, 0, 0, 3])
    check_module(layer, rng=np.random.default_rng(0), call=lambda: layer(indices))


def test_embedding_starts_standard_normal():
    w = nn.Embedding(300, 200, rng=np.random.default_rng(0)).weight.data.astype(np.float64)
    assert abs(w.mean()) < 5 / np.sqrt(w.size)
    assert abs(w.var() - 1) < 5 * np.sqrt(2 / w.size)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.Linear(3, 4, rng=rng())(np.ones((2, 5))), ["Linear", "3", "(2, 5)"]),
        (lambda: nn.Conv2d(3, 4, 2, rng=rng()), ["even size 2", "padding"]),
        (lambda: nn.Conv2d(3, 4, rng=rng())(np.ones((1, 5, 5, 2))), ["conv2d", "(1, 5, 5, 2)"]),
        (lambda: nn.Conv2d(3, 4, 5, rng=rng(), padding=0)(np.ones((1, 4, 4, 3))), ["(5, 5)"]),
        (lambda: nn.GroupNorm(6, 4), ["GroupNorm", "4", "6"]),
        (lambda: nn.GroupNorm(6, 0), ["GroupNorm", "0"]),
        (lambda: nn.Embedding(4, 3, rng=rng())(np.array([4])), ["0..3", "4"]),
        (lambda: nn.Embedding(4, 3, rng=rng())(np.array([0.5])), ["integers"]),
        (lambda: nn.SelfAttention(6, 4, groups=3, rng=rng()), ["4 heads", "6 channels"]),
        (lambda: nn.SelfAttention(6, 0, groups=3, rng=rng()), ["heads", "0"]),
        (lambda: nn.CrossAttention(6, 4, 5, groups=3, rng=rng()), ["5 heads", "6 channels"]),
        (lambda: nn.Linear(2.0, 3, rng=rng()), ["whole number", "2.0"]),
        (lambda: nn.Linear(2, 3, rng=None), ["pass rng"]),
        (lambda: nn.Conv2d(0, 3, rng=rng()), ["whole number", "0"]),
        (lambda: nn.Embedding(0, 3, rng=rng()), ["Embedding", "0"]),
        (lambda: nn.GroupNorm(6, 2.0), ["groups", "2.0"]),
        (lambda: nn.Linear(3, 4, rng=rng())(np.ones((2, 3), int)), ["linear", "int64"]),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert all(word in str(error.value) for word in words)
