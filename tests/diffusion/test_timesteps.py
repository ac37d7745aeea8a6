import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from minidiff.diffusion import timesteps
from minidiff.diffusion.timesteps import resolve, subset
from minidiff.errors import InputError

sizes = st.integers(1, 4000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T)))


@given(sizes, st.sampled_from(list(timesteps.SPACINGS)))
@example((1, 1), "trailing")
@example((1, 1), "leading")
@example((1, 1), "linspace")
@example((3, 2), "trailing")
def test_every_subset(size, spacing):
    T, steps = size
    times = subset(T, steps, spacing)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.int64
    assert (np.diff(times) < 0).all()
    assert times[-1] == 0
    assert times[0] <= T
    if spacing != "leading":
        assert times[0] == T
    if spacing == "trailing":  # all jumps are equal, up to rounding
        assert np.ptp(np.diff(times)) <= 2
    if spacing in ("leading", "linspace") and steps > 1:
        assert times[-2] == 1
    assert_array_equal(subset(T, T, spacing), np.arange(T, -1, -1))


def test_trailing_is_the_default():
    assert_array_equal(subset(1000, 10), subset(1000, 10, "trailing"))


@pytest.mark.parametrize(
    ("spacing", "times"),
    [
        ("trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        ("leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]),
        ("linspace", [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1, 0]),
        ("quadratic", [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]),
    ],
)
def test_published_choices_of_ten(spacing, times):
    """Lin et al. 2024, table 2; the last, squares times 10."""
    assert_array_equal(subset(1000, 10, spacing), times)


@given(sizes)
def test_quadratic_is_squares_where_they_are_apart(size):
    T, steps = size
    i = np.arange(steps, -1, -1)
    squares = np.round(T * (i / steps) ** 2)
    times = subset(T, steps, "quadratic")
    assert_array_equal(times, np.where(squares > i, squares, i))
    # Jumps grow with the time, but for the rounding of both ends.
    assert (np.diff(times, 2)[: steps - 1] >= -1).all()


def test_leading_misses_the_noise_that_it_is_started_from():
    assert subset(1000, 50, "leading")[0] == 981


def test_resolve():
    assert_array_equal(resolve(5, None), [5, 4, 3, 2, 1, 0])
    assert_array_equal(resolve(5, 2, "linspace"), [5, 1, 0])
    assert_array_equal(resolve(5, np.int32(1)), [5, 0])
    assert_array_equal(resolve(5, [4, 2, 0]), [4, 2, 0])
    assert_array_equal(resolve(5, [4, 2, 0], "leading"), [4, 2, 0])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (11, r"steps must lie in 1\.\.10, the steps of the schedule, got 11"),
        (0, "got 0"),
        (-1, "got -1"),
        (2.0, "whole number, got 2.0"),
        (True, "whole number"),
        ("3", "whole number"),
        ([3], "two or more"),
        ([3.0, 0.0], "two or more"),
        ([[3, 0]], "two or more"),
        ([3, 1], "decrease strictly from 10 or below to 0"),
        ([3, 3, 0], "decrease strictly"),
        ([0, 3], "decrease strictly"),
        ([11, 3, 0], "decrease strictly"),
        ([3, -1, 0], "decrease strictly"),
    ],
)
def test_bad_steps_are_refused(steps, message):
    with pytest.raises(InputError, match=message):
        resolve(10, steps)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(InputError, match="unknown spacing 'even'; choose one of trailing, leading"):
        subset(10, 2, "even")
