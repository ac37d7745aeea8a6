"""Batches are a pure function of (seed, step), and see every image equally often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import backend
from minidiff.data import batch_indices
from minidiff.errors import InputError

SIZES = st.integers(1, 40)


@given(n=SIZES, batch_size=SIZES, seed=st.integers(0, 2**40), first=st.integers(1, 50))
def test_a_step_does_not_depend_on_the_steps_before(n, batch_size, seed, first):
    steps = range(first, first + 4)
    forwards = [batch_indices(n, batch_size, seed=seed, step=k) for k in steps]
    backwards = [batch_indices(n, batch_size, seed=seed, step=k) for k in reversed(steps)]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert forwards[0].shape == (batch_size,) and forwards[0].dtype == np.int64


@given(n=SIZES, batch_size=SIZES, seed=st.integers(0, 1000))
def test_each_epoch_is_a_permutation(n, batch_size, seed):
    steps = -(-3 * n // batch_size)
    rows = np.concatenate(
        [batch_indices(n, batch_size, seed=seed, step=k) for k in range(1, steps + 1)]
    )
    for epoch in rows[: 3 * n].reshape(3, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_epochs_and_seeds_differ():
    def epoch(seed, k):
        return batch_indices(100, 100, seed=seed, step=k).tolist()

    assert len({tuple(epoch(seed, k)) for seed in (0, 1) for k in (1, 2)}) == 4


def test_the_order_is_another_stream_than_the_step_s_own_draws():
    rows = batch_indices(50, 50, seed=3, step=1)
    assert rows.tolist() != backend.host_generator(3, 0).permutation(50).tolist()


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"batch_size": 0}, {"step": 0}, {"step": -1}, {"seed": -1}]
)
def test_bad_arguments(bad):
    arguments = {"n": 10, "batch_size": 2, "seed": 0, "step": 1} | bad
    with pytest.raises(InputError):
        batch_indices(**arguments)
