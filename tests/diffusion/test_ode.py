"""The probability flow: likelihoods against the density itself, and there and back."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff import nn, ops
from minidiff.diffusion import ode, samplers, schedules
from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.diffusion.sigma import sigma_denoiser, sigma_of
from minidiff.errors import InputError
from tests import double
from tests.diffusion import densities
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()
TIGHT = {"rtol": 1e-7, "atol": 1e-7}
LABELLED = GaussianMixture(MIXTURE.weights, MIXTURE.means, MIXTURE.covariances, [0, 1])


def draws(n, sigma=0.01, mixture=MIXTURE):
    return mixture.at(1, sigma).sample(n, rng=np.random.default_rng(0))


def D(x, sigma):
    return MIXTURE.at(1, sigma).x0(x)


# --- the likelihood ---


def test_the_likelihood_of_a_mixture_is_its_density():
    x = draws(8)
    q = MIXTURE.at(1, 0.01)
    prior = MIXTURE.at(1, 50.0).log_density
    got = ode.log_likelihood(ode.mixture_trace(MIXTURE), x, 0.01, 50.0, prior=prior, **TIGHT)
    assert_allclose(got.log_density, q.log_density(x), atol=1e-5)
    assert got.latent.shape == x.shape
    assert got.nfe > 50


def test_so_it_is_given_a_class():
    x, labels = draws(4), np.array([0, 1, 1, 2])
    prior = lambda x: LABELLED.at(1, 50.0).log_density(x, labels)  # noqa: E731
    traced = ode.mixture_trace(LABELLED, labels)
    got = ode.log_likelihood(traced, x, 0.01, 50.0, prior=prior, **TIGHT)
    assert_allclose(got.log_density, LABELLED.at(1, 0.01).log_density(x, labels), atol=1e-5)


def test_the_prior_of_a_schedule_is_standard_normal_x_T():
    """For N(0, I) it is right, so the likelihood is exact at any t."""
    data, x = Gaussian.isotropic([0.0, 0.0], 1.0), np.random.default_rng(0).standard_normal((5, 2))
    for t in (1, 300):
        got = ode.log_likelihood_at(ode.mixture_trace(data), LINEAR, x, t, **TIGHT)
        assert_allclose(got.log_density, data.at_time(LINEAR, t).log_density(x), atol=1e-5)
        # The flow of N(0, I) leaves x_t alone.
        assert_allclose(got.latent, x, atol=1e-5)


def test_for_other_data_the_prior_is_a_little_off():
    """By what of the signal is left at T: sqrt(abar_T) = 0.006 times a mean of about 1."""
    x = draws(5, 0.1)
    t = 100
    xt = np.sqrt(LINEAR.abar[t]) * x
    got = ode.log_likelihood_at(ode.mixture_trace(MIXTURE), LINEAR, xt, t, **TIGHT)
    error = np.abs(got.log_density - MIXTURE.at_time(LINEAR, t).log_density(xt))
    assert 1e-5 < error.max() < 0.05


def network(seed=0, dtype=np.float64):
    """A small network of d = 3 that answers at real times, with its parameters."""
    first = nn.Linear(4, 16, rng=np.random.default_rng(seed)).astype(dtype)
    second = nn.Linear(16, 3, rng=np.random.default_rng(seed + 1)).astype(dtype)

    def model(xt, t, *, shift=None):
        time = np.asarray(t, dtype)[:, None] / 1000
        h = ops.silu(first(ops.concat(xt, time, axis=1)))
        return second(h) if shift is None else second(h) * shift[:, None]

    return model, [*first.parameters(), *second.parameters()]


def jacobian_trace(model, x, sigma, **cond):
    """Trace of dD/dx by central differences."""
    one = sigma_denoiser(lambda xt, t, **c: model(xt, t, **c).data, LINEAR, **cond)
    h, total = 1e-5, 0.0
    for i in range(x.shape[1]):
        e = h * np.eye(x.shape[1])[i]
        total += (one(x + e, sigma) - one(x - e, sigma))[:, i] / (2 * h)
    return one(x, sigma), total


@pytest.mark.parametrize("sigma", [0.01, 0.7, 20.0])
def test_the_trace_of_a_network(sigma):
    model, parameters = network()
    x = np.random.default_rng(2).standard_normal((5, 3))
    for cond in ({}, {"shift": np.linspace(0.5, 2, 5)}):
        x0, trace = jacobian_trace(model, x, sigma, **cond)
        got = ode.exact_trace(model, LINEAR, **cond)(x, sigma)
        assert_allclose(got[0], x0, rtol=1e-9, atol=1e-9)
        assert_allclose(got[1], trace, rtol=1e-6, atol=1e-6)
    assert all(p.grad is None or not p.grad.any() for p in parameters)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_by_autograd_the_trace_of_a_mixture_is_the_closed_form(sigma):
    x = draws(6, sigma)
    model = densities.eps_model(MIXTURE, LINEAR)
    for a, b in zip(
        ode.exact_trace(model, LINEAR)(x, sigma), ode.mixture_trace(MIXTURE)(x, sigma), strict=True
    ):
        assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_the_likelihood_by_autograd():
    x = draws(3, 0.3)
    q = MIXTURE.at(1, 0.3)
    traced = ode.exact_trace(densities.eps_model(MIXTURE, LINEAR), LINEAR)
    prior = MIXTURE.at(1, 100.0).log_density
    got = ode.log_likelihood(traced, x, 0.3, 100.0, prior=prior, **TIGHT)
    assert_allclose(got.log_density, q.log_density(x), atol=1e-5)


def test_hutchinson_is_unbiased():
    """1,000 directions, 5 standard errors: a sixth of the spread of one estimate would show."""
    model, _ = network()
    x, sigma, k = np.random.default_rng(2).standard_normal((4, 3)), 0.7, 1000
    exact = ode.exact_trace(model, LINEAR)(x, sigma)[1]
    rng = np.random.default_rng(0)
    each = np.array(
        [ode.hutchinson_trace(model, LINEAR, shape=x.shape, rng=rng)(x, sigma)[1] for _ in range(k)]
    )
    error = each.std(0) / np.sqrt(k)
    assert (error > 0).all()
    assert (np.abs(each.mean(0) - exact) < 5 * error).all()
    assert (5 * error < 0.03 * np.abs(exact)).all()  # 3 % of the trace
    many = ode.hutchinson_trace(model, LINEAR, shape=x.shape, rng=rng, probes=k)(x, sigma)[1]
    assert (np.abs(many - exact) < 5 * error).all()


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal():
    """u_i^2 = 1 for random signs; for normal u it would not be."""
    x = np.random.default_rng(0).standard_normal((4, 3))
    model = lambda xt, t: ops.tanh(xt)  # noqa: E731
    exact = ode.exact_trace(model, LINEAR)(x, 0.7)[1]
    got = ode.hutchinson_trace(model, LINEAR, shape=x.shape, rng=np.random.default_rng(0))
    assert_allclose(got(x, 0.7)[1], exact, rtol=1e-12)


def test_the_directions_stay_the_same():
    model, _ = network()
    x = np.random.default_rng(0).standard_normal((4, 3))
    got = ode.hutchinson_trace(model, LINEAR, shape=x.shape, rng=np.random.default_rng(0))
    assert (got(x, 0.7)[1] == got(x, 0.7)[1]).all()


def test_the_likelihood_of_a_network_by_hutchinson():
    """Estimates of log q scatter about that with the exact trace: 5 standard errors of 24."""
    model, _ = network()
    x = np.random.default_rng(0).standard_normal((2, 3))
    exact = ode.log_likelihood_at(ode.exact_trace(model, LINEAR), LINEAR, x, 100).log_density
    rng = np.random.default_rng(1)
    each = np.array(
        [
            ode.log_likelihood_at(
                ode.hutchinson_trace(model, LINEAR, shape=x.shape, rng=rng), LINEAR, x, 100
            ).log_density
            for _ in range(24)
        ]
    )
    assert (np.abs(each.mean(0) - exact) < 5 * each.std(0) / np.sqrt(24) + 1e-3).all()


# --- the flow ---


@given(st.floats(0.02, 1), st.floats(2, 80))
@settings(max_examples=8)
def test_there_and_back(low, high):
    x = draws(4, low)
    up = ode.flow(D, x, low, high, **TIGHT)
    assert_allclose(ode.flow(D, up, high, low, **TIGHT), x, atol=2e-5)


@given(st.floats(-2, 2), st.floats(0.05, 3), st.floats(0.02, 1), st.floats(2, 80))
@settings(max_examples=15)
def test_the_flow_of_a_gaussian_is_known(m, v, low, high):
    """x - m grows as sqrt(v + sigma^2)."""
    data = Gaussian.isotropic([m], v)
    x = np.array([[0.3], [-1.0]])
    got = ode.flow(lambda x, s: data.at(1, s).x0(x), x, low, high, **TIGHT)
    expected = m + (x - m) * np.sqrt((v + high**2) / (v + low**2))
    assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_it_is_what_ddim_tends_to():
    x_T = np.random.default_rng(0).standard_normal((20, 2))
    denoiser = everywhere(MIXTURE, LINEAR)
    limit = samplers.final(ode.probability_flow(denoiser, LINEAR, x_T, **TIGHT))
    errors = [
        np.abs(samplers.final(samplers.ddim(denoiser, LINEAR, x_T, steps=steps)) - limit).max()
        for steps in (10, 100, 1000)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    # At integers both are asked the same, and the oracle answers between them too.
    again = samplers.final(ode.probability_flow(MIXTURE.denoiser(LINEAR), LINEAR, x_T, **TIGHT))
    assert_allclose(again, limit, atol=1e-9)


def test_states():
    x_T = np.random.default_rng(0).standard_normal((3, 2))
    states = list(
        ode.probability_flow(MIXTURE.denoiser(LINEAR), LINEAR, x_T, steps=4, labels=np.zeros(3))
    )
    assert [state.t for state in states] == [1000, 667, 334, 1, 0]
    assert states[0].x is x_T
    assert states[-1].x is states[-1].x0 is states[-2].x0
    for state in states[:-1]:
        sigma = float(sigma_of(LINEAR, state.t))
        assert_allclose(state.x0, D(state.x * np.sqrt(1 + sigma**2), sigma), rtol=1e-9)
    clipped = ode.probability_flow(
        MIXTURE.denoiser(LINEAR), LINEAR, x_T, clip=(-0.1, 0.1), rtol=1e-2, atol=1e-2
    )
    assert all(np.abs(state.x0).max() <= 0.1 for state in clipped)


def test_tolerance_is_what_it_says():
    x = draws(5)
    exact = ode.flow(D, x, 0.01, 50.0, rtol=1e-10, atol=1e-10)
    errors = [
        np.abs(ode.flow(D, x, 0.01, 50.0, rtol=tol, atol=tol) - exact).max()
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_float32_stays_and_device_arrays_come_back():
    x = draws(3).astype(np.float32)
    assert ode.flow(D, x, 0.01, 5.0).dtype == np.float32
    device = double.xp.asarray(x)
    got = ode.log_likelihood(ode.mixture_trace(MIXTURE), device, 0.01, 5.0)
    expected = ode.log_likelihood(ode.mixture_trace(MIXTURE), x, 0.01, 5.0)
    assert type(got.latent) is type(got.log_density) is double.Array
    assert got.log_density.dtype == np.float32
    assert_allclose(got.log_density.get(), expected.log_density, rtol=1e-4, atol=1e-4)


def test_scipy_is_not_imported_before_it_is_needed():
    code = "import sys, minidiff.diffusion.ode; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ode.flow(D, draws(2), 0.0, 1.0), "sigma must be a number > 0"),
        (lambda: ode.flow(D, draws(2), 1.0, np.inf), "other sigma must be a number > 0"),
        (lambda: ode.flow(D, np.zeros(2), 1.0, 2.0), "array of floats of shape"),
        (
            lambda: ode.log_likelihood(ode.mixture_trace(MIXTURE), draws(2), 1.0, 1.0),
            "sigma must be less than sigma_max",
        ),
        (
            lambda: ode.log_likelihood_at(ode.mixture_trace(MIXTURE), LINEAR, draws(2), 0),
            "t must lie in 1..1000",
        ),
        (
            lambda: ode.hutchinson_trace(
                network()[0], LINEAR, shape=(2, 3), rng=np.random.default_rng(0), probes=0
            ),
            "probes must be a whole number",
        ),
        (
            lambda: ode.hutchinson_trace(
                network()[0], LINEAR, shape=(2, 3), rng=np.random.default_rng(0)
            )(np.zeros((3, 3)), 1.0),
            r"for x of shape \(2, 3\), got \(3, 3\)",
        ),
        (
            lambda: ode.exact_trace(lambda xt, t: xt.data, LINEAR)(draws(2), 1.0),
            "must return a Tensor",
        ),
        (
            lambda: ode.exact_trace(MIXTURE.denoiser(LINEAR), LINEAR)(draws(2), 1.0),
            "take arrays, not Tensors",
        ),
        (
            lambda: ode.probability_flow(MIXTURE.denoiser(LINEAR), LINEAR, draws(2), steps=0),
            "steps must lie in",
        ),
        (lambda: ode.flow(lambda x, s: x * np.nan, draws(2), 1.0, 2.0), "not finite at sigma 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
