"""Module: how parts are found, saved, loaded, and moved into one vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff.autograd import Tensor
from minidiff.errors import InputError
from minidiff.nn import Flat, FourierEmbedding, GroupNorm, Linear, Module, Parameter


class Net(Module):
    """Parts of every kind: a parameter, modules, a list with a gap, buffers, plain values."""

    buffer_names = ("count",)

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.gain = Parameter(rng.standard_normal(3))
        self.blocks = [Linear(3, 3, rng=rng), None, Linear(3, 3, rng=rng, bias=False)]
        self.norms = (GroupNorm(3, 1),)
        self.time = FourierEmbedding(4, rng=rng)
        self.out = Linear(3, 2, rng=rng)
        self.count, self.name, self.missing = np.arange(2), "net", None

    def __call__(self, x):
        for block in self.blocks:
            x = x if block is None else block(x)
        return self.out(self.norms[0](x) * self.gain)


NAMES = [
    "gain", "blocks.0.weight", "blocks.0.bias", "blocks.2.weight", "norms.0.weight", "norms.0.bias",
    "out.weight", "out.bias",
]  # fmt: skip
BUFFERS = ["count", "time.frequencies"]
X = np.random.default_rng(9).standard_normal((4, 3)).astype(np.float32)


def snapshot(module):
    return {name: a.copy() for name, a in module.state_dict().items()}


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, a in expected.items():
        np.testing.assert_array_equal(state[name], a)


def test_parts_are_found_in_the_order_of_assignment():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert [name for name, _ in net.children()] == [
        "blocks.0", "blocks.2", "norms.0", "time", "out",
    ]  # fmt: skip
    assert next(net.named_modules()) == ("", net)
    assert net.parameters()[0] is net.gain
    assert net.num_parameters == 3 + 12 + 9 + 6 + 8


def test_a_module_that_defines_no_call_says_so():
    with pytest.raises(NotImplementedError, match="Module defines no __call__"):
        Module()()


@pytest.mark.parametrize(
    ("data", "dtype"),
    [([1, 2], np.float32), (np.ones(2), np.float64), (np.ones(2, np.float16), np.float32)],
)
def test_a_parameter_is_float32_unless_it_is_float64(data, dtype):
    p = Parameter(data)
    assert p.requires_grad
    assert p.dtype == dtype


def test_train_and_eval_reach_every_part():
    net = Net()
    assert all(m.training for _, m in net.named_modules())
    assert net.eval() is net
    assert not any(m.training for _, m in net.named_modules())
    net.train()
    assert all(m.training for _, m in net.named_modules())


def test_state_goes_round():
    net, other = Net(0), Net(1)
    state = snapshot(net)
    assert list(state) == NAMES + BUFFERS
    assert not np.allclose(net(X).data, other(X).data)
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)
    np.testing.assert_array_equal(net(X).data, other(X).data)
    state["gain"][...] = 7  # what was loaded is a copy
    assert_same(other.state_dict(), snapshot(net))


def test_a_state_keeps_the_models_own_dtype():
    net = Net().astype(np.float32)
    net.load_state_dict({name: a.astype(np.float64) for name, a in net.state_dict().items()})
    assert net.gain.dtype == np.float32
    assert net.count.dtype == np.arange(2).dtype


@pytest.mark.parametrize("flat", [False, True], ids=["apart", "flat"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("out.bias"), ["missing out.bias"]),
        (lambda s: s.pop("time.frequencies"), ["missing time.frequencies"]),
        (lambda s: s.update(extra=np.ones(1)), ["unexpected extra"]),
        (
            lambda s: s.update({"out.weight": np.ones((2, 3))}),
            ["out.weight has shape (2, 3), expected (3, 2)"],
        ),
        (lambda s: s.clear(), ["missing gain", "(and 7 more)"]),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, words, flat):
    net = Net(0)
    if flat:
        net.flatten()
    before, state = snapshot(net), snapshot(Net(1))
    change(state)
    with pytest.raises(InputError) as error:
        net.load_state_dict(state)
    assert all(word in str(error.value) for word in words)
    assert_same(net.state_dict(), before)


def shares(a, b):
    return np.shares_memory(a, b)


def test_flatten_makes_every_parameter_a_view():
    net = Net().astype(np.float32)
    before, y = snapshot(net), net(X).data
    flat = net.flatten()
    assert isinstance(flat, Flat)
    assert flat.data.shape == flat.grad.shape == (net.num_parameters,)
    assert not flat.grad.any()
    assert_same(net.state_dict(), before)
    np.testing.assert_array_equal(net(X).data, y)
    np.testing.assert_array_equal(flat.data, np.concatenate([before[n].ravel() for n in NAMES]))
    for p in net.parameters():
        assert shares(p.data, flat.data)
        assert shares(p.grad, flat.grad)
        assert p.data.shape == p.grad.shape
    flat.data[:3] = [1, 2, 3]
    np.testing.assert_array_equal(net.gain.data, [1, 2, 3])
    assert not shares(net.count, flat.data)


def test_flatten_again_is_the_same():
    net = Net()
    flat = net.flatten()
    data = net.gain.data
    assert net.flatten() is flat
    assert net.gain.data is data


def test_backward_adds_into_the_flat_gradient():
    net, apart = Net().astype(np.float64), Net().astype(np.float64)
    flat, g = net.flatten(), np.random.default_rng(0).standard_normal((4, 2))
    for model in (net, apart):
        model(X.astype(np.float64)).backward(g)
    once = flat.grad.copy()
    np.testing.assert_array_equal(
        once, np.concatenate([p.grad.ravel() for p in apart.parameters()])
    )
    assert once.any()
    net(X.astype(np.float64)).backward(g)
    np.testing.assert_array_equal(flat.grad, 2 * once)
    assert all(shares(p.grad, flat.grad) for p in net.parameters())


def test_zero_grad():
    net, flat_net = Net(), Net()
    flat = flat_net.flatten()
    for model in (net, flat_net):
        model(X).backward(np.ones((4, 2), np.float32))
        assert all(p.grad.any() for p in model.parameters())
        model.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert not flat.grad.any()
    assert all(shares(p.grad, flat.grad) for p in flat_net.parameters())


def test_loading_keeps_the_views():
    net = Net(0)
    flat = net.flatten()
    state = snapshot(Net(1))
    net.load_state_dict(state)
    assert_same(net.state_dict(), state)
    np.testing.assert_array_equal(flat.data[:3], state["gain"])
    assert all(shares(p.data, flat.data) for p in net.parameters())


def test_astype_converts_parameters_and_floating_buffers():
    net = Net()
    assert net.astype(np.float64) is net
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float64)}
    assert net.time.frequencies.dtype == np.float64
    assert net.count.dtype.kind == "i"
    assert net(X.astype(np.float64)).dtype == np.float64
    assert net.flatten().data.dtype == np.float64


def test_astype_drops_gradients_of_the_other_dtype():
    net = Net().astype(np.float32)
    net(X).backward(np.ones((4, 2), np.float32))
    net.astype(np.float64)
    assert all(p.grad is None for p in net.parameters())


def test_what_comes_too_late_or_has_nothing_is_refused():
    net = Net()
    net.flatten()
    with pytest.raises(InputError, match=r"after flatten\(\)"):
        net.astype(np.float64)
    with pytest.raises(InputError, match="Module has no parameters"):
        Module().flatten()


class Tree(Module):
    def __init__(self, shapes, children):
        for i, shape in enumerate(shapes):
            setattr(self, f"p{i}", Parameter(np.random.default_rng(i).standard_normal(shape)))
        self.children_list = children
        if children:
            self.first = Tree([(2,)], [])


shapes = st.lists(st.sampled_from([(), (1,), (3,), (2, 3), (1, 2, 2)]), max_size=3)
trees = st.recursive(
    shapes.map(lambda s: Tree(s, [])),
    lambda parts: st.tuples(shapes, st.lists(parts, max_size=3)).map(lambda a: Tree(*a)),
    max_leaves=8,
)


@given(trees)
@settings(max_examples=50)
def test_any_tree_of_modules_flattens_in_the_order_of_its_names(tree):
    before = snapshot(tree)
    assert len(before) == len(tree.parameters()) == len(list(tree.named_parameters()))
    assert tree.num_parameters == sum(a.size for a in before.values())
    if not before:
        return
    flat = tree.flatten()
    np.testing.assert_array_equal(flat.data, np.concatenate([a.ravel() for a in before.values()]))
    assert_same(tree.state_dict(), before)
    flat.data[...] = np.arange(flat.data.size)
    rows = np.concatenate([p.data.ravel() for p in tree.parameters()])
    np.testing.assert_array_equal(rows, np.arange(flat.data.size))


def test_parameters_in_a_list_are_trained_and_saved():
    class Scales(Module):
        def __init__(self):
            self.scales = [Parameter(np.ones(2)), None, Parameter(np.zeros(3))]

    model = Scales()
    assert [name for name, _ in model.named_parameters()] == ["scales.0", "scales.2"]
    assert model.flatten().data.tolist() == [1, 1, 0, 0, 0]
    assert list(model.state_dict()) == ["scales.0", "scales.2"]


def test_a_frozen_value_is_no_part():
    class Frozen(Module):
        def __init__(self):
            self.constant = Tensor(np.ones(2))
            self.trained = Parameter(np.ones(3))

    assert Frozen().num_parameters == 3
