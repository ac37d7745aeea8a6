"""The arrays that a sampler needs in a step, and what it may not do with those it has yielded."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks.samplers import REMEMBERED, peak_arrays
from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.samplers import SAMPLERS
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_state_one_scratch_and_what_the_method_remembers(name):
    """Two arrays are the state before, two the new one; small arrays are not counted."""
    arrays = peak_arrays(samplers.make(name, steps=8), LINEAR, (32, 28, 28, 1))
    assert arrays < 5 + REMEMBERED[name][0] + 0.5


@pytest.mark.parametrize("clip", [None, (-1, 1)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_state_is_written_into_once_it_was_yielded(name, clip):
    x_T = np.random.default_rng(0).standard_normal((4, 2))
    start, kept = x_T.copy(), []
    asked, seen = everywhere(MIXTURE, LINEAR), []

    def denoiser(xt, t):
        seen.append((xt, xt.copy()))
        return asked(xt, t)

    sampler = samplers.make(name, steps=6, clip=clip)
    for state in sampler(denoiser, LINEAR, x_T, rng=np.random.default_rng(0)):
        kept.append((state, state.x.copy(), state.x0.copy()))
    for state, x, x0 in kept:
        assert_array_equal(state.x, x)
        assert_array_equal(state.x0, x0)
    for xt, then in seen:  # nor what a denoiser was shown, which it may remember
        assert_array_equal(xt, then)
    assert_array_equal(x_T, start)


@pytest.mark.parametrize("name", SAMPLERS)
def test_nor_is_what_a_denoiser_returned(name):
    """It may return the same array each time, as one that predicts a constant does."""
    eps = np.full((4, 2), 0.5)
    states = samplers.make(name, steps=6)(
        lambda xt, t: eps, LINEAR, np.ones((4, 2)), rng=np.random.default_rng(0)
    )
    samplers.final(states)
    assert (eps == 0.5).all()
