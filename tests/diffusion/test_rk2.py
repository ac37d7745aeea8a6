import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.samplers.rk2 import step
from minidiff.diffusion.sigma import sigma_of
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()
X = np.random.default_rng(0).standard_normal((4, 2))


@pytest.mark.parametrize(
    ("alpha", "nodes", "weights"),
    [
        (1.0, [1.0], [1 / 2, 1 / 2]),  # Heun
        (0.5, [1 / 2], [0.0, 1.0]),  # midpoint
        (2 / 3, [2 / 3], [1 / 4, 3 / 4]),  # Ralston
    ],
)
def test_the_methods_that_alpha_names(alpha, nodes, weights):
    """The Butcher table: a D that gives away where it was asked shows nodes and weights."""
    asked = []

    def D(x, sigma):
        asked.append(sigma)
        return x - sigma * np.full_like(x, 1.0 if len(asked) == 1 else 5.0)  # slopes 1 and 5

    got, x0 = step(D, X, 3.0, 1.0, alpha)
    assert asked[0] == 3.0
    assert_allclose(asked[1:], [3.0 - 2.0 * node for node in nodes])
    assert_allclose(got, X - 2.0 * (weights[0] * 1.0 + weights[1] * 5.0))
    assert_allclose(x0, X - 3.0)


def test_the_second_slope_is_taken_at_the_euler_step():
    seen = []

    def D(x, sigma):
        seen.append(x)
        return x - sigma * np.ones_like(x)

    step(D, X, 3.0, 1.0, 0.5)
    assert_allclose(seen[1], X - 1.0)


@pytest.mark.parametrize(("alpha", "evaluations"), [(1.0, 39), (0.5, 40), (2 / 3, 40)])
def test_euler_where_the_second_slope_would_be_at_sigma_0(alpha, evaluations):
    levels = []
    inner = everywhere(MIXTURE, LINEAR)

    def denoiser(xt, t):
        levels.append(float(sigma_of(LINEAR, t[0])))
        return inner(xt, t)

    states = list(samplers.rk2(denoiser, LINEAR, X, steps=20, alpha=alpha))
    assert len(levels) == evaluations == samplers.nfe("rk2", 20, alpha=alpha)
    assert min(levels) > 0
    if alpha == 1:
        assert_array_equal(states[-1].x, states[-2].x0)
    else:
        assert_allclose(levels[-1], (1 - alpha) * levels[-2], rtol=1e-9)


def test_the_levels_between_are_asked_at_real_times():
    asked = []

    def denoiser(xt, t):
        asked.append(t[0])
        return 0 * xt

    samplers.final(samplers.rk2(denoiser, LINEAR, X, steps=4, alpha=0.5))
    assert asked[::2] == [1000, 750, 500, 250]
    for between, t, s in zip(asked[1::2], asked[::2], [750, 500, 250, 0], strict=True):
        sigma = (sigma_of(LINEAR, t) + sigma_of(LINEAR, s)) / 2
        assert s < between < t
        assert_allclose(sigma_of(LINEAR, between), sigma, rtol=1e-9)
