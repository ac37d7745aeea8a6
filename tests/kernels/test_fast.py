"""Every fast kernel is its definition, to rounding, whatever the sizes and the layout of memory."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.backend import kernels
from minidiff.backend.kernels import numpy as fast
from minidiff.backend.kernels import reference
from minidiff.backend.kernels.numpy import memory
from tests.kernels.agreement import assert_agrees
from tests.kernels.cases import CASES, FLAT, SUMS, fused_normalizations
from tests.strategies import examples, lay_out, layouts

FAST = kernels.public(fast)
DEFINITIONS = kernels.public(reference)
KERNELS = DEFINITIONS | FAST
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])


def test_every_kernel_has_a_definition_and_cases():
    assert set(CASES) == set(DEFINITIONS)
    assert FAST.keys() <= DEFINITIONS.keys()
    assert FAST  # or else this file tests nothing


def silu_gradient_after_its_forward(table):
    """The fast gradient divides y by u: it wants the y of the fast forward pass, to the bit."""

    def kernel(xp, x, gamma, beta, shift, g, groups, eps):
        y, m, r = table["group_norm_silu"](xp, x, gamma, beta, shift, groups, eps)
        return table["group_norm_silu_grad"](xp, g, x, y, m, r, gamma, beta, shift)

    return kernel


PIECES = {
    name: (FAST[name], DEFINITIONS[name], CASES[name], FLAT & {name})
    for name in sorted(FAST.keys() - {"group_norm_silu_grad"})
}
PIECES["group_norm_silu_grad"] = (
    silu_gradient_after_its_forward(FAST),
    silu_gradient_after_its_forward(DEFINITIONS),
    fused_normalizations(),
    set(),
)


@pytest.mark.parametrize("name", PIECES)
@both_dtypes
@given(data=st.data())
@examples(0.6)
def test_fast_kernel_agrees_with_its_definition(name, dtype, data):
    fast, definition, cases, flat = PIECES[name]
    args = data.draw(cases)
    scratch = data.draw(
        st.sampled_from([300, 20_000, memory.SCRATCH])
    )  # one image a block, some, all

    def any_layout(a):
        return lay_out(a, "contiguous" if flat else data.draw(layouts))

    poison_scratch()
    with mock.patch.object(memory, "SCRATCH", scratch):
        assert_agrees(fast, definition, args, dtype, any_layout, SUMS.get(name, ()))


def poison_scratch():
    """What a kernel left in its scratch must not matter to the next: it is NaN here."""
    for buffer in vars(memory._arena).values():
        buffer.fill(255)  # each float of these bytes is NaN


@pytest.mark.parametrize("shape", [(5, 28, 28, 32), (2, 40, 40, 64), (70, 4, 4, 8), (3, 32)])
@pytest.mark.parametrize("per_sample", [True, False])
def test_group_norm_and_silu_over_several_blocks(shape, per_sample):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, *shape))
    size = (3, shape[0], shape[-1]) if per_sample else (3, shape[-1])
    gamma, beta, shift = rng.standard_normal(size)
    for dtype in (np.float32, np.float64):
        assert_agrees(
            PIECES["group_norm_silu_grad"][0],
            PIECES["group_norm_silu_grad"][1],
            (x, gamma, beta, shift, g, 4, 1e-5),
            dtype,
            sums=SUMS["group_norm_silu_grad"],
        )


def test_group_norm_and_silu_where_it_is_zero_and_where_it_overflows():
    """At u = 0, y / u is 0 / 0; at u = -200, e^-u is infinite."""
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 4)).astype(np.float32)
    zero = np.zeros(4, np.float32)
    for beta, slope in ((zero, 0.5), (zero - 200, 0.0), (zero + 200, 1.0)):
        y, m, r = fast.group_norm_silu(np, x, zero, beta, None, 2, 1e-5)
        np.testing.assert_array_equal(y, beta * (beta > 0) + 0 * x)
        dbeta = fast.group_norm_silu_grad(np, x, x, y, m, r, zero, beta, None)[2]
        np.testing.assert_allclose(dbeta, slope * x.sum(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)


@both_dtypes
@pytest.mark.parametrize(
    ("u", "slope"),
    # numbers so small that y = u / 2 keeps few bits, and some next to which 1 is lost
    [("smallest", 0.5), ("tiny", 0.5), (-1e-30, 0.5), (1e9, 1.0), (1e30, 1.0), (-1e30, 0.0)],
)
def test_slope_of_silu_after_group_norm_at_extremes(u, slope, dtype):
    info = np.finfo(dtype)
    u = {"smallest": 3 * info.smallest_subnormal, "tiny": info.tiny / 3}.get(u, u)
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(dtype)
    zero, beta = np.zeros(4, dtype), np.full(4, u, dtype)
    y, m, r = fast.group_norm_silu(np, x, zero, beta, None, 2, 1e-5)
    g = np.ones_like(x)
    dbeta = fast.group_norm_silu_grad(np, g, x, y, m, r, zero, beta, None)[2]
    np.testing.assert_allclose(dbeta, 16 * slope, rtol=1e-6)


@both_dtypes
@pytest.mark.parametrize("padding", [0, 1])
def test_an_axis_of_length_1_may_have_any_stride(padding, dtype):
    """Gray images made by images[..., None] have the stride 0 there, and count as contiguous."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 5)), rng.standard_normal((3, 3, 1, 4))
    pads = ((padding, padding), (padding, padding))
    g = rng.standard_normal((2, 4 + 2 * padding, 3 + 2 * padding, 4))

    def new_axis(a):
        return a[..., 0].copy()[..., None] if a.shape[-1] == 1 else a.copy()

    assert new_axis(x[..., None]).strides[-1] == 0
    for name, args in (
        ("conv2d", (x[..., None], w, 1, pads)),
        ("conv2d_dx", (g, w, (2, 6, 5, 1), 1, pads)),
        ("conv2d_dw", (x[..., None], g, w.shape, 1, pads)),
        ("silu", (x[..., None],)),
        ("group_norm", (x[..., None], w[0, 0, :, 0], w[0, 1, :, 0], 1, 1e-5)),
    ):
        assert_agrees(KERNELS[name], DEFINITIONS[name], args, dtype, new_axis)


@both_dtypes
@pytest.mark.parametrize("mean", [0, 100, 10_000])
@pytest.mark.parametrize(("shape", "groups"), [((2, 28, 28, 32), 8), ((3, 7, 7, 64), 32)])
def test_group_norm_in_float32_with_a_large_mean(mean, shape, groups, dtype):
    """The error is that of the input's own rounding: some 1e-7 of the mean, in deviations."""
    x = (np.random.default_rng(0).standard_normal(shape) + mean).astype(np.float32)
    one = np.ones(shape[-1], dtype)
    exact = reference.group_norm(np, x.astype(np.float64), one, 0 * one, groups, 1e-5)[0]
    y = KERNELS["group_norm"](np, x.astype(dtype), one, 0 * one, groups, 1e-5)[0]
    assert np.abs(y - exact).max() <= (2e-6 + 5e-7 * mean) * (1 if dtype is np.float32 else 1e-6)


@both_dtypes
@pytest.mark.parametrize("shape", [(1, 28, 28, 16), (7, 28, 28, 16), (2, 64, 64, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_over_several_blocks(shape, stride, dtype):
    rng = np.random.default_rng(0)
    pads = ((1, 1), (1, 1)) if stride == 1 else ((0, 1), (0, 1))
    x, w = rng.standard_normal(shape), rng.standard_normal((3, 3, shape[3], 24))
    g = rng.standard_normal(reference.conv2d(np, x, w, stride, pads).shape)
    options = stride, pads
    for name, args in (
        ("conv2d", (x, w, *options)),
        ("conv2d_dx", (g, w, x.shape, *options)),
        ("conv2d_dw", (x, g, w.shape, *options)),
    ):
        assert_agrees(KERNELS[name], DEFINITIONS[name], args, dtype)


@both_dtypes
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("channels", [(4, 6), (16, 1), (1, 16)])
@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 1, 1), (2, 0, 5), (2, 5, 0)])
def test_convolution_of_no_image_of_one_pixel_and_of_padding(shape, channels, size, dtype):
    rng, (c, o), pads = np.random.default_rng(0), channels, ((size // 2, size // 2),) * 2
    x, w, b = (rng.standard_normal(s) for s in ((*shape, c), (size, size, c, o), o))
    if 0 in shape[1:]:
        pads = ((size - 1, 1),) * 2  # 1 or more places, all of whose windows see nothing but zeros
    g = rng.standard_normal(reference.conv2d(np, x, w, 1, pads).shape)
    for name, args in (
        ("conv2d", (x, w, 1, pads, b)),
        ("conv2d_dx", (g, w, x.shape, 1, pads)),
        ("conv2d_dw", (x, g, w.shape, 1, pads)),
    ):
        assert_agrees(KERNELS[name], DEFINITIONS[name], args, dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.float16])
def test_convolution_of_other_numbers_loses_no_more_than_its_definition(dtype):
    """Of integers it is exact, and float16 holds these sums of small integers."""
    rng, pads = np.random.default_rng(0), ((1, 1), (1, 1))
    x, g = rng.integers(-1, 2, (2, 8, 8, 8, 64)).astype(dtype)
    w = rng.integers(-1, 2, (3, 3, 64, 64)).astype(dtype)
    for name, args in (
        ("conv2d", (x, w, 1, pads)),
        ("conv2d_dx", (g, w, x.shape, 1, pads)),
        ("conv2d_dw", (x, g, w.shape, 1, pads)),
    ):
        np.testing.assert_array_equal(KERNELS[name](np, *args), DEFINITIONS[name](np, *args))


@both_dtypes
@pytest.mark.parametrize("n", [100_000, 1_000_003])
def test_silu_over_several_blocks(n, dtype):
    x, g = np.random.default_rng(0).standard_normal((2, n)) * 3
    assert_agrees(KERNELS["silu"], reference.silu, (x,), dtype)
    args = g, *reference.silu(np, x)
    assert_agrees(KERNELS["silu_grad"], reference.silu_grad, args, dtype)


@both_dtypes
@pytest.mark.parametrize("n", [100_000, 1_000_003])
def test_adam_over_several_blocks(n, dtype):
    rng = np.random.default_rng(0)
    p, g, m = rng.standard_normal((3, n))
    args = p, g, m, rng.random(n), 3, 1e-3, 0.9, 0.999, 1e-8
    assert_agrees(KERNELS["adam"], reference.adam, args, dtype)


@pytest.mark.parametrize("name", ["conv2d", "conv2d_dx", "conv2d_dw"])
def test_error_of_a_float32_convolution_is_that_of_rounding(name):
    """The norm of the error, relative, for the largest layer of a small model."""
    rng = np.random.default_rng(0)
    x, w, g = (
        rng.standard_normal(s) for s in ((2, 14, 14, 128), (3, 3, 128, 128), (2, 14, 14, 128))
    )
    pads = ((1, 1), (1, 1))
    arrays, shape = {
        "conv2d": ((x, w), ()),
        "conv2d_dx": ((g, w), (x.shape,)),
        "conv2d_dw": ((x, g), (w.shape,)),
    }[name]
    arrays = [a.astype(np.float32) for a in arrays]
    got = KERNELS[name](np, *arrays, *shape, 1, pads)
    exact = DEFINITIONS[name](np, *(a.astype(np.float64) for a in arrays), *shape, 1, pads)
    assert np.linalg.norm(got - exact) <= 5e-6 * np.linalg.norm(exact)


def _forget_the_last_image(f, *args):
    y = f(np, *args)
    y[-1] = 0
    return y


def _write_into_the_input(f, x):
    y, s = f(np, x)
    x *= s
    return y, s


def _without_bias_correction(f, p, g, m, v, step, *options):
    f(np, p, g, m, v, 10**9, *options)


def _eps_inside_the_root(f, p, g, m, v, step, lr, beta1, beta2, eps):
    before = p.copy()
    f(np, p, g, m, v, step, lr, beta1, beta2, eps)
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    p[...] = before - lr * m_hat / np.sqrt(v_hat + eps)


def _moments_not_kept(f, p, g, m, v, *options):
    f(np, p, g, m.copy(), v.copy(), *options)


def _a_sum_that_cancels_off_by_a_percent(f, *args):
    dx, dgamma, dbeta, dshift = f(np, *args)
    return dx, dgamma, dbeta, dshift + np.asarray(0.01, dx.dtype) * np.abs(dx).max()


def _unbiased_variance(f, x, gamma, beta, groups, eps):
    y, m, r = f(np, x, gamma, beta, groups, eps)
    n = x[0].size // groups
    r = r * np.asarray((n - 1) / n, x.dtype) ** 0.5
    return y, m, r


_rng = np.random.default_rng(0)
_x, _w = _rng.standard_normal((2, 6, 5, 4)), _rng.standard_normal((3, 3, 4, 4))
_g, _pads = _rng.standard_normal((2, 6, 5, 4)), ((2, 0), (1, 1))
_norm = (_x, *_rng.standard_normal((3, 4)))
_adam = (*_rng.random((4, 9)), 3, 0.1, 0.9, 0.999, 0.1)

WRONG = {
    "one image forgotten": ("conv2d", _forget_the_last_image, (_x, _w, 1, _pads)),
    "top and bottom exchanged": (
        "conv2d",
        lambda f, x, w, s, pads: f(np, x, w, s, (pads[0][::-1], pads[1])),
        (_x, _w, 1, _pads),
    ),
    "a convolution proper, kernel turned": (
        "conv2d",
        lambda f, x, w, *rest: f(np, x, w[::-1, ::-1], *rest),
        (_x, _w, 1, _pads),
    ),
    "kernel not turned in the gradient": (
        "conv2d_dx",
        lambda f, g, w, *rest: f(np, g, w[::-1, ::-1], *rest),
        (_g, _w, _x.shape, 1, _pads),
    ),
    "float64 inside": ("silu", lambda f, x: f(np, x.astype(np.float64)), (_x,)),
    "float16 inside": (
        "conv2d",
        lambda f, x, *rest: f(np, x.astype(np.float16).astype(x.dtype), *rest),
        (_x, _w, 1, _pads),
    ),
    "input overwritten": ("silu", _write_into_the_input, (_x,)),
    "unbiased variance": (
        "group_norm",
        _unbiased_variance,
        (_x, np.ones(4), np.ones(4), 2, 1e-5),
    ),
    "a sum that cancels, off by a percent": (
        "group_norm_silu_grad",
        _a_sum_that_cancels_off_by_a_percent,
        (_g, _x, *reference.group_norm_silu(np, *_norm, 4, 1e-5), *_norm[1:]),
    ),
    "a result left out": (
        "group_norm",
        lambda f, *args: f(np, *args)[:2],
        (_x, np.ones(4), np.ones(4), 2, 1e-5),
    ),
    "mask ignored": (
        "attention",
        lambda f, q, k, v, mask: f(np, q, k, v, None),
        (_x, _x, _x, _rng.random((5, 5)) < 0.5),
    ),
    "no bias correction": ("adam", _without_bias_correction, _adam),
    "eps inside the root": ("adam", _eps_inside_the_root, _adam),
    "moments not kept": ("adam", _moments_not_kept, _adam),
}  # fmt: skip


@pytest.mark.parametrize("mistake", sorted(WRONG))
def test_wrong_kernel_is_rejected(mistake):
    dtype = np.float32
    name, change, args = WRONG[mistake]
    definition, sums = DEFINITIONS[name], SUMS.get(name, ())
    assert_agrees(definition, definition, args, dtype, sums=sums)
    with pytest.raises(AssertionError):
        assert_agrees(lambda xp, *a: change(definition, *a), definition, args, dtype, sums=sums)
