import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers import edm, euler, final
from minidiff.diffusion.sigma import eps_denoiser, levels, sigma_denoiser, sigma_of, t_of
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()


@given(strategies.schedules(), st.data())
def test_sigma_at_whole_times_is_that_of_the_schedule(schedule, data):
    t = data.draw(st.integers(0, schedule.T))
    abar = schedule.abar[t]
    assert_allclose(sigma_of(schedule, t), np.sqrt((1 - abar) / abar), rtol=1e-15)
    assert t_of(schedule, sigma_of(schedule, t)) == t


@given(strategies.schedules(), st.data())
def test_times_and_levels_are_one_to_one(schedule, data):
    t = data.draw(st.floats(1e-3, schedule.T))
    sigma = sigma_of(schedule, t)
    assert_allclose(t_of(schedule, sigma), t, rtol=1e-7)
    assert_allclose(sigma_of(schedule, t_of(schedule, sigma)), sigma, rtol=1e-6)
    later = data.draw(st.floats(t, schedule.T))
    assert sigma_of(schedule, later) >= sigma


def test_between_whole_times_log_sigma_is_linear_and_below_1_sigma():
    s2, s3 = sigma_of(LINEAR, [2, 3])
    assert_allclose(sigma_of(LINEAR, 2.5), np.sqrt(s2 * s3), rtol=1e-12)
    assert_allclose(t_of(LINEAR, s2 ** (3 / 4) * s3 ** (1 / 4)), 2.25, rtol=1e-12)
    s1 = sigma_of(LINEAR, 1)
    assert_allclose(sigma_of(LINEAR, [0, 0.25, 1]), [0, s1 / 4, s1])
    assert_allclose(t_of(LINEAR, [0, s1 / 4]), [0, 0.25])


def test_the_adapter_gives_the_prediction_of_x0():
    """D(x; sigma) from eps of a Gaussian is E[x_0 | x_0 + sigma n]."""
    data = Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 0.2]])
    x = np.random.default_rng(0).standard_normal((5, 2))
    D = sigma_denoiser(data.denoiser(LINEAR), LINEAR)
    for t in (1, 100, 700):
        sigma = float(sigma_of(LINEAR, t))
        assert_allclose(D(3 * x, sigma), data.at(1.0, sigma).x0(3 * x), rtol=1e-9, atol=1e-9)


def test_the_adapters_undo_each_other_at_any_level():
    x = np.random.default_rng(0).standard_normal((5, 2))
    D = sigma_denoiser(everywhere(MIXTURE, LINEAR), LINEAR)
    for sigma in (1e-3, 0.0123, 0.7, 42.0, 150.0):
        assert_allclose(D(x, sigma), MIXTURE.at(1.0, sigma).x0(x), rtol=1e-6, atol=1e-9)
    t = np.array([0.5, 1, 3.25, 400, 1000])
    xt = x / np.sqrt(1 + sigma_of(LINEAR, t)[:, None] ** 2)
    got = everywhere(MIXTURE, LINEAR)(xt, t)
    for i, sigma in enumerate(sigma_of(LINEAR, t)):
        assert_allclose(got[i : i + 1], MIXTURE.at(1.0, sigma).eps(x[i : i + 1]), rtol=1e-6)


def test_a_network_is_asked_at_whole_times_where_it_can_be():
    asked = []

    def denoiser(xt, t, labels):
        asked.append((t, labels))
        return 0 * xt

    D = sigma_denoiser(denoiser, LINEAR, labels="these")
    x = np.ones((3, 2))
    D(x, float(sigma_of(LINEAR, 7)))
    D(x, float(sigma_of(LINEAR, 7.5)))
    (whole, labels), (half, _) = asked
    assert whole.dtype == np.int64
    assert_array_equal(whole, [7, 7, 7])
    assert labels == "these"
    assert_allclose(half, [7.5] * 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_and_dtype(dtype):
    x = np.full((2, 2), 30.0, dtype=dtype)
    for clip, want in [((-1, 1), 1.0), (lambda x0: x0 / 2, 15.0), (None, 30.0)]:
        got = sigma_denoiser(lambda xt, t: 0 * xt, LINEAR, clip=clip)(x, 10.0)
        assert got.dtype == dtype
        assert_allclose(got, want)
    got = eps_denoiser(lambda x, sigma: 0 * x, LINEAR)(x, np.array([3, 8]))
    assert got.dtype == dtype
    assert_allclose(got * np.sqrt(1 - LINEAR.abar[[3, 8]])[:, None], 30.0, rtol=1e-6)


def test_levels_of_steps_and_of_sigmas():
    times, sigmas = levels(LINEAR, 4, "trailing", None)
    assert times == [1000, 750, 500, 250, 0]
    assert_allclose(sigmas, sigma_of(LINEAR, times))
    assert sigmas[-1] == 0
    given_ = [float(sigma_of(LINEAR, 500)), 1.0, 0.0]
    times, sigmas = levels(LINEAR, 4, "trailing", given_)
    assert times[0] == 500
    assert isinstance(times[0], int)
    assert 0 < times[1] < 500
    assert isinstance(times[1], float)
    assert sigmas == given_


def test_a_schedule_that_ends_in_pure_noise_is_known_up_to_the_time_before():
    schedule = schedules.zero_terminal_snr(LINEAR)
    assert sigma_of(schedule, 999) == schedule.sigma[999]
    assert t_of(schedule, schedule.sigma[999]) == 999
    for call in (
        lambda: sigma_of(schedule, 999.5),
        lambda: euler(everywhere(MIXTURE, schedule), schedule, np.ones((2, 2)), steps=10),
    ):
        with pytest.raises(InputError, match=r"0\.\.999 \(sigma_T is infinite: start at T - 1\)"):
            call()
    x = final(edm(everywhere(MIXTURE, schedule), schedule, np.ones((2, 2)), steps=[999, 500, 0]))
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sigma_of(LINEAR, 1000.5), r"t must lie in 0\.\.1000"),
        (lambda: sigma_of(LINEAR, [np.nan]), r"t must lie in 0\.\.1000"),
        (lambda: t_of(LINEAR, -0.1), r"sigma must lie in 0\.\.157"),
        (lambda: t_of(LINEAR, np.inf), r"sigma must lie in 0\.\.157"),
        (lambda: everywhere(MIXTURE, LINEAR)(np.ones((1, 2)), np.array([0])), "t = 0 is clean"),
        (lambda: levels(LINEAR, 4, "trailing", [[1.0, 0.0]]), "two or more"),
        (lambda: levels(LINEAR, 4, "trailing", [0.0]), "two or more"),
        (lambda: sigma_denoiser(lambda xt, t: xt, LINEAR, clip=3), "clip must be None"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()
