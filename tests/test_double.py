"""The array double catches what CuPy would refuse, and the package runs on it as on NumPy."""

import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidiff import backend, nn, ops
from minidiff.autograd import Tensor
from minidiff.diffusion import (
    guidance,
    objectives,
    oracle,
    parameterizations,
    process,
    samplers,
    schedules,
)
from minidiff.optim import EMA, Adam, AdamW, clip_grad_norm
from minidiff.unet import UNet, UNetConfig
from tests.double import API, Array, Forbidden, forbid, xp
from tests.ops.cases import CASES, Case
from tests.strategies import arrays, broadcastable, seeds, shapes

# --- The double itself ---------------------------------------------------------------------------

HOST = np.arange(6.0).reshape(2, 3)

VIOLATIONS = {
    "device + host": lambda x: x + HOST,
    "host + device": lambda x: HOST + x,
    "host @ device": lambda x: HOST.T @ x,
    "host - device": lambda x: HOST - x,
    "device == host": lambda x: x == HOST,
    "host += device": lambda x: HOST.__iadd__(x),
    "device += host": lambda x: x.__iadd__(HOST),
    "a host 0-d array": lambda x: x * np.array(2.0),
    "a list": lambda x: x * [1.0, 2.0, 3.0],
    "numpy ufunc": lambda x: np.exp(x),
    "numpy ufunc of two": lambda x: np.add(HOST, x),
    "numpy function": lambda x: np.sum(x),
    "numpy matmul": lambda x: np.matmul(x, x.T),
    "numpy einsum": lambda x: np.einsum("ij->ji", x),
    "numpy stack": lambda x: np.stack([x, x]),
    "numpy asarray": lambda x: np.asarray(x),
    "numpy array of a list": lambda x: np.array([x, x]),
    "numpy asarray with dtype": lambda x: np.asarray(x, dtype=np.float32),
    "numpy assignment": lambda x: np.zeros((2, 3)).__setitem__(..., x),
    "ufunc of host": lambda x: xp.exp(HOST),
    "ufunc of a list": lambda x: xp.exp([1.0, 2.0]),
    "function of host": lambda x: xp.sum(HOST),
    "function of a list": lambda x: xp.sum([1.0, 2.0]),
    "concatenate with host": lambda x: xp.concatenate([x, HOST]),
    "where with host": lambda x: xp.where(x > 0, x, HOST),
    "einsum with host": lambda x: xp.einsum("ij,ij->", x, HOST),
    "method with host": lambda x: x.dot(HOST.T),
    "fill from host": lambda x: xp.full((2, 3), HOST),
    "range": lambda x: range(x[0, 1].astype(int)),
    "index of a list": lambda x: [0, 1, 2][x[0, 1].astype(int)],
    "end of a slice": lambda x: x[: x[0, 1].astype(int)],
    "index of host by device": lambda x: HOST[x[0].astype(int)],
    "index by host": lambda x: x[np.array([0, 1])],
    "index by host mask": lambda x: x[HOST > 2],
    "index by a list": lambda x: x[[0, 1]],
    "assign at host index": lambda x: x.__setitem__(np.array([0, 1]), 0.0),
    "assign host": lambda x: x.__setitem__(..., HOST),
    "assign a list": lambda x: x.__setitem__(0, [1.0, 2.0, 3.0]),
    "assign twice": lambda x: x.__setitem__(xp.asarray([0, 0]), 1.0),
    "index out of range": lambda x: x[xp.asarray([0, 7])],
    "sum where": lambda x: x.sum(where=x > 0),
    "max initial": lambda x: x.max(initial=0.0),
    "function max initial": lambda x: xp.max(x, initial=0.0),
    "var correction": lambda x: xp.var(x, correction=1),
    "ufunc where": lambda x: xp.add(x, x, where=x > 0),
    "sort stable": lambda x: xp.sort(x, stable=True),
    "asarray like": lambda x: xp.asarray(HOST, like=x),
    "asarray device": lambda x: xp.asarray(HOST, device="cpu"),
    "maximum.reduce": lambda x: xp.maximum.reduce(x),
    "logaddexp.accumulate": lambda x: xp.logaddexp.accumulate(x),
    "multiply.at": lambda x: xp.multiply.at(x, xp.asarray([0]), 2.0),
    "add.at host index": lambda x: xp.add.at(x, np.array([0]), 1.0),
    "add.at host value": lambda x: xp.add.at(x, xp.asarray([0, 1]), HOST),
    "errstate": lambda x: xp.errstate,
    "block": lambda x: xp.block([[x, x]]),
    "geomspace": lambda x: xp.geomspace(1, 10),
    "einsum_path": lambda x: xp.einsum_path,
    "linalg.multi_dot": lambda x: xp.linalg.multi_dot([x, x.T]),
    "linalg.vector_norm": lambda x: xp.linalg.vector_norm(x),
    "ndarray.setflags": lambda x: x.setflags(write=False),
    "ndarray.__index__": lambda x: x[0, 0].astype(int).__index__(),
    "special.expn_asy": lambda x: xp.special.expn_asy(x),
    "special of host": lambda x: xp.special.erf(HOST),
    "as_strided writeable": lambda x: xp.lib.stride_tricks.as_strided(x, writeable=False),
    "strings": lambda x: xp.asarray(["a"]),
    "hash": lambda x: {x: 1},
    "random.PCG64": lambda x: xp.random.PCG64(0),
    "random.seed": lambda x: xp.random.seed(0),
    "random.randn": lambda x: xp.random.randn(3),
    "random.default_rng": lambda x: xp.random.default_rng(0),
    "not modelled: base": lambda x: np.asarray(x.base),
    "not modelled: a class": lambda x: xp.poly1d([1]),
    "not modelled: only CuPy has it": lambda x: xp.RawKernel("", ""),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_the_double_refuses(violation):
    x = xp.asarray(HOST)
    # NotImplementedError is what CuPy raises for a ufunc's missing method
    with pytest.raises((TypeError, AttributeError, IndexError, NotImplementedError)):
        violation(x)
    np.testing.assert_array_equal(HOST, np.arange(6.0).reshape(2, 3))


ALLOWED = {
    "arithmetic": lambda m, x: (1 - x) ** 2 / (x + 0.5) + 2 // (x + 1) - x % 2,
    "NumPy scalars": lambda m, x: np.float32(2) * x + x * np.float64(3),
    "comparison": lambda m, x: (x > 1) & ~(x == 2) | (x <= 0),
    "matmul": lambda m, x: x @ x.T,
    "reductions": lambda m, x: (x.sum(), x.mean(axis=0), x.max(axis=(0, 1), keepdims=True)),
    "indexing": lambda m, x: (x[0, 1], x[:, None, ::2], x[..., -1], x[x > 2]),
    "indexing by integers": lambda m, x: x[m.asarray([1, 0]), 1:],
    "methods": lambda m, x: (x.reshape(3, -1).transpose(1, 0), x.astype("f4"), x.T),
    "functions": lambda m, x: (m.where(x > 1, x, 0), m.concatenate([x, x], axis=1), m.pad(x, 1)),
    "einsum": lambda m, x: m.einsum("ij,kj->ik", x, x, optimize=True),
    "tensordot": lambda m, x: m.tensordot(x, x, axes=((1,), (1,))),
    "windows": lambda m, x: m.lib.stride_tricks.sliding_window_view(x, 2, axis=1),
    "linalg": lambda m, x: m.linalg.eigh(x.T @ x)[0],
    "created": lambda m, x: (m.zeros(2), m.arange(3), m.full((2,), 7.0), m.eye(2), m.zeros_like(x)),
    "a ufunc of a scalar": lambda m, x: m.exp(1.0),
    "allclose": lambda m, x: m.allclose(x, x),
    "reduce": lambda m, x: m.add.reduce(x, axis=0),
    "split": lambda m, x: m.split(x, 3, axis=1),
    "out": lambda m, x: m.add(x, x, out=m.zeros_like(x)),
}  # fmt: skip


@pytest.mark.parametrize("f", ALLOWED.values(), ids=ALLOWED)
def test_the_double_computes_what_numpy_does(f):
    got, expected = f(xp, xp.asarray(HOST)), f(np, HOST)
    several = isinstance(expected, tuple | list)
    for a, b in zip(*((got, expected) if several else ([got], [expected])), strict=True):
        assert type(a) is Array
        assert a.dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a.get(), b)


def test_what_comes_from_the_double_never_is_a_numpy_array():
    x = xp.asarray(HOST)
    assert type(x.sum()) is type(x[0, 0]) is type(next(iter(x))) is Array
    assert x.sum().shape == x[0, 0].shape == ()
    assert type(x.get()) is np.ndarray
    assert type(x.item(1, 1)) is type(float(x[1, 1])) is float
    assert x.tolist() == HOST.tolist()
    assert (len(x), x.shape, x.ndim, x.size, x.dtype) == (2, (2, 3), 2, 6, np.float64)


def test_host_and_device_share_no_memory():
    host = np.zeros(3)
    x = xp.asarray(host)
    host += 1
    back = x.get()
    back += 1
    assert x.tolist() == [0, 0, 0]


def test_views_and_scattering_write_to_the_array():
    x = xp.zeros((2, 3))
    row = x[0]
    row += 1
    x[1, 1:] *= 5
    x[1, xp.asarray([0, 2])] = 7
    xp.add.at(x, (xp.asarray([0, 0]), xp.asarray([0, 0])), 1.0)
    xp.subtract(x, 1.0, out=x)
    assert x.tolist() == [[2, 0, 0], [6, -1, 6]]


def test_special_functions():
    np.testing.assert_array_equal(xp.special.erf(xp.asarray(HOST)).get(), scipy.special.erf(HOST))
    assert backend.special(xp) is xp.special


@pytest.mark.parametrize("space", ["", "fft.", "linalg.", "lib.stride_tricks.", "random."])
def test_the_double_has_no_name_that_cupy_lacks(space):
    theirs, ours = np, xp
    for part in space.split(".")[:-1]:
        theirs, ours = getattr(theirs, part), getattr(ours, part)
    lacking = [n for n in dir(theirs) if n[0] != "_" and space + n not in API["names"]]
    assert lacking or space == "lib.stride_tricks."
    assert [name for name in lacking if hasattr(ours, name)] == []


SYNCHRONIZATIONS = {
    "float": float,
    "int": int,
    "bool": bool,
    "if": lambda x: 1 if x else 0,
    "item": lambda x: x.item(),
    "get": lambda x: x.get(),
    "tolist": lambda x: x.tolist(),
    "to_numpy": backend.to_numpy,
    "Stream.synchronize": lambda x: xp.cuda.Stream.null.synchronize(),
}


@pytest.mark.parametrize("f", SYNCHRONIZATIONS.values(), ids=SYNCHRONIZATIONS)
def test_forbid_catches_a_synchronization(f):
    x = xp.asarray(1.0)
    f(x)
    with forbid("synchronization"), pytest.raises(Forbidden):
        f(x)
    f(x)


def test_forbid_catches_float64():
    x = xp.ones(3, np.float32)
    with forbid("float64"):
        x = 0.5 * x + 1
        with pytest.raises(Forbidden):
            x * np.float64(2)
        with pytest.raises(Forbidden):
            0.5 * (x > 0)
        with pytest.raises(Forbidden):
            xp.zeros(2)


# --- The package on the double (and on a GPU, where there is one) ---------------------------------

elsewhere = pytest.mark.parametrize(
    "device", ["double", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)


def to_host(value):
    """The arrays in `value`, a list, tuple, dict or array of any depth, as a flat host list."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [a for part in value for a in to_host(part)]
    return [np.array(backend.to_numpy(value))]


def assert_as_on_numpy(f, tolerance, *forbidden):
    """`f()`, which makes its arrays by the backend, gives the same there as on NumPy."""
    with forbid(*forbidden):
        result = f()
    got = to_host(result)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "xp", np)
        expected = to_host(f())
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        scale = np.abs(b).max(initial=1e-2, where=np.isfinite(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def value_and_gradients(f, inputs, seed):
    """f of Tensors of the backend, and the gradient of each input for a random cotangent."""
    tensors = [Tensor(backend.asarray(x), requires_grad=True) for x in inputs]
    y = f(*tensors)
    g = np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)
    y.backward(backend.asarray(g))
    return y.data, [t.grad for t in tensors]


class HostDraws:
    """A generator whose numbers are the same on every device: NumPy draws, the backend moves."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def random(self, shape, dtype):
        return backend.asarray(self.rng.random(shape, dtype=dtype))

    def standard_normal(self, shape, dtype):
        return backend.asarray(self.rng.standard_normal(shape, dtype=dtype))


@st.composite
def where(draw):
    c, a, b = draw(broadcastable(3))
    condition = draw(arrays(c)) > 0
    inputs = draw(arrays(a)), draw(arrays(b))
    return Case(lambda a, b: ops.where(backend.asarray(condition), a, b), inputs, None)


@st.composite
def dropout(draw):
    seed = draw(seeds)
    return Case(
        lambda x: ops.dropout(x, p=0.3, rng=HostDraws(seed)), (draw(arrays(shapes())),), None
    )


# Those that bind something of the device in f; all others are as in the tests of NumPy.
CASES_OF_THE_DEVICE = CASES | {"where": where(), "dropout": dropout()}


def test_no_operation_is_forgotten():
    assert set(CASES_OF_THE_DEVICE) == set(ops.__all__)


@elsewhere
@pytest.mark.parametrize("name", sorted(CASES_OF_THE_DEVICE))
@given(data=st.data(), seed=seeds, dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_operation(device, name, data, seed, dtype):
    case = data.draw(CASES_OF_THE_DEVICE[name])
    inputs = [np.asarray(x, dtype) for x in case.inputs]
    single = dtype == np.float32
    assert_as_on_numpy(
        lambda: value_and_gradients(case.f, inputs, seed),
        1e-4 if single else 1e-10,
        *(["synchronization", "float64"] if single else ["synchronization"]),
    )


def rng():
    return np.random.default_rng(0)


def normal(*shape):
    return rng().standard_normal(shape).astype(np.float32)


T = np.array([1, 500])
LAYERS = {
    "Linear": lambda: (nn.Linear(3, 4, rng=rng()), normal(2, 5, 3)),
    "Conv2d": lambda: (nn.Conv2d(3, 4, rng=rng(), stride=2), normal(2, 6, 6, 3)),
    "GroupNorm": lambda: (nn.GroupNorm(6, 3), normal(2, 4, 4, 6)),
    "GroupNormSilu": lambda: (nn.GroupNormSilu(6, 3), normal(2, 4, 4, 6)),
    "LayerNorm": lambda: (nn.LayerNorm(5), normal(2, 3, 5)),
    "SelfAttention": lambda: (nn.SelfAttention(6, 2, groups=3, rng=rng()), normal(2, 3, 3, 6)),
    "CrossAttention": lambda: (
        nn.CrossAttention(6, 4, 2, groups=3, rng=rng()),
        normal(2, 3, 3, 6),
        normal(2, 5, 4),
        np.arange(5) < np.array([[5], [2]]),
    ),
    "Embedding": lambda: (nn.Embedding(4, 3, rng=rng()), np.array([3, 0, 3])),
    "SinusoidalEmbedding": lambda: (nn.SinusoidalEmbedding(8), T),
    "FourierEmbedding": lambda: (nn.FourierEmbedding(8, rng=rng()), T),
}
NO_LAYERS = {"Flat", "Module", "Parameter"}


def test_no_layer_is_forgotten():
    assert LAYERS.keys() == set(nn.__all__) - NO_LAYERS


@elsewhere
@pytest.mark.parametrize("name", LAYERS)
def test_layer(device, name):
    def run():
        layer, *inputs = LAYERS[name]()
        perturb(layer)
        # images are differentiated; indices, times and masks stay on the host
        inputs = [
            Tensor(backend.asarray(x), requires_grad=True) if x.dtype.kind == "f" else x
            for x in inputs
        ]
        y = layer(*inputs)
        if not isinstance(y, Tensor):
            return y, layer.state_dict()
        y.backward(backend.asarray(normal(*y.shape)))
        tensors = [*layer.parameters(), *(x for x in inputs if isinstance(x, Tensor))]
        return y.data, [t.grad for t in tensors], layer.state_dict()

    assert_as_on_numpy(run, 1e-4, "synchronization")


def perturb(module, seed=1):
    """Move every parameter off its start, where some are zero."""
    generator = np.random.default_rng(seed)
    for p in module.parameters():
        step = 0.1 * generator.standard_normal(p.shape)
        p.data += backend.asarray(step.astype(p.dtype))


SMALL = UNetConfig(8, channels=8, multipliers=(1, 2), blocks=1, groups=4, num_classes=3)
NETWORKS = {
    "DDPM's": {"attention": (4,), "dropout": 0.1},
    "AdaGN": {"time_conditioning": "scale_shift", "heads": 2, "time_embedding": "fourier"},
}


def config(network):
    return UNetConfig(**(vars(SMALL) | NETWORKS[network]))


def trained(network, optimizer, steps=3):
    """Some steps of training; all that they change and all that they report."""
    model = UNet(config(network), rng=rng()).train()
    flat = model.flatten()
    # some gradients are zero but for rounding, and a small eps would blow that up to a step
    optimizer, ema = optimizer(flat, 1e-2, eps=1e-4), EMA(flat)
    schedule = schedules.linear(100)
    x0, labels = backend.asarray(normal(4, 8, 8, 1)), np.array([0, 3, 2, 1])
    losses = []
    for step in range(1, steps + 1):
        host, draws = backend.host_generator(0, step), HostDraws(step)
        t = host.integers(1, 101, size=4)
        eps = draws.standard_normal(x0.shape, np.float32)
        model.zero_grad()
        loss = objectives.simple(model, schedule, x0, t, eps, labels=labels, rng=draws)
        loss.backward()
        losses += [loss.data, clip_grad_norm(flat, 0.5)]
        optimizer.step()
        ema.update()
    with ema.swapped():
        averaged = {n: a.copy() for n, a in model.state_dict().items()}
    return losses, model.state_dict(), flat.grad, optimizer.m, optimizer.v, averaged


@elsewhere
@pytest.mark.parametrize("optimizer", [Adam, AdamW])
@pytest.mark.parametrize("network", NETWORKS)
def test_training(device, network, optimizer):
    # random Fourier features alone are computed in float64 on the device
    single = ["float64"] if config(network).time_embedding == "sinusoidal" else []
    assert_as_on_numpy(lambda: trained(network, optimizer), 1e-4, "synchronization", *single)


@elsewhere
def test_state_goes_to_the_host_and_back(device):
    model, other = (UNet(SMALL, rng=np.random.default_rng(i)) for i in range(2))
    saved = {name: backend.to_numpy(a) for name, a in model.state_dict().items()}
    assert all(type(a) is np.ndarray for a in saved.values())
    other.flatten()
    other.load_state_dict(saved)
    x = backend.asarray(normal(2, 8, 8, 1))
    np.testing.assert_array_equal(*(backend.to_numpy(m.denoise(x, T)) for m in (model, other)))
    optimizer = Adam(other.flatten())
    state = {"m": np.full_like(optimizer.m.get(), 2), "v": np.ones(optimizer.v.shape), "steps": 7}
    optimizer.load_state_dict(state)
    assert float(optimizer.m[0]) == 2


SCHEDULE, TIMES = schedules.cosine(1000), np.array([2, 999])
DATA = oracle.Gaussian(normal(3, 3, 1), np.diag(np.linspace(0.1, 2, 9)))


def convert(source, target):
    return lambda x, y: parameterizations.convert(
        SCHEDULE, x, TIMES, y, source=source, target=target
    )


DIFFUSION = {
    "q_sample": lambda x, y: process.q_sample(SCHEDULE, x, TIMES, y),
    "q_sample of one t": lambda x, y: process.q_sample(SCHEDULE, x, 7, y),
    "posterior_sample": lambda x, y: process.posterior_sample(SCHEDULE, x, y, TIMES - 2, TIMES, x),
    "clipped": lambda x, y: parameterizations.denoised(SCHEDULE, x, TIMES, y, (-1, 1)),
    "oracle": lambda x, y: DATA.denoiser(SCHEDULE)(x, TIMES),
} | {
    f"{source} to {target}": convert(source, target)
    for source in parameterizations.NAMES
    for target in parameterizations.NAMES
}


@elsewhere
@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusion(device, name):
    x, y = normal(2, 3, 3, 1), normal(2, 3, 3, 1)[::-1].copy()
    assert_as_on_numpy(
        lambda: DIFFUSION[name](backend.asarray(x), backend.asarray(y)),
        1e-5,
        "synchronization",
        "float64",
    )


# Every sampler as it is, and some with options that take another path.
SAMPLERS = {name: (name, {}) for name in samplers.SAMPLERS} | {
    "ddpm, clipped": ("ddpm", {"clip": (-1, 1)}),
    "ddpm, variance beta": ("ddpm", {"variance": "beta"}),
    "ddim, eta 0.5, clipped": ("ddim", {"eta": 0.5, "clip": (-1, 1)}),
}


@elsewhere
@pytest.mark.parametrize("w", [0.0, 1.5])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_with_guidance(device, name, w):
    def run():
        model = UNet(SMALL, rng=rng())
        perturb(model)
        guided = guidance.classifier_free(model.denoise, w=w, null=3)
        x_T = HostDraws(0).standard_normal((2, 8, 8, 1), np.float32)
        sampler, options = SAMPLERS[name]
        run_sampler = samplers.make(sampler, steps=6, **options)
        labels = np.array([0, 2])
        states = run_sampler(guided, schedules.linear(20), x_T, rng=HostDraws(1), labels=labels)
        return [(state.x, state.x0) for state in states]

    assert_as_on_numpy(run, 1e-4, "synchronization", "float64")
