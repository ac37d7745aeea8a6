"""The SDEs against what is independent of their closed forms: ODEs of moments, and their chains."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import solve_ivp

from minidiff import backend
from minidiff.diffusion import process, schedules, sde
from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.diffusion.samplers.ddim import coefficients
from minidiff.errors import InputError
from tests import double

ALL = [sde.VP(), sde.SubVP(), sde.VE(), sde.VP(2.0, 2.0), sde.SubVP(0.5, 5.0), sde.VE(0.3, 4.0)]
each = pytest.mark.parametrize("process_", ALL, ids=repr)
times = st.floats(0, 1)


def integrate(f, start, end, y):
    solution = solve_ivp(f, (start, end), y, method="DOP853", rtol=1e-11, atol=1e-13)
    assert solution.success
    return solution.y[:, -1]


def numbers(process_, t):
    """a(t) and g(t)^2."""
    return process_.rate(t), process_.diffusion(t) ** 2


# ------------------------------------------------------------------------------- marginals


@each
@pytest.mark.parametrize("t", [1e-3, 0.1, 0.37, 0.8, 1.0])
def test_marginals_solve_the_equations_of_the_moments(process_, t):
    """d mean/dt = a mean and d variance/dt = 2 a variance + g^2, from (1, 0) at t = 0."""

    def moments(u, y):
        a, g2 = numbers(process_, u)
        return [a * y[0], 2 * a * y[1] + g2]

    mean, variance = integrate(moments, 0, t, [1.0, 0.0])
    signal, sigma = process_.marginal(t)
    assert_allclose(signal, mean, rtol=1e-8)
    assert_allclose(sigma**2, variance, rtol=1e-8)


@each
def test_clean_data_at_time_0(process_):
    assert process_.marginal(0) == (1.0, 0.0)


@pytest.mark.parametrize("process_", ALL[:2], ids=repr)
def test_where_the_diffusion_is_hard_to_see_it_is_right_too(process_):
    """beta is its own integral's derivative, and the drift is -beta/2 x."""
    t = np.linspace(0.01, 0.99, 50)
    h = 1e-5
    slope = (process_.integral(t + h) - process_.integral(t - h)) / (2 * h)
    assert_allclose(process_.beta(t), slope, rtol=1e-8)
    assert_allclose(process_.rate(t), -slope / 2, rtol=1e-8)


@given(st.floats(0.01, 5), st.floats(0, 20), st.floats(1e-6, 1))
def test_sub_vp_has_the_signal_of_vp_and_less_noise(low, more, t):
    vp, sub = sde.VP(low, low + more), sde.SubVP(low, low + more)
    (signal, sigma), (same, less) = vp.marginal(t), sub.marginal(t)
    assert same == signal
    assert less <= sigma
    assert_allclose(less, sigma**2, rtol=1e-12)
    assert sub.diffusion(t) <= vp.diffusion(t)
    assert_allclose(signal**2 + sigma**2, 1, rtol=1e-12)  # variance preserving


def test_vp_with_published_end_points_is_the_limit_of_ddpm():
    signal, _ = sde.VP().marginal(1)
    assert_allclose(signal**2, np.exp(-10.05), rtol=1e-12)
    off = [
        schedules.linear(T, scale="reference").abar[-1] / signal**2 - 1 for T in (500, 1000, 2000)
    ]
    assert_allclose(np.divide(off[:-1], off[1:]), 2, rtol=0.05)


def test_ve_with_published_end_points():
    """At the end the noise is 50, from 0.01 by equal factors."""
    ve = sde.VE()
    s = np.sqrt(np.square(ve.marginal(np.array([0, 0.5, 1]))[1]) + 0.01**2)
    assert_allclose(s, [0.01, np.sqrt(0.5), 50], rtol=1e-12)


# ----------------------------------------------------------------------------------- chains


def compose(c, variance):
    """Signal and variance of x_T given x_0 = 1, step by step."""
    m, v = 1.0, 0.0
    for c_i, v_i in zip(c[1:], variance[1:], strict=True):
        m, v = c_i * m, c_i**2 * v + v_i
    return np.array([m, v])


@each
def test_the_chain_has_the_sde_for_limit(process_):
    """Its error falls as 1 / T; that of VE is rounding."""
    signal, sigma = process_.marginal(1)
    errors = []
    for T in (1000, 2000, 4000):
        c, variance = process_.chain(T)
        assert c.shape == variance.shape == (T + 1,)
        assert c[0] == 1 and variance[0] == 0
        errors.append(compose(c, variance) / [signal, sigma**2] - 1)
    if isinstance(process_, sde.VE):
        assert_allclose(errors, 0, atol=1e-12)
        return
    for off in np.transpose(errors):
        if np.abs(off).max() > 1e-9:  # the variance of VP, where no signal is left, is 1
            assert_allclose(off[:-1] / off[1:], 2, rtol=0.03)


@each
def test_one_small_step_of_the_chain_is_the_sde(process_):
    """(c - 1) T -> a(t) and variance T -> g(t)^2, at every t."""
    offs = []
    for T in (1000, 10000):
        c, variance = process_.chain(T)
        t = np.arange(1, T + 1) / T
        a, g2 = numbers(process_, t)
        scale = 1 + np.abs(a).max()
        offs.append(
            [np.abs((c[1:] - 1) * T - a).max() / scale, np.abs(variance[1:] * T / g2 - 1).max()]
        )
    assert (np.array(offs[1]) <= np.array(offs[0]) / 8 + 1e-9).all()
    assert np.max(offs[1]) < 5e-3


def test_the_chain_of_vp_is_a_schedule():
    c, variance = sde.VP().chain(1000)
    schedule = schedules.Schedule.from_betas(variance[1:])
    assert_allclose(c, np.sqrt(schedule.alpha), rtol=1e-12)
    assert_allclose(variance[-1], 0.02, rtol=1e-12)


@each
@given(st.integers(1, 400))
@example(1)
@settings(max_examples=25)
def test_the_schedule_of_an_sde_has_its_signal_and_noise(process_, T):
    schedule = process_.schedule(T)
    t = np.arange(1, T + 1) / T
    signal, sigma = process_.marginal(t)
    assert schedule.T == T
    assert_allclose(schedule.snr[1:], (signal / sigma) ** 2, rtol=1e-6)
    # q of x(t), scaled to unit total variance for x(0) of variance 1, is q of the schedule.
    x0, eps = np.random.default_rng(0).standard_normal((2, T, 3))
    x = process_.sample(x0, t, eps) / np.sqrt(signal**2 + sigma**2)[:, None]
    assert_allclose(
        process.q_sample(schedule, x0, np.arange(1, T + 1), eps), x, rtol=1e-6, atol=1e-7
    )


# ----------------------------------------------------------------------------- back in time

DATA = Gaussian(np.array([0.7]), np.array([[0.3]]))


def line(process_, t, drift):
    """k and b of the drift k x + b, where the score is that of Gaussian data at time t."""
    x = np.array([[0.0], [1.0]])
    score = DATA.at(*process_.marginal(t)).score(x)
    at_0, at_1 = drift(x, t, score).ravel()
    return at_1 - at_0, at_0


def exactly(process_, t):
    signal, sigma = process_.marginal(t)
    return np.array([signal * 0.7, signal**2 * 0.3 + sigma**2])


EPS = 1e-3


@each
def test_the_reverse_sde_gives_the_data_back(process_):
    """Mean and variance of dx = (f - g^2 score) dt + g dw from t = 1 to 0, on a Gaussian."""

    def moments(t, y):
        k, b = line(process_, t, process_.reverse_drift)
        # In reversed time the variance grows by g^2, so in t it falls.
        return [k * y[0] + b, 2 * k * y[1] - process_.diffusion(t) ** 2]

    for end in (0.5, EPS):
        got = integrate(moments, 1, end, exactly(process_, 1))
        assert_allclose(got, exactly(process_, end), rtol=1e-8, atol=1e-8)


@each
def test_the_probability_flow_has_the_same_marginals(process_):
    def moments(t, y):
        k, b = line(process_, t, process_.probability_flow)
        return [k * y[0] + b, 2 * k * y[1]]

    for end in (0.5, EPS):
        got = integrate(moments, 1, end, exactly(process_, 1))
        assert_allclose(got, exactly(process_, end), rtol=1e-8, atol=1e-8)


@each
def test_the_probability_flow_is_the_monotone_map(process_):
    """On a Gaussian every path keeps its distance from the mean in standard deviations."""
    start = 2.3 * np.sqrt(exactly(process_, 1)[1]) + exactly(process_, 1)[0]

    def flow(t, y):
        x = y[:, None]
        score = DATA.at(*process_.marginal(t)).score(x)
        return process_.probability_flow(x, t, score)[:, 0]

    mean, variance = exactly(process_, EPS)
    assert_allclose(integrate(flow, 1, EPS, [start]), mean + 2.3 * np.sqrt(variance), rtol=1e-7)


@each
@given(times, st.floats(-3, 3), st.floats(-3, 3))
def test_both_ways_back_differ_by_half_of_the_noise(process_, t, x, score):
    """f is the mean of the reverse drift and the drift that it would take away again."""
    x, score = np.full((1, 1), x), np.full((1, 1), score)
    f = process_.drift(x, t)
    flow = process_.probability_flow(x, t, score)
    reverse = process_.reverse_drift(x, t, score)
    assert_allclose(flow - f, (reverse - f) / 2, rtol=1e-12, atol=1e-12)
    assert_allclose(f - reverse, process_.diffusion(t) ** 2 * score, rtol=1e-9, atol=1e-9)


def test_the_steps_of_ddpm_and_ddim_are_steps_of_the_two():
    """As T grows, (x_s - x_t) T tends to minus the reverse drift, or the flow: order 1."""
    vp = sde.VP()
    mixture = GaussianMixture([0.4, 0.6], [[-1.0], [1.0]], [0.2, 0.1])
    x = np.linspace(-2, 2, 9)[:, None]
    offs = []
    for T in (1000, 2000, 4000):
        schedule, t = vp.schedule(T), T * 2 // 5
        score = mixture.at_time(schedule, t).score(x)
        x0 = mixture.at_time(schedule, t).x0(x)
        eps = mixture.eps(schedule, x, t)
        c_0, c_t, variance = process.posterior(schedule, t - 1, t)
        ddpm = (c_0 * x0 + c_t * x - x) * T
        c_0, c_eps, _ = coefficients(schedule, t - 1, t)
        ddim = (c_0 * x0 + c_eps * eps - x) * T
        offs.append(
            [
                np.abs(ddpm + vp.reverse_drift(x, 0.4, score)).max(),
                np.abs(ddim + vp.probability_flow(x, 0.4, score)).max(),
                abs(variance * T - vp.diffusion(0.4) ** 2),
            ]
        )
    offs = np.array(offs)
    assert_allclose(offs[:-1] / offs[1:], 2, rtol=0.1)
    assert offs[-1].max() < 0.1


# ------------------------------------------------------------------------------- interface


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_time_or_one_for_each_on_a_device(process_, dtype, device):
    rng = np.random.default_rng(0)
    t = np.array([0.0, 0.3, 1.0])
    host = rng.standard_normal((3, 3, 2, 2, 1))
    x, score, eps = (device.asarray(a.astype(dtype)) for a in host)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    for f, arguments in [
        (process_.drift, ()),
        (process_.reverse_drift, (1,)),
        (process_.probability_flow, (1,)),
        (process_.sample, (2,)),
    ]:
        others = [(x, score, eps)[i] for i in arguments]
        with double.forbid("synchronization", *(["float64"] if dtype == np.float32 else [])):
            got = f(x, t, *others)
        assert got.dtype == dtype
        assert type(got) is type(x)
        for i in range(3):
            alone = f(host[0][i : i + 1], float(t[i]), *(host[j][i : i + 1] for j in arguments))
            assert_allclose(backend.to_numpy(got[i : i + 1]), alone, rtol=rtol, atol=rtol * 100)


@each
def test_coefficients_are_floats_or_columns(process_):
    for f in (
        process_.rate,
        process_.diffusion,
        *(lambda t, i=i: process_.marginal(t)[i] for i in (0, 1)),
    ):
        assert type(f(0.5)) is float
        assert type(f(np.float64(0.5))) is float
        many = f(np.array([0.25, 0.5]))
        assert many.dtype == np.float64
        assert many.shape == (2,)
        assert many[1] == pytest.approx(f(0.5), rel=1e-14)


def test_sdes_by_name():
    assert sde.make("vp") == sde.VP()
    assert sde.make("sub_vp", beta_max=5.0) == sde.SubVP(0.1, 5.0)
    assert sde.make("ve", sigma_max=10.0) == sde.VE(0.01, 10.0)
    assert_array_equal(list(sde.SDES), ["vp", "sub_vp", "ve"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sde.make("vpsde"), "unknown SDE 'vpsde'; choose one of vp, sub_vp, ve"),
        (lambda: sde.make("ve", beta_min=1), "no option 'beta_min'; its options are sigma_min"),
        (lambda: sde.VP(0, 1), "0 < beta_min <= beta_max"),
        (lambda: sde.SubVP(2, 1), "0 < beta_min <= beta_max"),
        (lambda: sde.VP(1, np.inf), "0 < beta_min <= beta_max"),
        (lambda: sde.VP(np.nan, 1), "0 < beta_min <= beta_max"),
        (lambda: sde.VE(1, 1), "0 < sigma_min < sigma_max"),
        (lambda: sde.VE(0, 1), "0 < sigma_min < sigma_max"),
        (lambda: sde.VP().marginal(1.01), r"lies in \[0, 1\] .* got 1\.01"),
        (lambda: sde.VE().diffusion(-0.1), r"lies in \[0, 1\]"),
        (lambda: sde.VE().rate(500), r"t / T of a schedule"),
        (lambda: sde.SubVP().rate(np.array([0.5, np.nan])), r"lies in \[0, 1\]"),
        (lambda: sde.VP().drift(np.zeros((3, 2)), np.array([0.1, 0.2])), "does not fit images"),
        (lambda: sde.VP().sample(np.zeros((3, 2)), 0.1, np.zeros((3, 1))), "shape of x0"),
        (lambda: sde.VP().chain(20), r"20 steps are too few: beta\(1\) / T = 1 must be below 1"),
        (lambda: sde.SubVP().chain(10), "10 steps are too few"),
        (lambda: sde.VE().chain(0), "whole number >= 1, got 0"),
        (lambda: sde.VE().schedule(2.0), "whole number"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
