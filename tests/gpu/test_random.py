"""The kernels that draw: the integers of the definition exactly, from any grid."""

import numpy as np
import pytest

from minidiff.backend.kernels import cupy as fast
from minidiff.backend.kernels import reference
from minidiff.backend.kernels.cupy import random
from tests import double
from tests.gpu import emulator

KEY = np.array([0xA4093822, 0x299F31D0], np.uint32)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])


def draw(name, shape, dtype, key=KEY, number=3):
    with double.forbid("synchronization"):
        numbers = getattr(fast, name)(double.xp, double.xp.asarray(key), number, shape, dtype)
    return numbers.get()


@both_dtypes
@pytest.mark.parametrize("shape", [(0,), (), (1,), (2,), (3,), (5,), (3, 7, 11), (4096,)])
def test_numbers_are_those_of_the_definition(emulated, shape, dtype):
    """Uniform ones to the last bit: they are integers, scaled."""
    u, z = draw("uniform", shape, dtype), draw("normal", shape, dtype)
    assert (u.shape, u.dtype, z.shape, z.dtype) == (shape, dtype) * 2
    np.testing.assert_array_equal(u, reference.uniform(np, KEY, 3, shape, dtype))
    expected = reference.normal(np, KEY, 3, shape, dtype)
    np.testing.assert_allclose(z, expected, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_known_answer(emulated):
    """Random123's for a key and a counter of zeros, as far as the digits of float64 go."""
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint32)
    got = draw("uniform", (2,), np.float64, np.zeros(2, np.uint32), 0)
    np.testing.assert_array_equal(got * 2.0**53, words.view(np.uint64) >> 11)


@both_dtypes
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_the_grid_makes_no_difference(emulated, monkeypatch, name, dtype):
    whole = draw(name, (5003,), dtype)
    emulator.launches.clear()
    for blocks in (1, 3, 40):
        monkeypatch.setattr(random, "blocks", lambda n, each, blocks=blocks: blocks)
        np.testing.assert_array_equal(draw(name, (5003,), dtype), whole)
    assert [grid for _, grid, _ in emulator.launches] == [(1,), (3,), (40,)]


def test_the_key_is_read_from_memory(emulated):
    """What a captured graph launches again draws anew when the array of the key is replaced."""
    key = double.xp.asarray(KEY)
    first = fast.normal(double.xp, key, 0, (8,), np.float32).get()
    key[...] = double.xp.asarray(KEY + 1)
    second = fast.normal(double.xp, key, 0, (8,), np.float32).get()
    assert not np.intersect1d(first, second).size
    np.testing.assert_array_equal(second, draw("normal", (8,), np.float32, KEY + 1, 0))
