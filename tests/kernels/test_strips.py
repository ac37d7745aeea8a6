"""Images that are too large for the scratch are convolved in strips of rows."""

import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.backend.kernels import reference
from minidiff.backend.kernels.numpy import conv, memory
from tests.kernels.agreement import assert_agrees
from tests.kernels.cases import CASES
from tests.strategies import examples


@pytest.mark.parametrize("kernel", ["conv2d", "conv2d_dx", "conv2d_dw"])
@given(data=st.data())
@examples(0.6)
def test_strips_agree_with_the_definition(kernel, data):
    """From one row at a time to the whole image; rows of padding alone are among them."""
    args, scratch = (
        data.draw(CASES[kernel]),
        data.draw(st.sampled_from([1, 30, 1000, memory.SCRATCH])),
    )
    with mock.patch.object(memory, "SCRATCH", scratch):
        strips = conv._strips((2, 16, 16, 8), (3, 3, 8, 8), 1, ((1, 1), (1, 1)), 4)
        assert (len(strips) > 1) == (scratch <= 1000)
        fast, definition = getattr(conv, kernel), getattr(reference, kernel)
        assert_agrees(fast, definition, args, np.float64, np.copy)


def test_strips_of_no_image():
    x, w, pads = np.zeros((0, 9, 9, 2)), np.ones((3, 3, 2, 4)), ((1, 1), (1, 1))
    with mock.patch.object(memory, "SCRATCH", 1):
        y = conv.conv2d(np, x, w, 1, pads)
        assert y.shape == (0, 9, 9, 4)
        assert conv.conv2d_dx(np, y, w, x.shape, 1, pads).shape == x.shape
        np.testing.assert_array_equal(conv.conv2d_dw(np, x, y, w.shape, 1, pads), 0 * w)


def test_wide_results_are_cut_as_wide_inputs_are():
    """The windows of their gradient are as large."""
    narrow, wide = 2, 512
    options = 1, ((1, 1), (1, 1)), 4
    widening = conv._strips((1, 256, 256, narrow), (3, 3, narrow, wide), *options)
    assert widening == conv._strips((1, 256, 256, wide), (3, 3, wide, narrow), *options)
    assert len(widening) > 1


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (1, 2)])
def test_memory_does_not_grow_with_the_image(size, stride):
    """The windows of all places of this image would take from 34 to 210 MB, and 8 MB x itself."""
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal(s, dtype=np.float32) for s in ((1, 512, 512, 8), (size, size, 8, 8))
    )
    pads = ((size // 2, size // 2),) * 2
    vars(memory._arena).clear()  # what other tests have left
    tracemalloc.start()
    try:
        y = conv.conv2d(np, x, w, stride, pads)
        conv.conv2d_dx(np, y, w, x.shape, stride, pads)
        conv.conv2d_dw(np, x, y, w.shape, stride, pads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        vars(memory._arena).clear()
    assert peak < 2 * conv.STRIP * memory.SCRATCH + 3 * x.nbytes
