"""The variational bound: its terms, their sum, what is missing to log p(x_0), and its units.

A bound of Gaussian data under an affine denoiser is a polynomial of second degree in x_0 and in the
noise. (+-1, +-1) has the moments of independent normal numbers up to the third, so its mean over
these four is the expectation, exact but for rounding.
"""

import math

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from minidiff import backend, ops
from minidiff.autograd import Tensor
from minidiff.diffusion import elbo, objectives, parameterizations, process, schedules
from minidiff.diffusion.oracle import Empirical, Gaussian
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError
from tests import double, strategies
from tests.diffusion.gaussians import chain, condition

LINEAR = schedules.linear()
X0 = np.array([[1.0], [1.0], [-1.0], [-1.0]])
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of N(0, 1): 1.4189385 nats


class Signs:
    """Draws +1, -1, +1, -1, ...: with X0, all four pairs."""

    def standard_normal(self, shape, dtype):
        signs = np.resize([1.0, -1.0], shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(signs, shape).astype(dtype)


def gaussian(mean=0.0, variance=1.0):
    return Gaussian.isotropic([mean], variance)


def exact_bound(data, schedule, x0=X0, **options):
    return elbo.bound_nats(
        data.denoiser(schedule), schedule, x0, rng=Signs(), levels=None, **options
    )


def least_loss(schedule, variance):
    """The error of the best eps for data of this variance, at t = 0, ..., T."""
    abar = schedule.abar
    return abar * variance / (abar * variance + 1 - abar)


# --- KL of Gaussians ---

positive = st.floats(-4, 4).map(np.exp)
anywhere = st.floats(-5, 5)


@given(anywhere, positive, anywhere, positive)
def test_kl_is_that_of_quadrature(m, v, m2, v2):
    """E_q[log q - log p] by Gauss-Hermite, of densities that SciPy computes."""
    z, weights = np.polynomial.hermite_e.hermegauss(8)
    x = m + np.sqrt(v) * z
    difference = norm.logpdf(x, m, np.sqrt(v)) - norm.logpdf(x, m2, np.sqrt(v2))
    expected = (weights * difference).sum() / weights.sum()
    got = elbo.kl_normal_nats(m, v, m2, v2)
    assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
    assert got >= 0


@given(anywhere, positive, st.floats(-1e-3, 1e-3), st.floats(-1e-3, 1e-3))
def test_kl_is_never_negative_and_0_only_of_equals(m, v, shift, stretch):
    kl = elbo.kl_normal_nats(m, v, m + shift, v * (1 + stretch))
    assert elbo.kl_normal_nats(m, v, m, v) == 0
    assert kl >= 0
    if abs(shift) > 1e-6 or abs(stretch) > 1e-6:
        assert kl > 0


def test_kl_of_near_equals_keeps_its_digits():
    """(v - v')^2 / (4 v'^2) for small differences, which r - 1 - log r would lose."""
    assert_allclose(elbo.kl_normal_nats(0.0, 1 + 1e-7, 0.0, 1.0), 2.5e-15, rtol=1e-2)


def test_kl_is_the_integral_of_its_definition():
    """SymPy integrates q (log q - log p) over the real line."""
    x, m, n = sympy.symbols("x m n", real=True)
    s, r = sympy.symbols("s r", positive=True)

    def log_density(mean, sigma):
        return -((x - mean) ** 2) / (2 * sigma**2) - sympy.log(sigma) - sympy.log(2 * sympy.pi) / 2

    # With x = m + s z, the terms are powers of z, whose integrals SymPy knows.
    z = sympy.symbols("z", real=True)
    powers = sympy.expand((log_density(m, s) - log_density(n, r)).subs(x, m + s * z))
    density = sympy.exp(-(z**2) / 2) / sympy.sqrt(2 * sympy.pi)
    expected = sum(
        c * sympy.integrate(z**k * density, (z, -sympy.oo, sympy.oo))
        for (k,), c in sympy.Poly(powers, z).terms()
    )
    ratio = s**2 / r**2
    kl = (ratio - 1 - sympy.log(ratio)) / 2 + (m - n) ** 2 / (2 * r**2)
    assert sympy.simplify(sympy.expand_log(expected - kl, force=True)) == 0


def test_kl_by_monte_carlo():
    rng = np.random.default_rng(0)
    x = 0.5 + 0.7 * rng.standard_normal(100_000)
    sample = norm.logpdf(x, 0.5, 0.7) - norm.logpdf(x, -0.2, 1.1)
    error = sample.std() / np.sqrt(len(x))
    assert abs(sample.mean() - elbo.kl_normal_nats(0.5, 0.49, -0.2, 1.21)) < 5 * error


def test_kl_of_arrays_is_for_each_element_and_keeps_float32(device):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 2, (3, 2)).astype(np.float32) for _ in range(4)]
    expected = elbo.kl_normal_nats(*(a.astype(np.float64) for a in arrays))
    with double.forbid("synchronization", "float64"):
        moved = [backend.asarray(a) for a in arrays]
        got = elbo.kl_normal_nats(*moved)
        mixed = elbo.kl_normal_nats(moved[0], 1.0, moved[2], 2.0)
    assert got.dtype == mixed.dtype == np.float32
    assert_allclose(backend.to_numpy(got), expected, rtol=1e-4, atol=1e-6)


# --- the bound of an autoencoder, where everything is known ---


@given(anywhere, anywhere, positive, anywhere, anywhere, positive)
def test_elbo_and_kl_to_the_posterior_are_the_likelihood(a, b, s2, x, m, v):
    """p(z) = N(0, 1), p(x | z) = N(a z + b, s2), q(z | x) = N(m, v): all in closed form."""
    z = m + np.sqrt(v) * np.array([1.0, -1.0])  # exact for second degree
    log_p_x_given_z = -elbo.decoder_nats(np.full(2, x), a * z + b, np.sqrt(s2), levels=None).mean()
    bound = log_p_x_given_z - elbo.kl_normal_nats(m, v, 0.0, 1.0)
    posterior_variance = 1 / (1 + a * a / s2)
    posterior_mean = posterior_variance * a * (x - b) / s2
    slack = elbo.kl_normal_nats(m, v, posterior_mean, posterior_variance)
    evidence = norm.logpdf(x, b, np.sqrt(a * a + s2))
    assert_allclose(bound + slack, evidence, rtol=1e-10, atol=1e-10)
    assert bound <= evidence + 1e-10 * (1 + abs(evidence))


def test_reparameterization_scatters_less_than_the_score_function():
    """Gradient of E[z^2] = m^2 + s^2 by z = m + s eps, on the tape, and by log q; m', s' known."""
    n, m, s = 100_000, 0.7, 0.5
    eps = np.random.default_rng(0).standard_normal(n)
    leaves = [Tensor(np.full(n, value), requires_grad=True) for value in (m, s)]
    z = leaves[0] + leaves[1] * eps
    ops.sum(z * z).backward()
    through = np.stack([leaf.grad for leaf in leaves])
    scores = np.stack([eps / s, (eps**2 - 1) / s])  # derivatives of log q(z) by m and s
    by_score = (m + s * eps) ** 2 * scores
    for estimate in (through, by_score):
        error = np.abs(estimate.mean(1) - [2 * m, 2 * s])
        assert (error < 5 * estimate.std(1) / np.sqrt(n)).all()
    assert (by_score.var(1) > 2 * through.var(1)).all()


# --- the three terms ---


def test_the_bound_is_the_entropy_of_normal_data_with_variance_beta():
    """T = 1000: the bound is tight there, to 1e-12, by the terms as they are computed."""
    bound = exact_bound(gaussian(), LINEAR)
    assert_allclose(bound.total_nats.mean(), ENTROPY, rtol=0, atol=1e-12)
    terms = bound.step_nats.mean(0)
    assert_allclose(terms[2:].sum(), 4.6051, atol=1e-4)
    assert_allclose(terms[1], -3.1862, atol=1e-4)
    assert_allclose(bound.prior_nats.mean(), 2.018e-5, rtol=1e-4)
    assert_allclose(ENTROPY, 1.4189385, atol=1e-7)
    assert_allclose(elbo.expected_steps_nats_per_dim(LINEAR, least_loss(LINEAR, 1.0)), terms)


@pytest.mark.parametrize(
    ("variance", "gap"), [("beta", 0.0), ("posterior", 0.5786), ("optimal", 0.0)]
)
def test_the_gap_to_the_entropy(variance, gap):
    """0.5786 nats with beta-tilde (beta-tilde_2 at t = 1), 1e-8 at most with the best variance."""
    loss = least_loss(LINEAR, 1.0)
    if variance == "optimal":
        variance = elbo.optimal_variance(LINEAR, loss)
    terms = elbo.expected_steps_nats_per_dim(LINEAR, loss, variance)
    total = terms.sum() + elbo.prior_nats(LINEAR, X0).mean()
    assert_allclose(total - ENTROPY, gap, rtol=0, atol=5e-5 if gap else 1e-8)
    assert total > ENTROPY - 1e-12


@pytest.mark.parametrize("variance", [0.01, 0.25, 1.0, 4.0])
def test_the_optimal_variance_closes_the_gap_for_any_gaussian(variance):
    """And it lies between beta-tilde and beta for data of variance <= 1, above beta at 4."""
    loss = least_loss(LINEAR, variance)
    best = elbo.optimal_variance(LINEAR, loss)
    terms = elbo.expected_steps_nats_per_dim(LINEAR, loss, best)
    prior = elbo.prior_nats(LINEAR, np.sqrt(variance) * X0).mean()
    gap = terms.sum() + prior - ENTROPY - 0.5 * np.log(variance)
    assert -1e-12 < gap <= 1e-8
    for t, factor in ((1, 0.9), (400, 1.01), (1000, 0.99)):  # no other variance does better
        other = best.copy()
        other[t] *= factor
        assert elbo.expected_steps_nats_per_dim(LINEAR, loss, other).sum() > terms.sum()
    ratio = best[2:] / LINEAR.beta[2:]
    assert (
        ratio.max() < 1 + 1e-9 if variance <= 1 else ratio.max() == pytest.approx(1.0033, rel=1e-3)
    )
    tilde = process.posterior(LINEAR, np.arange(1, 1000), np.arange(2, 1001))[2]
    assert (best[2:] > tilde).all()


def test_the_optimal_variance_of_a_point_is_the_posterior_variance():
    best = elbo.optimal_variance(LINEAR, np.zeros(1001))
    t = np.arange(1, 1001)
    assert_allclose(best[1:], process.posterior(LINEAR, t - 1, t)[2], rtol=1e-12)


@given(strategies.schedules(max_T=40, min_abar_T=1e-6), st.floats(0.05, 4), st.booleans())
@strategies.examples(0.5)
def test_expected_terms_are_the_mean_of_the_terms(schedule, variance, posterior):
    variance_of_step = "posterior" if posterior and schedule.T > 1 else "beta"
    data, x0 = gaussian(0.4, variance), 0.4 + np.sqrt(variance) * X0
    bound = exact_bound(data, schedule, x0, variance=variance_of_step)
    loss = least_loss(schedule, variance)
    expected = elbo.expected_steps_nats_per_dim(schedule, loss, variance_of_step)
    assert_allclose(bound.step_nats.mean(0), expected, rtol=1e-7, atol=1e-9)
    mse = bound.x0_mse.mean(0)[1:]
    assert_allclose(mse, loss[1:] * (1 - schedule.abar[1:]) / schedule.abar[1:], rtol=1e-7)


# --- the joint form, by the covariance of all of x_0, ..., x_T ---

SMALL = schedules.linear(8, 0.02, 0.5)
T = SMALL.T


def log_density(x, mean, covariance):
    """log N(x; mean, covariance) by its definition."""
    off = x - mean
    quadratic = off @ np.linalg.solve(covariance, off)
    return -0.5 * (len(x) * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + quadratic)


def kl(mean, covariance, mean2, covariance2):
    """KL of Gaussians with full covariances."""
    ratio = np.linalg.solve(covariance2, covariance)
    off = mean2 - mean
    return 0.5 * (
        np.trace(ratio) - len(mean) - np.linalg.slogdet(ratio)[1]
        + off @ np.linalg.solve(covariance2, off)
    )  # fmt: skip


def model_joint(denoiser, sigma2):
    """Mean and covariance of (x_0, ..., x_T) under p: x_T ~ N(0, 1), x_{t-1} = mu(x_t) + noise."""
    rows, means = np.zeros((T + 1, T + 1)), np.zeros(T + 1)
    rows[T, T] = 1  # column T is x_T, column t - 1 the noise of the step from t to t - 1
    for t in range(T, 0, -1):
        x = np.array([[0.0], [1.0]])
        eps = denoiser(x, np.array([t, t]))
        mu = parameterizations.mu_from_eps(SMALL, x, t, eps)[:, 0]
        intercept, slope = mu[0], mu[1] - mu[0]
        rows[t - 1] = slope * rows[t]
        rows[t - 1, t - 1] = np.sqrt(sigma2[t])
        means[t - 1] = intercept + slope * means[t]
    return means, rows @ rows.T


DENOISERS = {
    "the optimal one": gaussian(0.3, 0.5).denoiser(SMALL),
    "that of other data": gaussian(-1.0, 2.0).denoiser(SMALL),
    "one that knows nothing": lambda xt, t: 0 * xt,
}
VARIANCES = {
    "beta": SMALL.beta,
    "posterior": np.append(0, objectives.model_variance(SMALL, np.arange(1, T + 1), "posterior")),
    "any": np.linspace(0.1, 0.7, T + 1),
}


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("which", DENOISERS)
def test_three_terms_are_the_joint_form_and_the_slack_is_a_kl(which, variance):
    """-ELBO(x_0) = E_q[log q(x_{1:T} | x_0) - log p(x_{0:T})] at 50 x_0, and below log p(x_0) by
    KL(q(x_{1:T} | x_0) || p(x_{1:T} | x_0))."""
    denoiser, sigma2 = DENOISERS[which], VARIANCES[variance]
    given_variance = sigma2 if variance == "any" else variance
    x0 = 0.3 + np.random.default_rng(0).standard_normal(50)
    twice = np.repeat(x0, 2)[:, None]  # each with noise +1 and -1
    bound = elbo.bound_nats(
        denoiser, SMALL, twice, rng=Signs(), variance=given_variance, levels=None
    )
    three_terms = -bound.total_nats.reshape(50, 2).mean(1)
    p_mean, p_cov = model_joint(denoiser, sigma2)
    for value, got in zip(x0, three_terms, strict=True):
        q_mean, q_cov = chain(SMALL.beta[1:], value, 0.0)
        later = np.ix_(range(1, T + 1), range(1, T + 1))
        log_p = log_density(q_mean, p_mean, p_cov) - 0.5 * np.trace(np.linalg.solve(p_cov, q_cov))
        entropy_q = T * ENTROPY + 0.5 * np.linalg.slogdet(q_cov[later])[1]
        assert_allclose(got, log_p + entropy_q, rtol=0, atol=1e-10 * max(1, abs(got)))

        evidence = norm.logpdf(value, p_mean[0], np.sqrt(p_cov[0, 0]))
        slack = kl(q_mean[1:], q_cov[later], *condition(p_mean, p_cov, [0], np.array([value])))
        assert got < evidence
        assert_allclose(evidence - got, slack, rtol=1e-8)


def test_the_order_of_the_terms_and_their_kl():
    """step_nats[:, t] belongs to the step from t to t - 1, L_0 stands at 1, and nothing at 0."""
    seen = []

    def denoiser(xt, t):
        seen.append(int(t[0]))
        return np.tanh(xt)

    rng = np.random.default_rng(0)
    x0 = rng.standard_normal((3, 2))
    bound = elbo.bound_nats(denoiser, SMALL, x0, rng=np.random.default_rng(1), levels=None)
    assert seen == list(range(T, 0, -1))
    assert bound.step_nats.shape == bound.x0_mse.shape == (3, T + 1)
    assert_array_equal(bound.step_nats[:, 0], 0)
    assert_array_equal(bound.x0_mse[:, 0], 0)
    draws = np.random.default_rng(1)
    for t in range(T, 0, -1):
        noise = draws.standard_normal((3, 2))
        xt = process.q_sample(SMALL, x0, t, noise)
        eps = denoiser(xt, np.full(3, t))
        c_0, c_t, tilde = process.posterior(SMALL, t - 1, t)
        mu = parameterizations.mu_from_eps(SMALL, xt, t, eps)
        if t == 1:
            expected = -norm.logpdf(x0, mu, np.sqrt(SMALL.beta[1]))
        else:
            expected = elbo.kl_normal_nats(c_0 * x0 + c_t * xt, tilde, mu, SMALL.beta[t])
        assert_allclose(bound.step_nats[:, t], expected.sum(1), rtol=1e-9, atol=1e-12)
        error = (x0 - parameterizations.x0_from_eps(SMALL, xt, t, eps)) ** 2
        assert_allclose(bound.x0_mse[:, t], error.mean(1), rtol=1e-9)


@given(strategies.schedules(max_T=30, min_abar_T=1e-6), strategies.seeds)
@strategies.examples(0.3)
def test_no_term_but_the_density_is_negative(schedule, seed):
    rng = np.random.default_rng(seed)
    x0 = rng.integers(0, 256, (3, 2, 2, 1)) / 127.5 - 1
    bound = elbo.bound_nats(lambda xt, t: np.tanh(xt), schedule, x0, rng=rng)
    assert (bound.prior_nats >= 0).all()
    assert (bound.step_nats >= 0).all()
    assert (bound.step_nats[:, 1] > 0).all()


# --- prior ---


def test_the_prior_term_is_small_and_not_zero():
    """|x_0| = 1, linear T = 1000: 2.02e-5 nats for each, 0.0228 bits for 784, 0.0894 for 3072."""
    ones = -np.ones((2, 28, 28, 1))
    nats = elbo.prior_nats(LINEAR, ones)
    assert nats.shape == (2,)
    assert_allclose(nats / 784, 2.018e-5, rtol=1e-4)
    assert_allclose(elbo.bits_per_dim(nats, 1), 0.02282, rtol=1e-3)
    many = elbo.prior_nats(LINEAR, np.ones((1, 3072)))
    assert_allclose(elbo.bits_per_dim(many, 1), 0.0894, rtol=1e-3)


@given(strategies.schedules(max_T=30), st.floats(-3, 3))
@strategies.examples(0.5)
def test_the_prior_term_is_a_kl(schedule, x):
    abar = schedule.abar[-1]
    expected = elbo.kl_normal_nats(np.sqrt(abar) * x, 1 - abar, 0.0, 1.0)
    got = elbo.prior_nats(schedule, np.full((1, 1), x))
    assert_allclose(got, expected, rtol=1e-6, atol=1e-15)


# --- units, shapes, options ---


def test_units_and_dimensions():
    """Four independent elements: four times the nats, the same bits per dimension."""
    schedule = schedules.linear(20, 1e-3, 0.3)
    one = exact_bound(gaussian(), schedule)
    data = Gaussian.isotropic(np.zeros((2, 2, 1)), 1.0)
    four = exact_bound(data, schedule, X0.reshape(4, 1, 1, 1) * np.ones((1, 2, 2, 1)))
    assert (one.dims, four.dims) == (1, 4)
    assert_allclose(four.total_nats, 4 * one.total_nats, rtol=1e-10)
    assert_allclose(four.total_bits_per_dim, one.total_bits_per_dim, rtol=1e-10)
    assert_allclose(one.total_bits_per_dim, one.total_nats / np.log(2), rtol=1e-12)
    assert_allclose(four.x0_mse, one.x0_mse, rtol=1e-8)
    bits = four.prior_bits_per_dim + four.step_bits_per_dim.sum(1)
    assert_allclose(bits, four.total_bits_per_dim, rtol=1e-12)
    assert four.total_nats.dtype == np.float64


@pytest.mark.parametrize(("variance", "excess"), [("posterior", 0.0), ("beta", 0.48)])
def test_bits_of_data_with_two_values(variance, excess):
    """x_0 = -1 or 1 with equal chance, one bit: tight with beta-tilde, the variance of points."""
    x0 = np.resize([-1.0, 1.0], (200, 1))
    oracle = Empirical([[-1.0], [1.0]]).denoiser(LINEAR)
    rng = np.random.default_rng(0)
    bound = elbo.bound_nats(oracle, LINEAR, x0, rng=rng, variance=variance, levels=2)
    bits = bound.total_bits_per_dim
    assert abs(bits.mean() - 1 - excess) < 5 * bits.std() / np.sqrt(len(bits))
    assert bound.step_bits_per_dim[:, 1].max() < 1e-6  # what x_1 leaves open


def test_the_discretized_bound_comes_near_the_density_with_fine_bins():
    """-log2(width) more bits, as 1 / width grows."""
    schedule = schedules.linear(20, 1e-2, 0.3)
    levels = 2**10 + 1
    x0 = np.round(X0 * 0.25 * 512) / 512
    denoiser = gaussian(0.0, 0.1).denoiser(schedule)
    fine = elbo.bound_nats(denoiser, schedule, x0, rng=Signs(), levels=levels)
    smooth = elbo.bound_nats(denoiser, schedule, x0, rng=Signs(), levels=None)
    assert_allclose(fine.total_nats, smooth.total_nats - np.log(2 / (levels - 1)), atol=1e-5)
    assert_array_equal(fine.step_nats[:, 2:], smooth.step_nats[:, 2:])


@pytest.mark.parametrize("levels", [None, 256])
def test_a_learned_variance_at_its_ends_is_the_fixed_one(levels):
    rng = np.random.default_rng(0)
    x0 = rng.integers(0, 256, (4, 3)) / 127.5 - 1
    eps_of = Gaussian.isotropic(np.zeros(3), 0.4).denoiser(SMALL)
    for value, name in ((0.0, "posterior"), (1.0, "beta")):

        def denoiser(xt, t, value=value):
            return eps_of(xt, t), np.full_like(xt, value)

        learned, fixed = (
            elbo.bound_nats(
                denoiser, SMALL, x0, rng=np.random.default_rng(1), variance=v, levels=levels
            )
            for v in ("learned", name)
        )
        assert_allclose(learned.step_nats, fixed.step_nats, rtol=1e-10, atol=1e-13)


def test_clipping_acts_on_the_predicted_x0():
    x0 = np.array([[1.0, -1.0], [0.0, 1.0]])
    schedule = schedules.linear(10, 0.05, 0.5)

    def wild(xt, t):
        return -20 * np.sign(xt)

    def clipped(xt, t):
        return parameterizations.denoised(schedule, xt, t, wild(xt, t), (-1, 1))[1]

    bounds = [
        elbo.bound_nats(f, schedule, x0, rng=np.random.default_rng(0), levels=3, clip=clip)
        for f, clip in ((wild, (-1, 1)), (clipped, None), (wild, None))
    ]
    assert_allclose(bounds[0].step_nats, bounds[1].step_nats, rtol=1e-9)
    assert (bounds[0].x0_mse <= 4 + 1e-9).all()
    assert (bounds[2].total_nats > bounds[0].total_nats).all()


def test_conditions_are_passed_on():
    seen = []

    def denoiser(xt, t, labels):
        seen.append(labels)
        return xt

    labels = np.array([1, 2])
    elbo.bound_nats(denoiser, SMALL, np.ones((2, 1)), rng=Signs(), labels=labels)
    assert len(seen) == T
    assert all(value is labels for value in seen)


def test_steps_come_one_by_one_from_the_last():
    x0, rng = np.ones((2, 1)), np.random.default_rng(0)
    steps = elbo.steps_nats(lambda xt, t: xt, SMALL, x0, rng=rng)
    first = next(steps)
    assert first.t == T
    assert first.nats.shape == first.x0_mse.shape == (2,)
    assert [step.t for step in steps] == list(range(T - 1, 0, -1))


def test_one_step_only():
    """T = 1: prior and reconstruction; beta-tilde does not exist."""
    one = Schedule.from_betas([0.9])
    bound = exact_bound(gaussian(), one)
    assert_allclose(bound.total_nats.mean(), ENTROPY, rtol=1e-12)
    assert bound.step_nats.shape == (4, 2)
    for variance in ("posterior", "learned"):
        with pytest.raises(InputError, match="T = 1"):
            exact_bound(gaussian(), one, variance=variance)


@pytest.mark.parametrize("variance", ["beta", "learned"])
@pytest.mark.parametrize("levels", [None, 256])
def test_on_the_device(device, variance, levels):
    host = (np.random.default_rng(0).integers(0, 256, (3, 2, 2, 1)) / 127.5 - 1).astype(np.float32)

    class Draws:
        def __init__(self):
            self.rng = np.random.default_rng(1)

        def standard_normal(self, shape, dtype):
            return backend.asarray(self.rng.standard_normal(shape, dtype=dtype))

    data = Gaussian.isotropic(np.zeros((2, 2, 1)), 0.5)

    def run(x0):
        oracle = data.denoiser(SMALL)
        return elbo.bound_nats(
            lambda xt, t: (oracle(xt, t), 0.5 * xt), SMALL, x0, rng=Draws(),
            variance=variance, levels=levels, clip=(-1, 1),
        )  # fmt: skip

    with double.forbid("float64"):
        got = run(backend.asarray(host))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "xp", np)
        expected = run(host)
    for name in ("prior_nats", "step_nats", "x0_mse"):
        a, b = getattr(got, name), getattr(expected, name)
        assert type(a) is np.ndarray
        assert a.dtype == np.float64
        assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_float32_is_right_to_its_digits():
    x0 = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 1)) / 127.5 - 1
    oracle = Gaussian.isotropic(np.zeros((2, 2, 1)), 0.5).denoiser(SMALL)
    single, exact = (
        elbo.bound_nats(oracle, SMALL, x0.astype(dtype), rng=Signs())
        for dtype in (np.float32, np.float64)
    )
    assert_allclose(single.step_nats, exact.step_nats, rtol=1e-4, atol=1e-6)
    assert_allclose(single.total_bits_per_dim, exact.total_bits_per_dim, rtol=1e-5)


OK = np.zeros((2, 1))


def identity(xt, t):
    return xt


def bound(denoiser=identity, x0=OK, rng=None, **options):
    return elbo.bound_nats(denoiser, SMALL, x0, rng=rng or Signs(), **({"levels": 3} | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: elbo.kl_normal_nats(0.0, 0.0, 0.0, 1.0), "variance must be positive"),
        (lambda: elbo.kl_normal_nats(0.0, 1.0, 0.0, -1.0), "variance must be positive"),
        (lambda: bound(x0=np.zeros(3)), r"array of floats of shape \(N, ...\)"),
        (lambda: bound(x0=np.zeros((3, 1), int)), "array of floats"),
        (lambda: elbo.bound_nats(identity, SMALL, OK, rng=None), "pass rng"),
        (lambda: bound(x0=OK + 0.3), "3 evenly spaced values"),
        (lambda: bound(levels=1), "whole number >= 2"),
        (lambda: bound(variance="small"), "choose one of beta, posterior"),
        (lambda: bound(variance=np.ones(3)), "9 positive numbers"),
        (lambda: bound(variance=np.zeros(9)), "9 positive numbers"),
        (lambda: bound(variance="learned"), "returns the prediction alone"),
        (lambda: bound(clip=(1, -1)), "clip must be"),
        (lambda: bound(lambda xt, t: Tensor(xt)), "returned a Tensor"),
        (lambda: bound(lambda xt, t: xt[:1]), "returned shape"),
        (lambda: elbo.optimal_variance(SMALL, np.ones(3)), "9 numbers >= 0"),
        (lambda: elbo.expected_steps_nats_per_dim(SMALL, -np.ones(9)), "9 numbers >= 0"),
        (
            lambda: elbo.expected_steps_nats_per_dim(SMALL, np.ones(9), "learned"),
            'must be "beta", "posterior"',
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
