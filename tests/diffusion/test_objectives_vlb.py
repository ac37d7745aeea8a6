"""The terms of the bound as losses: weights, variances, gradients, and what they leave alone."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from minidiff import backend, ops
from minidiff.autograd import Tensor
from minidiff.diffusion import (
    elbo,
    guidance,
    objectives,
    parameterizations,
    process,
    samplers,
    schedules,
)
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers.ddpm import learned_sigma
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError
from minidiff.gradcheck import check_vjp
from minidiff.nn import Module, Parameter
from minidiff.optim import Adam
from tests import double, strategies

LINEAR = schedules.linear()
SMALL = schedules.linear(8, 0.02, 0.5)
ALL = np.arange(1, 1001)
TARGETS = tuple(objectives.TARGETS)
each_target = pytest.mark.parametrize("target", TARGETS)


def says(prediction):
    """A model that predicts the same whatever it is asked."""
    return lambda xt, t: prediction


def on_levels(rng, shape):
    """8-bit images, the first and the last level among them."""
    x0 = rng.integers(0, 256, shape)
    x0.flat[:2] = 0, 255
    return x0 / 127.5 - 1


def batch(seed=0, schedule=SMALL, n=5):
    """x0, t (with 1 among them, and others), eps, and two arrays for predictions."""
    rng = np.random.default_rng(seed)
    t = np.append([1, schedule.T], rng.integers(1, schedule.T + 1, n - 2))
    return on_levels(rng, (n, 2, 3)), t, *rng.standard_normal((3, n, 2, 3))


# --- weights ---


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_weights_are_the_printed_ones(variance):
    """eq. 8 and 12 of Ho et al. 2020, and the x0 form; sigma^2 as said."""
    beta, alpha, abar = LINEAR.beta[1:], LINEAR.alpha[1:], LINEAR.abar[1:]
    before = LINEAR.abar[:-1]
    tilde = (1 - before) / (1 - abar) * beta
    tilde[0] = tilde[1]
    sigma2 = {"beta": beta, "posterior": tilde}[variance]
    assert_allclose(objectives.model_variance(LINEAR, ALL, variance), sigma2, rtol=1e-10)
    eps = beta**2 / (2 * sigma2 * alpha * (1 - abar))
    for target, expected in {
        "mu": 1 / (2 * sigma2),
        "eps": eps,
        "x0": before * (1 - alpha) ** 2 / (2 * sigma2 * (1 - abar) ** 2),
        "v": abar * eps,
        "score": (1 - abar) * eps,
    }.items():
        got = objectives.vlb_weight_nats(LINEAR, ALL, target=target, variance=variance)
        assert_allclose(got, expected, rtol=1e-10)
        one = objectives.vlb_weight_nats(LINEAR, 7, target=target, variance=variance)
        assert isinstance(one, float)
        assert one == got[6]


@given(strategies.schedules(max_T=300, min_abar_T=1e-8))
def test_with_beta_tilde_the_weight_of_x0_is_half_the_loss_of_snr(schedule):
    assume(schedule.T > 1)
    t = np.arange(2, schedule.T + 1)
    got = objectives.vlb_weight_nats(schedule, t, target="x0", variance="posterior")
    assert_allclose(got, 0.5 * (schedule.snr[t - 1] - schedule.snr[t]), rtol=1e-8)


def test_half_the_loss_of_snr_over_all_of_the_linear_schedule():
    got = objectives.vlb_weight_nats(LINEAR, ALL[1:], target="x0", variance="posterior")
    assert_allclose(got, 0.5 * (LINEAR.snr[1:-1] - LINEAR.snr[2:]), rtol=1e-10)


def test_the_weights_that_l_simple_drops_are_not_monotone():
    """49 times more at t = 1 than at T, but the least is at t = 349, and they rise again."""
    w = objectives.vlb_weight_nats(LINEAR, ALL)
    assert_allclose(w[0] / w[-1], 49.0, rtol=1e-3)
    assert w.argmin() + 1 == 349
    assert (np.diff(w[:349]) < 0).all()
    assert (np.diff(w[348:]) > 0).all()
    assert_allclose(w[-1], 0.0102, rtol=1e-3)


def test_at_t_1_the_posterior_variance_is_replaced_by_the_next():
    """beta-tilde_1 = 0 would weigh without bound: a decoder needs a positive variance."""
    assert process.posterior(LINEAR, 0, 1)[2] == 0
    tilde_2 = process.posterior(LINEAR, 1, 2)[2]
    assert objectives.model_variance(LINEAR, 1, "posterior") == tilde_2
    assert_array_equal(
        objectives.model_variance(LINEAR, np.array([1, 2]), "posterior"), [tilde_2, tilde_2]
    )
    own = np.linspace(0, 1, 1001)
    assert objectives.model_variance(LINEAR, 500, own) == 0.5


@given(strategies.schedules(max_T=300, min_abar_T=1e-8))
def test_the_mean_from_eps_is_the_mean_of_the_posterior(schedule):
    """mu = (x_t - beta / sqrt(1 - abar) eps) / sqrt(alpha), coefficient by coefficient."""
    t = np.arange(1, schedule.T + 1)
    c_0, c_t, _ = process.posterior(schedule, t - 1, t)
    beta, alpha, abar = (a[1:] for a in (schedule.beta, schedule.alpha, schedule.abar))
    assert_allclose(c_0 / np.sqrt(abar) + c_t, 1 / np.sqrt(alpha), rtol=1e-8)
    assert_allclose(
        c_0 * np.sqrt(1 - abar) / np.sqrt(abar), beta / np.sqrt(alpha * (1 - abar)), rtol=1e-8
    )


@given(strategies.schedules(max_T=100), st.floats(0.1, 50))
def test_min_snr_weights(schedule, gamma):
    t = np.arange(1, schedule.T + 1)
    snr = schedule.snr[1:]
    got = {
        target: objectives.min_snr_weight(schedule, t, gamma=gamma, target=target)
        for target in TARGETS
    }
    assert_allclose(got["x0"], np.minimum(snr, gamma), rtol=1e-9)
    assert_allclose(got["eps"], np.minimum(1, gamma / snr), rtol=1e-9)
    assert_allclose(got["v"], np.minimum(snr, gamma) / (snr + 1), rtol=1e-9)
    assert isinstance(objectives.min_snr_weight(schedule, 1), float)


@pytest.mark.parametrize("target", ["x0", "v", "mu"])
@pytest.mark.parametrize("levels", [None, 256])
def test_a_schedule_that_ends_in_pure_noise(target, levels):
    """abar_T = 0: the terms of a model of x0, v or mu are what they are; eps says nothing at T."""
    schedule = schedules.zero_terminal_snr(SMALL)
    x0, t, eps, x0_hat, _ = batch(schedule=schedule)
    xt = process.q_sample(schedule, x0, t, eps)
    assert schedule.abar[t].min() == 0
    prediction = parameterizations.convert(schedule, xt, t, x0_hat, source="x0", target=target)
    got = objectives.vlb_nats_per_dim(
        says(prediction), schedule, x0, t, eps, target=target, levels=levels
    )
    last = t == schedule.T
    c_0, _, tilde = process.posterior(schedule, schedule.T - 1, schedule.T)
    expected = elbo.kl_normal_nats(c_0 * x0[last], tilde, c_0 * x0_hat[last], 1.0)
    assert_allclose(got.data[last], expected.mean((1, 2)), rtol=1e-9)
    assert np.isfinite(got.data).all()
    for name in TARGETS:
        assert np.isfinite(objectives.min_snr_weight(schedule, t, target=name)).all()
    for name in ("eps", "score"):
        with pytest.raises(InputError, match="keeps no signal"):
            objectives.vlb_nats_per_dim(says(x0_hat), schedule, x0, t, eps, target=name)


# --- what is predicted ---


@each_target
def test_an_error_of_any_target_is_the_same_error_of_eps(target):
    """weight times squared error is one number, whatever the model predicts: L_{t-1}."""
    x0, t, eps, eps_hat, _ = batch()
    xt = process.q_sample(SMALL, x0, t, eps)
    prediction = parameterizations.convert(SMALL, xt, t, eps_hat, source="eps", target=target)
    error = objectives.squared_error(says(prediction), SMALL, x0, t, eps, target=target)
    of_eps = objectives.squared_error(says(eps_hat), SMALL, x0, t, eps)
    assert_allclose(of_eps.data, ((eps - eps_hat) ** 2).mean((1, 2)), rtol=1e-12)
    for weight in (objectives.vlb_weight_nats, objectives.min_snr_weight):
        w, w_eps = weight(SMALL, t, target=target), weight(SMALL, t)
        assert_allclose(w * error.data, w_eps * of_eps.data, rtol=1e-9)
    for levels in (None, 256):
        a, b = (
            objectives.vlb_nats_per_dim(says(p), SMALL, x0, t, eps, target=name, levels=levels)
            for p, name in ((prediction, target), (eps_hat, "eps"))
        )
        assert_allclose(a.data, b.data, rtol=1e-8)


@each_target
def test_the_target_itself_is_predicted_without_error(target):
    x0, t, eps, *_ = batch()
    xt = process.q_sample(SMALL, x0, t, eps)
    truth = parameterizations.convert(SMALL, xt, t, x0, source="x0", target=target)
    error = objectives.squared_error(says(truth), SMALL, x0, t, eps, target=target)
    assert_allclose(error.data, 0, atol=1e-20)


@each_target
def test_a_model_of_any_target_is_a_denoiser(target):
    """The optimal one, sampled: the same images as from the optimal eps."""
    data = Gaussian.isotropic(np.zeros(3), 0.3)
    oracle = data.denoiser(SMALL)

    def model(xt, t, labels=None):
        eps = oracle(xt, t)
        return parameterizations.convert(SMALL, xt, t, eps, source="eps", target=target)

    x_T = np.random.default_rng(0).standard_normal((4, 3))
    denoiser = objectives.as_denoiser(model, SMALL, target=target)
    guided = guidance.classifier_free(denoiser, w=0.5, null=10)
    labels = np.arange(4)
    got, expected = (
        samplers.final(samplers.ddim(f, SMALL, x_T, steps=8, labels=labels))
        for f in (guided, oracle)
    )
    assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_a_pair_stays_a_pair():
    pair = objectives.as_denoiser(lambda xt, t: (xt, 2 * xt), SMALL, target="x0")
    xt = np.ones((2, 3))
    eps, v = pair(xt, np.array([1, 2]))
    assert_array_equal(v, 2 * xt)
    assert_allclose(eps, parameterizations.eps_from_x0(SMALL, xt, np.array([1, 2]), xt))


def test_channels_are_split_into_prediction_and_variance():
    both = np.random.default_rng(0).standard_normal((2, 4, 4, 6))
    xt, t = np.zeros((2, 4, 4, 3)), np.array([1, 2])
    first, second = objectives.split_channels(says(both))(xt, t)
    assert_array_equal(first, both[..., :3])
    assert_array_equal(second, both[..., 3:])
    leaf = Tensor(both, requires_grad=True)
    first, second = objectives.split_channels(says(leaf))(xt, t)
    assert_array_equal(first.data, both[..., :3])
    ops.sum(second).backward()
    assert_array_equal(leaf.grad, np.ones_like(both) * [0, 0, 0, 1, 1, 1])
    with pytest.raises(InputError, match="6 channels for images of 3"):
        objectives.split_channels(says(both[..., :4]))(xt, t)


# --- the terms themselves ---


@pytest.mark.parametrize("variance", ["beta", "posterior", "any"])
@given(strategies.schedules(max_T=60, min_abar_T=1e-6), strategies.seeds)
@strategies.examples(0.5)
def test_the_terms_are_kl_divergences_and_a_decoder(variance, schedule, seed):
    rng = np.random.default_rng(seed)
    assume(schedule.T > 1 or variance != "posterior")
    table = rng.uniform(0.5, 2, schedule.T + 1) * schedule.beta.clip(1e-9)
    variance = table if variance == "any" else variance
    x0, t, eps, eps_hat, _ = batch(seed, schedule)
    xt = process.q_sample(schedule, x0, t, eps)
    sigma2 = objectives.model_variance(schedule, t, variance)[:, None, None]
    c_0, c_t, tilde = (c[:, None, None] for c in process.posterior(schedule, t - 1, t))
    mu = parameterizations.mu_from_eps(schedule, xt, t, eps_hat)
    late = t > 1
    expected = np.empty(x0.shape)
    parts = (c_0 * x0 + c_t * xt, tilde, mu, sigma2)
    expected[late] = elbo.kl_normal_nats(*(a[late] for a in parts))
    for levels in (None, 256):
        decoded = elbo.decoder_nats(x0, mu, np.sqrt(sigma2), levels=levels)
        expected[~late] = decoded[~late]
        got = objectives.vlb_nats_per_dim(
            says(eps_hat), schedule, x0, t, eps, variance=variance, levels=levels
        )
        assert got.shape == (5,)
        assert_allclose(got.data, expected.mean((1, 2)), rtol=1e-6, atol=1e-9)


def test_the_weighted_error_is_the_kl_but_for_a_constant():
    """L_{t-1} - w |error|^2 is the same for any prediction, so both have the same gradient."""
    x0, t, eps, a, b = batch()
    t = np.maximum(t, 2)
    constants, gradients = [], []
    for prediction in (a, b):
        parts = []
        for f in ("full", "weighted"):
            leaf = Tensor(prediction, requires_grad=True)
            if f == "full":
                losses = objectives.vlb_nats_per_dim(says(leaf), SMALL, x0, t, eps)
                loss = objectives.mean(losses)
            else:
                losses = objectives.squared_error(says(leaf), SMALL, x0, t, eps)
                loss = objectives.mean(losses, objectives.vlb_weight_nats(SMALL, t))
            loss.backward()
            parts.append((loss.item(), leaf.grad))
        constants.append(parts[0][0] - parts[1][0])
        gradients.append([g for _, g in parts])
    assert_allclose(*constants, rtol=1e-10)
    for full, weighted in gradients:
        assert_allclose(full, weighted, rtol=1e-10)
    assert abs(gradients[0][0]).max() > 1e-4


def test_equal_variances_leave_the_squared_distance_of_the_means_alone():
    """With sigma^2 = beta-tilde the KL is |mu-tilde - mu|^2 / (2 sigma^2), for all t >= 2."""
    rng = np.random.default_rng(0)
    t = ALL[1:]
    x0, eps, x0_hat = rng.standard_normal((3, len(t), 1))
    xt = process.q_sample(LINEAR, x0, t, eps)
    got = objectives.vlb_nats_per_dim(
        says(x0_hat), LINEAR, x0, t, eps, target="x0", variance="posterior", levels=None
    )
    tilde = process.posterior(LINEAR, t - 1, t)[2][:, None]
    mu_tilde, mu = (parameterizations.mu_from_x0(LINEAR, xt, t, x) for x in (x0, x0_hat))
    expected = elbo.kl_normal_nats(mu_tilde, tilde, mu, tilde)
    assert_allclose(got.data, expected[:, 0], rtol=1e-8)
    weights = objectives.vlb_weight_nats(LINEAR, t, target="x0", variance="posterior")
    assert_allclose(got.data, weights * ((x0 - x0_hat) ** 2)[:, 0], rtol=1e-10)


def test_the_loss_of_x0_is_random_in_x_t():
    """It is an expectation over x_t: with another eps the same model loses something else."""
    x0, t, eps, other, _ = batch()
    a, b = (
        objectives.squared_error(lambda xt, t: np.tanh(xt), SMALL, x0, t, e, target="x0").data
        for e in (eps, other)
    )
    assert (np.abs(a - b) > 1e-6).all()


@pytest.mark.parametrize("levels", [None, 256])
def test_one_t_for_all_is_n_equal_times(levels):
    x0, _, eps, eps_hat, v = batch()
    for t in (1, 5):
        for variance in ("beta", "learned"):
            one, many = (
                objectives.vlb_nats_per_dim(
                    lambda xt, t: (eps_hat, v), SMALL, x0, time, eps,
                    variance=variance, levels=levels,
                )
                for time in (t, np.full(5, t))
            )  # fmt: skip
            assert_allclose(one.data, many.data, rtol=1e-12)


def test_l_0_of_the_decoder_is_as_if_t_1_were_alone():
    """Other times in the batch change nothing, however far off their predictions are."""
    x0, _, eps, eps_hat, _ = batch()
    t = np.array([1, 8, 1, 5, 8])
    wild = eps_hat * np.where(t == 1, 1, 1e6)[:, None, None]
    got = objectives.vlb_nats_per_dim(says(wild), SMALL, x0, t, eps).data
    rows = t == 1
    alone = objectives.vlb_nats_per_dim(says(wild[rows]), SMALL, x0[rows], t[rows], eps[rows]).data
    assert_allclose(got[rows], alone, rtol=1e-12)
    leaf = Tensor(wild.astype(np.float32), requires_grad=True)
    single = [a.astype(np.float32) for a in (x0, eps)]
    objectives.mean(
        objectives.vlb_nats_per_dim(says(leaf), SMALL, single[0], t, single[1])
    ).backward()
    assert np.isfinite(leaf.grad).all()


# --- learned variance ---


@given(strategies.schedules(max_T=60), strategies.seeds)
def test_a_learned_variance_lies_between_in_logarithms(schedule, seed):
    assume(schedule.T > 1)
    t = np.arange(1, schedule.T + 1)
    tilde, beta = objectives.model_variance(schedule, t, "posterior"), schedule.beta[1:]

    def variance(v):
        return (
            tilde
            * np.exp(objectives.log_variance_ratio(schedule, t, v * np.ones((len(t), 1))))[:, 0]
        )

    assert_array_equal(variance(0.0), tilde)
    assert_allclose(variance(1.0), beta, rtol=1e-12)
    assert_allclose(variance(0.5), np.sqrt(tilde * beta), rtol=1e-12)
    v = np.random.default_rng(seed).normal(0.5, 1, (len(t), 1))
    of_steps = variance(v)
    for i in {0, len(t) // 2, len(t) - 1} - {0}:  # what the sampler takes
        sigma = learned_sigma(schedule, int(t[i]) - 1, int(t[i]), v[i])
        assert_allclose(of_steps[i], sigma**2, rtol=1e-10)


def test_interpolating_the_variances_instead_of_their_logarithms_is_something_else():
    tilde, beta = objectives.model_variance(SMALL, 2, "posterior"), SMALL.beta[2]
    got = tilde * np.exp(objectives.log_variance_ratio(SMALL, 2, np.array([[0.5]])))
    assert abs(got[0, 0] - 0.5 * (tilde + beta)) > 0.01 * beta


@given(strategies.seeds)
@strategies.examples(0.5)
def test_terms_with_a_learned_variance(seed):
    x0, t, eps, eps_hat, v = batch(seed)
    xt = process.q_sample(SMALL, x0, t, eps)
    tilde_2 = objectives.model_variance(SMALL, t, "posterior")[:, None, None]
    sigma2 = tilde_2 ** (1 - v) * SMALL.beta[t][:, None, None] ** v
    c_0, c_t, tilde = (c[:, None, None] for c in process.posterior(SMALL, t - 1, t))
    mu = parameterizations.mu_from_eps(SMALL, xt, t, eps_hat)
    late = t > 1
    expected = np.empty(x0.shape)
    parts = (c_0 * x0 + c_t * xt, tilde, mu, sigma2)
    expected[late] = elbo.kl_normal_nats(*(a[late] for a in parts))
    for levels in (None, 256):
        expected[~late] = elbo.decoder_nats(x0, mu, np.sqrt(sigma2), levels=levels)[~late]
        got = objectives.vlb_nats_per_dim(
            lambda xt, t: (eps_hat, v), SMALL, x0, t, eps, variance="learned", levels=levels
        )
        assert_allclose(got.data, expected.mean((1, 2)), rtol=1e-8, atol=1e-11)


class Table(Module):
    """A learned variance with one number for each t."""

    def __init__(self, T):
        self.v = Parameter(np.zeros(T + 1))


@pytest.mark.parametrize("loss", ["vlb", "hybrid"])
@pytest.mark.parametrize("variance", [0.1, 1.0])
def test_a_learned_variance_finds_the_optimum(loss, variance):
    """Within 2 %, on Gaussian data with the optimal eps; expectations are exact (see test_elbo)."""
    schedule = schedules.linear(6, 0.05, 0.5)
    oracle = Gaussian.isotropic([0.0], variance).denoiser(schedule)
    t = np.repeat(np.arange(1, 7), 4)
    signs = np.tile([[1, 1], [1, -1], [-1, 1], [-1, -1]], (6, 1)).astype(np.float64)
    x0, eps = np.sqrt(variance) * signs[:, :1], signs[:, 1:]
    table = Table(6)
    flat = table.flatten()
    optimizer = Adam(flat, 0.05)

    def model(xt, t):
        return oracle(xt, t), ops.embedding(table.v, t).reshape(-1, 1)

    for step in range(300):
        table.zero_grad()
        if loss == "vlb":
            losses = objectives.vlb_nats_per_dim(
                model, schedule, x0, t, eps, variance="learned", levels=None
            )
        else:
            losses = objectives.hybrid(model, schedule, x0, t, eps, lam=1.0, levels=None)
        objectives.mean(losses).backward()
        optimizer.step(0.05 * 0.985**step)
    abar = schedule.abar
    best = elbo.optimal_variance(schedule, abar * variance / (abar * variance + 1 - abar))
    times = np.arange(1, 7)
    u = objectives.log_variance_ratio(schedule, times, table.v.data[1:, None])[:, 0]
    learned = objectives.model_variance(schedule, times, "posterior") * np.exp(u)
    assert_allclose(learned, best[1:], rtol=0.02)


# --- hybrid ---


@each_target
@pytest.mark.parametrize("levels", [None, 256])
def test_hybrid_leaves_the_gradient_of_the_mean_to_l_simple(target, levels):
    """The L_vlb part contributes exact zeros, and v is reached by it alone."""
    x0, t, eps, prediction, v = batch()
    leaves = [Tensor(a, requires_grad=True) for a in (prediction, v)]
    losses = objectives.hybrid(
        lambda xt, t: tuple(leaves), SMALL, x0, t, eps, lam=0.3, target=target, levels=levels
    )
    objectives.mean(losses).backward()
    plain = Tensor(prediction, requires_grad=True)
    error = objectives.squared_error(says(plain), SMALL, x0, t, eps, target=target)
    objectives.mean(error).backward()
    assert_array_equal(leaves[0].grad, plain.grad)

    full = [Tensor(a, requires_grad=True) for a in (prediction, v)]
    vlb = objectives.vlb_nats_per_dim(
        lambda xt, t: tuple(full), SMALL, x0, t, eps,
        variance="learned", target=target, levels=levels,
    )  # fmt: skip
    objectives.mean(vlb).backward()
    scale = 0.3 * SMALL.T / np.log(2)
    assert_allclose(leaves[1].grad, scale * full[1].grad, rtol=1e-12)
    assert np.abs(full[0].grad).max() > 0  # without the stop it would reach the mean
    assert_allclose(losses.data, error.data + scale * vlb.data, rtol=1e-12)


def test_with_lam_0_hybrid_is_l_simple():
    x0, t, eps, prediction, v = batch()
    losses = objectives.hybrid(lambda xt, t: (prediction, v), SMALL, x0, t, eps, lam=0.0)
    error = objectives.squared_error(says(prediction), SMALL, x0, t, eps)
    assert_array_equal(losses.data, error.data)


# --- gradients ---


@given(strategies.seeds)
@strategies.examples(0.1)
def test_gradient_of_simple_and_mean(seed):
    x0, t, eps, prediction, weight = batch(seed)
    rng = np.random.default_rng(seed)
    check_vjp(lambda p: objectives.simple(says(p), SMALL, x0, t, eps), prediction, rng=rng)
    weight = weight[:, 0, 0]
    for w in (None, 0.3, weight):
        check_vjp(lambda losses, w=w: objectives.mean(losses, w), rng.standard_normal(5), rng=rng)
    assert_allclose(
        objectives.mean(Tensor(x0[:, 0, 0]), weight).item(), (x0[:, 0, 0] * weight).mean()
    )


@each_target
@given(strategies.seeds)
@strategies.examples(0.1)
def test_gradients_of_squared_error_and_vlb(target, seed):
    x0, t, eps, prediction, v = batch(seed)
    v = np.abs(v)
    # Near the truth, so that no term is huge and a difference has its digits.
    xt = process.q_sample(SMALL, x0, t, eps)
    truth = parameterizations.convert(SMALL, xt, t, x0, source="x0", target=target)
    near = truth + 0.1 * prediction
    rng = np.random.default_rng(seed)
    check_vjp(
        lambda p: objectives.squared_error(says(p), SMALL, x0, t, eps, target=target),
        near, rng=rng,
    )  # fmt: skip
    for levels in (None, 256):
        for variance in ("beta", "posterior"):
            check_vjp(
                lambda p, variance=variance, levels=levels: objectives.vlb_nats_per_dim(
                    says(p), SMALL, x0, t, eps, variance=variance, target=target, levels=levels
                ),
                near, rng=rng, rtol=1e-5,
            )  # fmt: skip
        check_vjp(
            lambda p, v, levels=levels: objectives.vlb_nats_per_dim(
                lambda xt, t: (p, v), SMALL, x0, t, eps,
                variance="learned", target=target, levels=levels,
            ),
            near, v, rng=rng, rtol=1e-5,
        )  # fmt: skip


@given(strategies.seeds)
@strategies.examples(0.1)
def test_gradient_of_hybrid_by_v(seed):
    """By the prediction it is not that of the value, by design: see the stop-gradient above."""
    x0, t, eps, prediction, v = batch(seed)
    near, rng = eps + 0.1 * prediction, np.random.default_rng(seed)
    check_vjp(
        lambda v: objectives.hybrid(lambda xt, t: (near, v), SMALL, x0, t, eps, lam=0.1),
        np.abs(v), rng=rng, rtol=1e-5,
    )  # fmt: skip


# --- the ablation of Ho et al. 2020, table 2, and of the others, on a model of two numbers ---


@pytest.mark.parametrize("target", ["mu", "eps", "x0", "v"])
@pytest.mark.parametrize("loss", ["L, learned variance", "L, fixed variance", "squared error"])
def test_every_cell_of_the_ablation_trains(target, loss):
    w = Tensor(np.array([0.1, 0.1]), requires_grad=True)

    def model(xt, t):
        return w[0] * xt, w[1] * xt

    def value():
        x0, t, eps, *_ = batch(n=200)
        if loss == "squared error":
            losses = objectives.squared_error(model, SMALL, x0, t, eps, target=target)
        else:
            variance = "learned" if "learned" in loss else "beta"
            losses = objectives.vlb_nats_per_dim(
                model, SMALL, x0, t, eps, variance=variance, target=target
            )
        return objectives.mean(losses)

    before = value()
    before.backward()
    slope = w.grad.copy()
    assert (slope[0] != 0) and ((slope[1] != 0) == ("learned" in loss))
    w.data -= 1e-4 * slope / np.abs(slope).max()
    assert value().item() < before.item()


# --- dtypes, devices, bad input ---


def all_losses(x0, t, eps, a, b):
    def pair(xt, t):
        return a, b

    out = [objectives.simple(says(a), SMALL, x0, t, eps)]
    for target in TARGETS:
        out += [
            objectives.squared_error(pair, SMALL, x0, t, eps, target=target),
            objectives.hybrid(pair, SMALL, x0, t, eps, target=target),
        ]
        out += [
            objectives.vlb_nats_per_dim(
                pair, SMALL, x0, t, eps, variance=variance, target=target, levels=levels
            )
            for variance in ("beta", "posterior", "learned")
            for levels in (None, 256)
        ]
    weight = objectives.min_snr_weight(SMALL, t)
    return [*out, *(objectives.mean(losses, weight) for losses in out[1:4])]


def values_and_gradients(arrays, t):
    x0, eps, *predictions = arrays
    leaves = [Tensor(a, requires_grad=True) for a in predictions]
    losses = all_losses(x0, t, eps, *leaves)
    total = sum((ops.mean(x) for x in losses[1:]), ops.mean(losses[0]))
    total.backward()
    return [*(x.data for x in losses), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("t", [1, 6, np.array([1, 8, 3, 1, 5])], ids=["t = 1", "t = 6", "mixed"])
def test_on_the_device(device, t):
    x0, _, eps, a, b = batch()
    host = [x.astype(np.float32) for x in (x0, eps, eps + 0.1 * a, np.abs(b))]
    with double.forbid("synchronization", "float64"):
        got = values_and_gradients([backend.asarray(x) for x in host], t)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "xp", np)
        expected = values_and_gradients(host, t)
        exact = values_and_gradients([x.astype(np.float64) for x in host], t)
    for x, y, z in zip(got, expected, exact, strict=True):
        assert isinstance(x, device.ndarray)
        assert x.dtype == y.dtype == np.float32
        scale = np.abs(z).max()
        assert_allclose(backend.to_numpy(x), y, rtol=1e-4, atol=1e-4 * scale)
        assert_allclose(y, z, rtol=1e-3, atol=1e-3 * scale)


def call(name="vlb_nats_per_dim", model=None, t=5, x0=None, **options):
    x0 = np.zeros((3, 2)) if x0 is None else x0
    model = model or (lambda xt, t: (xt, xt))
    options.setdefault("levels", 3)
    if name == "squared_error":
        del options["levels"]
    return getattr(objectives, name)(model, SMALL, x0, t, np.zeros((3, 2)), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: call(t=0), "t must lie in 1..8"),
        (lambda: call(t=np.array([1, 2])), "does not fit"),
        (lambda: call(t=0.5), "must be an integer"),
        (lambda: call(target="noise"), "unknown target 'noise'; choose one of eps, x0, v"),
        (lambda: call("squared_error", target="noise"), "unknown target"),
        (lambda: call(variance="large"), "choose one of beta, posterior"),
        (lambda: call(variance=np.ones(8)), r"9 positive numbers.*shape \(8,\)"),
        (lambda: call(variance=np.full(9, np.nan)), "9 positive numbers"),
        (lambda: call(model=says(np.ones((3, 2))), variance="learned"), "prediction alone"),
        (lambda: call("hybrid", model=says(np.ones((3, 2)))), "prediction alone"),
        (lambda: call("hybrid", lam=-1), "lam, the weight"),
        (lambda: call("hybrid", lam=np.inf), "lam, the weight"),
        (lambda: call(t=1, levels=1), "whole number >= 2"),
        (lambda: call(model=lambda xt, t: xt[:1]), r"returned shape \(1, 2\)"),
        (lambda: call(model=lambda xt, t: (xt, xt[:1])), r"returned shape \(1, 2\)"),
        (lambda: call(model=lambda xt, t: (xt, xt, xt)), "returned 3 things"),
        (lambda: call(x0=np.zeros((3, 1))), "eps must have the shape"),
        (lambda: objectives.min_snr_weight(SMALL, 1, gamma=0), "gamma"),
        (lambda: objectives.min_snr_weight(SMALL, 1, gamma=np.inf), "gamma"),
        (lambda: objectives.min_snr_weight(SMALL, 0), "t must lie in"),
        (lambda: objectives.vlb_weight_nats(SMALL, 1, target="y"), "unknown target"),
        (lambda: objectives.vlb_weight_nats(SMALL, 1, variance="learned"), "comes from a model"),
        (lambda: objectives.as_denoiser(says(0), SMALL, target="y"), "unknown target"),
        (lambda: objectives.mean(Tensor(np.ones(3)), np.ones(2)), "does not fit"),
        (
            lambda: objectives.log_variance_ratio(Schedule.from_betas([0.5]), 1, np.ones((1, 1))),
            "with T = 1 the posterior variance is 0",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_continuous_l_0_is_the_density():
    x0, _, eps, eps_hat, _ = batch()
    mu = parameterizations.x0_from_eps(SMALL, process.q_sample(SMALL, x0, 1, eps), 1, eps_hat)
    got = objectives.vlb_nats_per_dim(says(eps_hat), SMALL, x0, 1, eps, levels=None)
    expected = -norm.logpdf(x0, mu, np.sqrt(SMALL.beta[1])).mean((1, 2))
    assert_allclose(got.data, expected, rtol=1e-10)
