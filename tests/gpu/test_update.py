"""The kernel that follows the gradient: its numbers may come from memory, its vectors are long."""

import numpy as np
import pytest

from minidiff.backend.kernels import cupy as fast
from minidiff.backend.kernels import reference
from tests import double
from tests.gpu import emulator

OPTIONS = (0.9, 0.999, 1e-8, 0.01)  # beta1, beta2, eps, weight_decay
CLOCK = (3.0, 1e-2, 0.9)


def vectors(n, dtype=np.float32):
    """p, g, m, v and the average."""
    rng = np.random.default_rng(0)
    return [*rng.standard_normal((3, n)).astype(dtype), *rng.random((2, n)).astype(dtype)]


def updated(arrays, clock, max_norm):
    """The norm, and the vectors after the update."""
    there = [double.xp.asarray(a) for a in arrays]
    with double.forbid("synchronization"):
        norm = fast.update(double.xp, *there, clock, max_norm, *OPTIONS)
    return [norm.get(), *(a.get() for a in there)]


def test_numbers_of_the_step_are_read_from_memory(emulated):
    """What a graph does again is another step when the clock in its memory has gone on."""
    clock = double.xp.asarray((1.0, 0.5, 0.0))
    updated(vectors(9), clock, 1.0)
    clock[...] = double.xp.asarray(CLOCK)
    for got, expected in zip(
        updated(vectors(9), clock, 1.0), updated(vectors(9), CLOCK, 1.0), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("max_norm", [1.0, np.inf, np.nan])
def test_many_blocks_go_round_several_times(emulated, monkeypatch, max_norm):
    """More numbers than the threads of all blocks take at once; a limit that is no number is one
    that no norm keeps.
    """
    monkeypatch.setattr("minidiff.backend.kernels.cupy.optimizer.PARTS", 3)
    emulator.launches.clear()
    arrays = vectors(3 * 3 * 1024 + 5)
    got = updated(arrays, CLOCK, max_norm)
    assert [grid for _, grid, _ in emulator.launches] == [(3,), (3,)]
    exact = [a.astype(np.float64) for a in arrays]
    exact.insert(0, reference.update(np, *exact, CLOCK, max_norm, *OPTIONS))
    for a, b in zip(got, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm_and_in_the_weights(emulated, bad):
    arrays = vectors(40)
    arrays[1][7] = bad
    norm, p, *_ = updated(arrays, CLOCK, 1.0)
    assert not np.isfinite(norm) and np.isnan(p[7])
