"""The analytic models, and what is built on samplers, on arrays as strict as CuPy's."""

import numpy as np
import pytest

from minidiff import ops
from minidiff.diffusion import guidance, ode, samplers, schedules
from minidiff.diffusion.inpainting import inpaint
from minidiff.diffusion.interpolation import KINDS, mix
from minidiff.diffusion.oracle import Empirical, GaussianMixture, excess_loss
from minidiff.diffusion.progressive import shared_latent
from minidiff.diffusion.samplers.langevin import langevin
from tests import double
from tests.diffusion.test_device import HostDraws, both, images

LINEAR = schedules.linear()
MEANS = np.array([[[0.3], [-0.2]], [[-1.0], [0.5]], [[0.8], [0.1]]])
FULL = np.array([[[1.0, 0.5], [0.5, 0.8]], [[0.2, 0.0], [0.0, 0.3]], [[0.4, 0.1], [0.1, 0.4]]])
MODELS = {
    "full": GaussianMixture([0.2, 0.3, 0.5], MEANS, FULL, [0, 1, 0]),
    "numbers": GaussianMixture([0.2, 0.3, 0.5], MEANS, [0.2, 0.0, 0.4], [0, 1, 0]),
    "points": Empirical(MEANS, [0, 1, 0]),
}
LABELS = np.array([0, 1, 2])
each = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@each
@pytest.mark.parametrize("t", [400, np.array([300, 400, 1000])], ids=["one t", "one t for each"])
def test_all_that_is_known_of_them(model, t):
    q = model.at_time(LINEAR, t)
    both(
        lambda xp, x, y, z: [
            q.log_density(x), q.log_density(x, LABELS), q.responsibilities(x, LABELS),
            q.log_labels(x), q.label_score(x, np.array([0, 1, 1])), q.score(x), q.x0(x, LABELS),
            q.eps(x, LABELS), q.score_divergence(x), q.eps_variance(x, LABELS),
        ]
    )  # fmt: skip


@each
def test_their_copies_on_the_device_are_made_once(model):
    x = double.xp.asarray(images(0))
    model.at_time(LINEAR, 400).score(x)
    assert model._on(x) is model._on(x)
    assert type(model._on(x).means) is double.Array
    assert type(model._on(images(0)).means) is np.ndarray


@each
def test_guided(model):
    guided = guidance.classifier_free(model.denoiser(LINEAR), w=2.0, null=model.null)
    both(lambda xp, x, y, z: [guided(x, np.full(3, 400), labels=np.array([0, 1, 1]))])


def test_the_excess():
    model = MODELS["full"]
    both(lambda xp, x, y, z: [excess_loss(lambda xt, t: 0.9 * xt, model, LINEAR, x, 400)])


def test_langevin():
    score = MODELS["full"].at(1, 0.1).score
    both(lambda xp, x, y, z: [*langevin(score, x, alpha=0.1, steps=3, rng=HostDraws(xp))])


@pytest.mark.parametrize("kind", KINDS)
def test_interpolation(kind):
    lam = np.array([0.0, 0.3, 1.0])
    both(lambda xp, x, y, z: [mix(LINEAR, (x, y), (z, x), 400, w, kind) for w in (0.5, lam)])


def test_inpainting():
    mask = np.array([[True], [False]])

    def run(xp, x, y, z):
        states = inpaint(
            MODELS["full"].denoiser(LINEAR), LINEAR, x, known=y, mask=xp.asarray(mask),
            rng=HostDraws(xp), steps=6, jump=2, resamples=2, labels=LABELS,
        )  # fmt: skip
        return [a for state in states for a in (state.x, state.x0)]

    both(run)


def test_a_shared_latent():
    def run(xp, x, y, z):
        states = shared_latent(
            samplers.make("ddpm"), MODELS["full"].denoiser(LINEAR), LINEAR, x,
            t=9, n=2, rng=HostDraws(xp), steps=3, labels=LABELS,
        )  # fmt: skip
        return [a for state in states for a in (state.x, state.x0)]

    both(run)


def test_traces():
    model = GaussianMixture([0.4, 0.6], MEANS[:2], FULL[:2])

    def run(xp, x, y, z):
        def network(xt, t):
            return ops.tanh(xt) * ops.sum(xt, axis=(1, 2), keepdims=True)

        known = ode.mixture_trace(model)(x, 0.7)
        exact = ode.exact_trace(network, LINEAR)(x, 0.7)
        estimate = ode.hutchinson_trace(network, LINEAR, shape=x.shape, rng=HostDraws(xp))(x, 0.7)
        return [*known, *exact, *estimate]

    both(run)
