"""Every CUDA kernel is its definition, to rounding: run on the processor, thread by thread."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import backend
from minidiff.backend import kernels
from minidiff.backend.kernels import cupy as fast
from minidiff.backend.kernels import reference
from minidiff.backend.kernels.cupy import conv
from minidiff.errors import InputError
from tests import double
from tests.gpu import emulator
from tests.kernels.agreement import assert_agrees
from tests.kernels.cases import CASES, FLAT, SUMS
from tests.strategies import examples, lay_out, layouts

FAST = kernels.public(fast)
DEFINITIONS = kernels.public(reference)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])


def on_the_double(kernel):
    """The kernel as a function of NumPy's arrays."""

    def call(_, *args):
        there = [double._wrap(a) for a in args]
        returned = kernel(double.xp, *there)
        return double._unwrap(returned)

    return call


@pytest.mark.parametrize("name", sorted(FAST))
@both_dtypes
@given(data=st.data())
@examples(0.3)
def test_kernel_agrees_with_its_definition(emulated, name, dtype, data):
    args = data.draw(CASES[name])
    order = data.draw(st.sampled_from(sorted(emulator.ORDERS)))

    def any_layout(a):
        return lay_out(a, "contiguous" if name in FLAT else data.draw(layouts))

    with mock.patch.object(emulator, "order", order):
        kernel, sums = on_the_double(FAST[name]), SUMS.get(name, ())
        assert_agrees(kernel, DEFINITIONS[name], args, dtype, any_layout, sums)


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(FAST))
@both_dtypes
@given(data=st.data())
@examples(0.3)
def test_kernel_agrees_with_its_definition_on_a_gpu(name, dtype, data):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    args = data.draw(CASES[name])

    def call(_, *host):
        there = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in host]
        returned = FAST[name](cupy, *there)
        for a, b in zip(host, there, strict=True):
            if isinstance(a, np.ndarray):
                a[...] = b.get()
        if isinstance(returned, tuple):
            return tuple(a if a is None else a.get() for a in returned)
        return returned if returned is None else returned.get()

    assert_agrees(call, DEFINITIONS[name], args, dtype, sums=SUMS.get(name, ()))


SHAPES = [  # (shape of x, channels out, large tile, small tile, tile of the kernel's gradient)
    # several tiles in each direction, and ends inside of them
    ((9, 14, 14, 20), 70, "any", "any", "any"),
    ((2, 16, 16, 3), 129, "any", "any", "any"),
    ((2, 16, 16, 20), 132, "128x128", "64x64", "128x128"),
    ((5, 9, 9, 36), 36, "128x64", "64x64", "128x64"),
    ((5, 8, 8, 64), 40, "128x64", "64x64", "128x64"),
    ((70, 16, 16, 8), 8, "128x32", "128x32", "128x32"),
    ((9, 14, 14, 4), 68, "128x128", "64x64", "64x64"),
]


def convolution(shape, o, stride, rng):
    """(x, w, g, stride, pads) of a 3 x 3 convolution, as float32."""
    pads = ((1, 1), (1, 1)) if stride == 1 else ((0, 1), (0, 1))
    x, w = rng.standard_normal(shape), rng.standard_normal((3, 3, shape[3], o))
    out = [(n + sum(p) - 3) // stride + 1 for n, p in zip(shape[1:3], pads, strict=True)]
    g = rng.standard_normal((shape[0], *out, o))
    return *(a.astype(np.float32) for a in (x, w, g)), stride, pads


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("busy", [1, conv.BUSY])  # large tiles, and small ones
@pytest.mark.parametrize(("shape", "o", "large", "small", "tall"), SHAPES)
def test_convolution_over_several_tiles(
    emulated, monkeypatch, shape, o, large, small, tall, busy, stride, precision
):
    """In TF32 with factors rounded to 10 bits: the error of a product is below 2^-10."""
    monkeypatch.setattr(backend, "precision", precision)
    monkeypatch.setattr(conv, "BUSY", busy)
    x, w, g, *rest = convolution(shape, o, stride, np.random.default_rng(0))
    for name, args in {
        "conv2d": (x, w, *rest, w[0, 0, 0]),
        "conv2d_dx": (g, w, x.shape, *rest),
        "conv2d_dw": (x, g, w.shape, *rest),
    }.items():
        exact = DEFINITIONS[name](
            np, *(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args)
        )
        emulator.launches.clear()
        got = on_the_double(FAST[name])(np, *args)
        tile = {"conv2d": large if busy == 1 else small, "conv2d_dw": tall}.get(name)
        assert tile is None or emulator.launches[0][0].endswith(f"_{tile}")
        assert got.dtype == np.float32
        error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
        low, high = (0, 5e-6) if precision == "float32" else (1e-5, 1e-3)
        assert low <= error <= high, f"{name}: {error:.2g}"


def test_arrays_of_several_types_are_one_to_a_kernel(emulated):
    """A kernel would read float32 numbers as half as many of float64, and beyond their end."""
    rng = np.random.default_rng(0)
    x, w, g, *rest = convolution((2, 5, 5, 4), 8, 1, rng)
    gamma, beta = rng.standard_normal((2, 4))
    for name, args in {
        "conv2d": (x.astype(np.float64), w, *rest, w[0, 0, 0]),
        "conv2d_dw": (x, g.astype(np.float64), w.shape, *rest),
        "group_norm_silu": (x, gamma, beta.astype(np.float32), None, 2, 1e-5),
        "silu_grad": (x, x.astype(np.float64), x),
    }.items():
        got, expected = on_the_double(FAST[name])(np, *args), DEFINITIONS[name](np, *args)
        if isinstance(got, tuple):
            got, expected = got[0], expected[0]
        assert got.dtype == expected.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="float32 or float64, got float16"):
        on_the_double(FAST["silu"])(np, x.astype(np.float16))


def test_the_gradient_of_a_kernel_by_no_image_is_zero(emulated):
    x, w, g, *rest = convolution((0, 5, 5, 4), 8, 1, np.random.default_rng(0))
    dw = on_the_double(FAST["conv2d_dw"])(np, x, g, w.shape, *rest)
    np.testing.assert_array_equal(dw, np.zeros_like(w))
    assert on_the_double(FAST["conv2d"])(np, x, w, *rest).shape == g.shape
    assert on_the_double(FAST["conv2d_dx"])(np, g, w, x.shape, *rest).shape == x.shape


@pytest.mark.parametrize("keys", [33, 300])  # one warp to a row, and two
def test_softmax_of_several_numbers_to_a_thread(emulated, keys):
    q, k, v = (np.random.default_rng(0).standard_normal((1, 2, n, 8)) for n in (5, keys, keys))
    out, p = on_the_double(FAST["attention"])(np, q, k, v, None)
    expected = DEFINITIONS["attention"](np, q, k, v, None)
    np.testing.assert_allclose(out, expected[0], atol=1e-13)
    np.testing.assert_allclose(p, expected[1], atol=1e-13)
    threads = next(block for name, _, block in reversed(emulator.launches) if name == "softmax")
    assert threads == ((32,) if keys == 33 else (64,))


def test_a_row_times_a_matrix_is_computed_as_a_column(emulated):
    a, b = np.random.default_rng(0).standard_normal((2, 300, 40))
    emulator.launches.clear()
    got = on_the_double(FAST["matmul"])(np, a[:, :1].T.copy(), b)
    np.testing.assert_allclose(got, a[:, :1].T @ b, rtol=1e-12)
    assert emulator.launches[0][1][1:] == (1, 1)  # one tile holds all 40 columns
