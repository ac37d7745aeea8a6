"""What the samplers generate, with the optimal denoiser, without a draw and without an error."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import exact, samplers, schedules, timesteps
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import InputError
from tests import strategies

LINEAR = schedules.linear()
UNIT, SHIFTED, POINT = TRIO = [(0.0, 1.0), (1.5, 0.25), (0.5, 1e-8)]  # mean and variance


@cache
def package(name, **options):
    """A sampler of the package as run(denoiser, schedule, x_T, rng)."""
    sampler = samplers.make(name, **options)
    return lambda denoiser, schedule, x, rng: samplers.final(
        sampler(denoiser, schedule, x, rng=rng)
    )


@cache
def generated(run, data, schedule=LINEAR):
    """Mean and variance of what `run` generates if its denoiser is optimal for data N(m, v)."""
    denoiser = Gaussian.isotropic([data[0]], data[1]).denoiser(schedule)
    map_ = exact.propagate(lambda x, rng: run(denoiser, schedule, x, rng), (1,))
    return map_.mean.item(), map_.covariance.item()


@cache
def reference(name, data, schedule=LINEAR, *, steps=None, variance="posterior", eta=0.0):
    """The same by recursion, from the textbook: independent of everything under test."""
    m, v = data
    mean, var = 0.0, 1.0
    for t, s in pairwise(timesteps.resolve(schedule.T, steps)):
        abar_t, abar_s = schedule.abar[t], schedule.abar[s]
        slope = np.sqrt(1 - abar_t) / (abar_t * v + 1 - abar_t)  # eps = slope (x - sqrt(abar) m)
        beta = 1 - abar_t / abar_s
        tilde = (1 - abar_s) / (1 - abar_t) * beta
        # The step is x_s = to_x x_t + to_eps eps + sigma z.
        to_x = np.sqrt(abar_s / abar_t)
        if name == "ddpm":
            sigma2 = {"posterior": tilde, "beta": beta}[variance]
            to_eps = -to_x * beta / np.sqrt(1 - abar_t)
        else:
            sigma2 = eta**2 * tilde
            to_eps = np.sqrt(1 - abar_s - sigma2) - to_x * np.sqrt(1 - abar_t)
        gain = to_x + to_eps * slope
        mean = gain * mean - to_eps * slope * np.sqrt(abar_t) * m
        var = gain**2 * var + (sigma2 if s > 0 else 0.0)
    return mean, var


def assert_same(got, expected, rtol=1e-9):
    """Compare means and standard deviations; the point's variance is all cancellation."""
    assert_allclose(got[0], expected[0], rtol=rtol, atol=1e-12)
    assert_allclose(np.sqrt(got[1]), np.sqrt(expected[1]), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("data", TRIO)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"variance": "beta"}),
        ("ddpm", {"variance": "posterior"}),
        ("ddpm", {"variance": "beta", "steps": 50}),
        ("ddpm", {"variance": "posterior", "steps": 7}),
        ("ddim", {"steps": None}),
        ("ddim", {"steps": 50}),
        ("ddim", {"steps": 50, "eta": 0.5}),
        ("ddim", {"steps": 200, "eta": 1.1}),
        ("ddim", {"steps": 1}),
    ],
)
def test_samplers_generate_what_the_recursion_says(name, options, data):
    run = package(name, **options)
    assert_same(generated(run, data), reference(name, data, **options), rtol=1e-8)


@given(strategies.schedules(max_T=60, min_abar_T=1e-6), st.data())
@settings(max_examples=40)
def test_so_they_do_for_any_schedule_data_and_times(schedule, data):
    gaussian = data.draw(st.floats(-2, 2)), data.draw(st.floats(1e-3, 4))
    times = tuple(data.draw(strategies.subsequences(schedule.T)).tolist())
    for name, options in [
        ("ddpm", {"steps": times, "variance": data.draw(st.sampled_from(["beta", "posterior"]))}),
        ("ddim", {"steps": times, "eta": data.draw(st.floats(0, 1))}),
    ]:
        got = generated(package(name, **options), gaussian, schedule)
        assert_same(got, reference(name, gaussian, schedule, **options), rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "variance", "atol"),
    [
        ("ddpm", {"variance": "beta"}, 0.9999, 1e-6),
        ("ddpm", {"variance": "posterior"}, 0.99107, 5e-6),
        ("ddim", {"steps": None}, 0.9963, 5e-5),
        ("ddim", {"steps": 100}, 0.9635, 5e-5),
        ("ddim", {"steps": 50}, 0.9284, 5e-5),
        ("ddim", {"steps": 20}, 0.8304, 5e-5),
        ("ddim", {"steps": 10}, 0.6879, 5e-5),
        ("ddim", {"steps": 50, "eta": 0.5}, 0.9130, 5e-5),
    ],
)
def test_variances_of_a_perfect_model_on_unit_data(name, options, variance, atol):
    """Known numbers: the samplers' own error, which no training removes."""
    mean, got = generated(package(name, **options), UNIT)
    assert mean == 0
    assert_allclose(got, variance, atol=atol)


@given(strategies.seeds)
@settings(max_examples=10)
def test_full_covariances_in_any_shape(seed):
    """The map of correlated data is the one-dimensional map along each principal axis."""
    rng = np.random.default_rng(seed)
    schedule = schedules.linear(30, 0.01, 0.3)
    a = rng.standard_normal((4, 4))
    data = Gaussian(rng.standard_normal((2, 2, 1)), a @ a.T)
    denoiser = data.denoiser(schedule)
    variances, axes = np.linalg.eigh(a @ a.T)
    centre = axes.T @ data.mean.reshape(-1)
    for name, options in [("ddpm", {"variance": "beta"}), ("ddim", {"steps": 10, "eta": 0.7})]:
        run = package(name, **options)
        got = exact.propagate(lambda x, rng, run=run: run(denoiser, schedule, x, rng), (2, 2, 1))
        along = [
            reference(name, (m, v), schedule, **options)
            for m, v in zip(centre, variances, strict=True)
        ]
        mean, variance = np.transpose(along)
        assert_allclose(got.mean, axes @ mean, rtol=1e-8, atol=1e-10)
        assert_allclose(got.covariance, axes * variance @ axes.T, rtol=1e-8, atol=1e-10)


def test_draws_have_the_propagated_mean_and_covariance():
    """Monte Carlo, 5 standard errors of 20,000 draws: they see 5 % of the variance."""
    n, schedule = 20_000, schedules.linear(20, 0.01, 0.4)
    data = Gaussian(np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.5]]))
    denoiser, run = data.denoiser(schedule), package("ddpm")
    map_ = exact.propagate(lambda x, rng: run(denoiser, schedule, x, rng), (2,))
    rng = np.random.default_rng(5)
    x = run(denoiser, schedule, rng.standard_normal((n, 2)), rng)
    scale = np.sqrt(np.diag(map_.covariance))
    assert (np.abs(x.mean(0) - map_.mean) < 5 * scale / np.sqrt(n)).all()
    error = np.abs(np.cov(x.T) - map_.covariance)
    assert (error < 5 * np.sqrt(2 / n) * np.outer(scale, scale)).all()


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_sampler_that_is_not_affine_is_refused(name):
    denoiser = Gaussian.isotropic([0.0], 1.0).denoiser(LINEAR)
    clipped = package(name, steps=20, clip=(-0.5, 0.5))
    with pytest.raises(InputError, match="not affine"):
        exact.propagate(lambda x, rng: clipped(denoiser, LINEAR, x, rng), (1,))


def test_a_sampler_that_looks_at_the_whole_batch_is_refused():
    """The corrections of a predictor-corrector are scaled by the mean length over the batch."""
    denoiser = Gaussian.isotropic([0.0], 1.0).denoiser(LINEAR)
    corrected = package("predictor_corrector", steps=20)
    with pytest.raises(InputError, match="the others of its batch"):
        exact.propagate(lambda x, rng: corrected(denoiser, LINEAR, x, rng), (1,))
    plain = package("predictor_corrector", steps=20, corrections=0)
    assert_same(generated(plain, UNIT), reference("ddpm", UNIT, steps=20), rtol=1e-8)
