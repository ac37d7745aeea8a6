"""Langevin dynamics: exactly on Gaussians, and by its quantiles on a mixture.

Monte Carlo here has a fixed seed; each test says what it would see: 5 standard errors.
"""

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import exact, samplers, schedules, timesteps
from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.diffusion.samplers import annealed_langevin, ddpm, final, predictor_corrector
from minidiff.diffusion.samplers.langevin import geometric, langevin, langevin_step
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.test_samplers import Counter

LINEAR = schedules.linear()
NEAR = GaussianMixture([0.4, 0.6], [[-0.8], [0.7]], [0.3, 0.2])
FAR = GaussianMixture([0.2, 0.8], [[-4.0], [4.0]], [0.09, 0.09])


def last(arrays):
    for x in arrays:  # noqa: B007
        pass
    return x


def noise(n, d=1, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def quantile_errors(x, mixture, p):
    """(share of x below each quantile of the mixture) - p, in standard errors of len(x) draws."""
    grid = np.linspace(-12, 12, 48_001)
    density = np.exp(mixture.at(1, 0).log_density(grid[:, None]))
    cdf = np.cumsum(density) * (grid[1] - grid[0])
    quantiles = np.interp(p, cdf, grid)
    share = (x[:, 0][:, None] < quantiles).mean(0)
    return (share - p) / np.sqrt(p * (1 - p) / len(x))


# --- one step ---


@given(st.floats(0.1, 4), st.floats(0.01, 0.9))
def test_a_step_of_finite_size_widens_a_gaussian(v, share):
    """N(m, v / (1 - alpha / 4v)) is what the step leaves unchanged, exactly."""
    alpha = share * 4 * v
    start = v / (1 - alpha / (4 * v))
    data = Gaussian.isotropic([0.7], v)

    def run(z, rng):
        x = 0.7 + np.sqrt(start) * z
        return langevin_step(x, data.at(1, 0).score(x), alpha, rng=rng)

    map_ = exact.propagate(run, (1,))
    assert_allclose(map_.mean, 0.7, rtol=1e-9)
    assert_allclose(map_.covariance, start, rtol=1e-9)


def test_plain_langevin_finds_the_quantiles():
    """20,000 chains of 200 steps: a share that is wrong by 0.018 would show, at the median."""
    n, p = 20_000, np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    chain = langevin(
        NEAR.at(1, 0).score, noise(n), alpha=0.05, steps=200, rng=np.random.default_rng(1)
    )
    error = quantile_errors(last(chain), NEAR, p)
    assert np.abs(error).max() < 5
    # From the same start, a tenth of the steps is seen not to be enough.
    chain = langevin(
        NEAR.at(1, 0).score, 3 * noise(n), alpha=0.05, steps=20, rng=np.random.default_rng(1)
    )
    assert np.abs(quantile_errors(last(chain), NEAR, p)).max() > 5


def test_langevin_yields_its_start_and_every_step():
    x = noise(3)
    chain = list(langevin(lambda x: -x, x, alpha=0.1, steps=4, rng=np.random.default_rng(0)))
    assert len(chain) == 5
    assert chain[0] is x


# --- annealed ---


def equilibrium(v, times, corrections, step):
    """Variance that annealed Langevin generates for N(0, v), by recursion in one dimension."""
    variance = 1.0
    for t, s in pairwise(times):
        abar_t, abar_s = LINEAR.abar[t], LINEAR.abar[s]
        if s == 0:
            return variance * abar_t * v**2 / (abar_t * v + 1 - abar_t) ** 2
        variance *= abar_s / abar_t
        alpha = step * (1 - abar_s)
        for _ in range(corrections):
            shrink = 1 - alpha / 2 / (abar_s * v + 1 - abar_s)
            variance = shrink**2 * variance + alpha


@pytest.mark.parametrize("v", [1.0, 0.25, 1e-8])
@pytest.mark.parametrize(
    ("steps", "corrections", "step"), [(10, 7, 0.2), (30, 2, 1.0), (1, 3, 0.5)]
)
def test_annealed_langevin_exactly(v, steps, corrections, step):
    data = Gaussian.isotropic([1.5], v)
    map_ = exact.propagate(
        lambda x, rng: final(
            annealed_langevin(
                data.denoiser(LINEAR),
                LINEAR,
                x,
                rng=rng,
                steps=steps,
                corrections=corrections,
                step=step,
            )
        ),
        (1,),
    )
    expected = equilibrium(v, geometric(LINEAR, steps), corrections, step)
    assert_allclose(np.sqrt(map_.covariance.item()), np.sqrt(expected), rtol=1e-7, atol=1e-12)


def test_the_default_is_close_to_the_data():
    """Within 3 % of the variance: what steps of finite size leave."""
    for v in (1.0, 0.25):
        assert 1 < equilibrium(v, geometric(LINEAR, 200), 5, 0.5) / v < 1.05


def test_annealed_beats_plain_on_separated_modes():
    """Plain chains stay in the mode where they began; the annealed find the right shares.

    1,000 samples: a share wrong by 0.063 would show. Plain Langevin is wrong by 0.3.
    """
    n = 1000
    share = np.sqrt(0.2 * 0.8 / n)
    rng = np.random.default_rng(3)
    x = final(annealed_langevin(FAR.denoiser(LINEAR), LINEAR, noise(n), rng=rng, steps=60))
    assert abs((x < 0).mean() - 0.2) < 5 * share
    assert_allclose(x[x > 0].std(), 0.3, rtol=5 * np.sqrt(0.5 / (0.8 * n)))
    chain = langevin(FAR.at(1, 0).score, noise(n), alpha=0.05, steps=360, rng=rng)  # as much work
    assert abs((last(chain) < 0).mean() - 0.2) > 5 * share


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_geometric_levels(T):
    schedule = schedules.linear(T)
    for steps in {1, min(2, T), min(7, T), T}:
        times = geometric(schedule, steps)
        assert len(times) == steps + 1
        assert (times[0], times[-1]) == (T, 0)
        assert (np.diff(times) < 0).all()
        if steps > 1:
            assert times[-2] == 1
    if T == 1000:
        log_sigma = -0.5 * schedule.log_snr[geometric(schedule, 10)[:-1]]
        assert_allclose(np.diff(log_sigma), np.diff(log_sigma).mean(), rtol=0.15)


@given(strategies.schedules(max_T=60, min_abar_T=1e-6), st.data())
@settings(max_examples=30)
def test_geometric_levels_of_any_schedule(schedule, data):
    steps = data.draw(st.integers(1, schedule.T))
    times = geometric(schedule, steps)
    assert len(times) == steps + 1
    assert times[0] == schedule.T
    assert (np.diff(times) < 0).all()


# --- predictor-corrector ---


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_without_corrections_it_is_ddpm(variance):
    denoiser = NEAR.denoiser(LINEAR)
    got, expected = (
        final(sampler(denoiser, LINEAR, noise(5), rng=np.random.default_rng(0), steps=9, **options))
        for sampler, options in [
            (predictor_corrector, {"variance": variance, "corrections": 0}),
            (ddpm, {"variance": variance}),
        ]
    )
    assert_array_equal(got, expected)


def test_corrections_mend_a_coarse_predictor():
    """Ten steps for N(0.5, 0.25): DDPM's variance is 0.111, exactly; corrections bring it back.

    4,000 samples: 11 % of a variance would show.
    """
    data, n = Gaussian.isotropic([0.5], 0.25), 4000
    errors = []
    for corrections in (0, 1, 4):
        x = final(
            predictor_corrector(
                data.denoiser(LINEAR),
                LINEAR,
                noise(n),
                rng=np.random.default_rng(0),
                steps=10,
                corrections=corrections,
                snr=0.3,
            )
        )
        errors.append(abs(x.var() / 0.25 - 1))
        assert abs(x.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert errors[0] > errors[1] + 5 * np.sqrt(2 / n)
    assert errors[0] > errors[2] + 10 * np.sqrt(2 / n)
    assert errors[1] > errors[2]


def test_the_step_of_a_correction():
    """x + delta g + sqrt(2 delta) z, delta = 2 alpha_s (snr |z| / |g|)^2; norms over the batch."""
    data, x_T, rng = Gaussian.isotropic([0.2, -0.4], 0.5), noise(6, 2), np.random.default_rng(5)
    times = [1000, 500, 0]
    states = list(
        predictor_corrector(
            data.denoiser(LINEAR), LINEAR, x_T, rng=np.random.default_rng(5), steps=times, snr=0.2
        )
    )
    before = list(ddpm(data.denoiser(LINEAR), LINEAR, x_T, rng=rng, steps=times))[1].x
    z = rng.standard_normal((6, 2))
    g = data.at_time(LINEAR, 500).score(before)
    size = np.linalg.norm(z, axis=1).mean() / np.linalg.norm(g, axis=1).mean()
    delta = 2 * LINEAR.alpha[500] * (0.2 * size) ** 2
    assert_allclose(states[1].x, before + delta * g + np.sqrt(2 * delta) * z, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_score_of_zero_is_no_correction(dtype):
    """That of a U-Net before its first step, whose last layer is 0; the rule divides by it."""
    states = list(
        predictor_corrector(
            lambda xt, t: 0 * xt, LINEAR, noise(3).astype(dtype), rng=FixedDraws(), steps=[9, 5, 0]
        )
    )
    plain = list(
        ddpm(
            lambda xt, t: 0 * xt, LINEAR, noise(3).astype(dtype), rng=FixedDraws(), steps=[9, 5, 0]
        )
    )
    for state, expected in zip(states, plain, strict=True):
        assert state.x.dtype == dtype
        np.testing.assert_array_equal(state.x, expected.x)


class FixedDraws:
    """The same noise in every draw."""

    def standard_normal(self, shape, dtype):
        return np.random.default_rng(3).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("sampler", [annealed_langevin, predictor_corrector])
@pytest.mark.parametrize("corrections", [1, 3])
def test_evaluations_and_draws(sampler, corrections):
    denoiser, rng = Counter(NEAR.denoiser(LINEAR)), Counter(np.random.default_rng(0))
    states = list(
        sampler(denoiser, LINEAR, noise(2), rng=rng, steps=6, corrections=corrections, labels=None)
    )
    assert len(states) == 7
    assert len(denoiser.calls) == samplers.nfe(sampler.__name__, 6, corrections=corrections)
    predictions = 5 if sampler is predictor_corrector else 0
    assert len(rng.calls) == predictions + 5 * corrections


def test_the_states_come_when_they_are_asked_for():
    denoiser = Counter(NEAR.denoiser(LINEAR))
    states = annealed_langevin(denoiser, LINEAR, noise(2), rng=np.random.default_rng(0))
    list(islice(states, 1))
    assert len(denoiser.calls) == 1


RNG = np.random.default_rng(0)


def run(sampler, **options):
    return sampler(NEAR.denoiser(LINEAR), LINEAR, noise(2), **({"rng": RNG} | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: langevin(NEAR.at(1, 0).score, noise(2), alpha=0, steps=1, rng=RNG), "alpha must"),
        (
            lambda: langevin(NEAR.at(1, 0).score, noise(2), alpha=0.1, steps=1, rng=None),
            "pass rng",
        ),
        (lambda: run(annealed_langevin, rng=None), "pass rng"),
        (lambda: run(annealed_langevin, step=4), "from 4 on the dynamics diverges"),
        (lambda: run(annealed_langevin, step=np.nan), "step must lie in"),
        (lambda: run(annealed_langevin, corrections=0), "whole number >= 1"),
        (lambda: run(annealed_langevin, corrections=1.0), "whole number >= 1"),
        (lambda: run(annealed_langevin, steps=1001), "steps must lie in 1..1000"),
        (lambda: run(annealed_langevin, clip=3), "clip must be"),
        (lambda: run(predictor_corrector, rng=None), "pass rng"),
        (lambda: run(predictor_corrector, corrections=-1), "whole number >= 0"),
        (lambda: run(predictor_corrector, corrections=True), "whole number >= 0"),
        (lambda: run(predictor_corrector, snr=0), "snr must be a number > 0"),
        (lambda: run(predictor_corrector, variance="learned"), "unknown variance"),
        (lambda: geometric(LINEAR, 0), "steps must lie in"),
        (lambda: geometric(LINEAR, 2.5), "steps must be a whole number"),
        (lambda: geometric(schedules.zero_terminal_snr(LINEAR), 9), "of infinite sigma"),
    ],
)
def test_bad_input_is_refused_at_the_call(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_all_times_and_given_times():
    schedule = schedules.linear(8, 0.01, 0.5)
    denoiser = NEAR.denoiser(schedule)
    for steps, times in [(None, timesteps.subset(8, 8)), ([8, 3, 0], [8, 3, 0])]:
        states = annealed_langevin(denoiser, schedule, noise(2), rng=RNG, steps=steps)
        assert [state.t for state in states] == list(times)
