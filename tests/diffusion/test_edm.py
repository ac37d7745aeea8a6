import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.sigma import sigma_of
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()
X = np.random.default_rng(0).standard_normal((4, 2))


def test_without_churn_it_is_heun():
    denoiser = everywhere(MIXTURE, LINEAR)
    for a, b in zip(
        samplers.edm(denoiser, LINEAR, X, steps=12),
        samplers.rk2(denoiser, LINEAR, X, steps=12, alpha=1.0),
        strict=True,
    ):
        assert_array_equal(a.x, b.x)


def raised_levels(**options):
    """The first level that the denoiser is asked at in each step, and the number of draws."""
    asked, draws = [], []

    class Draws:
        def standard_normal(self, shape, dtype):
            draws.append(shape)
            return np.zeros(shape, dtype)

    def denoiser(xt, t):
        asked.append(float(sigma_of(LINEAR, t[0])))
        return 0 * xt

    for _ in samplers.edm(denoiser, LINEAR, X, rng=Draws(), **options):
        pass
    return np.array(asked[::2]), len(draws)


@pytest.mark.parametrize(("s_churn", "gamma"), [(2.0, 0.2), (1e6, math.sqrt(2) - 1)])
def test_where_and_how_far_noise_is_raised(s_churn, gamma):
    """gamma = min(S_churn / S, sqrt(2) - 1), inside [S_tmin, S_tmax], never above sigma_T."""
    sigmas = np.array([150.0, 100, 60, 20, 8, 3, 1, 0.4, 0.1, 0.03, 0])
    got, draws = raised_levels(sigmas=sigmas, s_churn=s_churn, s_tmin=0.1, s_tmax=60.0)
    inside = (sigmas[:-1] >= 0.1) & (sigmas[:-1] <= 60)
    assert_allclose(got, np.where(inside, (1 + gamma) * sigmas[:-1], sigmas[:-1]), rtol=1e-6)
    assert draws == inside.sum() == 7
    got, _ = raised_levels(sigmas=sigmas, s_churn=s_churn)
    assert_allclose(got[0], min(150 * (1 + gamma), sigma_of(LINEAR, 1000)), rtol=1e-6)


def test_the_noise_added_makes_up_the_difference_of_variances():
    """With a model that answers x0 = 0, a step only rescales x + sqrt(raised^2 - sigma^2) z."""
    z = np.random.default_rng(1).standard_normal(X.shape)

    class Draws:
        def standard_normal(self, shape, dtype):
            return z.astype(dtype)

    def nothing(xt, t):  # eps that means x0 = 0
        sigma = sigma_of(LINEAR, t)[:, None]
        return xt * np.sqrt(1 + sigma**2) / sigma

    sigmas, s_noise = [8.0, 3.0, 0.0], 1.1
    states = list(
        samplers.edm(nothing, LINEAR, X, rng=Draws(), sigmas=sigmas, s_churn=0.6, s_noise=s_noise)
    )
    raised = 8.0 * 1.3
    x = X * math.sqrt(1 + 8.0**2) + s_noise * math.sqrt(raised**2 - 8.0**2) * z
    assert_allclose(states[1].x, x * (3.0 / raised) / math.sqrt(1 + 3.0**2), rtol=1e-9)
