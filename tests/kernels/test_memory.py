"""The memory that kernels work in: kept, each thread its own, and not growing."""

import gc
import platform
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend.kernels.numpy import conv, memory
from minidiff.data import load
from minidiff.optim import EMA, Adam, clip_grad_norm
from minidiff.training import Trainer
from minidiff.unet import UNet, UNetConfig
from tests.training.tiny import tiny_without_file


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1000,)])
def test_scratch_has_any_shape_and_dtype_and_is_aligned(shape, dtype):
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


def test_each_thread_has_its_own_scratch():
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


def test_memory_does_not_grow_over_many_steps():
    config = UNetConfig(8, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4)
    model = UNet(config, rng=np.random.default_rng(0)).train()
    flat = model.flatten()
    adam, ema = Adam(flat), EMA(flat)
    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((4, 8, 8, 1), dtype=np.float32), np.array([1, 5, 50, 500])

    def steps(n):
        for _ in range(n):
            model.zero_grad()
            ops.mse(model(x, t), x).backward()
            clip_grad_norm(flat, 1.0)
            adam.step()
            ema.update()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = steps(5)
        grown = steps(30) - before
        assert grown < 30 * 1000  # one activation of this network that is kept has 8 or 16 kB
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux alone tells it there")
def test_memory_of_the_process_does_not_grow_over_a_thousand_steps_of_a_trainer():
    trainer = Trainer(tiny_without_file(), load("digits"))

    def resident_after(steps):
        for _ in range(steps):
            trainer.train_step()
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    warm = resident_after(100)
    grown = resident_after(900) - warm
    assert grown < 900 * 2048  # one activation of this network that is kept has 8 kB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc alone is set up")
@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_MMAP_MAX_": "9"}, False)])
def test_freed_memory_is_kept_unless_the_user_says_how(variables, kept):
    """A freed array of 100 MB leaves the resident memory of the process where it was."""
    program = (
        "import numpy as np\n"
        "from minidiff.backend.kernels import numpy\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before = resident()\n"
        "a = np.ones(100_000_000, np.uint8)\n"
        "del a\n"
        "print(resident() - before > 50_000_000)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == str(kept)
