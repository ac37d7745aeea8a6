"""Winograd's convolution: its matrices in exact arithmetic, its error, its choice, its scratch."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.backend.kernels import reference
from minidiff.backend.kernels.numpy import conv, memory, winograd
from tests.kernels.agreement import assert_agrees
from tests.kernels.cases import Arguments
from tests.strategies import arrays, examples, lay_out, layouts, seeds

PADS = ((1, 1), (1, 1))


@st.composite
def layers(draw):
    """(x, w, g, b, pads) of a 3x3 convolution at stride 1, with pads that the gradient takes."""
    n, c, o = (draw(st.sampled_from(k)) for k in ([1, 2, 3, 7], [1, 2, 5, 16], [1, 3, 4, 16]))
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    sides = [draw(st.integers(max(1, 3 - sum(p)), 14)) for p in pads]
    out = [side + sum(p) - 2 for side, p in zip(sides, pads, strict=True)]
    shapes = (n, *sides, c), (3, 3, c, o), (n, *out, o), (o,)
    return Arguments((*(draw(arrays(shape)) for shape in shapes), pads))


def forward(xp, x, w, b, pads):
    return winograd.conv2d(x, w, pads, b)


def backward_x(xp, g, w, x_shape, pads):
    return winograd.conv2d(g, w, tuple((2 - a, 2 - b) for a, b in pads), turn=True)


def backward_w(xp, x, g, w_shape, pads):
    return winograd.conv2d_dw(x, g, pads)


def cases(x, w, g, b, pads):
    """(fast, definition, arguments) of a convolution and its two gradients."""
    return [
        (
            forward,
            lambda xp, x, w, b, pads: reference.conv2d(xp, x, w, 1, pads, b),
            (x, w, b, pads),
        ),
        (
            forward,
            lambda xp, x, w, b, pads: reference.conv2d(xp, x, w, 1, pads),
            (x, w, None, pads),
        ),
        (
            backward_x,
            lambda xp, g, w, shape, pads: reference.conv2d_dx(xp, g, w, shape, 1, pads),
            (g, w, x.shape, pads),
        ),
        (
            backward_w,
            lambda xp, x, g, shape, pads: reference.conv2d_dw(xp, x, g, shape, 1, pads),
            (x, g, w.shape, pads),
        ),
    ]


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.fractions(-3, 3, max_denominator=5), min_size=7, max_size=7, unique=True),
)
def test_transforms_are_a_convolution_for_any_points(m, r, points):
    """sum_j A^T_ij G_jk B^T_jl = [l = i + k], exactly."""
    assert_filters(*winograd.transforms(points[: m + r - 2], m, r))


def assert_filters(bt, g, at):
    for i, j_of_i in enumerate(at):
        for k in range(len(g[0])):
            for l in range(len(bt)):  # noqa: E741
                total = sum(a * row[k] * c[l] for a, row, c in zip(j_of_i, g, bt, strict=True))
                assert total == (l == i + k)


def test_transforms_in_use_are_exact_in_binary_but_for_the_thirds_of_G():
    bt, g, at = winograd.transforms(winograd.POINTS, winograd.M, winograd.R)
    assert_filters(bt, g, at)
    assert all(
        Fraction(float(np.float32(t))) == t for rows in (bt, at) for row in rows for t in row
    )


def test_textbook_case():
    """F(2, 3) of Lavin & Gray, section 4.1, up to the signs and factors that are free."""
    bt, g, at = winograd.transforms([Fraction(p) for p in (0, 1, -1)], 2, 3)
    assert at == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert [[-t for t in row] for row in bt[:1]] == [[1, 0, -1, 0]]
    assert [[2 * t for t in row] for row in g[1:3]] == [[1, 1, 1], [1, -1, 1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
@given(layer=layers(), data=st.data())
@examples(0.6)
def test_agrees_with_the_definition(dtype, layer, data):
    scratch = data.draw(st.sampled_from([300, 20_000, memory.SCRATCH]))
    with mock.patch.object(memory, "SCRATCH", scratch):
        for fast, definition, args in cases(*layer):
            assert_agrees(fast, definition, args, dtype, lambda a: lay_out(a, data.draw(layouts)))


@given(layers())
@examples(0.4)
def test_gradients_are_adjoints(layer):
    """<conv(x, w), g> = <x, dx(g, w)> = <w, dw(x, g)> for any g."""
    x, w, g, _, pads = layer
    through_y = (forward(np, x, w, None, pads) * g).sum()
    scale = 1e-13 * np.linalg.norm(x) * np.linalg.norm(w) * np.linalg.norm(g)
    assert abs((backward_x(np, g, w, x.shape, pads) * x).sum() - through_y) <= scale
    assert abs((backward_w(np, x, g, w.shape, pads) * w).sum() - through_y) <= scale


@pytest.mark.parametrize(
    "shape", [(4, 28, 28, 32, 32), (4, 14, 14, 128, 64), (2, 16, 16, 256, 256), (2, 8, 8, 512, 256)]
)
def test_error_in_float32(shape):
    """The largest error is at most 5e-6 of the largest number of the result."""
    n, h, width, c, o = shape
    rng = np.random.default_rng(0)
    x, w, g, b = (
        rng.standard_normal(s, dtype=np.float32)
        for s in ((n, h, width, c), (3, 3, c, o), (n, h, width, o), (o,))
    )
    for fast, definition, args in cases(x, w, g, b, PADS):
        exact = definition(
            np, *(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args)
        )
        assert np.abs(fast(np, *args) - exact).max() <= 5e-6 * np.abs(exact).max()


def layer(n, h, c, o, size=3, stride=1, dtype=np.float32):
    """x, w and g of a layer that keeps the size of the images (at stride 1)."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(dtype) for s in ((n, h, h, c), (size, size, c, o)))
    pads = ((size // 2, size // 2),) * 2
    y = reference.conv2d(np, x[:1], w, stride, pads)
    g = rng.standard_normal((n, *y.shape[1:])).astype(dtype)
    return x, w, g, stride, pads


def results(x, w, g, stride, pads):
    return (
        conv.conv2d(np, x, w, stride, pads, w[0, 0, 0]),
        conv.conv2d_dx(np, g, w, x.shape, stride, pads),
        conv.conv2d_dw(np, x, g, w.shape, stride, pads),
    )


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"n": 4, "h": 28, "c": 32, "o": 32}, 3),
        ({"n": 32, "h": 7, "c": 64, "o": 64}, 3),
        ({"n": 1, "h": 32, "c": 128, "o": 128}, 3),
        ({"n": 4, "h": 28, "c": 1, "o": 32}, 0),
        ({"n": 4, "h": 28, "c": 32, "o": 1}, 0),
        ({"n": 1, "h": 4, "c": 64, "o": 64}, 0),  # one tile: the kernel's transform is not repaid
        ({"n": 4, "h": 28, "c": 32, "o": 32, "stride": 2}, 0),
        ({"n": 4, "h": 28, "c": 32, "o": 32, "size": 1}, 0),
        ({"n": 4, "h": 28, "c": 32, "o": 32, "size": 5}, 0),
    ],
)
def test_chosen_by_the_shapes(options, chosen):
    args = layer(**options)
    with (
        mock.patch.object(winograd, "conv2d", wraps=winograd.conv2d) as both,
        mock.patch.object(winograd, "conv2d_dw", wraps=winograd.conv2d_dw) as dw,
    ):
        results(*args)
    assert both.call_count + dw.call_count == chosen


MIXTURE = [
    layer(5, 28, 32, 32),  # Winograd
    layer(3, 16, 64, 48),
    layer(3, 16, 64, 48, dtype=np.float64),
    layer(5, 9, 3, 4),  # gather
    layer(5, 9, 32, 2),  # scatter
    layer(3, 9, 8, 8, stride=2),
    layer(3, 9, 8, 8, size=1),
]


def arena():
    return vars(memory._arena)


def test_nothing_leaks_through_the_scratch():
    """The same bits, whatever the scratch held and whichever layer came before."""
    clean = [results(*args) for args in MIXTURE]
    for order in (range(len(MIXTURE)), reversed(range(len(MIXTURE)))):
        for i in order:
            for buffer in arena().values():
                buffer.fill(0xFF)  # NaN, in either dtype
            for got, expected in zip(results(*MIXTURE[i]), clean[i], strict=True):
                np.testing.assert_array_equal(got, expected)


def test_results_are_no_views_of_the_scratch():
    for args in MIXTURE:
        for got in results(*args):
            assert not any(np.shares_memory(got, buffer) for buffer in arena().values())


@given(seed=seeds, scratch=st.integers(1, 1 << 20))
@examples(0.3)
def test_the_size_of_a_block_changes_the_rounding_alone(seed, scratch):
    args = MIXTURE[seed % len(MIXTURE)]
    whole = results(*args)
    with mock.patch.object(memory, "SCRATCH", scratch):
        blocks = results(*args)
    for got, expected in zip(blocks, whole, strict=True):
        assert np.abs(got - expected).max() <= 5e-6 * np.abs(expected).max()


def test_the_scratch_does_not_grow_over_a_thousand_calls():
    small = [layer(2, 8, 8, 8), layer(1, 8, 16, 16), layer(3, 5, 4, 2), layer(2, 6, 4, 4, stride=2)]
    for args in small:
        results(*args)
    before = {name: buffer.ctypes.data for name, buffer in arena().items()}
    for _ in range(250):
        for args in small:
            results(*args)
    assert before == {name: buffer.ctypes.data for name, buffer in arena().items()}
