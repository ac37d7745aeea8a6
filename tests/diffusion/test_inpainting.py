"""Inpainting of Gaussians, where the sampler is affine: mean and covariance without a draw."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import exact, oracle, process, samplers, schedules
from minidiff.diffusion.inpainting import inpaint, walk
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import InputError
from tests.diffusion import test_samplers

SHORT = schedules.linear(50, 1e-3, 0.4)
DATA = Gaussian([0.2, -0.1, 0.4], [[1.0, 0.8, 0.3], [0.8, 1.0, 0.1], [0.3, 0.1, 0.6]])
KNOWN = np.array([1.5, 0.0, -0.5])
MASK = np.array([True, False, True])


def generated(data=DATA, known=KNOWN, mask=MASK, schedule=SHORT, **options):
    """Mean and covariance of what is filled in."""

    def run(x, rng):
        there = np.broadcast_to(known, x.shape).copy()
        states = inpaint(
            data.denoiser(schedule), schedule, x, known=there, mask=mask, rng=rng, **options
        )
        return samplers.final(states)

    return exact.propagate(run, (len(known),))


class Nothing:
    """Draws zeros: what an affine sampler makes of them is the mean of what it generates."""

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)


CONDITIONAL, VARIANCE = exact.condition(DATA.mean, DATA.covariance, [0, 2], KNOWN[[0, 2]])


def error_of_mean(T, **options):
    """How far the mean of what is filled in is from the conditional mean."""
    schedule = SHORT if T == 50 else schedules.linear(T, 0.05 / T, 20 / T)
    states = inpaint(
        DATA.denoiser(schedule), schedule, np.zeros((1, 3)), known=KNOWN[None], mask=MASK,
        rng=Nothing(), steps=None, **options,
    )  # fmt: skip
    return abs(samplers.final(states)[0, 1] - CONDITIONAL[0])


def test_the_conditional_mean_is_approached_as_resampling_grows():
    """What is known is 0.6 away from the mean that one pass gives, 0.03 after 32."""
    off = [error_of_mean(50, jump=1, resamples=r) for r in (1, 2, 4, 8, 16, 32)]
    assert (np.diff(off) < 0).all()
    assert off[0] > 0.4
    assert off[-1] < 0.1 * off[0]
    # What is left is due to the length of the steps.
    assert error_of_mean(200, jump=1, resamples=32) < 0.7 * off[-1]


def test_with_longer_jumps_too():
    off = [error_of_mean(50, jump=5, resamples=r) for r in (1, 2, 4, 8)]
    assert (np.diff(off) < 0).all()
    assert off[-1] < 0.7 * off[0]


def test_zeros_give_the_mean():
    mean = generated(steps=50, jump=1, resamples=2).mean[1]
    assert_allclose(abs(mean - CONDITIONAL[0]), error_of_mean(50, jump=1, resamples=2), rtol=1e-9)


def test_the_variance_of_what_is_filled_in():
    """Without resampling it is too large: the fill is nearly independent of what is known."""
    once, often = (
        generated(steps=50, jump=1, resamples=r, variance="beta").covariance[1, 1] for r in (1, 8)
    )
    assert abs(often - VARIANCE[0, 0]) < 0.6 * abs(once - VARIANCE[0, 0])


@pytest.mark.parametrize("options", [{}, {"resamples": 1}, {"jump": 3, "resamples": 4, "steps": 9}])
def test_known_pixels_come_back_to_the_bit(options):
    data = oracle.template_images()
    rng = np.random.default_rng(0)
    known = data.sample(4, rng=rng).astype(np.float32)
    mask = np.zeros((8, 8, 1), dtype=bool)
    mask[:4] = True
    x_T = rng.standard_normal((4, 8, 8, 1), dtype=np.float32)
    x = samplers.final(
        inpaint(data.denoiser(SHORT), SHORT, x_T, known=known, mask=mask, rng=rng,
                **({"steps": 20} | options))
    )  # fmt: skip
    assert x.dtype == np.float32
    assert_array_equal(x[:, :4], known[:, :4])
    assert (x[:, 4:] != known[:, 4:]).all()


def test_the_rest_of_a_digit_is_filled_in():
    """The whole is near a template, one that has the known upper part (5 and 6 share theirs)."""
    data = oracle.template_images(noise=0.05)
    rng = np.random.default_rng(0)
    labels = np.array([1, 4, 5, 2])
    known = data.sample(4, rng=rng, labels=labels)
    mask = np.zeros((8, 8, 1), dtype=bool)
    mask[:5] = True
    unknown = np.where(mask, known, 7.0)  # what it holds there must not matter
    x = samplers.final(
        inpaint(
            data.denoiser(SHORT), SHORT, rng.standard_normal(known.shape), known=unknown,
            mask=mask, rng=rng, steps=25, jump=5, resamples=5,
        )
    )  # fmt: skip
    pictures = oracle.templates()
    distance = ((x[:, None] - pictures) ** 2).mean((2, 3, 4))
    assert distance.min(1).max() < 0.02
    assert_array_equal(pictures[distance.argmin(1), :5], pictures[labels, :5])


def test_all_known_and_nothing_known():
    x_T = np.random.default_rng(0).standard_normal((4, 3))
    known = np.broadcast_to(KNOWN, x_T.shape).copy()

    def run(mask, **options):
        return samplers.final(
            inpaint(
                DATA.denoiser(SHORT), SHORT, x_T, known=known, mask=np.array(mask),
                rng=np.random.default_rng(0), steps=10, **options,
            )
        )  # fmt: skip

    assert_array_equal(run([True] * 3), known)
    assert_array_equal(run([[True]], resamples=2), known)
    # One plain pass with nothing known is DDPM; each step draws the known part's noise as well.
    ours = generated(mask=np.array([False] * 3), steps=10, resamples=1)

    def ddpm(x, rng):
        return samplers.final(samplers.ddpm(DATA.denoiser(SHORT), SHORT, x, rng=rng, steps=10))

    theirs = exact.propagate(ddpm, (3,))
    assert_allclose(ours.mean, theirs.mean, rtol=1e-10)
    assert_allclose(ours.covariance, theirs.covariance, rtol=1e-9, atol=1e-12)


def test_the_known_part_is_noised_to_the_time_that_the_rest_has():
    """One step by hand: after it, x_s is q_sample(known, s) where known and DDPM's elsewhere."""
    x_T = np.random.default_rng(0).standard_normal((2, 3))
    known = np.broadcast_to(KNOWN, x_T.shape).copy()
    states = list(
        inpaint(
            DATA.denoiser(SHORT), SHORT, x_T, known=known, mask=MASK,
            rng=np.random.default_rng(1), steps=[50, 20, 0], resamples=1,
        )
    )  # fmt: skip
    rng = np.random.default_rng(1)
    plain = list(samplers.ddpm(DATA.denoiser(SHORT), SHORT, x_T, rng=rng, steps=[50, 20, 0]))
    there = process.q_sample(SHORT, known, 20, rng.standard_normal((2, 3)))
    assert_array_equal(states[1].x, np.where(MASK, there, plain[1].x))
    assert [state.t for state in states] == [50, 20, 0]


# --- the walk ---


def test_a_walk():
    assert walk([3, 2, 1, 0], 1, 1) == [3, 2, 1, 0]
    assert walk([3, 2, 1, 0], 1, 2) == [3, 2, 3, 2, 1, 2, 1, 0]
    assert walk([60, 50, 40, 30, 20, 10, 0], 2, 2) == [
        60, 50, 40, 50, 60, 50, 40, 30, 20, 30, 40, 30, 20, 10, 0,
    ]  # fmt: skip
    assert walk([5, 0], 10, 10) == [5, 0]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 6))
def test_walks(steps, jump, resamples):
    times = list(range(steps, -1, -1))
    visits = walk(times, jump, resamples)
    assert (visits[0], visits[-1]) == (steps, 0)
    assert set(np.diff(visits)) <= {-1, 1}
    assert visits.count(0) == 1  # clean data are never noised again
    down = Counter(a for a, b in pairwise(visits) if b < a)
    assert set(down) == set(range(1, steps + 1))
    last = (steps // jump - 1) * jump  # the last place from which it can jump up
    for i in range(1, steps + 1):
        # Each step down from i is taken once, and again for each jump that comes over it.
        over = [j for j in range(jump, last + 1, jump) if j < i <= j + jump]
        assert down[i] == 1 + len(over) * (resamples - 1)


def test_evaluations_and_states():
    denoiser = test_samplers.Counter(DATA.denoiser(SHORT))
    x_T = np.random.default_rng(0).standard_normal((2, 3))
    states = list(
        inpaint(denoiser, SHORT, x_T, known=x_T, mask=MASK, rng=np.random.default_rng(0),
                steps=20, jump=5, resamples=3, labels=None)
    )  # fmt: skip
    assert len(denoiser.calls) == len(states) - 1 == 20 + 2 * 15
    assert states[0].x is x_T
    assert states[-1].x is states[-1].x0
    assert {tuple(cond) for _, _, cond in denoiser.calls} == {("labels",)}


def run(**options):
    x_T = np.zeros((2, 3))
    given = {"known": x_T, "mask": MASK, "rng": np.random.default_rng(0), "steps": 9} | options
    return inpaint(DATA.denoiser(SHORT), SHORT, x_T, **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(rng=None), "pass rng"),
        (lambda: run(known=np.zeros((1, 3))), r"must be like x_T.*\(2, 3\).*\(1, 3\)"),
        (lambda: run(known=np.zeros((2, 3), np.float32)), "must be like x_T, float64.*float32"),
        (lambda: run(mask=MASK.astype(float)), "must be of type bool"),
        (lambda: run(mask=np.array([True, False])), r"broadcasts to \(2, 3\)"),
        (lambda: run(mask=np.ones((1, 2, 3), bool)), r"broadcasts to \(2, 3\)"),
        (lambda: run(jump=0), "jump must be a whole number >= 1"),
        (lambda: run(resamples=2.0), "resamples must be a whole number >= 1"),
        (lambda: run(steps=51), "steps must lie in"),
        (lambda: run(variance="learned"), "unknown variance"),
        (lambda: run(clip=1), "clip must be"),
    ],
)
def test_bad_input_is_refused_at_the_call(call, message):
    with pytest.raises(InputError, match=message):
        call()
