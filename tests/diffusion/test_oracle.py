import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import parameterizations, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.gaussians import condition


@st.composite
def cases(draw):
    """A schedule, a correlated Gaussian over images of 2 x 2 x 1, some x_t, and a time for each."""
    schedule = draw(strategies.schedules(max_T=200, min_abar_T=1e-8))
    rng = np.random.default_rng(draw(strategies.seeds))
    a = rng.standard_normal((4, 4))
    data = Gaussian(rng.standard_normal((2, 2, 1)), a @ a.T)
    t = rng.integers(1, schedule.T + 1, size=3)
    return schedule, data, rng.standard_normal((3, 2, 2, 1)), t


@given(cases())
@settings(max_examples=50)
def test_eps_is_the_conditional_expectation(case):
    """By brute force: condition the joint Gaussian of (eps, x_t) on x_t."""
    schedule, data, xt, t = case
    got = data.eps(schedule, xt, t)
    for n in range(3):
        abar = schedule.abar[t[n]]
        noise = np.sqrt(1 - abar) * np.eye(4)
        joint = np.block([[np.eye(4), noise], [noise, data.marginal(schedule, int(t[n]))[1]]])
        mean = np.concatenate([np.zeros(4), np.sqrt(abar) * data.mean.reshape(-1)])
        expected, _ = condition(mean, joint, given=np.arange(4, 8), values=xt[n].reshape(-1))
        assert_allclose(got[n].reshape(-1), expected, rtol=1e-7, atol=1e-7)


@given(cases())
@settings(max_examples=50)
def test_eps_is_the_score(case):
    """-eps / sqrt(1 - abar_t) is the gradient of log q(x_t), by differences along a direction."""
    schedule, data, xt, t = case
    direction = np.random.default_rng(0).standard_normal(4)
    for n in range(3):
        mean, covariance = data.marginal(schedule, int(t[n]))

        def log_q(x, mean=mean, covariance=covariance):
            centred = x - mean.reshape(-1)
            return -0.5 * centred @ np.linalg.solve(covariance, centred)

        x = xt[n].reshape(-1)
        # Exact for a quadratic, whatever the distance.
        slope = (log_q(x + direction) - log_q(x - direction)) / 2
        eps = data.eps(schedule, xt[n : n + 1], int(t[n]))
        score = parameterizations.score_from_eps(schedule, int(t[n]), eps).reshape(-1)
        assert_allclose(score @ direction, slope, rtol=1e-6, atol=1e-6)


@given(cases())
@settings(max_examples=20)
def test_one_time_for_all_or_one_for_each(case):
    schedule, data, xt, t = case
    alone = [data.eps(schedule, xt[n : n + 1], int(t[n]))[0] for n in range(3)]
    assert_allclose(data.eps(schedule, xt, t), alone, rtol=1e-10, atol=1e-12)
    assert_allclose(data.denoiser(schedule)(xt, t, labels=t), alone, rtol=1e-10, atol=1e-12)


def test_the_denoiser_keeps_float32():
    schedule = schedules.linear(10)
    xt = np.zeros((2, 3), dtype=np.float32)
    data = Gaussian.isotropic([1.0, 2.0, 3.0], 0.5)
    assert data.eps(schedule, xt, np.array([1, 10])).dtype == np.float32


def test_of_a_single_point_x0_is_that_point():
    schedule = schedules.linear(10)
    data = Gaussian.isotropic([1.0, -2.0], 0.0)
    xt = np.random.default_rng(0).standard_normal((5, 2))
    x0 = parameterizations.x0_from_eps(schedule, xt, 7, data.eps(schedule, xt, 7))
    assert_allclose(x0, np.tile([1.0, -2.0], (5, 1)), rtol=1e-10)


def test_marginal_at_time_zero_is_the_data():
    data = Gaussian(np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]]))
    mean, covariance = data.marginal(schedules.linear(10), 0)
    assert (mean == data.mean).all()
    assert (covariance == data.covariance).all()


def test_samples_have_the_mean_and_covariance():
    n = 20_000
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    x = Gaussian(np.array([[1.0], [2.0]]), covariance).sample(n, rng=np.random.default_rng(0))
    assert x.shape == (n, 2, 1)
    x = x.reshape(n, 2)
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(0) - [1, 2]) < 5 * scale / np.sqrt(n)).all()
    assert (np.abs(np.cov(x.T) - covariance) < 5 * np.sqrt(2 / n) * np.outer(scale, scale)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(np.zeros(2), np.eye(3)), r"needs a covariance of shape \(2, 2\)"),
        (lambda: Gaussian(np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: Gaussian(np.zeros(1), np.array([[np.nan]])), "symmetric and finite"),
        (lambda: Gaussian.isotropic([0.0], -1.0), "negative eigenvalue"),
        (
            lambda: Gaussian.isotropic([0.0], 1.0).eps(schedules.linear(5), np.zeros((3, 2)), 1),
            r"shape \(N, 1\) for this Gaussian, got \(3, 2\)",
        ),
        (
            lambda: Gaussian.isotropic([0.0], 1.0).eps(schedules.linear(5), np.zeros((3, 1)), 6),
            "t must lie in",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
