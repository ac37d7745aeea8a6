"""The memory that kernels work in: kept, each thread its own, and not growing."""

import gc
import platform
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend.kernels.numpy import memory
from minidiff.data import load
from minidiff.optim import EMA, Adam, clip_grad_norm
from minidiff.training import Trainer
from minidiff.unet import UNet, UNetConfig
from tests.training.tiny import tiny_without_file


def test_scratch_is_kept_aligned_and_of_any_shape():
    a = memory.scratch("test", (3, 5), np.float32)
    a[...] = 1
    b = memory.scratch("test", (15,), np.float32)
    assert np.shares_memory(a, b)
    assert b.sum() == 15
    assert b.ctypes.data % 64 == 0
    assert not np.shares_memory(a, memory.scratch("test 2", (3, 5), np.float32))
    larger = memory.scratch("test", (100, 7), np.float64)
    assert (larger.shape, larger.dtype) == ((100, 7), np.float64)


def test_each_thread_has_its_own_scratch():
    mine, others = memory.scratch("test", (8,), np.float32), []
    thread = threading.Thread(
        target=lambda: others.append(memory.scratch("test", (8,), np.float32))
    )
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, others[0])


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
