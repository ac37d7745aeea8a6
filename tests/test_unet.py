"""The U-Net: what it is made of, what reaches what, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.data import digits
from minidiff.diffusion import process, schedules
from minidiff.errors import InputError
from minidiff.nn import Linear, Module, SelfAttention
from minidiff.optim import Adam
from minidiff.unet import ResidualBlock, UNet, UNetConfig
from tests.nn.check import check_module, check_parts, perturb

SMALL = UNetConfig(
    8, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, num_classes=3
)
CONDITIONINGS = ("add", "scale_shift")
EMBEDDINGS = ("sinusoidal", "fourier")


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


def build(config=SMALL, seed=0, dtype=np.float64, perturbed=True):
    """A U-Net, moved off its start, at which its output is zero."""
    model = UNet(config, rng=np.random.default_rng(seed)).astype(dtype)
    return perturb(model, size=0.1) if perturbed else model


def images(n=2, size=8, channels=1, seed=1, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((n, size, size, channels)).astype(dtype)


X, T, LABELS = images(), np.array([3, 700]), np.array([0, 2])


# --- Shapes and sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [
        (8, (1, 2, 2), (2,)),
        (8, (1, 1, 1, 1), ()),
        (16, (1, 2), (16, 8)),
        (28, (1, 2), (14,)),
        (28, (1, 2, 2), (7,)),
        (32, (1, 2, 2, 2), (16,)),
        (7, (2,), (7,)),
    ],
)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_output_has_the_shape_of_the_input(size, multipliers, attention, conditioning):
    config = UNetConfig(
        size, 3, channels=8, multipliers=multipliers, blocks=1, attention=attention, groups=4,
        time_conditioning=conditioning,
    )  # fmt: skip
    x = images(2, size, 3, dtype=np.float32)
    y = build(config, dtype=np.float32)(x, T)
    assert isinstance(y, Tensor)
    assert (y.shape, y.dtype) == (x.shape, np.float32)
    assert np.isfinite(y.data).all()
    wide = UNet(dataclasses.replace(config, out_channels=6), rng=np.random.default_rng(0))
    assert wide(x, T).shape == (2, size, size, 6)


def linear(a, b):
    return a * b + b


def conv(a, b):
    return 9 * a * b + b


def count(c):
    """The number of parameters, from the paper's description."""
    time, both = 4 * c.channels, 2 if c.time_conditioning == "scale_shift" else 1

    def block(a, b):
        shortcut = linear(a, b) if a != b else 0
        return 2 * a + conv(a, b) + linear(time, both * b) + 2 * b + conv(b, b) + shortcut

    def attention(a, size=None):
        asked = size is None or size in c.attention
        return (2 * a + 4 * linear(a, a)) * asked

    widths, n = c.widths, c.blocks
    before = (c.channels, *widths[:-1])  # what comes down to each level
    below = (*widths[1:], widths[-1])  # what comes up to it
    total = linear(c.channels, time) + linear(time, time) + (c.num_classes or 0) * time
    total += conv(c.in_channels, c.channels) + 2 * widths[0]
    total += conv(widths[0], c.out_channels or c.in_channels)
    total += 2 * block(widths[-1], widths[-1]) + attention(widths[-1])
    for i, (w, size) in enumerate(zip(widths, c.resolutions, strict=True)):
        down = block(before[i], w) + (n - 1) * block(w, w)
        up = block(below[i] + w, w) + (n - 1) * block(2 * w, w) + block(w + before[i], w)
        total += down + up + (2 * n + 1) * attention(w, size)
    return total + sum(conv(w, w) for w in (*widths[:-1], *widths[1:]))


@st.composite
def configs(draw):
    multipliers = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    size = draw(st.integers(1, 3)) * 2 ** (len(multipliers) - 1)
    resolutions = [size >> i for i in range(len(multipliers))]
    return UNetConfig(
        size,
        draw(st.integers(1, 3)),
        draw(st.none() | st.integers(1, 6)),
        channels=draw(st.sampled_from([4, 8, 12])),
        multipliers=multipliers,
        blocks=draw(st.integers(1, 3)),
        attention=draw(st.lists(st.sampled_from(resolutions), unique=True)),
        heads=draw(st.sampled_from([1, 2, 4])),
        groups=draw(st.sampled_from([1, 2, 4])),
        time_embedding=draw(st.sampled_from(EMBEDDINGS)),
        time_conditioning=draw(st.sampled_from(CONDITIONINGS)),
        num_classes=draw(st.none() | st.integers(1, 5)),
    )


@given(configs())
@settings(max_examples=40)
def test_any_config_has_the_parameters_of_the_formula_and_runs(config):
    model = UNet(config, rng=np.random.default_rng(0))
    assert model.num_parameters == count(config) == model.flatten().data.size
    x = images(1, config.image_size, config.in_channels, dtype=np.float32)
    labels = None if config.num_classes is None else np.array([config.num_classes - 1])
    y = model(x, np.array([5]), labels)
    assert y.shape == (*x.shape[:3], config.out_channels or config.in_channels)


CIFAR = UNetConfig(32, 3, channels=128, multipliers=(1, 2, 2, 2), attention=(16,), dropout=0.1)


def test_ddpms_network_for_cifar10_has_35_7_million_parameters():
    assert count(CIFAR) == 35_746_307
    assert UNet(CIFAR, rng=np.random.default_rng(0)).num_parameters == 35_746_307


def test_the_parts_of_the_paper():
    config = UNetConfig(16, channels=8, multipliers=(1, 2), blocks=2, attention=(8,), groups=4)
    modules = [m for _, m in build(config).named_modules()]
    blocks = [m for m in modules if isinstance(m, ResidualBlock)]
    assert len(blocks) == 2 * 2 + 2 + 2 * 3  # down, middle, up
    assert sum(isinstance(m, SelfAttention) for m in modules) == 2 + 1 + 3
    for b in blocks:  # each has its own projection of the time
        assert isinstance(b.time, Linear)
        assert b.time.weight.shape == (32, b.conv1.bias.size)
    assert len({id(b.time) for b in blocks}) == len(blocks)


def test_summary_tells_the_shapes_and_parameters_of_a_call(monkeypatch):
    config = small(blocks=2, multipliers=(1, 2, 3), attention=(4, 2), in_channels=2)
    model = build(config)
    names, shapes = {id(m): name for name, m in model.named_modules()}, {}

    def recorded(call):
        def wrapper(self, *args, **kwargs):
            y = call(self, *args, **kwargs)
            shapes[names[id(self)]] = y.shape
            return y

        return wrapper

    for cls in {type(m) for _, m in model.named_modules()} - {UNet}:
        if "__call__" in vars(cls):
            monkeypatch.setattr(cls, "__call__", recorded(cls.__call__))
    model(images(5, 8, 2), np.arange(1, 6), np.zeros(5, int))

    rows = [line.split("  ", 1) for line in model.summary().splitlines()]
    table = {name: rest.strip() for name, rest in rows}
    total = int(table.pop("total").replace(",", ""))
    modules = dict(model.named_modules())
    for name, rest in table.items():
        shape, parameters = rest.rsplit(None, 1)
        assert shape == f"(N, {', '.join(map(str, shapes[name][1:]))})"
        assert int(parameters.replace(",", "")) == modules[name].num_parameters
    assert total == model.num_parameters == sum(modules[name].num_parameters for name in table)
    assert [name for name in shapes if name in table] == list(table)  # in the order of the call


def test_skips_are_all_used():
    """As many outputs are kept on the way down as blocks read one on the way up."""
    model = build(small(multipliers=(1, 2, 2), blocks=2))
    kept = 1 + sum(len(level.blocks) + (level.resample is not None) for level in model.down)
    assert kept == sum(len(level.blocks) for level in model.up) == 9


def by_the_paper(model, x, t, labels):
    """The network written down once more, as a function of its weights, for float64."""
    c, p = model.config, model.state_dict()

    def silu(h):
        return h / (1 + np.exp(-h))

    def dense(name, h):
        return h @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def conv(name, h, stride=1, pads=((1, 1), (1, 1))):
        weights = p[f"{name}.weight"], p[f"{name}.bias"]
        return ops.conv2d(h, *weights, stride=stride, padding=pads).data

    def norm(name, h):
        weights = p[f"{name}.weight"], p[f"{name}.bias"]
        return ops.group_norm(h, *weights, groups=c.groups, eps=1e-6).data

    def block(name, h):
        z = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", h)))
        e = dense(f"{name}.time", silu(time))[:, None, None]
        if c.time_conditioning == "add":
            z = norm(f"{name}.norm2", z + e)
        else:
            scale, shift = np.split(e, 2, axis=-1)
            z = norm(f"{name}.norm2", z) * (1 + scale) + shift
        shortcut = dense(f"{name}.shortcut", h) if f"{name}.shortcut.weight" in p else h
        return shortcut + conv(f"{name}.conv2", silu(z))

    def attention(name, h):
        if f"{name}.query.weight" not in p:
            return h
        z = norm(f"{name}.norm", h).reshape(len(h), -1, h.shape[-1])
        z = ops.attention(
            *(dense(f"{name}.{part}", z) for part in ("query", "key", "value")), heads=c.heads
        )
        return h + dense(f"{name}.project", z.data).reshape(h.shape)

    def level(name, i, h):
        return attention(f"{name}.attentions.{i}", block(f"{name}.blocks.{i}", h))

    half = c.channels // 2
    angles = t[:, None] * 10_000.0 ** -(np.arange(half) / (half - 1))
    if c.time_embedding == "fourier":
        angles = t[:, None] / 1000 * 2 * np.pi * p["time_features.frequencies"]
    time = dense("time1", np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
    time = dense("time2", silu(time))
    for n, label in enumerate(labels):
        if label < c.num_classes:
            time[n] += p["classes.weight"][label]

    h, last = conv("conv_in", x), len(c.multipliers) - 1
    skips = [h]
    for i in range(last + 1):
        for j in range(c.blocks):
            skips.append(h := level(f"down.{i}", j, h))
        if i < last:
            skips.append(h := conv(f"down.{i}.resample", h, 2, ((0, 1), (0, 1))))
    h = block("middle.blocks.1", level("middle", 0, h))
    for i in range(last + 1):
        for j in range(c.blocks + 1):
            h = level(f"up.{i}", j, np.concatenate([h, skips.pop()], axis=-1))
        if i < last:
            h = conv(f"up.{i}.resample", h.repeat(2, axis=1).repeat(2, axis=2))
    assert not skips
    return conv("conv_out", silu(norm("norm_out", h)))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_it_is_the_network_of_the_paper(conditioning, embedding):
    config = small(
        multipliers=(1, 2, 2), blocks=2, heads=2, time_conditioning=conditioning,
        time_embedding=embedding,
    )  # fmt: skip
    model, x, t, labels = build(config), images(3), np.array([1, 77, 1000]), np.array([3, 0, 2])
    y = model(x, t, labels).data
    np.testing.assert_allclose(y, by_the_paper(model, x, t, labels), rtol=1e-9, atol=1e-12)


# --- How it starts, and what reaches what --------------------------------------------------------


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_first_output_is_zero_and_the_first_loss_the_variance_of_the_noise(conditioning):
    model = build(small(time_conditioning=conditioning), dtype=np.float32, perturbed=False)
    x, eps = images(64, dtype=np.float32), images(64, seed=2, dtype=np.float32)
    t, labels = np.arange(1, 65), np.arange(64) % 4
    y = model(x, t, labels)
    assert not y.data.any()
    loss = ops.mse(y, eps).item()
    assert abs(loss - 1) < 5 * np.sqrt(2 / eps.size)
    ops.mse(y, eps).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_residual_block_starts_as_its_shortcut(conditioning):
    config, (x, e) = small(time_conditioning=conditioning), features()
    layer = ResidualBlock(8, 8, config, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(layer(x, e).data, x.data)
    wider = ResidualBlock(8, 16, config, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(wider(x, e).data, wider.shortcut(x).data)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_the_gradient_reaches_every_parameter(conditioning, embedding):
    model = build(small(time_conditioning=conditioning, time_embedding=embedding, blocks=2))
    labels = np.array([0, 1, 2, 3])
    y = model(images(4), np.array([1, 30, 400, 1000]), labels)
    y.backward(images(4, seed=5))
    size = {name: np.abs(p.grad).max() for name, p in model.named_parameters()}
    # a constant added to all keys changes no softmax
    keys = {name for name in size if name.endswith("key.bias")}
    assert keys
    assert max(size[name] for name in keys) < 1e-10
    assert min(size[name] for name in size.keys() - keys) > 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"time_conditioning": "scale_shift", "time_embedding": "fourier", "heads": 2},
    ],
    ids=["add", "scale_shift"],
)
def test_gradient_check_through_all_parameters(changes):
    config = UNetConfig(
        4, channels=4, multipliers=(1, 2), blocks=1, attention=(2,), groups=2, num_classes=2,
        **changes,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    model = UNet(config, rng=rng)
    check_parts(
        model, images(2, 4), rng=rng, call=lambda x: model(x, np.array([2, 600]), np.array([1, 2]))
    )


@pytest.mark.parametrize("c_in", [4, 8])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_gradient_check_of_a_residual_block(conditioning, c_in):
    config = UNetConfig(4, channels=4, groups=2, multipliers=(1,), time_conditioning=conditioning)
    rng = np.random.default_rng(0)
    layer = ResidualBlock(c_in, 8, config, rng=rng)
    check_module(layer, rng.standard_normal((2, 4, 4, c_in)), rng.standard_normal((2, 16)), rng=rng)


def test_every_image_is_by_itself():
    model, x = build(), images(3)
    t, labels = np.array([1, 50, 900]), np.array([0, 3, 1])
    y = model(x, t, labels).data
    for i in range(3):
        one = slice(i, i + 1)
        np.testing.assert_allclose(model(x[one], t[one], labels[one]).data, y[one], rtol=1e-9)


def test_same_generator_same_network():
    a, b, c = (build(seed=s)(X, T, LABELS).data for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)


# --- Time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_time_changes_the_output(conditioning, embedding):
    model = build(small(time_conditioning=conditioning, time_embedding=embedding))
    y, same, other = (model(X, np.array(t)).data for t in ([3, 700], [3, 700], [3, 701]))
    np.testing.assert_array_equal(y, same)
    np.testing.assert_array_equal(y[0], other[0])
    assert np.abs(y[1] - other[1]).max() > 1e-6


class Recorder(Module):
    def __call__(self, x, before=None, after=None):
        self.seen, self.requires_grad = x.data, x.requires_grad
        if before is not None:
            self.seen = self.seen + before.data.reshape(-1, 1, 1, before.shape[-1])
        return x


def block(**changes):
    config = small(num_classes=None, **changes)
    layer = ResidualBlock(8, 16, config, rng=np.random.default_rng(0)).astype(np.float64)
    return perturb(layer)


def features():
    rng = np.random.default_rng(3)
    return Tensor(rng.standard_normal((2, 4, 4, 8))), Tensor(rng.standard_normal((2, 32)))


def test_added_time_is_one_number_for_each_channel():
    layer, (x, e) = block(), features()
    layer.norm2 = Recorder()
    seen = []
    for time in (e, Tensor(np.zeros((2, 32)))):
        layer(x, time)
        seen.append(layer.norm2.seen)
    difference = seen[0] - seen[1]
    projected = e.data @ layer.time.weight.data
    np.testing.assert_allclose(
        difference, np.broadcast_to(projected[:, None, None], difference.shape), atol=1e-12
    )


def test_scale_and_shift_act_after_the_norm():
    layer, (x, e) = block(time_conditioning="scale_shift"), features()
    plain = block()  # the same weights but for the projection
    for name in ("norm1", "conv1", "norm2", "conv2", "shortcut"):
        setattr(plain, name, getattr(layer, name))
    plain.time.weight.data[...] = plain.time.bias.data[...] = 0
    recorder = plain.norm2 = Recorder()
    plain(x, e)
    scale, shift = np.split(e.data @ layer.time.weight.data + layer.time.bias.data, 2, axis=1)
    norm = layer.norm2
    normal = ops.group_norm(
        recorder.seen, norm.weight, norm.bias, groups=norm.groups, eps=norm.eps
    ).data
    h = normal * (1 + scale[:, None, None]) + shift[:, None, None]
    expected = layer.shortcut(x).data + layer.conv2(ops.silu(h)).data
    np.testing.assert_allclose(layer(x, e).data, expected, rtol=1e-12)


def test_a_projection_of_zero_leaves_the_plain_group_norm_to_the_bit():
    (x, e), (plain, adaptive) = features(), (block(time_conditioning=c) for c in CONDITIONINGS)
    for layer in (plain, adaptive):
        layer.time.weight.data[...] = layer.time.bias.data[...] = 0
    for name, part in plain.children():
        if name != "time":
            getattr(adaptive, name).load_state_dict(part.state_dict())
    np.testing.assert_array_equal(adaptive(x, e).data, plain(x, e).data)
    adaptive.time.bias.data[...] = 0.1
    assert not np.allclose(adaptive(x, e).data, plain(x, e).data)


# --- Classes -------------------------------------------------------------------------------------


def test_no_label_is_the_null_class_to_the_bit():
    model = build()
    none = model(X, T).data
    np.testing.assert_array_equal(model(X, T, np.array([3, 3])).data, none)
    mixed = model(X, T, np.array([3, 1])).data
    np.testing.assert_array_equal(mixed[0], none[0])
    assert not np.allclose(mixed[1], none[1])


def test_the_null_class_adds_nothing():
    """As if its embedding were zeros: a class whose row is zero cannot be told from it."""
    model = build()
    null = model(X, T, np.array([3, 3])).data
    model.classes.weight.data[1] = 0
    np.testing.assert_array_equal(model(X, T, np.array([1, 1])).data, null)
    model.classes.weight.data[...] = 1e6
    np.testing.assert_array_equal(model(X, T, np.array([3, 3])).data, null)


def test_the_null_class_trains_no_row_of_the_table():
    model = build()
    model(X, T, np.array([3, 1])).backward(images(seed=4))
    moved = np.abs(model.classes.weight.grad).max(axis=1) > 0
    assert moved.tolist() == [False, True, False]


def test_the_class_changes_the_output():
    model = build()
    outputs = [model(X, T, np.array([k, k])).data for k in range(4)]
    for i in range(4):
        for j in range(i):
            assert np.abs(outputs[i] - outputs[j]).max() > 1e-6


# --- Modes, state, use as a denoiser -------------------------------------------------------------


def test_dropout_acts_in_training_only():
    model = build(small(dropout=0.5))
    draws = [model(X, T, rng=np.random.default_rng(seed)).data for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.allclose(draws[0], draws[2])
    with pytest.raises(InputError, match="needs rng="):
        model(X, T)
    expected = build()(X, T).data
    np.testing.assert_array_equal(model.eval()(X, T).data, expected)


def test_denoise_is_the_network_in_evaluation_with_nothing_recorded():
    model = build(small(dropout=0.5))
    expected = model.eval()(X, T, LABELS).data
    for mode in (True, False):
        y = model.train(mode).denoise(X, T, LABELS)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, expected)
        assert all(m.training is mode for _, m in model.named_modules())
    assert all(p.grad is None for p in model.parameters())


def test_denoise_records_nothing():
    model = build()
    recorder = model.conv_out = Recorder()
    for call, recorded in ((model, True), (model.denoise, False)):
        call(X, T)
        assert recorder.requires_grad is recorded


def test_denoise_returns_to_its_mode_after_an_error():
    model = build().train()
    with pytest.raises(InputError):
        model.denoise(X, np.array([1]))
    assert model.training
    assert model(X, T).requires_grad  # and to recording


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_saved_network_is_the_same_network(embedding):
    config = small(time_embedding=embedding)
    model, other = build(config, seed=0), build(config, seed=1)
    state = {name: a.copy() for name, a in model.state_dict().items()}
    assert ("time_features.frequencies" in state) == (embedding == "fourier")
    other.flatten()
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(X, T, LABELS).data, model(X, T, LABELS).data)


def test_another_config_does_not_fit():
    with pytest.raises(InputError, match="do not fit this model"):
        build().load_state_dict(build(small(blocks=2)).state_dict())


def test_it_learns_eight_digits_by_heart():
    """One batch of real digits, each at its own time and noise: the loss falls from 1 to 0.01."""
    schedule, rng = schedules.linear(100), np.random.default_rng(0)
    x0, labels = (a[:8] for a in digits())
    t, eps = np.arange(5, 100, 12), rng.standard_normal(x0.shape).astype(np.float32)
    xt = process.q_sample(schedule, x0, t, eps)
    config = UNetConfig(
        8, channels=16, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, num_classes=10
    )
    model = UNet(config, rng=rng)
    optimizer, losses = Adam(model.flatten(), 2e-3), []
    for _ in range(100):
        model.zero_grad()
        loss = ops.mse(model(xt, t, labels), eps)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.mean(eps**2), rel=1e-5)
    assert np.mean(losses[-10:]) < 0.01


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 7}, ["image_size 7", "divisible by 2", "2 levels"]),
        ({"image_size": 28, "multipliers": (1, 2, 2, 2)}, ["28", "divisible by 8", "4 levels"]),
        ({"image_size": 0}, ["image_size", "positive", "0"]),
        ({"image_size": 8.0}, ["image_size", "integer", "8.0"]),
        ({"in_channels": 0}, ["in_channels", "0"]),
        ({"out_channels": 0}, ["out_channels", "0"]),
        ({"channels": 7, "groups": 1}, ["channels", "even", "7"]),
        ({"channels": 2, "groups": 1}, ["channels", "at least 4", "2"]),
        ({"multipliers": ()}, ["multipliers", "()"]),
        ({"multipliers": (1, 0)}, ["multipliers", "(1, 0)"]),
        ({"multipliers": (1, 1.5)}, ["multipliers", "integers", "(1, 1.5)"]),
        ({"multipliers": 2}, ["multipliers", "list", "2"]),
        ({"blocks": 0}, ["blocks", "0"]),
        ({"blocks": True}, ["blocks", "True"]),
        ({"groups": 0}, ["groups", "0"]),
        ({"groups": 3}, ["groups 3", "width 8"]),
        ({"groups": 16}, ["groups 16", "width 8"]),
        ({"heads": 0}, ["heads", "0"]),
        ({"heads": 3}, ["heads 3", "width 8"]),
        ({"attention": (2,)}, ["attention at 2", "(8, 4)"]),
        ({"attention": 4}, ["attention", "list", "4"]),
        ({"dropout": 1.0}, ["dropout", "[0, 1)", "1.0"]),
        ({"dropout": -0.1}, ["dropout", "-0.1"]),
        ({"dropout": "0.1"}, ["dropout", "number", "'0.1'"]),
        ({"time_embedding": "sine"}, ["'sine'", "sinusoidal", "fourier"]),
        ({"time_conditioning": "adagn"}, ["'adagn'", "add", "scale_shift"]),
        ({"num_classes": 0}, ["num_classes", "0"]),
        ({"num_classes": 2.5}, ["num_classes", "2.5"]),
        ({"norm_eps": 0}, ["norm_eps", "0"]),
    ],
    ids=str,
)
def test_an_impossible_config_is_refused_with_the_reason(changes, words):
    with pytest.raises(InputError) as error:
        small(**changes)
    message = str(error.value)
    assert message.startswith("U-Net config: ")
    assert "\n" not in message
    assert all(word in message for word in words)


def test_configs_compare_and_hash_whatever_holds_their_numbers():
    a, b = small(), small(multipliers=[1, 2], attention=[4])
    assert a == b
    assert hash(a) == hash(b)
    assert len({a, b, small(blocks=2)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.blocks = 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((images(2, 16), T), ["(N, 8, 8, 1)", "(2, 16, 16, 1)"]),
        ((images(2, 8, 3), T), ["(N, 8, 8, 1)", "(2, 8, 8, 3)"]),
        ((X[..., 0], T), ["(N, 8, 8, 1)", "(2, 8, 8)"]),
        ((X[0], T), ["(N, 8, 8, 1)", "(8, 8, 1)"]),
        ((X[:0], T[:0]), ["no images"]),
        (((X * 9).astype(np.uint8), T), ["floating-point", "uint8"]),
        ((X, np.array([1])), ["2 time steps", "(1,)"]),
        ((X, 5), ["2 time steps", "()"]),
        ((X, T[:, None]), ["2 time steps", "(2, 1)"]),
        ((X, T, np.array([1])), ["2 labels", "(1,)"]),
        ((X, T, 1), ["2 labels", "()"]),
        ((X, T, np.array([0, 4])), ["0..3", "3 = no class", "0..4"]),
        ((X, T, np.array([-1, 0])), ["0..3", "-1..0"]),
        ((X, T, np.array([0.0, 1.0])), ["integers", "float64"]),
        ((X, T, [True, False]), ["integers", "bool"]),
        ((X.astype(np.float16), T), ["floating-point", "float16"]),
        ((None, T), ["array of images", "NoneType"]),
        ((X, -T), ["times", ">= 0"]),
        ((X, T * np.nan), ["times", ">= 0"]),
        ((X, T * 1j), ["times", "numbers"]),
    ],
)
def test_a_wrong_input_is_named(arguments, words):
    with pytest.raises(InputError) as error:
        build()(*arguments)
    assert all(word in str(error.value) for word in words)


def test_labels_for_a_network_without_classes_are_refused():
    with pytest.raises(InputError, match="num_classes=None"):
        build(small(num_classes=None))(X, T, LABELS)
