import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import process, schedules
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.gaussians import chain, condition


@given(strategies.jumps())
def test_the_jump_is_the_steps_one_after_the_other(jump):
    schedule, s, t = jump
    c, variance = 1.0, 0.0
    for beta in schedule.beta[s + 1 : t + 1]:  # eq. 2 of the paper, one step at a time
        c, variance = c * np.sqrt(1 - beta), variance * (1 - beta) + beta
    assert_allclose(process.forward(schedule, s, t), (c, variance), rtol=1e-9)


@given(strategies.jumps())
def test_the_posterior_keeps_the_marginal(jump):
    """Averaging q(x_s | x_t, x_0) over q(x_t | x_0) gives q(x_s | x_0) back."""
    schedule, s, t = jump
    c_0, c_t, variance = process.posterior(schedule, s, t)
    abar_s, abar_t = schedule.abar[s], schedule.abar[t]
    assert_allclose(c_0 + c_t * np.sqrt(abar_t), np.sqrt(abar_s), rtol=1e-9)
    assert_allclose(c_t**2 * (1 - abar_t) + variance, 1 - abar_s, rtol=1e-9)


@given(
    st.lists(st.floats(1e-3, 0.999), min_size=1, max_size=7),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.data(),
)
def test_the_posterior_is_the_conditioned_joint(betas, x0, xt, data):
    """Bayes by brute force: the joint covariance of the whole chain, conditioned on x_0 and x_t."""
    schedule = Schedule.from_betas(betas)
    t = data.draw(st.integers(1, schedule.T))
    mean, covariance = condition(*chain(betas[:t]), given=[0, t], values=np.array([x0, xt]))
    for s in range(1, t):
        c_0, c_t, variance = process.posterior(schedule, s, t)
        assert_allclose(c_0 * x0 + c_t * xt, mean[s - 1], rtol=1e-9, atol=1e-9)
        assert_allclose(variance, covariance[s - 1, s - 1], rtol=1e-9, atol=1e-12)


@given(strategies.jumps(), st.data())
def test_posteriors_compose(jump, data):
    """From t to r and on to s, x_0 given, is the posterior from t to s."""
    schedule, s, t = jump
    assume(t - s > 1)
    r = data.draw(st.integers(s + 1, t - 1))
    a_0, a_r, a_variance = process.posterior(schedule, s, r)
    b_0, b_t, b_variance = process.posterior(schedule, r, t)
    composed = (a_0 + a_r * b_0, a_r * b_t, a_variance + a_r**2 * b_variance)
    assert_allclose(process.posterior(schedule, s, t), composed, rtol=1e-8, atol=1e-15)


@given(strategies.schedules(min_abar_T=1e-8))
def test_the_posterior_of_one_step_is_the_textbook_formula(schedule):
    t = np.arange(1, schedule.T + 1)
    beta, alpha, abar, before = (
        a[1:] for a in (schedule.beta, schedule.alpha, schedule.abar, np.roll(schedule.abar, 1))
    )
    c_0, c_t, variance = process.posterior(schedule, t - 1, t)
    assert_allclose(c_0, np.sqrt(before) * beta / (1 - abar), rtol=1e-8)
    assert_allclose(c_t, np.sqrt(alpha) * (1 - before) / (1 - abar), rtol=1e-8)
    assert_allclose(variance, (1 - before) / (1 - abar) * beta, rtol=1e-8)
    assert variance[0] == 0
    assert (variance[1:] > 0).all()
    assert (variance[1:] < beta[1:]).all()


@given(strategies.schedules())
def test_the_last_step_is_exact(schedule):
    for t in {1, schedule.T}:
        assert process.posterior(schedule, 0, t) == (1.0, 0.0, 0.0)


def test_the_posterior_variance_never_exceeds_the_marginal_one():
    """Not even by rounding: DDIM takes the root of their difference."""
    schedule = Schedule.from_betas(np.random.default_rng(0).uniform(1e-6, 0.2, 1000))
    s, t = np.triu_indices(1001, k=1)
    variance = process.posterior(schedule, s, t)[2]
    assert (variance <= 1 - schedule.abar[s]).all()


@pytest.mark.parametrize(("t", "variance"), [(1, 0.0), (488, 0.00979), (1000, 0.02)])
def test_published_posterior_variances(t, variance):
    """What Hugging Face diffusers tests its DDPM scheduler with (there t counts from 0)."""
    assert_allclose(process.posterior(schedules.linear(), t - 1, t)[2], variance, atol=1e-5)


@given(strategies.schedules(max_T=50), strategies.seeds)
def test_many_times_at_once_give_what_each_gives_alone(schedule, seed):
    rng = np.random.default_rng(seed)
    t = rng.integers(1, schedule.T + 1, size=5)
    s = rng.integers(0, t)
    for f in (process.forward, process.posterior):
        together = f(schedule, s, t)
        alone = [f(schedule, int(a), int(b)) for a, b in zip(s, t, strict=True)]
        assert_array_equal(np.transpose(together), alone)
        assert all(type(c) is float for c in alone[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(strategies.schedules(max_T=50), strategies.seeds)
@settings(max_examples=30)
def test_samples_are_the_gaussians_and_keep_the_dtype(dtype, schedule, seed):
    rng = np.random.default_rng(seed)
    x0, xt, eps = (rng.standard_normal((3, 2, 2, 1), dtype=dtype) for _ in range(3))
    t = rng.integers(1, schedule.T + 1, size=3)
    s = rng.integers(0, t)
    rtol = 1e-5 if dtype == np.float32 else 1e-12

    def column(c):
        return np.reshape(c, (3, 1, 1, 1))

    abar = column(schedule.abar[t])
    c, variance = map(column, process.forward(schedule, s, t))
    c_0, c_t, rest = map(column, process.posterior(schedule, s, t))
    for got, expected in [
        (process.q_sample(schedule, x0, t, eps), np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps),
        (process.forward_sample(schedule, xt, s, t, eps), c * xt + np.sqrt(variance) * eps),
        (
            process.posterior_sample(schedule, x0, xt, s, t, eps),
            c_0 * x0 + c_t * xt + np.sqrt(rest) * eps,
        ),
    ]:
        assert got.dtype == dtype
        assert_allclose(got, expected, rtol=rtol, atol=rtol)
    # One t for all is the same to the last bit as that t for each.
    one = process.q_sample(schedule, x0, int(t[0]), eps)
    assert one.dtype == dtype
    assert_array_equal(one, process.q_sample(schedule, x0, np.full(3, t[0]), eps))


def test_the_jump_and_the_chain_draw_the_same_distribution():
    """200,000 draws see 1.1e-2 standard deviations of the mean, and 1.6 % of the variance."""
    n, T = 200_000, 20
    schedule = schedules.linear(T, 0.01, 0.3)
    rng = np.random.default_rng(3)
    x = np.full((n, 1), 0.8)
    for t in range(1, T + 1):
        x = process.forward_sample(schedule, x, t - 1, t, rng.standard_normal((n, 1)))
    c, variance = process.forward(schedule, 0, T)
    assert abs(x.mean() - c * 0.8) < 5 * np.sqrt(variance / n)
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, x: process.q_sample(s, x, 0, x), "t must lie in 1..10"),
        (lambda s, x: process.q_sample(s, x, 11, x), "t must lie in 1..10"),
        (lambda s, x: process.q_sample(s, x, 1.0, x), "t must be an integer"),
        (lambda s, x: process.q_sample(s, x, np.array([1, 2]), x), "does not fit images"),
        (lambda s, x: process.q_sample(s, x, np.array([[1, 2, 3]]), x), "does not fit images"),
        (lambda s, x: process.q_sample(s, x, 1, x[:1]), r"eps must have the shape of x, \(3, 2\)"),
        (lambda s, x: process.posterior_sample(s, x, x[0], 0, 1, x), "x0 must have the shape"),
        (lambda s, x: process.posterior_sample(s, x, x, 0, 1, x[0]), "eps must have the shape"),
        (lambda s, x: process.posterior(s, 3, 3), "s < t, got s = 3 and t = 3"),
        (lambda s, x: process.posterior(s, np.array([1, 4]), np.array([2, 3])), "s < t"),
        (lambda s, x: process.forward(s, -1, 3), "t must lie in 0..10"),
        (lambda s, x: process.forward(s, 5, 2), "s < t"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(schedules.linear(10), np.zeros((3, 2)))
