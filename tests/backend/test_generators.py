"""Randomness is a pure function of (seed, step, rank)."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import backend
from minidiff.errors import InputError

GENERATORS = {"device": backend.generator, "host": backend.host_generator}
either = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
keys = st.tuples(st.integers(0, 2**70), st.integers(0, 2**31), st.integers(0, 1000))


def first(generator, n=4):
    return backend.to_numpy(generator.standard_normal((n,), dtype=np.float64))


@either
def test_same_arguments_same_draws(device, make):
    np.testing.assert_array_equal(first(make(3, 5, 2)), first(make(3, 5, 2)))
    np.testing.assert_array_equal(first(make(3)), first(make(3, 0, 0)))
    np.testing.assert_array_equal(first(make(3)), first(make(3, step=0, rank=0)))


@either
def test_making_one_does_not_disturb_another(make):
    state = np.random.get_state()[1].copy()
    alone = first(make(1), 8)
    generator = make(1)
    half = first(generator)
    first(make(1))
    np.testing.assert_array_equal(np.concatenate([half, first(generator)]), alone)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_seeds_steps_ranks_and_streams_differ(device):
    near = itertools.product([0, 1, 2, 2**32], [0, 1, 2, 1000], [0, 1, 2])
    draws = [tuple(first(make(*key))) for key in near for make in GENERATORS.values()]
    assert len(set(draws)) == len(draws) == 96


@given(keys, keys)
def test_different_arguments_different_draws(a, b):
    for make in GENERATORS.values():
        assert np.array_equal(first(make(*a)), first(make(*b))) == (a == b)
    assert not np.array_equal(first(backend.generator(*a)), first(backend.host_generator(*b)))


def test_streams_are_not_correlated():
    n = 100_000
    draws = [
        first(make(0, step, rank), n)
        for make in GENERATORS.values()
        for step in (0, 1)
        for rank in (0, 1)
    ]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


@either
@pytest.mark.parametrize("key", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_arguments_are_refused(make, key):
    with pytest.raises(InputError, match=">= 0"):
        make(*key)


def test_the_host_generator_is_numpys_on_every_backend(device):
    generator = backend.host_generator(7, 3)
    assert isinstance(generator, np.random.Generator)
    draws = generator.integers(0, 1000, 5)
    assert type(draws) is np.ndarray
    # the same on every machine and backend: the batches of a run do not depend on either
    np.testing.assert_array_equal(draws, np.random.default_rng([7, 3, 0, 1]).integers(0, 1000, 5))


def test_draws_on_the_device_have_the_asked_shape_and_dtype(device):
    generator = backend.generator(0)
    for draw in (generator.standard_normal, generator.random):
        for dtype in (np.float32, np.float64):
            x = draw((2, 3), dtype=dtype)
            assert isinstance(x, device.ndarray)
            assert (x.shape, x.dtype) == ((2, 3), dtype)
    u = backend.to_numpy(generator.random((1000,), dtype=np.float32))
    assert 0 <= u.min() < 0.1 < 0.9 < u.max() < 1
