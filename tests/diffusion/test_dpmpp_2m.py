from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import schedules
from minidiff.diffusion.samplers import dpmpp_2m
from tests import strategies
from tests.diffusion.models import wobbly


@given(strategies.schedules(max_T=60, min_abar_T=1e-4), strategies.seeds, st.data())
@settings(max_examples=40)
def test_it_is_the_algorithm_as_printed(schedule, seed, data):
    """Lu et al. 2022b, Algorithm 2, in x_t and lambda = log(alpha / sigma), line by line."""
    times = data.draw(strategies.subsequences(schedule.T))
    x = x_T = np.random.default_rng(seed).standard_normal((4, 2))
    alpha, sigma = np.sqrt(schedule.abar), np.sqrt(1 - schedule.abar)
    model = wobbly(schedule)

    def predict(x, t):
        return (x - sigma[t] * model(x, np.full(4, t))) / alpha[t]

    buffer, lam = [], np.log(alpha[1:] / sigma[1:])
    xs = [x]
    for i, (before, t) in enumerate(pairwise(times.tolist())):
        buffer.append(predict(x, before))
        if t == 0:
            x = buffer[-1]
        else:
            h = lam[t - 1] - lam[before - 1]
            D = buffer[-1]
            if i > 0:
                r = (lam[before - 1] - lam[times[i - 1] - 1]) / h
                D = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
            x = sigma[t] / sigma[before] * x - alpha[t] * np.expm1(-h) * D
        xs.append(x)
    got = list(dpmpp_2m(model, schedule, x_T, steps=times))
    for state, x in zip(got, xs, strict=True):
        assert_allclose(state.x, x, rtol=1e-7, atol=1e-7 * np.abs(x).max())


def test_a_second_run_remembers_nothing_of_the_first():
    schedule = schedules.linear()
    x_T = np.random.default_rng(0).standard_normal((4, 2))

    def run():
        return [state.x for state in dpmpp_2m(wobbly(schedule), schedule, x_T, steps=5)]

    np.testing.assert_array_equal(run(), run())
