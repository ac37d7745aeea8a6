"""Mean and variance that each solver generates for a Gaussian, against its recursion on paper.

For data N(m, v) the probability flow in sigma is dy/dsigma = a(sigma) y with y = x - m and
a = sigma / (v + sigma^2), since D = (v x + sigma^2 m) / (v + sigma^2). Every solver multiplies y by
a number in each step, which is written down here from the method's definition for dy/dsigma.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import exact, samplers, schedules, timesteps
from tests import strategies
from tests.diffusion.models import gaussian

LINEAR = schedules.linear()
TRIO = [(0.0, 1.0), (1.5, 0.25), (0.5, 1e-8)]  # mean and variance of the data


def generated(name, options, data, schedule):
    denoiser = gaussian(*data, schedule)
    sampler = samplers.make(name, **options)
    map_ = exact.propagate(
        lambda x, rng: samplers.final(sampler(denoiser, schedule, x, rng=rng)), (1,)
    )
    return map_.mean.item(), map_.covariance.item()


def euler(a, sigmas):
    """(factor of y, variance of new noise) in each step."""
    for sigma, lower in pairwise(sigmas):
        yield 1 + (lower - sigma) * a(sigma), 0.0


def ancestral(a, sigmas):
    for sigma, lower in pairwise(sigmas):
        down = lower**2 / sigma
        yield 1 + (down - sigma) * a(sigma), lower**2 - down**2


def rk2(a, sigmas, alpha=1.0):
    for sigma, lower in pairwise(sigmas):
        h = lower - sigma
        if sigma + alpha * h == 0:
            yield 1 + h * a(sigma), 0.0
        else:
            first = a(sigma)
            second = a(sigma + alpha * h) * (1 + alpha * h * first)
            yield 1 + h * ((1 - 1 / (2 * alpha)) * first + 1 / (2 * alpha) * second), 0.0


def churned(a, sigmas, s_churn, s_tmin, s_tmax, s_noise):
    """Noise and Heun's step are two steps here: y -> y + noise, then a factor."""
    gamma = min(s_churn / (len(sigmas) - 1), np.sqrt(2) - 1)
    for sigma, lower in pairwise(sigmas):
        inside = s_tmin <= sigma <= s_tmax
        raised = min(sigma * (1 + gamma), sigmas[0]) if inside else sigma
        yield 1.0, (raised**2 - sigma**2) * s_noise**2
        yield from rk2(a, [raised, lower])


def multistep_2m(a, sigmas):
    """For y in place of x the prediction is D = y (1 - sigma a(sigma))."""
    y, before = 1.0, None
    for sigma, lower in pairwise(sigmas):
        D = y * (1 - sigma * a(sigma))
        ahead = D
        if before is not None and lower > 0:
            r = np.log(before[0] / sigma) / np.log(sigma / lower)
            ahead = D + (D - before[1]) / (2 * r)
        before = sigma, D
        new = lower / sigma * y + (1 - lower / sigma) * ahead
        yield new / y, 0.0
        y = new


def linear_multistep(a, sigmas, middles, starts):
    """Slopes e = a y; steps y' = y + (sigma' - sigma) e' with e' from Runge-Kutta or history."""
    y, history = 1.0, []
    for i, (sigma, lower) in enumerate(pairwise(sigmas)):
        h, e1 = lower - sigma, a(sigma) * y
        history.append(e1)
        if i < starts == 1:
            e = (e1 + a(lower) * (y + h * e1)) / 2
        elif i < starts:
            half = middles[i] - sigma
            e2 = a(middles[i]) * (y + half * e1)
            e3 = a(middles[i]) * (y + half * e2)
            e4 = a(lower) * (y + h * e3)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        elif len(history) == 2:
            e = (3 * history[-1] - history[-2]) / 2
        elif len(history) == 3:
            e = (23 * history[-1] - 16 * history[-2] + 5 * history[-3]) / 12
        else:
            e = (55 * history[-1] - 59 * history[-2] + 37 * history[-3] - 9 * history[-4]) / 24
        new = y + h * e
        yield new / y, 0.0
        y = new


def expected(name, options, data, schedule):
    m, v = data
    options = dict(options)
    times = timesteps.resolve(schedule.T, options.pop("steps"))
    sigma_t = np.sqrt(1 / schedule.abar - 1)
    sigmas = options.pop("sigmas", sigma_t[times])
    middles = sigma_t[(times[:-1] + times[1:]) // 2]

    def a(sigma):
        return sigma / (v + sigma**2)

    steps = {
        "ddim": euler,
        "euler": euler,
        "euler_ancestral": ancestral,
        "rk2": rk2,
        "edm": churned,
        "dpmpp_2m": multistep_2m,
        "pndm": lambda a, sigmas: linear_multistep(a, sigmas, middles, 3),
        "plms": lambda a, sigmas: linear_multistep(a, sigmas, middles, 1),
    }[name](a, sigmas, **options)
    y, variance = -m, 1 + sigmas[0] ** 2  # x_T has mean 0
    for factor, noise in steps:
        y, variance = factor * y, factor**2 * variance + noise
    return m + y, variance


def assert_same(got, wanted):
    """Compare means and standard deviations; the point's variance is all cancellation."""
    assert_allclose(got[0], wanted[0], rtol=1e-8, atol=1e-11)
    assert_allclose(np.sqrt(got[1]), np.sqrt(wanted[1]), rtol=1e-7, atol=1e-9)


CHURN = {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
CASES = [
    ("ddim", {}),
    ("euler", {}),
    ("euler_ancestral", {}),
    ("rk2", {"alpha": 1.0}),
    ("rk2", {"alpha": 0.5}),
    ("rk2", {"alpha": 2 / 3}),
    ("edm", CHURN),
    ("dpmpp_2m", {}),
    ("pndm", {}),
    ("plms", {}),
]


@pytest.mark.parametrize("data", TRIO)
@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_solvers_generate_what_their_recursion_says(name, options, steps, data):
    options = {"steps": steps, **options}
    assert_same(generated(name, options, data, LINEAR), expected(name, options, data, LINEAR))


@given(strategies.schedules(max_T=40, min_abar_T=1e-4), st.data())
@settings(max_examples=25)
def test_so_they_do_for_any_schedule_data_and_times(schedule, data):
    target = data.draw(st.floats(-2, 2)), data.draw(st.floats(1e-3, 4))
    times = data.draw(strategies.subsequences(schedule.T))
    for name, options in CASES:
        if len(times) > samplers.FACTS[name].min_steps:
            options = {"steps": tuple(times.tolist()), **options}
            got = generated(name, options, target, schedule)
            assert_same(got, expected(name, options, target, schedule))


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0][:4] not in
                                               ("ddim", "pndm", "plms")])  # fmt: skip
def test_levels_can_be_given_in_place_of_times(name, options):
    sigmas = (80 ** (1 / 7) + np.arange(15) / 14 * (0.02 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    options = {"sigmas": np.append(sigmas, 0), **options}
    got = generated(name, options, (1.5, 0.25), LINEAR)
    assert_same(got, expected(name, {"steps": 1, **options}, (1.5, 0.25), LINEAR))


@pytest.mark.parametrize(
    ("name", "options", "variance"),
    [
        ("euler", {"steps": 50}, 0.9284),
        ("euler", {"steps": 10}, 0.6879),
        ("euler_ancestral", {"steps": 1000}, 0.99107),
    ],
)
def test_known_variances_on_unit_data(name, options, variance):
    """Those of DDIM, and of DDPM with the posterior variance."""
    assert_allclose(generated(name, options, (0.0, 1.0), LINEAR)[1], variance, atol=5e-5)


def test_higher_order_is_nearer_to_the_data_for_the_same_number_of_evaluations():
    """N(0, 1) in about 20 evaluations: what the better solvers are for."""

    def off(name, **options):
        return abs(generated(name, options, (0.0, 1.0), LINEAR)[1] - 1)

    ddim = off("ddim", steps=20)
    assert off("dpmpp_2m", steps=20) < ddim / 4
    assert off("plms", steps=19) < ddim / 4
    assert off("rk2", steps=10) < ddim
