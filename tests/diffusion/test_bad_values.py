"""Values of the wrong kind are refused in one line that names them, wherever they come in."""

import numpy as np
import pytest

from minidiff.autograd import Tensor
from minidiff.diffusion import (
    elbo,
    guidance,
    interpolation,
    objectives,
    parameterizations,
    process,
    progressive,
    samplers,
    schedules,
    sde,
    sigma,
    time_draws,
)
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.inpainting import inpaint
from minidiff.diffusion.oracle import template_images
from minidiff.diffusion.samplers.langevin import langevin
from minidiff.errors import InputError, check_count, check_number
from tests.diffusion.models import MIXTURE

LINEAR = schedules.linear()
MODEL = MIXTURE.denoiser(LINEAR)
X = np.zeros((2, 2))
SINGLE = X.astype(np.float32)
RNG = np.random.default_rng(0)
LABELLED = np.array([0, 0])


def sample(name, **options):
    return samplers.make(name, **options)(MODEL, LINEAR, X, rng=RNG)


def fill(**options):
    return inpaint(MODEL, LINEAR, X, **{"known": X, "mask": X > 0, "rng": RNG} | options)


def mixed(*arrays, **options):
    x0, eps = arrays[:2], arrays[2:]
    return interpolation.mix(LINEAR, x0, eps, 5, options.get("lam", 0.5))


CASES = {
    "eta must be a number, got 'x'": lambda: sample("ddim", eta="x"),
    "eta must be a number, got None": lambda: sample("ddim", eta=None),
    "sigmas must be numbers, got ['a']": lambda: sample("euler", sigmas=["a"]),
    "alpha must be a number, got 'heun'": lambda: sample("rk2", alpha="heun"),
    "s_churn must be a number, got 'no'": lambda: sample("edm", s_churn="no"),
    "step must be a number, got [1]": lambda: sample("annealed_langevin", step=[1]),
    "snr must be a number, got '1'": lambda: sample("predictor_corrector", snr="1"),
    "corrections must be a whole number >= 1, got 2.5": lambda: sample(
        "annealed_langevin", corrections=2.5
    ),
    "steps must be a whole number >= 0, got 2.5": lambda: langevin(
        lambda x: -x, X, alpha=0.1, steps=2.5, rng=RNG
    ),
    "alpha must be a number, got 'a'": lambda: langevin(
        lambda x: -x, X, alpha="a", steps=2, rng=RNG
    ),
    "the mask must be an array, got list": lambda: fill(mask=[True, False]),
    "the known images must be an array, got list": lambda: fill(known=[[0, 0]]),
    "jump must be a whole number >= 1, got 1.5": lambda: fill(jump=1.5),
    "size must be a whole number >= 1, got 2.5": lambda: time_draws.LossHistory(LINEAR, size=2.5),
    "floor must be a number, got 'a'": lambda: time_draws.LossHistory(LINEAR, floor="a"),
    "n must be a whole number >= 0, got 2.5": lambda: time_draws.stratified(LINEAR, 2.5, rng=RNG),
    "n must be a whole number >= 0, got 3.5": lambda: time_draws.cyclic(LINEAR, 3.5, step=1),
    "n must be a whole number >= 0, got 4.5": lambda: objectives.draw_t(LINEAR, 4.5, rng=RNG),
    "n must be a whole number >= 0, got '1'": lambda: time_draws.LossHistory(LINEAR).draw(
        "1", rng=RNG
    ),
    "step must be a whole number >= 1, got 1.5": lambda: time_draws.cyclic(LINEAR, 3, step=1.5),
    "n must be a whole number >= 1, got 1.5": lambda: progressive.shared_latent(
        samplers.ddpm, MODEL, LINEAR, X, t=5, n=1.5, rng=RNG
    ),
    "w must be a number, got '1'": lambda: guidance.classifier_free(MODEL, w="1", null=2),
    "scale must be a number, got None": lambda: guidance.classifier(
        MODEL, LINEAR, lambda x, t: x, scale=None
    ),
    "rescale must be a number, got 'a'": lambda: guidance.classifier_free(
        MODEL, w=1, null=2, rescale="a"
    ),
    "quantile must be a number, got 'a'": lambda: parameterizations.dynamic_threshold(
        X, quantile="a"
    ),
    "gamma must be a number, got '5'": lambda: objectives.min_snr_weight(LINEAR, 5, gamma="5"),
    "lam must be a number, got 'a'": lambda: objectives.hybrid(
        lambda xt, t: (xt, xt), LINEAR, X, np.array([3, 4]), X, lam="a"
    ),
    "p_uncond must be a number, got 'a'": lambda: objectives.drop_labels(
        LABELLED, p_uncond="a", null=2, rng=RNG
    ),
    "betas must be numbers, got ['a']": lambda: schedules.Schedule.from_betas(["a"]),
    "abar must be numbers, got 'abc'": lambda: schedules.Schedule.from_abar("abc"),
    "sigmas must be numbers, got ['b']": lambda: schedules.Schedule.from_sigmas(["b"]),
    "beta_T must be a number, got '0.02'": lambda: schedules.linear(beta_T="0.02"),
    "beta_1 must be a number, got 'a'": lambda: schedules.quadratic(beta_1="a"),
    "beta must be a number, got 'a'": lambda: schedules.constant(beta="a"),
    "rho must be a number, got 'a'": lambda: schedules.karras(rho="a"),
    "sigma_max must be a number, got 'a'": lambda: schedules.karras(sigma_max="a"),
    "t must be numbers, got 'a'": lambda: sigma.sigma_of(LINEAR, "a"),
    "sigma must be numbers, got 'a'": lambda: sigma.t_of(LINEAR, "a"),
    "noise must be a number, got 'a'": lambda: template_images("a"),
    "lambda must be numbers, got 'a'": lambda: mixed(X, X, X, X, lam="a"),
    # Two precisions: the result would have that of one of the two.
    "eps must have the dtype of x, float32, got float64": lambda: process.q_sample(
        LINEAR, SINGLE, 5, X
    ),
    "eps must have the dtype of x, float64, got float32": lambda: process.q_sample(
        LINEAR, X, 5, SINGLE
    ),
    "x0 must have the dtype of xt, float64, got float32": lambda: process.posterior_sample(
        LINEAR, SINGLE, X, 4, 5, X
    ),
    "the second image must have the dtype of the first, float64, got float32": lambda: mixed(
        X, SINGLE, X, X
    ),
    "eps must have the dtype of x0, float64, got float32": lambda: mixed(X, X, X, SINGLE),
    "eps must have the shape of x0, (2, 2), got (1, 2)": lambda: mixed(X, X, X[:1], X),
    # What is no batch of images.
    "eps must be an array, got list": lambda: process.q_sample(LINEAR, X, 5, [[0.0]]),
    "x must be an array, got NoneType": lambda: process.q_sample(LINEAR, None, 5, X),
    "images must be an array of float32 or float64, got int64": lambda: process.q_sample(
        LINEAR, X.astype(int), np.array([5, 6]), X.astype(int)
    ),
    "t must be an integer or an array of integers, got [[1], [1, 2]]": lambda: process.q_sample(
        LINEAR, X, [[1], [1, 2]], X
    ),
    "dynamic_threshold: x0 must be an array of float32 or float64, got complex128": lambda: (
        parameterizations.dynamic_threshold(X + 1j)
    ),
    "no images in x0 of shape (0, 2)": lambda: elbo.prior_nats(LINEAR, X[:0]),
    "float32 or float64, N >= 1; got float64 of shape (0, 2)": lambda: samplers.ddim(
        MODEL, LINEAR, X[:0]
    ),
    "float32 or float64, N >= 1; got float16 of shape (2, 2)": lambda: samplers.euler(
        MODEL, LINEAR, X.astype(np.float16)
    ),
    "the denoiser returned list; it is to return an array": lambda: samplers.final(
        samplers.ddim(lambda xt, t: xt.tolist(), LINEAR, X)
    ),
    "DDPM draws noise in every step: pass rng": lambda: samplers.ddpm(MODEL, LINEAR, X, rng=3),
    "the decoder: sigma must be positive, got -1.0": lambda: elbo.decoder_nats(X, X, -1.0),
    "dims must be a whole number >= 1, got 0": lambda: elbo.bits_per_dim(1.0, 0),
    "loss must be numbers, got 'a'": lambda: elbo.optimal_variance(LINEAR, "a"),
    "null must be a whole number >= 0, got None": lambda: guidance.classifier_free(
        MODEL, w=1, null=None
    ),
    "labels must be whole numbers, got float64": lambda: guidance.classifier_free(
        MODEL, w=1, null=2
    )(X, np.array([5, 5]), labels=[0.0, 1.0]),
    "a weight of the losses is not finite": lambda: objectives.mean(
        Tensor(np.ones(2)), [1, np.nan]
    ),
    "times are drawn: pass rng": lambda: objectives.draw_t(LINEAR, 3, rng=None),
    "labels are dropped by chance: pass rng": lambda: objectives.drop_labels(
        LABELLED, null=2, rng=None
    ),
    "losses must be numbers, got array(['a', 'b']": lambda: time_draws.LossHistory(LINEAR).update(
        [1, 2], np.array(["a", "b"])
    ),
    "the time of an SDE must be numbers, got 'a'": lambda: sde.VP().marginal("a"),
    "beta_min must be a number, got 'a'": lambda: sde.VP("a"),
    "sigma_max must be a number, got None": lambda: sde.VE(0.1, None),
    "a mixture: x must be an array of float32 or float64, got list": lambda: MIXTURE.at_time(
        LINEAR, 5
    ).score([[0.0, 0.0]]),
    "n must be a whole number >= 0, got -1": lambda: MIXTURE.sample(-1, rng=RNG),
    "v must have the dtype of xt, float64, got float32": lambda: parameterizations.x0_from_v(
        LINEAR, X, 5, SINGLE
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_it_is_named(message):
    with pytest.raises(InputError) as caught:
        CASES[message]()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_precisions_in_an_interpolation_are_refused_before_anything_is_drawn():
    with pytest.raises(InputError, match="float64, got float32"):
        interpolation.interpolate(samplers.ddim, MODEL, LINEAR, (X, SINGLE), t=5, lam=0.5, rng=RNG)


def test_numbers_of_any_kind_are_taken():
    for value in (1, 1.0, np.float32(1), np.int64(1), np.array(1.0), np.array(1)):
        assert type(check_number("a", value)) is float
        assert check_number("a", value) == 1
    for value in (3, np.int32(3), np.uint8(3)):
        assert type(check_count("a", value)) is int
        assert check_count("a", value) == 3
    assert check_numbers("a", [1, 2.5]).tolist() == [1, 2.5]


@pytest.mark.parametrize("value", [True, "1", None, 1j, [1.0], np.ones(2)])
def test_what_is_no_number(value):
    with pytest.raises(InputError, match="a must be a number"):
        check_number("a", value)


@pytest.mark.parametrize("value", [True, "1", None, 1.0, np.float64(2), 0, -1])
def test_what_is_no_count(value):
    with pytest.raises(InputError, match="a must be a whole number >= 1"):
        check_count("a", value)
