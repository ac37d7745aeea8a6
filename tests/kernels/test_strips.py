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
