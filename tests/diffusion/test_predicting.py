"""Denoisers that predict v or x_0: the same samples, and a start from noise without any signal."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minidiff.diffusion import (
    elbo,
    exact,
    guidance,
    parameterizations,
    process,
    samplers,
    schedules,
    timesteps,
)
from minidiff.diffusion.denoiser import Predicting, in_eps, predicts
from minidiff.diffusion.inpainting import inpaint
from minidiff.diffusion.oracle import Gaussian, GaussianMixture, excess_loss
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.errors import InputError
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()
NO_SIGNAL = schedules.zero_terminal_snr(schedules.linear(100, 0.001, 0.2))


def of_x0(data, schedule):
    """The optimal denoiser as one that predicts x_0, known at T too."""
    return Predicting(lambda xt, t, labels=None: data.at_time(schedule, t).x0(xt, labels), "x0")


def of_v(data, schedule):
    """The same as one that predicts v: at abar_T = 0 it is -E[x_0]."""

    def model(xt, t, labels=None):
        noised = data.at_time(schedule, t)
        return parameterizations.v_from_x0_eps(
            schedule, t, noised.x0(xt, labels), noised.eps(xt, labels)
        )

    return Predicting(model, "v")


def converted(denoiser, target):
    """A denoiser of eps as one of another kind, at any real time."""

    def model(xt, t, **cond):
        eps = denoiser(xt, t, **cond)
        sigma = np.interp(t, np.arange(LINEAR.T + 1), LINEAR.sigma)[:, None]
        if (t == np.round(t)).all():
            sigma = LINEAR.sigma[t.astype(int)][:, None]
        signal, noise = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
        x0 = (xt - noise * eps) / signal
        return x0 if target == "x0" else signal * eps - noise * x0

    return Predicting(model, target)


@pytest.mark.parametrize("clip", [None, (-1, 1)])
@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_makes_the_same_of_them(name, kind, clip):
    x_T = np.random.default_rng(0).standard_normal((5, 2))
    eps = everywhere(MIXTURE, LINEAR)

    def run(denoiser):
        states = samplers.make(name, steps=10, clip=clip)(
            denoiser, LINEAR, x_T, rng=np.random.default_rng(1)
        )
        return [(state.x, state.x0) for state in states]

    assert_allclose(run(converted(eps, kind)), run(eps), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", [of_x0, of_v])
def test_whole_bounds_inversions_and_inpaintings_too(kind):
    x0 = np.random.default_rng(0).standard_normal((4, 2))
    eps, other = MIXTURE.denoiser(LINEAR), kind(MIXTURE, LINEAR)

    def everything(denoiser):
        small = schedules.linear(20, 0.01, 0.3)
        d = MIXTURE.denoiser(small) if denoiser is eps else kind(MIXTURE, small)
        rng = partial(np.random.default_rng, 1)
        mask = np.array([True, False])
        return [
            samplers.final(samplers.ddim_inversion(denoiser, LINEAR, x0, steps=5)),
            samplers.final(
                inpaint(denoiser, LINEAR, x0, known=x0, mask=mask, rng=rng(), steps=5, jump=2)
            ),
            elbo.bound_nats(d, small, x0, rng=rng(), levels=None).step_nats,
            excess_loss(denoiser, MIXTURE, LINEAR, x0, 300) + 1,
        ]

    for a, b in zip(everything(other), everything(eps), strict=True):
        assert_allclose(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", [of_x0, of_v])
def test_a_learned_variance_stays_beside_it(kind):
    denoiser, x_T = kind(MIXTURE, LINEAR), np.random.default_rng(0).standard_normal((3, 2))

    def run(model):
        states = samplers.ddpm(
            model, LINEAR, x_T, rng=np.random.default_rng(1), steps=6, variance="learned"
        )
        return samplers.final(states)

    pair = Predicting(lambda xt, t: (denoiser(xt, t), 0.3 + 0 * xt), denoiser.predicts)
    plain = lambda xt, t: (MIXTURE.denoiser(LINEAR)(xt, t), 0.3 + 0 * xt)  # noqa: E731
    assert_allclose(run(pair), run(plain), rtol=1e-9)
    assert_allclose(run(in_eps(pair, LINEAR)), run(plain), rtol=1e-9)


# --- from pure noise ---


def by_hand(name, data, times, *, eta=0.0):
    """Mean and variance of what is generated, x_0 and eps being affine in x_t: no division."""
    (m, v), abar = data, NO_SIGNAL.abar
    mean, var = 0.0, 1.0
    for t, s in pairwise(times):
        total = abar[t] * v + 1 - abar[t]
        x0_slope, eps_slope = np.sqrt(abar[t]) * v / total, np.sqrt(1 - abar[t]) / total
        if name == "ddpm":
            c_0, c_t, sigma2 = process.posterior(NO_SIGNAL, s, t)
            slope = c_0 * x0_slope + c_t
            at_centre = c_0 * m + c_t * np.sqrt(abar[t]) * m
        else:
            sigma2 = eta**2 * process.posterior(NO_SIGNAL, s, t)[2]
            slope = np.sqrt(abar[s]) * x0_slope + np.sqrt(1 - abar[s] - sigma2) * eps_slope
            at_centre = np.sqrt(abar[s]) * m
        mean = at_centre + slope * (mean - np.sqrt(abar[t]) * m)
        var = slope**2 * var + sigma2
    return mean, var


@pytest.mark.parametrize("kind", [of_x0, of_v])
@pytest.mark.parametrize("data", [(0.0, 1.0), (1.5, 0.25), (0.5, 1e-8)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"steps": None}),
        ("ddpm", {"steps": 7}),
        ("ddim", {"steps": None}),
        ("ddim", {"steps": 10}),
        ("ddim", {"steps": 10, "eta": 0.7}),
        ("ddim", {"steps": 1}),
    ],
)
def test_samplers_start_where_no_signal_is_left(name, options, data, kind):
    """From T itself: x_T is exactly q(x_T), so the mean of the data comes out exactly."""
    assert NO_SIGNAL.abar[-1] == 0
    denoiser = kind(Gaussian.isotropic([data[0]], data[1]), NO_SIGNAL)
    run = samplers.make(name, **options)
    map_ = exact.propagate(
        lambda x, rng: samplers.final(run(denoiser, NO_SIGNAL, x, rng=rng)), (1,)
    )
    times = timesteps.resolve(NO_SIGNAL.T, options["steps"])
    mean, variance = by_hand(name, data, times, eta=options.get("eta", 0.0))
    assert times[0] == NO_SIGNAL.T
    assert_allclose(map_.mean, data[0], atol=1e-12)
    assert_allclose(mean, data[0], atol=1e-12)
    assert_allclose(np.sqrt(map_.covariance), np.sqrt(variance), rtol=1e-9, atol=1e-12)


def test_with_many_steps_it_is_the_data():
    fine = schedules.zero_terminal_snr(schedules.linear(1000))
    denoiser = of_v(Gaussian.isotropic([1.5], 1.0), fine)
    map_ = exact.propagate(
        lambda x, rng: samplers.final(samplers.ddim(denoiser, fine, x, steps=None)), (1,)
    )
    assert_allclose(map_.mean, 1.5, atol=1e-10)
    assert_allclose(map_.covariance, 1, rtol=0.01)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "predictor_corrector"])
def test_a_denoiser_of_eps_is_told_what_to_do(name):
    denoiser = MIXTURE.denoiser(NO_SIGNAL)
    x_T, rng = np.zeros((2, 2)), np.random.default_rng(0)
    with pytest.raises(InputError, match=r"denoiser\.Predicting .*T - 1"):
        samplers.final(samplers.make(name, steps=5)(denoiser, NO_SIGNAL, x_T, rng=rng))
    below = timesteps.subset(NO_SIGNAL.T - 1, 5)
    assert np.isfinite(
        samplers.final(samplers.make(name, steps=below)(denoiser, NO_SIGNAL, x_T, rng=rng))
    ).all()


# --- guidance ---

LABELLED = GaussianMixture([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.2]], [0.3, 0.5], labels=[0, 1])


@pytest.mark.parametrize("kind", [of_x0, of_v])
def test_guiding_v_or_x0_is_guiding_eps(kind):
    x_T, labels = np.random.default_rng(0).standard_normal((4, 2)), np.array([0, 1, 1, 0])

    def run(denoiser, w):
        guided = guidance.classifier_free(denoiser, w=w, null=LABELLED.null)
        assert predicts(guided) == predicts(denoiser)
        return samplers.final(samplers.ddim(guided, LINEAR, x_T, steps=8, labels=labels))

    for w in (-1, 0, 1.5):
        eps = run(LABELLED.denoiser(LINEAR), w)
        assert_allclose(run(kind(LABELLED, LINEAR), w), eps, rtol=1e-7, atol=1e-7)


def test_a_classifier_guides_the_eps_of_them():
    xt, t = np.random.default_rng(0).standard_normal((4, 2)), np.full(4, 300)
    guided = [
        guidance.classifier(d, LINEAR, lambda x, t: (x * x).sum(axis=1), scale=0.5)(xt, t)
        for d in (of_v(MIXTURE, LINEAR), MIXTURE.denoiser(LINEAR))
    ]
    assert_allclose(*guided, rtol=1e-9)


# --- what is refused ---


def test_what_it_may_predict():
    with pytest.raises(InputError, match="eps, x0, v"):
        Predicting(lambda xt, t: xt, "mu")
    assert predicts(lambda xt, t: xt) == "eps"
    assert predicts(Predicting(lambda xt, t: xt, "v")) == "v"


def test_another_precision_is_refused():
    x_T = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError, match="returned float64 for images of float32"):
        samplers.final(samplers.ddim(lambda xt, t: xt.astype(np.float64), LINEAR, x_T))
