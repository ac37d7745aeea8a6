import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import schedules
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError
from tests import strategies


@given(strategies.schedules())
@example(schedules.linear(1))
@example(schedules.linear(4000))
@example(schedules.cosine(1))
@example(schedules.cosine(4000))
def test_a_schedule_has_its_invariants(schedule):
    T = schedule.T
    for values in (schedule.beta, schedule.alpha, schedule.abar):
        assert values.shape == (T + 1,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    assert schedule.beta[0] == 0
    assert schedule.abar[0] == 1
    assert (np.diff(schedule.abar) < 0).all()
    assert schedule.abar[-1] > 0
    assert_array_equal(schedule.alpha, 1 - schedule.beta)
    assert_allclose(schedule.abar, np.exp(np.cumsum(np.log1p(-schedule.beta))), rtol=1e-10)


@given(strategies.schedules())
def test_from_abar_undoes_the_product(schedule):
    again = Schedule.from_abar(schedule.abar[1:])
    assert_allclose(again.beta, schedule.beta, rtol=1e-9)
    assert_allclose(again.abar, schedule.abar, rtol=1e-12)


@given(strategies.schedules())
def test_snr(schedule):
    abar = schedule.abar[1:]
    assert schedule.snr[0] == schedule.log_snr[0] == np.inf
    assert_allclose(schedule.snr[1:], abar / (1 - abar))
    assert_allclose(schedule.log_snr[1:], np.log(abar) - np.log1p(-abar), rtol=1e-10, atol=1e-10)
    assert (np.diff(schedule.snr[1:]) < 0).all()


def test_a_schedule_cannot_be_changed():
    betas = np.array([0.1, 0.2])
    schedule = Schedule.from_betas(betas)
    betas[0] = 0.5
    assert schedule.beta[1] == 0.1
    for name in ("beta", "alpha", "abar"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(schedule, name)[1] = 0.3
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(schedule, name, betas)


def test_linear_is_the_schedule_of_ddpm():
    schedule = schedules.linear()
    assert schedule.T == 1000
    assert schedule.beta[1] == 1e-4
    assert schedule.beta[1000] == 0.02
    assert_allclose(np.diff(schedule.beta[1:]), (0.02 - 1e-4) / 999, rtol=1e-10)
    assert_allclose(schedule.abar[1000], 4.0358e-5, rtol=1e-4)


@pytest.mark.parametrize(("T", "abar_T"), [(200, 0.132), (500, 6.35e-3), (2000, 1.63e-9)])
def test_linear_betas_are_not_rescaled(T, abar_T):
    assert_allclose(schedules.linear(T).abar[T], abar_T, rtol=5e-3)


def test_linear_with_ten_times_the_noise():
    abar = schedules.linear(1000, 1e-4, 0.2).abar
    assert_allclose(abar[195], 0.0212, rtol=5e-3)
    assert np.argmax(abar < 0.01) == 214
    assert_allclose(abar[1000], 2.1e-47, rtol=2e-2)


@given(st.integers(10, 4000))
@example(10)
@example(4000)
def test_cosine_clips_exactly_one_beta(T):
    schedule = schedules.cosine(T)
    assert_array_equal(np.flatnonzero(schedule.beta == 0.999), [T])
    # Before the clip it is the formula.
    t = np.arange(T + 1)
    f = np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2
    assert_allclose(schedule.abar[:T], (f / f[0])[:T], rtol=1e-8, atol=1e-14)
    # After it, abar is what the clipped beta gives.
    assert_allclose(schedule.abar[T], schedule.abar[T - 1] * 0.001, rtol=1e-12)


def test_cosine_at_1000():
    schedule = schedules.cosine(1000)
    assert_allclose(schedule.abar[1000], 2.43e-9, rtol=2e-3)
    assert_allclose(schedule.beta[999], 0.75, atol=1e-4)
    assert_allclose(1 / np.sqrt(schedule.alpha[1000]), 31.6, atol=0.05)


def test_cosine_falls_more_steadily_than_linear():
    def bend(schedule):
        return np.abs(np.diff(schedule.abar[100:901], 2)).max()

    assert bend(schedules.cosine()) < bend(schedules.linear())


def test_make_finds_schedules_by_name():
    assert_array_equal(schedules.make("linear", 7).beta, schedules.linear(7).beta)
    assert_array_equal(schedules.make("cosine", 7, s=0.1).beta, schedules.cosine(7, s=0.1).beta)
    assert schedules.make("linear").T == 1000


def test_repr_says_what_matters():
    assert repr(schedules.linear()) == (
        "Schedule(T=1000, beta_1=0.0001, beta_T=0.02, abar_T=4.04e-05)"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.make("sine"), "unknown schedule 'sine'; choose one of linear, cosine"),
        (lambda: schedules.make(["linear"]), "unknown schedule"),
        (lambda: schedules.make("linear", s=1), "no option 's'; its options are T, beta_1, beta_T"),
        (lambda: schedules.linear(0), "got 0"),
        (lambda: schedules.linear(-3), "got -3"),
        (lambda: schedules.cosine(2.5), "got 2.5"),
        (lambda: schedules.cosine(True), "got True"),
        (lambda: schedules.linear(10, 0.1, 1.0), r"beta_10 = 1\.0"),
        (lambda: Schedule.from_betas([0.1, np.nan]), "beta_2 = nan"),
        (lambda: Schedule.from_betas([np.inf]), "beta_1 = inf"),
        (lambda: Schedule.from_betas([0.1, 0.0]), r"beta_2 = 0\.0"),
        (lambda: Schedule.from_betas([-0.1]), r"beta_1 = -0\.1"),
        (lambda: Schedule.from_betas([]), "T >= 1"),
        (lambda: Schedule.from_betas([[0.1]]), "one-dimensional"),
        (lambda: Schedule.from_betas([0.1, 1e-17]), "abar must decrease.*beta_2 = 1e-17"),
        (lambda: Schedule.from_betas([0.9] * 400), "stay positive"),
        (lambda: Schedule(np.array([0.1, 0.2])), "Schedule.from_betas takes"),
        (lambda: Schedule.from_abar([0.5, 0.6]), "beta_2"),
        (lambda: Schedule.from_abar([1.0, 0.6]), r"beta_1 = 0\.0"),
        (lambda: Schedule.from_abar([0.0, 0.5]), "abar must be one-dimensional"),
        (lambda: Schedule.from_abar([0.5, np.nan]), "abar must be one-dimensional"),
    ],
)
def test_bad_schedules_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_check_t():
    schedule = schedules.linear(10)
    assert check_t(schedule, np.int32(3)) == 3
    assert type(check_t(schedule, np.int32(3))) is int
    t = check_t(schedule, np.array([1, 10], dtype=np.uint8))
    assert t.dtype == np.int64
    assert_array_equal(t, [1, 10])
    assert check_t(schedule, 0, first=0) == 0


@pytest.mark.parametrize("t", [0, 11, -1, [1, 11], [0, 3], 1.0, [1.5], True, "3"])
def test_times_outside_are_refused(t):
    with pytest.raises(InputError, match="t must"):
        check_t(schedules.linear(10), t)
