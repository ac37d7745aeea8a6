"""The memory that kernels keep: aligned, one for each name and thread."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from minidiff.backend.kernels.numpy import conv, memory


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1000,)])
def test_shape_dtype_and_alignment(shape, dtype):
    a = memory.scratch("test", shape, dtype)
    assert a.shape == shape and a.dtype == dtype
    assert a.ctypes.data % 64 == 0 or not a.size


def test_the_same_memory_for_a_name_until_more_is_asked_for():
    def address(name, n):
        return memory.scratch(name, (n,), np.float32).ctypes.data

    first = address("one", 1000)
    assert address("one", 10) == first == address("one", 1000)
    assert address("another", 10) != first
    grown = address("one", 5000)
    assert grown == address("one", 1000)


def test_each_thread_has_its_own():
    barrier = Barrier(2)

    def work(seed):
        """Convolutions while the other thread convolves too."""
        rng = np.random.default_rng(seed)
        x, w = (rng.standard_normal(s, dtype=np.float32) for s in ((4, 16, 16, 16), (3, 3, 16, 16)))
        args = np, x, w, 1, ((1, 1), (1, 1))
        alone = conv.conv2d(*args)
        barrier.wait()
        together = [conv.conv2d(*args) for _ in range(20)]
        return memory.scratch("tiles", (1,), np.uint8).ctypes.data, alone, together

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(work, range(2)))
    assert done[0][0] != done[1][0]
    for _, alone, together in done:
        assert all(np.array_equal(y, alone) for y in together)


def test_blocks_cover_everything_once():
    for n, each, room in [(10, 100, 350), (10, 100, 1), (7, 1, None), (0, 5, None), (3, 0, 10)]:
        blocks = memory.blocks(n, each, room)
        assert [i for b in blocks for i in range(n)[b]] == list(range(n))
        assert all((b.stop - b.start) * each <= max(room or memory.SCRATCH, each) for b in blocks)
