"""The generator of the device, by its definition: its words are the published ones."""

import numpy as np
import pytest
from scipy import stats

from minidiff import backend, ops
from minidiff.backend import kernels
from minidiff.backend.kernels import reference
from tests import double

# Random123's known answers for philox4x32 with 10 rounds: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip
N = 200_000
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])


def words(text, dtype=np.uint32):
    return np.array([int(word, 16) for word in text.split()], dtype)


def philox(*seeds):
    return backend.Philox(backend.asarray(backend.key(*seeds)))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    of_counter = tuple(words(counter, np.uint64)[:, None])
    got = reference._philox(np, words(key), of_counter)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, [words(expected)])


def test_counters_are_the_place_and_the_number_of_the_draw():
    """Each word of the counter has its part; two words of it make a number in float64."""
    key, k = words("3 5"), 3
    i, zero = np.arange(4, dtype=np.uint64), np.zeros(4, np.uint64)
    expected = reference._philox(np, key, (i, zero, zero + k, zero))
    for size, digits, dtype in ((4, 24, np.float32), (8, 53, np.float64)):
        upper = expected.reshape(-1).view(f"u{size}") >> (8 * size - digits)
        got = reference.uniform(np, key, k, upper.shape, dtype)
        np.testing.assert_array_equal(got * 2.0**digits, upper)


@both_dtypes
def test_the_shape_arranges_the_numbers_and_their_count_does_not_change_them(device, dtype):
    def draws(shape, name):
        return backend.to_numpy(getattr(philox(4), name)(shape, dtype=dtype))

    for name in ("random", "standard_normal"):
        all_of_them = draws((1001,), name)
        assert all_of_them.dtype == dtype
        np.testing.assert_array_equal(draws((7, 11, 13), name).reshape(-1), all_of_them)
        for n in (0, 1, 2, 3, 4, 5, 998):
            np.testing.assert_array_equal(draws((n,), name), all_of_them[:n])
        assert draws((), name) == all_of_them[0]


@both_dtypes
def test_uniform_numbers_are_uniform_on_0_1(dtype):
    u = philox(1).random((N,), dtype)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    top = reference._below_one(np, np.array([-1]).astype(f"u{u.itemsize}"))
    assert top < 1 and np.nextafter(top, dtype(2)) == 1  # the largest number below 1 can come


@both_dtypes
def test_normal_numbers_are_normal(dtype):
    z = philox(2).standard_normal((N,), dtype)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z.astype(float) ** moment).mean() - expected) < 4 * np.sqrt(variance / N)
    # the two numbers of a pair: their directions are uniform, and do not depend on the radius
    a, b = z.reshape(-1, 2).T.astype(float)
    assert stats.kstest(np.arctan2(a, b) / np.pi, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(a * a, b * b)[0, 1]) < 5 / np.sqrt(N / 2)


def test_the_tails_are_those_of_the_normal_distribution(monkeypatch):
    """As far out as the bits reach: 2 ln 2^32 is 6.66^2, and a radius of 0 is no infinity."""
    for dtype, bits in ((np.float32, 32), (np.float64, 64)):
        ends = np.array([0, 0, -1, 0]).astype(f"u{bits // 8}")  # u = 2^-bits, and u = 1
        monkeypatch.setattr(reference, "_bits", lambda *_, ends=ends: ends)
        z = reference.normal(np, None, 0, (4,), dtype)
        np.testing.assert_allclose(z, [np.sqrt(2 * bits * np.log(2)), 0, 0, 0], rtol=1e-6)


def test_many_far_numbers_come_as_often_as_they_should():
    z = np.abs(philox(3).standard_normal((4_000_000,), np.float32))
    for far in (3.5, 4.0, 4.5, 5.0):
        expected = z.size * 2 * stats.norm.sf(far)
        assert abs((z > far).sum() - expected) < 4 * np.sqrt(expected) + 1


def test_draws_steps_ranks_and_seeds_are_not_correlated():
    generators = [philox(s, t, r) for s in (0, 1, 2**40) for t in (0, 1) for r in (0, 1)]
    draws = [g.standard_normal((20_000,)) for _ in range(3) for g in generators]
    draws += [g.random((20_000,)) for g in generators]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    neighbours = np.concatenate([np.corrcoef(d[:-lag], d[lag:])[0, 1:] for d in draws
                                 for lag in (1, 2, 3, 4, 8, 1024)])  # fmt: skip
    assert np.abs(neighbours).max() < 5 / np.sqrt(18_000)


def test_a_key_is_a_pure_function_of_seed_step_and_rank():
    keys = {
        tuple(backend.key(*near))
        for near in np.ndindex(20, 20, 20)
    } | {tuple(backend.key(2**bit)) for bit in range(5, 128)}  # fmt: skip
    assert len(keys) == 20**3 + 123  # a word of the seed beyond the first counts
    first = backend.key(1, 2, 3)
    assert (first.shape, first.dtype) == ((2,), np.uint32)
    np.testing.assert_array_equal(first, backend.key(1, 2, 3))


def test_the_generator_of_a_device_draws_from_its_key(monkeypatch):
    monkeypatch.setattr(backend, "xp", double.xp)
    key = backend.key(5, 6, 7)
    with double.forbid("synchronization"):
        generator, own = backend.generator(5, 6, 7), backend.Philox(double.xp.asarray(key))
        got = [g.standard_normal((3,), np.float32) for g in (generator, own) for _ in range(2)]
    first, second = (reference.normal(np, key, draw, (3,), np.float32) for draw in range(2))
    for numbers, expected in zip(got, [first, second] * 2, strict=True):
        np.testing.assert_array_equal(numbers.get(), expected)
    assert not np.intersect1d(first, second).size


def test_dropout_draws_from_it(device):
    x = backend.asarray(np.ones((400, 50), np.float32))
    first, second = (
        backend.to_numpy(ops.dropout(x, p=0.25, rng=rng).data) for rng in [philox(1)] * 2
    )
    assert first.dtype == np.float32
    np.testing.assert_allclose(np.unique(first), [0, 4 / 3], rtol=1e-6)
    for kept, share in ((first, 0.75), (second, 0.75), (first * second, 0.75**2)):
        assert abs((kept > 0).mean() - share) < 4 * np.sqrt(share * (1 - share) / first.size)


def test_numpy_keeps_its_own_generator():
    """The checksums of the demo depend on its bits."""
    got = backend.generator(3, 4, 5).standard_normal(4, dtype=np.float32)
    expected = np.random.default_rng([3, 4, 5, 0]).standard_normal(4, dtype=np.float32)
    np.testing.assert_array_equal(got, expected)


def test_definitions_are_what_numpy_runs():
    assert kernels.of(np).normal is reference.normal
