"""The analytic models against brute force, differences, quadrature and the engine's gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import autograd
from minidiff.diffusion import (
    guidance,
    objectives,
    oracle,
    parameterizations,
    process,
    samplers,
    schedules,
)
from minidiff.diffusion.oracle import Empirical, Gaussian, GaussianMixture
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion import densities
from tests.diffusion.gaussians import condition

LINEAR = schedules.linear()


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


# --- mixtures ---


@st.composite
def mixtures(draw):
    """Three correlated components of 2 x 2 x 1 images in two classes, some x, and a level for each.

    The covariances are full, or multiples of the identity given as numbers.
    """
    rng = np.random.default_rng(draw(strategies.seeds))
    weights = rng.uniform(0.1, 1, 3)
    if draw(st.booleans()):
        a = rng.standard_normal((3, 4, 4))
        covariances = a @ a.transpose(0, 2, 1) / 4
    else:
        covariances = rng.uniform(0.1, 1, 3)
    means = rng.standard_normal((3, 2, 2, 1))
    mixture = GaussianMixture(weights / weights.sum(), means, covariances, [0, 1, 1])
    signal, sigma = rng.uniform(0.05, 1, 5), rng.uniform(0.1, 2, 5)
    return mixture, signal, sigma, rng.standard_normal((5, 2, 2, 1)), rng.integers(0, 3, 5)


def image_by_image(f, case):
    """f(mixture, x, label, signal, sigma) for each image alone, as one array."""
    mixture, signal, sigma, x, labels = case
    return np.concatenate(
        [f(mixture, x[n : n + 1], labels[n : n + 1], signal[n], sigma[n]) for n in range(len(x))]
    )


def conditional(mixture, label):
    """The components of one class, or all for the null class, as an unlabelled mixture."""
    own = np.flatnonzero((mixture.labels == label) | (label == mixture.null))
    w = mixture.weights[own]
    return GaussianMixture(w / w.sum(), mixture.means[own], mixture.covariances[own])


@given(mixtures())
@settings(max_examples=40)
def test_the_density_is_that_of_the_definition(case):
    mixture, signal, sigma, x, labels = case
    q = mixture.at(signal, sigma)
    expected = image_by_image(lambda m, *a: densities.log_density(m, a[0], *a[2:]).data, case)
    assert_allclose(q.log_density(x), expected, rtol=1e-9, atol=1e-9)

    def given_label(m, x, label, signal, sigma):
        return densities.log_density(conditional(m, label[0]), x, signal, sigma).data

    assert_allclose(
        q.log_density(x, labels), image_by_image(given_label, case), rtol=1e-9, atol=1e-9
    )


@given(mixtures())
@settings(max_examples=40)
def test_the_score_is_the_gradient_by_autograd(case):
    """Of the log density that is built from the engine's operations."""
    mixture, signal, sigma, x, labels = case

    def gradient(m, x, label, signal, sigma):
        sub = conditional(m, label[0])
        value, pull = autograd.vjp(lambda x: densities.log_density(sub, x, signal, sigma), x)
        return pull(np.ones_like(value))

    score = mixture.at(signal, sigma).score(x, labels)
    assert_allclose(score, image_by_image(gradient, case), rtol=1e-9, atol=1e-9)


@given(mixtures())
@settings(max_examples=40)
def test_the_score_is_the_gradient_by_differences(case):
    mixture, signal, sigma, x, labels = case
    q, h = mixture.at(signal, sigma), 1e-5
    direction = np.random.default_rng(0).standard_normal(x.shape)
    up, down = (q.log_density(x + s * h * direction, labels) for s in (1, -1))
    slope = (q.score(x, labels) * direction).sum((1, 2, 3))
    assert_allclose(slope, (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


@given(mixtures())
@settings(max_examples=40)
def test_the_gradient_of_the_label_posterior(case):
    """grad log p(y | x) = -(eps(x, y) - eps(x)) / sigma, by autograd and by differences."""
    mixture, signal, sigma, x, _ = case
    labels = np.array([0, 1, 1, 0, 1])
    q, h = mixture.at(signal, sigma), 1e-5

    def gradient(m, x, label, signal, sigma):
        value, pull = autograd.vjp(lambda x: densities.log_label(m, x, label, signal, sigma), x)
        return pull(np.ones_like(value))

    of_eps = -(q.eps(x, labels) - q.eps(x)) / sigma.reshape(-1, 1, 1, 1)
    expected = image_by_image(gradient, (mixture, signal, sigma, x, labels))
    assert_allclose(q.label_score(x, labels), expected, rtol=1e-8, atol=1e-10)
    assert_allclose(of_eps, expected, rtol=1e-8, atol=1e-10)
    direction = np.random.default_rng(0).standard_normal(x.shape)
    up, down = (q.log_labels(x + s * h * direction)[np.arange(5), labels] for s in (1, -1))
    slope = (of_eps * direction).sum((1, 2, 3))
    assert_allclose(slope, (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


@given(mixtures())
@settings(max_examples=40)
def test_posteriors_are_those_of_bayes(case):
    mixture, signal, sigma, x, _ = case
    q = mixture.at(signal, sigma)
    joint = image_by_image(lambda m, *a: densities.log_joint(m, a[0], *a[2:]).data, case)
    p = np.exp(joint) / np.exp(joint).sum(1, keepdims=True)
    assert_allclose(q.responsibilities(x), p, rtol=1e-8, atol=1e-12)
    expected = np.stack([p[:, 0], p[:, 1] + p[:, 2]], axis=1)
    assert_allclose(np.exp(q.log_labels(x)), expected, rtol=1e-8, atol=1e-12)
    assert_allclose(np.exp(q.log_labels(x)).sum(1), 1, rtol=1e-12)


@given(mixtures())
@settings(max_examples=40)
def test_x0_and_eps_are_conditional_expectations(case):
    """By component, from the joint Gaussian of (x_0, x); and x = signal x_0 + sigma eps holds."""
    mixture, signal, sigma, x, labels = case
    q = mixture.at(signal, sigma)
    full = mixture._full_covariances()
    for n in range(5):
        sub = mixture.at(signal[n], sigma[n])
        r = sub.responsibilities(x[n : n + 1], labels[n : n + 1])[0]
        expected = np.zeros(4)
        for k in range(3):
            cross = signal[n] * full[k]
            noisy = signal[n] ** 2 * full[k] + sigma[n] ** 2 * np.eye(4)
            m = mixture.means[k].reshape(-1)
            expected += (
                r[k]
                * condition(
                    np.concatenate([m, signal[n] * m]),
                    np.block([[full[k], cross], [cross, noisy]]),
                    given=np.arange(4, 8),
                    values=x[n].reshape(-1),
                )[0]
            )
        assert_allclose(q.x0(x, labels)[n].reshape(-1), expected, rtol=1e-8, atol=1e-8)
    s, e = signal.reshape(-1, 1, 1, 1), sigma.reshape(-1, 1, 1, 1)
    assert_allclose(s * q.x0(x, labels) + e * q.eps(x, labels), x, rtol=1e-9, atol=1e-9)


@given(mixtures())
@settings(max_examples=30)
def test_the_divergence_of_the_score_by_differences(case):
    mixture, signal, sigma, x, labels = case
    q, h, total = mixture.at(signal, sigma), 1e-5, 0.0
    for i in range(4):
        e = h * np.eye(4)[i].reshape(2, 2, 1)
        total += (q.score(x + e, labels) - q.score(x - e, labels)).reshape(5, 4)[:, i] / (2 * h)
    assert_allclose(q.score_divergence(x, labels), total, rtol=1e-5, atol=1e-5)
    variance = 4 + sigma**2 * q.score_divergence(x, labels)
    assert_allclose(q.eps_variance(x, labels), variance, rtol=1e-10)
    assert (q.eps_variance(x, labels) > 0).all()


def quadrature(f, *, reach=12.0, n=20_001):
    """The integral of f over the line, by the trapezoidal rule, which is exact here to rounding."""
    x = np.linspace(-reach, reach, n)
    return f(x).sum() * (x[1] - x[0])


LINE = GaussianMixture([0.2, 0.5, 0.3], [[-2.0], [0.5], [1.5]], [0.05, 0.3, 0.01], [0, 1, 0])


@pytest.mark.parametrize("t", [1, 100, 400, 1000])
def test_by_quadrature(t):
    """Mass 1, moments of the marginal, and Var(eps | x_t) from its definition."""
    q = LINE.at_time(LINEAR, t)

    def mean(f):
        return quadrature(lambda x: np.exp(q.log_density(x[:, None])) * f(x))

    m, c = LINE.marginal(LINEAR, t)
    assert_allclose(mean(lambda x: 1.0), 1, rtol=1e-9)
    assert_allclose(mean(lambda x: x), m[0], rtol=1e-8)
    assert_allclose(mean(lambda x: (x - m[0]) ** 2), c[0, 0], rtol=1e-8)
    # L_simple at its best: E eps^2 - E E[eps | x_t]^2.
    floor = 1 - mean(lambda x: q.eps(x[:, None])[:, 0] ** 2)
    assert_allclose(mean(lambda x: q.eps_variance(x[:, None])), floor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 400), (99, 100), (300, 600)])
def test_the_reverse_kernel_is_that_of_bayes(s, t):
    """q(x_s | x_t) q(x_t) = q(x_t | x_s) q(x_s), everywhere."""
    xt, xs = np.array([0.7]), np.linspace(-4, 4, 41)[:, None]
    kernel = LINE.reverse(LINEAR, xt, s, t)
    c, variance = process.forward(LINEAR, s, t)
    forward = -0.5 * ((xt - c * xs)[:, 0] ** 2 / variance + np.log(2 * np.pi * variance))
    expected = forward + LINE.at_time(LINEAR, s).log_density(xs)
    expected -= LINE.at_time(LINEAR, t).log_density(xt[None])
    assert_allclose(kernel.at(1, 0).log_density(xs), expected, rtol=1e-9, atol=1e-7)


@given(mixtures())
@settings(max_examples=20)
def test_the_reverse_kernel_in_more_dimensions(case):
    mixture, _, _, x, _ = case
    kernel = mixture.reverse(LINEAR, x[0], 200, 500)
    c, variance = process.forward(LINEAR, 200, 500)
    squares = ((x[0] - c * x) ** 2).sum((1, 2, 3))
    forward = -0.5 * (squares / variance + 4 * np.log(2 * np.pi * variance))
    expected = forward + mixture.at_time(LINEAR, 200).log_density(x)
    expected -= mixture.at_time(LINEAR, 500).log_density(x[:1])
    assert_allclose(kernel.at(1, 0).log_density(x), expected, rtol=1e-8, atol=1e-6)
    assert_allclose(kernel.mean, _mean_of_reverse(mixture, x[0], 200, 500), atol=1e-8)


def _mean_of_reverse(mixture, xt, s, t):
    """E[x_s | x_t] = c_0 E[x_0 | x_t] + c_t x_t."""
    c_0, c_t, _ = process.posterior(LINEAR, s, t)
    return c_0 * mixture.at_time(LINEAR, t).x0(xt[None])[0] + c_t * xt


def test_to_go_back_takes_all_the_data():
    """q(x_s | x_t) of five images is a mixture of five posteriors, weighted by p(image | x_t)."""
    x0 = np.random.default_rng(0).standard_normal((5, 3))
    xt = np.array([0.3, -0.2, 0.9])
    kernel = Empirical(x0).reverse(LINEAR, xt, 199, 200)
    signal, noise2 = np.sqrt(LINEAR.abar[200]), 1 - LINEAR.abar[200]
    p = np.exp(-0.5 * ((xt - signal * x0) ** 2).sum(1) / noise2)
    c_0, c_t, variance = process.posterior(LINEAR, 199, 200)
    assert_allclose(kernel.weights, p / p.sum(), rtol=1e-9)
    assert_allclose(kernel.means, c_0 * x0 + c_t * xt, rtol=1e-9)
    assert_allclose(kernel.covariances, np.full(5, variance), rtol=1e-9)


@given(strategies.jumps(max_T=50, min_abar_T=1e-6), strategies.seeds)
@settings(max_examples=30)
def test_a_covariance_goes_through_the_chain(jump, seed):
    """Sigma_t = a Sigma_s + (1 - a) I for a full Sigma, and the mean by sqrt(a)."""
    schedule, s, t = jump
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((2, 3, 3))
    data = GaussianMixture([0.4, 0.6], rng.standard_normal((2, 3)), a @ a.transpose(0, 2, 1))
    c, variance = process.forward(schedule, s, t)
    (mean_s, cov_s), (mean_t, cov_t) = data.marginal(schedule, s), data.marginal(schedule, t)
    assert_allclose(mean_t, c * mean_s, rtol=1e-12, atol=1e-12)
    assert_allclose(cov_t, c**2 * cov_s + variance * np.eye(3), rtol=1e-12, atol=1e-12)


def test_numbers_and_matrices_for_covariances_are_the_same():
    rng = np.random.default_rng(0)
    weights, means, c = [0.2, 0.3, 0.5], rng.standard_normal((3, 4)), np.array([0.1, 0.0, 0.3])
    short = GaussianMixture(weights, means, c, [0, 1, 0])
    long = GaussianMixture(weights, means, c[:, None, None] * np.eye(4), [0, 1, 0])
    x, sigma = rng.standard_normal((6, 4)), np.linspace(0.1, 1, 6)
    for name in ("log_density", "score", "eps", "x0", "score_divergence", "responsibilities"):
        a, b = (getattr(m.at(0.5, sigma), name)(x) for m in (short, long))
        assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    assert_allclose(short.covariance, long.covariance, rtol=1e-14)
    a, b = (m.reverse(LINEAR, x[0], 100, 300) for m in (short, long))
    assert_allclose(a.covariance, b.covariance, rtol=1e-9, atol=1e-12)


def test_far_from_all_data_nothing_overflows():
    """The nearest component takes over; a softmax without care is 0 / 0 here."""
    x = np.array([[1e4], [-1e4]])
    q = LINE.at(1.0, 0.01)
    assert np.isfinite(q.log_density(x)).all()
    assert_allclose(q.responsibilities(x).sum(1), 1)
    assert_allclose(q.score(x)[:, 0], [-(1e4 - 0.5) / 0.3001, (1e4 + 0.5) / 0.3001], rtol=1e-6)
    assert np.isfinite(q.log_labels(x)).all()


@pytest.mark.parametrize("t", [1, 500, 1000])
def test_float32_follows_float64(t):
    data = oracle.template_images()
    x = data.at_time(LINEAR, t).sample(50, rng=np.random.default_rng(0))
    for name in ("x0", "eps"):
        double, single = (
            getattr(data.at_time(LINEAR, t), name)(x.astype(kind)) for kind in ("f8", "f4")
        )
        assert single.dtype == np.float32
        assert_allclose(single, double, atol=2e-3)


def test_many_points_are_taken_in_blocks(monkeypatch):
    data = Empirical(np.random.default_rng(0).standard_normal((30, 4)))
    x, sigma = np.random.default_rng(1).standard_normal((17, 4)), np.linspace(0.1, 2, 17)
    whole = [data.at(1.0, s).log_density(x) for s in (0.3, sigma)]
    monkeypatch.setattr(oracle, "_BLOCK", 30 * 4 * 3)  # three rows at a time
    for s, expected in zip((0.3, sigma), whole, strict=True):
        assert_allclose(data.at(1.0, s).log_density(x), expected, rtol=1e-13)


def test_between_the_levels_of_a_schedule():
    x, t = np.array([[0.3], [0.4]]), np.array([100, 700])
    assert_allclose(LINE.eps(LINEAR, x, t.astype(float)), LINE.eps(LINEAR, x, t), rtol=1e-9)
    low, half, high = (LINE.eps(LINEAR, x[:1], t)[0, 0] for t in (100, 100.5, 101))
    assert min(low, high) < half < max(low, high)


# --- denoisers ---


def test_class_conditional_and_guided_denoisers():
    data = oracle.template_images()
    denoiser = data.denoiser(LINEAR)
    rng = np.random.default_rng(0)
    xt, labels = rng.standard_normal((4, 8, 8, 1)), np.array([3, 1, 4, 1])
    own = np.stack(
        [Gaussian(data.means[y], 0.01 * np.eye(64)).eps(LINEAR, x[None], 300)[0]
         for x, y in zip(xt, labels, strict=True)]
    )  # fmt: skip
    t = np.full(4, 300)
    assert_allclose(denoiser(xt, t, labels=labels), own, rtol=1e-9, atol=1e-11)
    null = denoiser(xt, t, labels=np.full(4, data.null))
    assert_array_equal(null, denoiser(xt, t))
    guided = guidance.classifier_free(denoiser, w=2.0, null=data.null)
    assert_allclose(guided(xt, t, labels=labels), 3 * own - 2 * null, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("w", [0.0, 2.0])
def test_guided_sampling_gives_the_class_that_is_asked_for(w):
    data = oracle.template_images()
    guided = guidance.classifier_free(data.denoiser(LINEAR), w=w, null=data.null)
    labels = np.arange(10).repeat(3)
    x_T = np.random.default_rng(0).standard_normal((30, 8, 8, 1))
    x = samplers.final(samplers.ddim(guided, LINEAR, x_T, steps=20, labels=labels))
    assert_array_equal(data.at(1, 0).log_labels(x).argmax(1), labels)


def test_the_tilted_density_that_guidance_does_not_sample():
    """p(x | c)^2 / p(x) of the known case: mean 1.111, variance 0.139 (DDIM at w = 1: 0.0494)."""
    condition, all_ = Gaussian.isotropic([1.0], 0.25).at(1, 0), Gaussian.isotropic([0.0], 1.25)

    def tilted(x):
        x = x[:, None]
        return np.exp(2 * condition.log_density(x) - all_.at(1, 0).log_density(x))

    mass = quadrature(tilted)
    mean = quadrature(lambda x: x * tilted(x)) / mass
    variance = quadrature(lambda x: (x - mean) ** 2 * tilted(x)) / mass
    assert_allclose([mean, variance], [1.111, 0.139], atol=5e-4)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_what_a_perfect_model_of_a_finite_set_generates_is_the_set(name):
    """Memorisation: every sample is a training image; its nearest neighbour is at distance 0."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (20, 4, 4, 1))
    data = Empirical(images)
    x_T = rng.standard_normal((60, 4, 4, 1))
    sampler = samplers.make(name, steps=50)
    x = samplers.final(sampler(data.denoiser(LINEAR), LINEAR, x_T, rng=rng))
    distance = np.sqrt(((x[:, None] - images) ** 2).sum((2, 3, 4)))
    assert distance.min(1).max() < 1e-8
    assert len(np.unique(distance.argmin(1))) > 10
    spread = np.sqrt(((images[:, None] - images) ** 2).sum((2, 3, 4)))
    assert spread[~np.eye(20, dtype=bool)].min() > 1  # what near 0 is compared with


# --- the smallest loss ---


@pytest.mark.parametrize("variance", [1.0, 0.25, 0.01])
def test_of_a_gaussian_the_smallest_loss_is_exact(variance):
    """abar v / (abar v + 1 - abar) for each t; its mean over t is a known number."""
    data = Gaussian.isotropic([0.3, -0.1], variance)
    abar = LINEAR.abar[1:]
    floor = abar * variance / (abar * variance + 1 - abar)
    for t in (1, 300, 1000):
        got, error = oracle.optimal_loss(data, LINEAR, t, 3, rng=np.random.default_rng(0))
        assert_allclose(got, floor[t - 1], rtol=1e-10, atol=1e-14)
        assert error < 1e-12
    known = {1.0: 0.275513, 0.25: 0.173053, 0.01: 0.041431}
    assert_allclose(floor.mean(), known[variance], atol=5e-7)


@pytest.mark.parametrize("t", [50, 300, 700])
def test_a_loss_is_the_smallest_plus_the_excess(t):
    """Of some wrong denoiser of the template images, 5 standard errors of 4,000 draws."""
    data, n, rng = oracle.template_images(), 4000, np.random.default_rng(t)
    x0, eps = data.sample(n, rng=rng), rng.standard_normal((n, 8, 8, 1))
    xt = process.q_sample(LINEAR, x0, t, eps)

    def wrong(xt, t, **cond):
        return 0.9 * data.eps(LINEAR, xt, t) + 0.05

    best, best_error = oracle.optimal_loss(data, LINEAR, t, n, rng=rng)
    each = ((wrong(xt, t) - eps) ** 2).reshape(n, -1).mean(1)
    excess = oracle.excess_loss(wrong, data, LINEAR, xt, t)
    error = np.hypot((each - excess).std() / np.sqrt(n), best_error)
    assert abs((each - excess).mean() - best) < 5 * error
    assert 5 * error < 0.5 * excess.mean()  # half of the excess would show
    perfect = oracle.excess_loss(data.denoiser(LINEAR), data, LINEAR, xt, t)
    assert perfect.max() == 0
    simple = objectives.simple(data.denoiser(LINEAR), LINEAR, x0, np.full(n, t), eps).data
    assert abs(simple - best) < 5 * np.hypot(each.std() / np.sqrt(n), best_error)


# --- draws ---


def test_template_images_are_ten_different_digits():
    pictures = oracle.templates()
    assert pictures.shape == (10, 8, 8, 1)
    assert set(np.unique(pictures)) == {-1.0, 1.0}
    differ = (pictures[:, None] != pictures).sum((2, 3, 4))
    assert (differ[~np.eye(10, dtype=bool)] >= 3).all()  # at least one segment of 3 or 4 pixels
    data = oracle.template_images(noise=0.1)
    rng = np.random.default_rng(0)
    labels = data.draw_labels(500, rng=rng)
    assert set(labels) == set(range(10))
    x = data.sample(500, rng=rng, labels=labels)
    assert x.shape == (500, 8, 8, 1)
    noise = x - pictures[labels]
    assert abs(noise.mean()) < 5 * 0.1 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * noise.size)


def test_draws_follow_the_density():
    """Kolmogorov-Smirnov: 20,000 draws; a distribution function wrong by 1.5 % would show."""
    n, x = 20_000, np.linspace(-6, 6, 24_001)
    q = LINE.at(0.8, 0.3)
    cdf = np.cumsum(np.exp(q.log_density(x[:, None]))) * (x[1] - x[0])
    draws = np.sort(q.sample(n, rng=np.random.default_rng(0))[:, 0])
    at = np.interp(draws, x, cdf)
    assert np.abs(at - (np.arange(n) + 0.5) / n).max() < 2.2 / np.sqrt(n)


def test_draws_of_a_class_come_from_its_components():
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 2] * 4000)
    x = LINE.sample(len(labels), rng=rng, labels=labels)[:, 0]
    for label in (0, 1, 2):
        own = conditional(LINE, label)
        got = x[labels == label]
        error = np.sqrt(own.covariance[0, 0] / len(got))
        assert abs(got.mean() - own.mean[0]) < 5 * error
        assert abs(got.var() / own.covariance[0, 0] - 1) < 5 * np.sqrt(3 / len(got))
    share = np.bincount(LINE.draw_labels(20_000, rng=rng)) / 20_000
    assert (np.abs(share - 0.5) < 5 * np.sqrt(0.25 / 20_000)).all()


def test_correlated_components_are_drawn_as_such():
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    data = GaussianMixture([0.5, 0.5], [[5.0, 0.0], [-5.0, 0.0]], [covariance, np.eye(2)])
    x = data.sample(20_000, rng=rng)
    right = x[x[:, 0] > 0]
    assert abs(np.corrcoef(right.T)[0, 1] - 0.9) < 5 * 0.19 / np.sqrt(len(right))
    assert abs(np.corrcoef(x[x[:, 0] < 0].T)[0, 1]) < 5 / np.sqrt(10_000)
    assert_allclose(data.covariance, 0.5 * (covariance + np.eye(2)) + np.diag([25.0, 0]))


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
        (lambda: Gaussian(np.zeros(1), np.array([[np.inf]])), "symmetric and finite"),
        (lambda: GaussianMixture([0.5, 0.6], np.zeros((2, 1)), [1, 1]), "sum to 1"),
        (lambda: GaussianMixture([1.0, 0.0], np.zeros((2, 1)), [1, 1]), "positive numbers"),
        (lambda: GaussianMixture([[1.0]], np.zeros((1, 1)), [1]), "positive numbers"),
        (lambda: GaussianMixture([0.5, 0.5], np.zeros((3, 1)), [1, 1]), "2 weights need 2 means"),
        (lambda: GaussianMixture([1.0], [[np.nan]], [1]), "a mean must be finite"),
        (
            lambda: GaussianMixture([0.5, 0.5], np.zeros((2, 3)), np.eye(3)),
            r"need \(2, 3, 3\), or \(2,\) for c_k I; got \(3, 3\)",
        ),
        (lambda: GaussianMixture([1.0], np.zeros((1, 1)), [-0.1]), "negative eigenvalue"),
        (lambda: GaussianMixture([1.0], np.zeros((1, 1)), [1], [1]), "each class used at least"),
        (lambda: GaussianMixture([1.0], np.zeros((1, 1)), [1], [-1]), "each class used at least"),
        (lambda: GaussianMixture([1.0], np.zeros((1, 1)), [1], [0.0]), "1 components need 1 whole"),
        (lambda: Empirical(np.zeros((0, 2))), "positive numbers"),
        (lambda: LINE.at(1, -0.1), "sigma must be a number >= 0"),
        (lambda: LINE.at(np.nan, 1), "signal must be a number >= 0"),
        (lambda: LINE.at(np.ones((2, 1)), 1), "signal must be a number >= 0"),
        (lambda: LINE.at([1, 1], [1, 1, 1]), "2 values of signal do not fit 3 of sigma"),
        (lambda: LINE.at(1, [1, 1]).score(np.zeros((3, 1))), "2 noise levels do not fit 3 images"),
        (lambda: Empirical([[0.0]]).at(1, 0), "sigma must be > 0"),
        (lambda: Empirical([[0.0]]).at_time(LINEAR, 0), "sigma must be > 0"),
        (lambda: LINE.eps(LINEAR, np.zeros((1, 1)), 0), "t must lie in 1..1000"),
        (lambda: LINE.eps(LINEAR, np.zeros((1, 1)), 0.0), "t = 0 is clean data"),
        (lambda: LINE.eps(LINEAR, np.zeros((1, 1)), 1000.5), "t must lie in 0..1000"),
        (lambda: LINE.at(1, 1).score(np.zeros((2, 1)), [0]), "2 images need 2 whole numbers"),
        (lambda: LINE.at(1, 1).score(np.zeros((1, 1)), [0.0]), "1 images need 1 whole numbers"),
        (lambda: LINE.at(1, 1).score(np.zeros((1, 1)), [3]), "labels must lie in 0..1, or be 2"),
        (lambda: LINE.sample(1, rng=np.random.default_rng(0), labels=[-1]), "got -1..-1"),
        (lambda: Empirical([[0.0]]).at(1, 1).log_labels(np.zeros((1, 1))), "no labels"),
        (lambda: Empirical([[0.0]]).draw_labels(1, rng=np.random.default_rng(0)), "no labels"),
        (lambda: LINE.reverse(LINEAR, [0.0], 5, 5), "s < t"),
        (lambda: oracle.template_images(-1.0), "standard deviation"),
        (
            lambda: Gaussian.isotropic([0.0], 1.0).eps(schedules.linear(5), np.zeros((3, 1)), 6),
            "t must lie in",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
