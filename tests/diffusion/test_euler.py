"""Euler and Euler-ancestral are DDIM and DDPM, seen from sigma."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from minidiff.diffusion import schedules
from minidiff.diffusion.samplers import ddim, ddpm, euler, euler_ancestral
from minidiff.diffusion.samplers.euler_ancestral import split
from tests import strategies
from tests.diffusion.models import MIXTURE, everywhere, wobbly


def assert_same_states(one, other, rtol):
    for a, b in zip(one, other, strict=True):
        assert a.t == b.t
        scale = np.abs(b.x).max()
        assert np.abs(a.x - b.x).max() <= rtol * max(1, scale)
        assert np.abs(a.x0 - b.x0).max() <= rtol * max(1, np.abs(b.x0).max())


@pytest.mark.parametrize("clip", [None, (-1, 1)])
@pytest.mark.parametrize("steps", [1, 10, 50, 1000])
def test_ddim_is_euler_in_sigma(steps, clip):
    schedule = schedules.linear()
    denoiser = everywhere(MIXTURE, schedule)
    x_T = np.random.default_rng(0).standard_normal((4, 2))
    one, other = (f(denoiser, schedule, x_T, steps=steps, clip=clip) for f in (euler, ddim))
    assert_same_states(one, other, rtol=1e-12)


@given(strategies.schedules(max_T=60, min_abar_T=1e-4), strategies.seeds, st.data())
@settings(max_examples=40)
def test_so_it_is_for_any_model_schedule_and_times(schedule, seed, data):
    times = data.draw(strategies.subsequences(schedule.T))
    x_T = np.random.default_rng(seed).standard_normal((4, 2))
    one, other = (f(wobbly(schedule), schedule, x_T, steps=times) for f in (euler, ddim))
    assert_same_states(one, other, rtol=1e-9)


@given(strategies.schedules(max_T=60, min_abar_T=1e-4), strategies.seeds, st.data())
@settings(max_examples=40)
def test_euler_ancestral_is_ddpm_with_the_posterior_variance(schedule, seed, data):
    """Given the same noise, also by jumps."""
    times = data.draw(strategies.subsequences(schedule.T))
    x_T = np.random.default_rng(seed).standard_normal((4, 2))
    one, other = (
        f(wobbly(schedule), schedule, x_T, steps=times, rng=np.random.default_rng(seed))
        for f in (euler_ancestral, ddpm)
    )
    assert_same_states(one, other, rtol=1e-8)


@given(st.floats(1e-3, 100), st.floats(0, 1, exclude_max=True))
def test_down_and_up_make_the_level_asked_for(sigma, share):
    lower = share * sigma
    down, up = split(sigma, lower)
    assert_allclose(down**2 + up**2, lower**2, rtol=1e-9, atol=1e-300)
    assert 0 <= down <= lower
