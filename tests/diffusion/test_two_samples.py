"""Samplers that draw noise make samples that no test tells from draws of the data itself.

Kolmogorov and Smirnov's two-sample test, along four directions of the plane. What it could see is
printed (``pytest -s``): the gap between two distribution functions that it finds 99 times in 100.
"""

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm

from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.samplers.ddpm import coefficients
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()
N, STEPS = 4000, 100
LEVEL, POWER = 1e-4, 0.99
ANGLES = np.arange(4) * np.pi / 4
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)])
DATA = MIXTURE.sample(N, rng=np.random.default_rng(0))


def detectable():
    """The gap that is found with probability POWER at least, at this LEVEL.

    The critical value is sqrt(-log(LEVEL / 2) / N). Where the gap is, the difference of the two
    empirical functions has a standard deviation of sqrt(1 / (2 N)) at most.
    """
    return math.sqrt(-math.log(LEVEL / 2) / N) + norm.ppf(POWER) * math.sqrt(1 / (2 * N))


def smallest_p(x):
    return min(ks_2samp(x @ u, DATA @ u).pvalue for u in DIRECTIONS.T)


def generated(name, **options):
    rng = np.random.default_rng(1)
    sampler = samplers.make(name, steps=STEPS, **options)
    states = sampler(everywhere(MIXTURE, LINEAR), LINEAR, rng.standard_normal((N, 2)), rng=rng)
    return samplers.final(states)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"variance": "posterior"}),
        ("ddpm", {"variance": "beta"}),
        ("ddim", {"eta": 0.5}),
        ("ddim", {"eta": 1.0}),
        ("euler_ancestral", {}),
        ("edm", {"s_churn": 20.0}),
        ("annealed_langevin", {}),
        ("predictor_corrector", {}),
    ],
)
def test_samples_are_not_told_from_the_data(name, options):
    assert samplers.FACTS[name].stochastic(**options)
    p = smallest_p(generated(name, **options))
    print(f"{name} {options}: p = {p:.2g}; a gap of {detectable():.3f} would be found")
    assert p > LEVEL


@pytest.mark.parametrize("factor", [0.25, 2.0])
def test_noise_of_a_wrong_size_is_found(factor):
    """sigma^2 of the posterior times 1/4 (half the noise), and times 2."""

    def wrong(s, t):
        return factor * coefficients(LINEAR, s, t)[2] ** 2

    assert smallest_p(generated("ddpm", variance=wrong)) < LEVEL


def test_the_gap_that_is_stated_is_found():
    """Data of which that share has been moved out at one side, many times: 99 in 100 and more."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(100):
        a, b = rng.standard_normal((2, N))
        b = np.where(rng.random(N) < detectable() / 0.5, np.abs(b), b)  # half of them move
        found += ks_2samp(a, b).pvalue < LEVEL
    assert found >= 97  # of 99 expected; 5 standard errors of a share of 0.99 are 5
