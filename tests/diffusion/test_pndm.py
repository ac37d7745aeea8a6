"""PNDM and PLMS: published runs, weights, and what they ask of the model."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import parameterizations, schedules
from minidiff.diffusion.samplers import ddim, plms, pndm
from minidiff.diffusion.samplers.plms import WEIGHTS, multistep, transfer
from minidiff.diffusion.samplers.pndm import middle
from tests.diffusion.models import answer, ramp, wobbly

LINEAR = schedules.linear()
LEADING = [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]


def assert_published(x, total, mean):
    assert_allclose(np.abs(x).sum(), total, atol=1e-2)
    assert_allclose(np.abs(x).mean(), mean, atol=1e-3)


@pytest.mark.parametrize(
    ("beta_1", "to_one", "total", "mean"),
    [
        (1e-4, False, 198.1318, 0.2580),
        (0.01, True, 230.0399, 0.2995),
        (0.01, False, 186.9482, 0.2434),
    ],
)
def test_published_runs(beta_1, to_one, total, mean):
    """The sums that Hugging Face diffusers tests whole PNDM runs with.

    Where they do not set alpha to one, their last step goes from t = 1 to abar_1 again, and changes
    nothing: the published image is our state at t = 1.
    """
    schedule = schedules.linear(1000, beta_1, 0.02)
    states = list(pndm(answer, schedule, ramp(), steps=10, spacing="leading"))
    assert [state.t for state in states] == LEADING
    assert_published(states[-1 if to_one else -2].x, total, mean)


def test_published_run_for_a_model_that_predicts_v():
    """Theirs combines the v of different times as if they were eps, and makes eps of the mixture.

    Ours makes eps of each v first, which is what the formulas are for; so their run is put together
    here from the pieces.
    """

    def phi(x, t, s, v):
        return transfer(LINEAR, x, t, s, parameterizations.eps_from_v(LINEAR, x, t, v))

    x, history = ramp(), []
    for i, (t, s) in enumerate(pairwise(LEADING[:-1])):
        v1 = answer(x, t)
        history.append(v1)
        if i < 3:
            m = middle(s, t)
            v2 = answer(phi(x, t, m, v1), m)
            v3 = answer(phi(x, t, m, v2), m)
            v4 = answer(phi(x, t, s, v3), s)
            v = (v1 + 2 * v2 + 2 * v3 + v4) / 6
        else:
            v = multistep(history)
        x = phi(x, t, s, v)
    assert_published(x, 67.3986, 0.0878)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_multistep_weights_are_those_of_adams_and_bashforth(order):
    """They integrate every polynomial of lower degree over the step ahead, from 0 to 1, exactly."""
    nodes = -np.arange(order)
    for degree in range(order):
        assert_allclose(np.dot(WEIGHTS[order - 1], nodes**degree), 1 / (degree + 1), atol=1e-12)
    history = [np.full((1, 1), float(k)) for k in range(6)][:order]
    assert_allclose(multistep(history), np.dot(WEIGHTS[order - 1], np.arange(order)[::-1]))


def test_only_the_last_four_count():
    rng = np.random.default_rng(0)
    history = [rng.standard_normal((2, 2)) for _ in range(7)]
    kept = [eps.copy() for eps in history]
    assert_array_equal(multistep(history), multistep(history[-4:]))
    assert_array_equal(history, kept)


def test_the_transfer_is_the_step_of_ddim():
    x = np.random.default_rng(0).standard_normal((4, 2))
    states = list(ddim(wobbly(LINEAR), LINEAR, x, steps=[700, 300, 0]))
    eps = wobbly(LINEAR)(x, np.full(4, 700))
    assert_allclose(transfer(LINEAR, x, 700, 300, eps), states[1].x, rtol=1e-14)


@pytest.mark.parametrize("sampler", [pndm, plms])
def test_with_an_eps_that_stays_the_same_both_are_ddim(sampler):
    """The weights of every formula sum to one."""
    x = np.random.default_rng(0).standard_normal((4, 2))
    fixed = np.random.default_rng(1).standard_normal((4, 2))
    for a, b in zip(
        sampler(lambda xt, t: fixed, LINEAR, x, steps=10),
        ddim(lambda xt, t: fixed, LINEAR, x, steps=10),
        strict=True,
    ):
        assert_allclose(a.x, b.x, rtol=1e-11)


def asked_times(sampler, **options):
    asked = []

    def denoiser(xt, t):
        asked.append(int(t[0]))
        return 0 * xt

    for _ in sampler(denoiser, LINEAR, np.ones((1, 1)), **options):
        pass
    return asked


def test_when_the_model_is_asked():
    assert asked_times(pndm, steps=5) == [
        1000, 900, 900, 800, 800, 700, 700, 600, 600, 500, 500, 400, 400, 200,
    ]  # fmt: skip
    assert asked_times(plms, steps=5) == [1000, 800, 800, 600, 400, 200]
    # Between neighbours there is no whole time: the lower one stands in.
    assert asked_times(pndm, steps=None)[:5] == [1000, 999, 999, 999, 999]
    assert asked_times(pndm, steps=[9, 6, 4, 2, 0])[:5] == [9, 7, 7, 6, 6]


@pytest.mark.parametrize("sampler", [pndm, plms])
def test_each_transfer_is_clipped(sampler):
    x = 3 * np.random.default_rng(0).standard_normal((4, 2))
    states = list(sampler(wobbly(LINEAR), LINEAR, x, steps=8, clip=(-0.2, 0.3)))
    for state in states:
        assert -0.2 <= state.x0.min() <= state.x0.max() <= 0.3
