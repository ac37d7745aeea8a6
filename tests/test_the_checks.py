"""The gradient check itself: it rejects every wrong gradient here, where ones would pass some.

Each mistake is a value, its right VJP and a wrong one that somebody could write. `ones` says
whether the usual check, ``f(x).sum().backward()`` against differences, accepts the wrong one.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from minidiff import autograd, ops
from minidiff.autograd import OPS, Tensor, op
from minidiff.errors import InputError
from minidiff.gradcheck import check_vjp


def operation(value, pull):
    """An operation that returns value(*xs) and pulls g back by pull(g, y, *xs)."""

    def made(xp, *xs):
        y = value(*xs)

        def vjp(g):
            gradients = pull(g, y, *xs)
            return gradients if isinstance(gradients, tuple) else (gradients,)

        return y, vjp

    made = op(made)
    del OPS["made"]
    return made


def accepted_with_ones(f, *inputs):
    """The usual check: the gradient of the sum of all values, element by element."""
    leaves = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    f(*leaves).sum().backward()
    for i, x in enumerate(inputs):
        expected = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in inputs]
                moved[i][index] += step
                values.append(f(*moved).data.sum())
            expected[index] = (values[0] - values[1]) / 2e-5
        if not np.allclose(leaves[i].grad, expected, rtol=1e-4, atol=1e-7):
            return False
    return True


@dataclass(frozen=True)
class Mistake:
    value: Callable
    right: Callable
    wrong: Callable
    inputs: tuple
    ones: bool = False


_rng = np.random.default_rng(0)


def normal(*shape):
    return _rng.standard_normal(shape)


def positive(*shape):
    return _rng.uniform(0.5, 2, shape)


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def softmax_vjp(g, y, x):
    return y * (g - (g * y).sum(axis=-1, keepdims=True))


# Group norm of (N, positions, C) in two groups.


def by_group(x):
    return x.reshape(len(x), -1, 2, x.shape[-1] // 2)


def group_mean(x):
    """The mean over each group, in the shape of x."""
    z = by_group(x)
    return np.broadcast_to(z.mean(axis=(1, 3), keepdims=True), z.shape).reshape(x.shape)


def x_hat_and_r(x):
    d = x - group_mean(x)
    r = 1 / np.sqrt(group_mean(d * d) + 1e-5)
    return d * r, r


def group_norm(x, gamma):
    return gamma * x_hat_and_r(x)[0]


def group_norm_vjp(dx):
    """The VJP whose gradient for x is dx(h, x_hat, r), h being gamma g."""

    def vjp(g, y, x, gamma):
        x_hat, r = x_hat_and_r(x)
        return dx(gamma * g, x_hat, r), (g * x_hat).sum(axis=(0, 1))

    return vjp


right_group_norm_vjp = group_norm_vjp(
    lambda h, x_hat, r: r * (h - group_mean(h) - x_hat * group_mean(h * x_hat))
)


# A convolution of (N, 4, 4, 2) images, 3 x 3, with two pixels of padding: the "full" one.


def conv(x, w, pad=2, stride=1):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], axis=(1, 2))
    return np.einsum("nijcab,abco->nijo", windows[:, ::stride, ::stride], w)


def conv_dx(g, w):
    return conv(g, w[::-1, ::-1].swapaxes(2, 3), pad=0)


def conv_dw(x, g):
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, g.shape[1:3], axis=(1, 2))
    return np.einsum("nabcij,nijo->abco", windows, g)


images, kernel = normal(2, 4, 4, 2), normal(3, 3, 2, 2)


def right_conv_vjp(g, y, x, w):
    return conv_dx(g, w), conv_dw(x, g)


# Attention of (L, d) with (S, d): the scores' softmax times v.


def attention(q, k, v):
    return softmax(q @ k.T / np.sqrt(q.shape[1])) @ v


def attention_vjp(scale=1.0, center=True):
    def vjp(g, y, q, k, v):
        p = softmax(q @ k.T / np.sqrt(q.shape[1]))
        dp = g @ v.T
        ds = p * (dp - center * (dp * p).sum(axis=1, keepdims=True))
        ds *= scale / np.sqrt(q.shape[1])
        return ds @ k, ds.T @ q, p.T @ g

    return vjp


mask, other_mask = (_rng.random((2, 5, 6)) < 0.5) * 2.0
rows = np.array([0, 2, 2, 1])


def scatter(g, add):
    table = np.zeros((3, 4))
    if add:
        np.add.at(table, rows, g)
    else:
        table[rows] = g
    return table


def repeat(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def block_sum(g):
    return g[:, ::2, ::2] + g[:, 1::2, ::2] + g[:, ::2, 1::2] + g[:, 1::2, 1::2]


MISTAKES = {
    # elementwise
    "difference: sign": Mistake(
        np.subtract, lambda g, y, a, b: (g, -g), lambda g, y, a, b: (g, g), (normal(3), normal(3))
    ),
    "product: factor 2": Mistake(
        np.multiply,
        lambda g, y, a, b: (g * b, g * a),
        lambda g, y, a, b: (2 * g * b, g * a),
        (normal(3), normal(3)),
    ),
    "product: factors exchanged": Mistake(
        np.multiply,
        lambda g, y, a, b: (g * b, g * a),
        lambda g, y, a, b: (g * a, g * b),
        (normal(3), normal(3)),
    ),
    "quotient: sign of the denominator's": Mistake(
        np.divide,
        lambda g, y, a, b: (g / b, -g * y / b),
        lambda g, y, a, b: (g / b, g * y / b),
        (normal(3), positive(3)),
    ),
    "power: exponent not lowered": Mistake(
        lambda x: x**3,
        lambda g, y, x: 3 * g * x**2,
        lambda g, y, x: 3 * g * x**3,
        (positive(4),),
    ),
    "tanh: of x, not of y": Mistake(
        np.tanh, lambda g, y, x: g * (1 - y * y), lambda g, y, x: g * (1 - x * x), (normal(4),)
    ),
    "exp: cotangent forgotten": Mistake(
        np.exp, lambda g, y, x: g * y, lambda g, y, x: y, (normal(4),), ones=True
    ),
    "exp: cotangent squared": Mistake(
        np.exp, lambda g, y, x: g * y, lambda g, y, x: g * g * y, (normal(4),), ones=True
    ),
    "relu: passes everywhere": Mistake(
        lambda x: np.maximum(x, 0), lambda g, y, x: g * (x > 0), lambda g, y, x: g, (normal(9),)
    ),
    "where: branches exchanged": Mistake(
        lambda a, b: np.where(mask > 0, a, b),
        lambda g, y, a, b: (g * (mask > 0), g * (mask == 0)),
        lambda g, y, a, b: (g * (mask == 0), g * (mask > 0)),
        (normal(5, 6), normal(5, 6)),
    ),
    "dropout: another mask on the way back": Mistake(
        lambda x: x * mask,
        lambda g, y, x: g * mask,
        lambda g, y, x: g * other_mask,
        (normal(5, 6),),
    ),
    "dropout: not scaled on the way back": Mistake(
        lambda x: x * mask, lambda g, y, x: g * mask, lambda g, y, x: g * mask / 2, (normal(5, 6),)
    ),
    "gelu: density forgotten": Mistake(
        lambda x: ops.gelu(x).data,
        lambda g, y, x: g * (y / x + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)),
        lambda g, y, x: g * y / x,
        (positive(4),),
    ),
    # reductions
    "mean: not divided": Mistake(
        lambda x: x.mean(axis=0),
        lambda g, y, x: np.broadcast_to(g / len(x), x.shape),
        lambda g, y, x: np.broadcast_to(g, x.shape),
        (normal(3, 4),),
    ),
    "sum: spread over the wrong axis": Mistake(
        lambda x: x.sum(axis=0),
        lambda g, y, x: np.broadcast_to(g, x.shape),
        lambda g, y, x: np.broadcast_to(g[:, None], x.shape),
        (normal(3, 3),),
        ones=True,
    ),
    "softmax: zero": Mistake(
        softmax, softmax_vjp, lambda g, y, x: np.zeros_like(x), (normal(3, 4),), ones=True
    ),
    "softmax: twice too much": Mistake(
        softmax, softmax_vjp, lambda g, y, x: 2 * softmax_vjp(g, y, x), (normal(3, 4),), ones=True
    ),
    "softmax: <g, y> forgotten": Mistake(
        softmax, softmax_vjp, lambda g, y, x: y * g, (normal(3, 4),)
    ),
    "softmax: <g, y> over the wrong axis": Mistake(
        softmax, softmax_vjp, lambda g, y, x: y * (g - (g * y).sum(axis=0)), (normal(3, 4),)
    ),
    "log-softmax: sum of g forgotten": Mistake(
        lambda x: np.log(softmax(x)),
        lambda g, y, x: g - np.exp(y) * g.sum(axis=-1, keepdims=True),
        lambda g, y, x: g - np.exp(y),
        (normal(3, 4),),
    ),
    # moving elements
    "transpose: the same order again": Mistake(
        lambda x: x.transpose(1, 2, 0),
        lambda g, y, x: g.transpose(2, 0, 1),
        lambda g, y, x: g.transpose(1, 2, 0),
        (normal(3, 3, 3),),
        ones=True,
    ),
    "reshape: columns first": Mistake(
        lambda x: x.reshape(4, 3),
        lambda g, y, x: g.reshape(x.shape),
        lambda g, y, x: g.reshape(x.shape, order="F"),
        (normal(3, 4),),
        ones=True,
    ),
    "reversed slice: not reversed back": Mistake(
        lambda x: x[::-1], lambda g, y, x: g[::-1], lambda g, y, x: g, (normal(4),), ones=True
    ),
    "roll: the same way again": Mistake(
        lambda x: np.roll(x, 1),
        lambda g, y, x: np.roll(g, -1),
        lambda g, y, x: np.roll(g, 1),
        (normal(5),),
        ones=True,
    ),
    "concatenation: parts exchanged": Mistake(
        lambda a, b: np.concatenate([a, b]),
        lambda g, y, a, b: (g[:3], g[3:]),
        lambda g, y, a, b: (g[3:], g[:3]),
        (normal(3), normal(3)),
        ones=True,
    ),
    "padding: cut off at the wrong end": Mistake(
        lambda x: np.pad(x, (1, 2)),
        lambda g, y, x: g[1:-2],
        lambda g, y, x: g[2:-1],
        (normal(4),),
        ones=True,
    ),
    "look-up: overwrites instead of accumulating": Mistake(
        lambda table: table[rows],
        lambda g, y, table: scatter(g, add=True),
        lambda g, y, table: scatter(g, add=False),
        (normal(3, 4),),
    ),
    "upsampling: four times one pixel": Mistake(
        repeat,
        lambda g, y, x: block_sum(g),
        lambda g, y, x: 4 * g[:, ::2, ::2],
        (normal(2, 2, 3, 2),),
        ones=True,
    ),
    "average pooling: spread before it is divided": Mistake(
        lambda x: block_sum(x) / 4,
        lambda g, y, x: repeat(g) / 4,
        lambda g, y, x: repeat(g),
        (normal(2, 4, 6, 2),),
    ),
    # products
    "matrix product: not transposed": Mistake(
        np.matmul,
        lambda g, y, a, b: (g @ b.T, a.T @ g),
        lambda g, y, a, b: (g @ b, a.T @ g),
        (normal(3, 3), normal(3, 3)),
    ),
    "convolution: kernel not turned": Mistake(
        conv,
        right_conv_vjp,
        lambda g, y, x, w: (conv_dx(g, w[::-1, ::-1]), conv_dw(x, g)),
        (images, kernel),
        ones=True,
    ),
    "convolution: kernel's gradient turned": Mistake(
        conv,
        right_conv_vjp,
        lambda g, y, x, w: (conv_dx(g, w), conv_dw(x, g)[::-1, ::-1]),
        (images, kernel),
        ones=True,
    ),
    "convolution: channels exchanged": Mistake(
        conv,
        right_conv_vjp,
        lambda g, y, x, w: (conv_dx(g, w.swapaxes(2, 3)), conv_dw(x, g)),
        (images, kernel),
    ),
    # normalization and attention
    "group norm: mean and variance held constant": Mistake(
        group_norm,
        right_group_norm_vjp,
        group_norm_vjp(lambda h, x_hat, r: r * h),
        (normal(2, 5, 4), np.ones(4)),
    ),
    "group norm: variance held constant": Mistake(
        group_norm,
        right_group_norm_vjp,
        group_norm_vjp(lambda h, x_hat, r: r * (h - group_mean(h))),
        (normal(2, 5, 4), np.ones(4)),
        ones=True,
    ),
    "group norm: zero": Mistake(
        group_norm,
        right_group_norm_vjp,
        group_norm_vjp(lambda h, x_hat, r: 0 * h),
        (normal(2, 5, 4), np.ones(4)),
        ones=True,
    ),
    "group norm: r squared": Mistake(
        group_norm,
        right_group_norm_vjp,
        group_norm_vjp(
            lambda h, x_hat, r: r * r * (h - group_mean(h) - x_hat * group_mean(h * x_hat))
        ),
        (normal(2, 5, 4), np.ones(4)),
        ones=True,
    ),
    "attention: scale forgotten on the way back": Mistake(
        attention,
        attention_vjp(),
        attention_vjp(scale=np.sqrt(4)),
        (normal(3, 4), normal(5, 4), normal(5, 4)),
    ),
    "attention: <p, g> forgotten": Mistake(
        attention,
        attention_vjp(),
        attention_vjp(center=False),
        (normal(3, 4), normal(5, 4), normal(5, 4)),
    ),
    # losses
    "squared error: factor 2 forgotten": Mistake(
        lambda a, b: np.mean((a - b) ** 2),
        lambda g, y, a, b: (2 * g * (a - b) / a.size, 2 * g * (b - a) / a.size),
        lambda g, y, a, b: (g * (a - b) / a.size, g * (b - a) / a.size),
        (normal(3, 4), normal(3, 4)),
    ),
    "cross-entropy: label not subtracted": Mistake(
        lambda x: -np.log(softmax(x)[:, 0]).mean(),
        lambda g, y, x: g * (softmax(x) - np.eye(4)[0]) / len(x),
        lambda g, y, x: g * softmax(x) / len(x),
        (normal(3, 4),),
    ),
}

each_mistake = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)


@each_mistake
@pytest.mark.parametrize("seed", range(3))
def test_right_gradients_pass_and_wrong_ones_do_not(mistake, seed):
    right = operation(mistake.value, mistake.right)
    wrong = operation(mistake.value, mistake.wrong)
    check_vjp(right, *mistake.inputs, rng=np.random.default_rng(seed), every_element=seed == 0)
    with pytest.raises(AssertionError, match="wrong gradient for input"):
        check_vjp(wrong, *mistake.inputs, rng=np.random.default_rng(seed))


@each_mistake
def test_ones_are_a_bad_cotangent(mistake):
    assert accepted_with_ones(operation(mistake.value, mistake.right), *mistake.inputs)
    wrong = operation(mistake.value, mistake.wrong)
    assert accepted_with_ones(wrong, *mistake.inputs) == mistake.ones


# --- mistakes of the engine ---


def rejected(f, *inputs):
    with pytest.raises(AssertionError, match="wrong gradient"):
        check_vjp(f, *inputs, rng=np.random.default_rng(0))


def test_a_leaf_gradient_that_is_overwritten_is_rejected(monkeypatch):
    check_vjp(lambda x: x * x + x, normal(3), rng=np.random.default_rng(0))
    monkeypatch.setattr(autograd, "_accumulate", lambda leaf, g: setattr(leaf, "grad", g.copy()))
    rejected(lambda x: x * x + x, normal(3))


def test_a_node_gradient_that_is_overwritten_is_rejected(monkeypatch):
    source, added = inspect.getsource(autograd._walk), "cotangents[target] + gx"
    assert added in source
    namespace = dict(vars(autograd))
    exec(source.replace(added, "gx"), namespace)
    monkeypatch.setattr(autograd, "_walk", namespace["_walk"])
    rejected(lambda x: (h := ops.exp(x)) * h, normal(3))


@pytest.mark.parametrize(
    "undo",
    [
        lambda g, shape, name: g.reshape(-1, *shape)[0],  # one of the copies
        lambda g, shape, name: g.reshape(-1, *shape).mean(axis=0),
    ],
    ids=["first", "mean"],
)
def test_broadcasting_that_is_not_summed_is_rejected(monkeypatch, undo):
    check_vjp(lambda x, b: x + b, normal(3, 4), normal(4), rng=np.random.default_rng(0))
    monkeypatch.setattr(autograd, "_unbroadcast", undo)
    rejected(lambda x, b: x + b, normal(3, 4), normal(4))


def test_a_gradient_that_is_cut_off_is_rejected():
    rejected(lambda x: ops.exp(x.detach()), normal(3))
    rejected(lambda x: x * x.detach(), normal(3))


# --- what else the check sees ---


def test_a_small_error_in_one_of_many_elements_is_rejected():
    """One slope of a thousand is wrong by one in a hundred."""
    slope = np.ones(1000)
    slope[321] = 1.01
    f = operation(lambda x: 1.0 * x, lambda g, y, x: g * slope)
    rejected(f, normal(1000))
    with pytest.raises(AssertionError, match=r"1 of 1000 elements, most at \(321,\)"):
        check_vjp(f, normal(1000), rng=np.random.default_rng(0), rtol=1e-4, every_element=True)


def test_values_that_are_not_finite_are_rejected():
    nan = operation(lambda x: 1.0 * x, lambda g, y, x: g * np.where(x > 0, np.nan, 1))
    rejected(nan, np.array([1.0, -1.0]))
    inf = operation(lambda x: 1.0 * x, lambda g, y, x: g * np.where(x > 0, np.inf, 1))
    rejected(inf, np.array([1.0, -1.0]))
    with np.errstate(invalid="ignore"):
        rejected(ops.sqrt, np.array([1.0, -1.0]))


def test_an_error_that_only_all_inputs_together_show_is_rejected():
    """The second part of this VJP leaves a trace in what the first one used."""

    @op
    def entangled(xp, a, b):
        state = {"scale": 1.0}

        def first():
            state["scale"] = 2.0
            return b

        return a * b, lambda g: (lambda: g * first(), lambda: g * a * state["scale"])

    del OPS["entangled"]
    with pytest.raises(AssertionError, match="all inputs together"):
        check_vjp(entangled, normal(3), normal(3), rng=np.random.default_rng(0))


def test_writing_into_what_is_not_ones_own_is_rejected():
    def into_input(x):
        x += 1
        return x * 2

    def into_cotangent(g, y, x):
        g *= 2
        return g

    def into_input_on_the_way_back(g, y, x):
        x += 1
        return 2 * g

    for value, pull, message in (
        (into_input, lambda g, y, x: 2 * g, "f wrote into input 0"),
        (lambda x: 2 * x, into_cotangent, "wrote into the cotangent"),
        (lambda x: 2 * x, into_input_on_the_way_back, "a VJP wrote into input 0"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_vjp(operation(value, pull), normal(3), rng=np.random.default_rng(0))


def test_a_function_that_changes_from_call_to_call_is_rejected():
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="make its generator within f"):
        check_vjp(lambda x: ops.dropout(x, p=0.5, rng=rng), normal(20), rng=rng)
    check_vjp(lambda x: ops.dropout(x, p=0.5, rng=np.random.default_rng(1)), normal(20), rng=rng)


def test_a_gradient_of_another_dtype_is_rejected():
    def f(x):
        y = ops.exp(x)
        x.grad = np.zeros(x.shape, np.float32)
        return y

    with pytest.raises(AssertionError, match=r"got a float32 gradient of \(3,\)"):
        check_vjp(f, normal(3), rng=np.random.default_rng(0))


@pytest.mark.parametrize("inputs", [(), (np.zeros((0, 3)),), (np.array([1j]),), ("x",)])
def test_where_nothing_would_be_checked_the_check_refuses(inputs):
    with pytest.raises(InputError, match="check_vjp wants"):
        check_vjp(lambda *xs: ops.exp(xs[0]), *inputs, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="check_vjp wants"):
        check_vjp(ops.exp, np.ones(2), rng=None)


def test_the_report_has_the_numbers():
    twice = operation(np.sin, lambda g, y, x: 2 * g * np.cos(x))
    with pytest.raises(AssertionError) as caught:
        check_vjp(twice, normal(2, 3), rng=np.random.default_rng(0))
    message = str(caught.value)
    assert "input 0 (of 1, shape (2, 3))" in message
    assert "2 times it" in message


def test_what_the_check_accepts():
    rng = np.random.default_rng(0)
    check_vjp(lambda x: x * 0 + 1, normal(3), rng=rng)  # a true zero
    check_vjp(lambda x: Tensor(np.ones(2)), normal(3), rng=rng)  # does not depend on x
    check_vjp(lambda x, y: x**2 / y, 3, 2.0, rng=rng, every_element=True)  # numbers
    check_vjp(lambda x: x * x, np.arange(3), rng=rng)  # integers, used as floats
    check_vjp(lambda x: x + 1e6, normal(3), rng=rng)  # a large value that hardly changes
    x = normal(3)
    before = x.copy()
    check_vjp(ops.softmax, x, rng=rng)
    np.testing.assert_array_equal(x, before)
