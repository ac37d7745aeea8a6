"""The engine: the tape, the backward pass, broadcasting, dtypes, and what it says of mistakes."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import autograd, ops
from minidiff.autograd import OPS, Tensor, detect_anomalies, no_grad, op
from minidiff.errors import InputError
from minidiff.nn import Linear
from tests import strategies as own
from tests.strategies import broadcastable, examples, seeds


def leaf(data, dtype=None):
    return Tensor(np.array(data, dtype or float), requires_grad=True)


@pytest.fixture
def custom():
    """A decorator like `op` for operations that are forgotten after the test."""
    before = dict(OPS)
    yield op
    OPS.clear()
    OPS.update(before)


# --- the backward pass ---


def test_a_tensor_used_twice_accumulates():
    x = leaf(3)
    (x * x + x).backward()
    assert x.grad == 7


def test_a_chain_of_20_000_operations():
    x = leaf(0.5)
    y = x
    for _ in range(10_000):
        y = -(y + x)
    y.backward()
    assert x.grad == 1  # -(-(x + x) + x) = x
    y = x
    for _ in range(20_000):
        y = y + x
    y.backward()
    assert x.grad == 1 + 20_001


def test_a_long_tape_that_is_dropped_is_freed_without_recursion():
    x = leaf(0.5)
    y = x
    for _ in range(20_000):
        y = y * x
    last = weakref.ref(y)
    del y
    assert last() is None


@given(seed=seeds, size=st.integers(1, 30))
def test_random_graphs_against_derivatives_carried_forward(seed, size):
    """Each value carries its derivative by the leaves along; the two directions must agree."""
    rng = np.random.default_rng(seed)
    leaves = [leaf(v) for v in rng.uniform(0.5, 1.5, 3)]
    nodes = list(zip(leaves, np.eye(3), strict=True))
    for _ in range(size):
        (a, da), (b, db) = (nodes[i] for i in rng.integers(0, len(nodes), 2))
        kind = rng.integers(0, 4)
        if kind == 0:
            nodes.append((a + b, da + db))
        elif kind == 1:
            nodes.append((a - b, da - db))
        elif kind == 2:
            nodes.append(
                (ops.tanh(a) * b, (1 - np.tanh(a.data) ** 2) * da * b.data + np.tanh(a.data) * db)
            )
        else:
            nodes.append((ops.sigmoid(a), da * (s := 1 / (1 + np.exp(-a.data))) * (1 - s)))
    y, dy = nodes[-1]
    y.backward()
    got = [0 if x.grad is None else x.grad for x in leaves]
    assert_allclose(got, dy, rtol=1e-9, atol=1e-12 * max(1, np.abs(dy).max()))


def test_leaf_gradients_add_up_over_backward_calls():
    x = leaf([1, 2])
    for times in (1, 2, 3):
        (x * x).sum().backward()
        assert_array_equal(x.grad, times * 2 * x.data)


def test_gradients_add_in_place_into_a_flat_model():
    rng = np.random.default_rng(0)
    layer = Linear(3, 2, rng=rng)
    flat = layer.flatten()
    view, x = layer.weight.grad, rng.standard_normal((4, 3)).astype(np.float32)
    for times in (1, 2):
        layer(x).sum().backward()
        assert layer.weight.grad is view
        expected = times * np.repeat(x.sum(axis=0)[:, None], 2, axis=1)
        assert_allclose(flat.grad[:6].reshape(3, 2), expected, rtol=1e-5)
        assert_array_equal(flat.grad[6:], [4 * times, 4 * times])


def test_gradients_share_no_memory_with_each_other_or_the_cotangent():
    a, b, g = leaf([1, 2]), leaf([3, 4]), np.array([1.0, 1.0])
    (a + b).backward(g)
    a.grad += 10
    assert_array_equal(b.grad, [1, 1])
    assert_array_equal(g, [1, 1])
    a.backward(g)  # a leaf is its own gradient
    assert_array_equal(a.grad, [12, 12])
    assert not any(np.shares_memory(x, y) for x, y in ((a.grad, g), (b.grad, g), (a.grad, b.grad)))


def test_only_what_requires_a_gradient_gets_one():
    x, constant = leaf([1, 2]), Tensor(np.array([3.0, 4.0]))
    h = x * constant
    (h.detach() * x + h).sum().backward()
    assert constant.grad is None
    assert h.grad is None  # only leaves keep theirs
    assert_array_equal(x.grad, h.data + constant.data)
    assert not h.detach().requires_grad
    assert h.detach().data is h.data


def test_a_vjp_part_runs_only_if_its_input_wants_a_gradient(custom):
    @custom
    def picky(xp, a, b):
        def refuse():
            raise AssertionError("nobody asked for this")

        return a * b, lambda g: (lambda: g * b, refuse)

    x = leaf(2)
    picky(x, np.array(5.0)).backward()
    assert x.grad == 5


@given(data=st.data(), seed=seeds)
@examples(0.5)
def test_the_vjp_is_linear(data, seed):
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s) for s in ((3, 4), (4, 5)))
    f = data.draw(
        st.sampled_from(
            [
                lambda x, w: ops.softmax(x @ w),
                lambda x, w: ops.silu(x @ w) * ops.tanh(x).sum(),
                lambda x, w: ops.layer_norm(x @ w, w[0], w[1]),
                lambda x, w: ops.concat(x, w.transpose((1, 0)), axis=0)[::2] ** 3,
            ]
        )
    )

    def vjp(g):
        leaves = [leaf(x), leaf(w)]
        f(*leaves).backward(g)
        return [t.grad for t in leaves]

    g1, g2 = rng.standard_normal((2, *f(Tensor(x), Tensor(w)).shape))
    for both, first, second in zip(vjp(2 * g1 - 3 * g2), vjp(g1), vjp(g2), strict=True):
        assert_allclose(both, 2 * first - 3 * second, rtol=1e-9, atol=1e-10)


# --- broadcasting ---

BINARY = {
    "add": own.normal, "sub": own.normal, "mul": own.normal, "div": own.nonzero,
    "pow": own.positive, "maximum": own.normal,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
@given(shapes=broadcastable(2), seed=seeds)
@examples(0.5)
def test_broadcasting_is_undone(name, shapes, seed):
    """The gradient of an element that was repeated is the sum of those of its copies."""
    rng = np.random.default_rng(seed)
    arrays = [BINARY[name](rng, shape) for shape in shapes]
    copies = [leaf(np.copy(x)) for x in np.broadcast_arrays(*arrays)]
    inputs = [leaf(x) for x in arrays]
    y, y_of_copies = OPS[name](*inputs), OPS[name](*copies)
    assert_array_equal(y.data, y_of_copies.data)
    g = rng.standard_normal(y.shape)
    y.backward(g)
    y_of_copies.backward(g)
    for x, copy in zip(inputs, copies, strict=True):
        origin = np.broadcast_to(np.arange(x.size).reshape(x.shape), copy.shape)
        expected = np.bincount(origin.ravel(), copy.grad.ravel(), x.size).reshape(x.shape)
        assert x.grad.shape == x.shape
        assert_allclose(x.grad, expected, rtol=1e-9, atol=1e-12)


def test_a_gradient_of_impossible_shape_names_the_operation(custom):
    @custom
    def lazy(xp, x):
        return 2 * x, lambda g: (g[0],)

    with pytest.raises(AssertionError, match=r"lazy gave shape \(3,\) for an input of \(2, 3\)"):
        lazy(leaf(np.ones((2, 3)))).backward(np.ones((2, 3)))


def test_a_vjp_must_answer_for_every_input(custom):
    @custom
    def forgetful(xp, a, b):
        return a + b, lambda g: (g,)

    with pytest.raises(ValueError, match="zip"):
        forgetful(leaf(1), leaf(2)).backward()


# --- the tape's memory ---


def test_no_grad_records_nothing():
    x = leaf([1, 2])
    with no_grad():
        y = x * x
        with no_grad():
            pass
        assert not (x + y).requires_grad
        middle = weakref.ref(y.data)
        y = ops.exp(y)
        assert middle() is None  # nothing holds it for a backward pass
    assert not y.requires_grad
    assert y._node is None
    assert (x * x).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * x).requires_grad


def test_nothing_is_recorded_without_leaves_that_require_a_gradient():
    y = Tensor(np.ones(2)) * np.ones(2)
    assert not y.requires_grad
    with pytest.raises(InputError, match="requires_grad"):
        y.backward(np.ones(2))


def test_the_tape_is_freed_as_backward_goes(custom):
    alive, seen = [], []

    @custom
    def probe(xp, x):
        def vjp(g):
            seen.append(sum(ref() is not None for ref in alive))
            return (g,)

        return x + 0, vjp

    y = probe(leaf(np.ones(3)))
    for _ in range(50):
        y = ops.tanh(y)  # its VJP needs the value
        alive.append(weakref.ref(y.data))
    assert sum(ref() is not None for ref in alive) == 50
    y.backward(np.ones(3))
    assert seen[0] <= 3  # y itself, and those of the step in progress
    assert [ref() is not None for ref in alive] == [False] * 49 + [True]


def test_a_tape_without_a_backward_pass_is_no_garbage_cycle():
    x = leaf(np.ones(3))
    gc.disable()
    try:
        h = ops.softmax(ops.exp(x))
        arrays = [weakref.ref(h.data)]
        y = (ops.group_norm(h[None], x, x, groups=1) * h).sum()
        del h, y
        assert arrays[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "call",
    [
        ops.add, ops.sub, ops.neg, ops.sum, ops.mean, ops.concat, ops.upsample_nearest,
        ops.avg_pool, lambda x: ops.concat(x, x, axis=0), lambda x: x[np.array([0, 0])],
        lambda x: ops.pad(x, widths=((0, 1),) * 4),
        # the values of these are views of x, so something is made of them
        lambda x: -x[:, 1:], lambda x: -ops.reshape(x, 8, 4, 4), lambda x: -ops.transpose(x),
        lambda x: -ops.broadcast_to(x, shape=(5, 2, 4, 4, 4)),
    ],
)  # fmt: skip
def test_the_tape_keeps_no_input_that_no_gradient_reads(call):
    """A VJP that names an array for its shape would keep it until the backward pass."""
    x = leaf(np.ones((2, 4, 4, 4))) * 1  # made on the tape: nobody else holds it
    array = weakref.ref(x.data)
    y = call(x, x) if call in (ops.add, ops.sub) else call(x)
    del x
    assert array() is None
    y.backward(np.ones(y.shape))


def test_a_second_backward_says_that_the_tape_is_gone():
    x = leaf([1, 2])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(InputError, match="freed"):
        y.backward()
    h = x * x
    first, second = h.sum(), (h * 2).sum()
    first.backward()
    with pytest.raises(InputError, match="freed"):
        second.backward()  # it shares h with the first


# --- dtypes ---

SCALARS = [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.float16(2)]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scalars_do_not_change_the_dtype(scalar, dtype):
    for f in (
        lambda x: x + scalar, lambda x: scalar + x, lambda x: x - scalar, lambda x: scalar - x,
        lambda x: x * scalar, lambda x: scalar * x, lambda x: x / scalar, lambda x: scalar / x,
        lambda x: x**scalar, lambda x: scalar**x, lambda x: ops.maximum(x, scalar),
        lambda x: ops.where(np.array([True, False]), x, scalar),
    ):  # fmt: skip
        x = leaf([0.5, 2.5], dtype)
        y = f(x)
        assert y.dtype == dtype
        assert_allclose(y.data, f(Tensor(x.data.astype(np.float64))).data, rtol=1e-6)
        y.backward(np.ones(2, dtype))
        assert x.grad.dtype == dtype


def test_gradients_have_the_dtype_of_their_leaf():
    a, b = leaf([1, 2], np.float32), leaf([3, 4], np.float64)
    y = a * b
    assert y.dtype == np.float64
    y.backward(np.ones(2))
    assert (a.grad.dtype, b.grad.dtype) == (np.float32, np.float64)
    c = leaf([1, 2], np.float32)
    c.backward(np.ones(2))
    assert c.grad.dtype == np.float32
    (c * c).backward(np.ones(2))
    assert c.grad.dtype == np.float32


def test_values_and_gradients_of_zero_axes_are_arrays():
    x = leaf(3, np.float32)
    y = ops.exp(x * x + x / 2)
    y.backward()
    for a in (y.data, x.grad, Tensor(np.float32(3)).data, Tensor(3.0).data):
        assert isinstance(a, np.ndarray) and a.shape == ()
    assert isinstance(y.item(), float)


def test_a_number_alone_becomes_an_array_of_its_own_dtype():
    for number, dtype in (
        (2.0, np.float64),
        (np.float64(2), np.float64),
        (np.float32(2), np.float32),
    ):
        y = ops.silu(number)
        assert y.dtype == dtype and y.shape == ()
        assert y.item() == pytest.approx(2 / (1 + np.exp(-2)))
    assert ops.softmax([1.0, 1.0]).data.tolist() == [0.5, 0.5]
    assert ops.add(1, 2).item() == 3


# --- arguments ---


def test_operators_dispatch_from_arrays_and_scalars():
    x, a = leaf([[1, 2], [3, 4]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    for y, expected in (
        (a + x, a + x.data), (a - x, a - x.data), (a * x, a * x.data), (a / x, a / x.data),
        (a @ x, a @ x.data), (a**x, a**x.data), (2**x, 2**x.data), (-x, -x.data),
        (x @ a, x.data @ a), (x**2, x.data**2), (np.float64(2) * x, 2 * x.data),
        (x[0, 1:], x.data[0, 1:]), (x.sum(axis=0), x.data.sum(axis=0)), (x.mean(), 2.5),
        (x.reshape(4), x.data.reshape(4)), (x.reshape(1, -1), x.data.reshape(1, 4)),
        (x.transpose(), x.data.T), (x.transpose((1, 0)), x.data.T),
    ):  # fmt: skip
        assert isinstance(y, Tensor) and y.requires_grad
        assert_array_equal(y.data, expected)
    a *= 2
    with pytest.raises(TypeError):
        np.add(a, x)  # a ufunc would lose the gradient


def test_inputs_may_be_named_and_left_out():
    x, w, b = leaf(np.ones((1, 3, 3, 2))), leaf(np.ones((3, 3, 2, 1))), leaf([1])
    for y in (
        ops.conv2d(x, w, b), ops.conv2d(x, w, b=b), ops.conv2d(b=b, w=w, x=x),
        ops.conv2d(x, w, None) + b, ops.conv2d(x, w) + b,
    ):  # fmt: skip
        w.grad = b.grad = None
        y.backward(2 * np.ones((1, 1, 1, 1)))
        assert_array_equal(b.grad, [2])
        assert_array_equal(w.grad, np.full(w.shape, 2))
    y = ops.transpose(leaf(np.zeros((2, 3))), axes=(1, 0))
    y.backward(np.ones((3, 2)))
    ops.mse(b, target=np.zeros(1)).backward()
    with pytest.raises(TypeError, match="'w'"):
        ops.conv2d(x)
    with pytest.raises(TypeError, match="multiple values"):
        ops.exp(x, x=x.data)


def test_an_option_that_is_a_tensor_is_refused():
    """It would be computed with, but no gradient would reach it."""
    with pytest.raises(InputError, match="clip: no gradient reaches low"):
        ops.clip(leaf([1]), low=leaf(0), high=1)


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (None, r"shape \(2, 3\) needs a cotangent"),
        (np.ones((3, 2)), r"cotangent of shape \(3, 2\) for a tensor of \(2, 3\)"),
        (np.ones(3), r"\(3,\)"),
        (1.0, r"\(\)"),
        (Tensor(np.ones((2, 3))), "first order"),
    ],
)
def test_wrong_cotangents_are_refused(cotangent, message):
    x = leaf(np.ones((2, 3)))
    with pytest.raises(InputError, match=message):
        (x * x).backward(cotangent)
    assert x.grad is None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_of_one_element_needs_no_cotangent(shape):
    x = leaf(np.full(shape, 3.0))
    (x * x).backward()
    assert_array_equal(x.grad, np.full(shape, 6.0))


def test_tensors_of_what_cannot_be_differentiated_are_refused():
    with pytest.raises(InputError, match="wrapped"):
        Tensor(leaf(1))
    for data in (np.arange(3), [1, 2], np.array([True])):
        with pytest.raises(InputError, match="floating-point"):
            Tensor(data, requires_grad=True)
        assert not Tensor(data).requires_grad


def test_a_tensor_looks_like_its_array():
    x = leaf([[1, 2, 3]])
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((1, 3), 2, 3, np.float64, 1)
    assert repr(x) == "Tensor(array([[1., 2., 3.]]), requires_grad=True)"
    assert repr(x.detach()) == "Tensor(array([[1., 2., 3.]]))"
    assert x[0, 2].item() == 3
    assert [row.shape for row in x] == [(3,)]


# --- vjp ---


@given(seeds)
def test_vjp_is_what_backward_gives(seed):
    rng = np.random.default_rng(seed)
    x, w, u = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal((3, 2))

    def f(x):
        return ops.tanh(x @ w) * ops.exp(x).sum()

    y, pull = autograd.vjp(f, x)
    reference = leaf(x)
    f(reference).backward(u)
    assert_array_equal(y, f(x).data)
    assert_array_equal(pull(u), reference.grad)


def test_vjp_leaves_the_parameters_alone():
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    for p in layer.parameters():
        p.grad = None
    x = np.ones((5, 3), np.float32)
    u = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
    _, pull = autograd.vjp(layer, x)
    g = pull(u)
    assert g.dtype == np.float32
    assert_allclose(g, u @ layer.weight.data.T, rtol=1e-6)
    assert all(p.grad is None for p in layer.parameters())


def test_vjp_of_the_identity_and_of_what_does_not_depend():
    x, other = np.ones(3), leaf([1.0, 2.0, 3.0])
    assert_array_equal(autograd.vjp(lambda x: x, x)[1](np.arange(3.0)), np.arange(3.0))
    assert_array_equal(autograd.vjp(lambda x: 2 * other, x)[1](np.arange(3.0)), np.zeros(3))
    assert other.grad is None


@pytest.mark.parametrize(
    "f", [lambda x: x.data, lambda x: x.detach(), lambda x: Tensor(np.ones(3))]
)
def test_vjp_refuses_what_would_be_a_silent_zero(f):
    with pytest.raises(InputError, match="not within no_grad"):
        autograd.vjp(f, np.ones(3))
    with no_grad(), pytest.raises(InputError, match="not within no_grad"):
        autograd.vjp(ops.exp, np.ones(3))


def test_vjp_refuses_a_cotangent_of_another_shape():
    with pytest.raises(InputError, match=r"cotangent of shape \(1,\) for a tensor of \(3,\)"):
        autograd.vjp(ops.exp, np.ones(3))[1](np.ones(1))


# --- anomalies ---


def test_anomalies_are_named_where_they_are_born():
    x = leaf([1.0, 0.0])
    with np.errstate(all="ignore"):
        assert not np.isfinite(ops.log(x).data).all()  # not looked for by default
        with detect_anomalies():
            ops.exp(x)
            ops.embedding(np.arange(3), [0, 1])  # integers are always finite
            with pytest.raises(FloatingPointError, match="log"):
                ops.log(x)
            with pytest.raises(FloatingPointError, match="div"):
                x / x
        ops.log(x)
    assert autograd._Mode.anomalies is False


def test_the_first_op_that_went_wrong_is_blamed_by_name():
    def overflow_of_mine(xp, x):
        return x * 1e308 * 10, lambda g: (g,)

    try:
        mine = op(overflow_of_mine)
        with (
            np.errstate(all="ignore"),
            detect_anomalies(),
            pytest.raises(FloatingPointError, match="overflow_of_mine"),
        ):
            ops.exp(mine(leaf([1.0])))
    finally:
        OPS.pop("overflow_of_mine")


def test_the_truth_of_a_tensor_is_that_of_its_array():
    assert Tensor(np.array(1.0))
    assert not Tensor(np.array([0.0]))
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor(np.zeros(2)))
