"""The arrays that a sampler needs in a step, and what it may not do with those it has yielded."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks.samplers import REMEMBERED, peak_arrays
from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.denoiser import Predicting
from minidiff.diffusion.inpainting import inpaint
from minidiff.diffusion.parameterizations import dynamic_threshold
from minidiff.diffusion.samplers import SAMPLERS
from tests.diffusion.models import MIXTURE, everywhere

LINEAR = schedules.linear()


@pytest.mark.parametrize("clip", [None, (-1, 1), dynamic_threshold])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_state_one_scratch_and_what_the_method_remembers(name, clip):
    """Two arrays are the state before, two the new one; small arrays are not counted.

    DDIM's step in PNDM and PLMS has, with a clipped x0, both the eps that the method has mixed and
    the one that fits that x0.
    """
    arrays = peak_arrays(samplers.make(name, steps=8, clip=clip), LINEAR, (32, 28, 28, 1))
    another_eps = clip is not None and name in ("pndm", "plms")
    assert arrays < 5 + REMEMBERED[name][0] + another_eps + 0.5


@pytest.mark.parametrize("predicts", ["v", "x0"])
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_of_v_and_x0_the_eps_that_fits_is_one_more(name, predicts):
    def sampler(denoiser, *args, **options):
        return samplers.make(name, steps=8)(Predicting(denoiser, predicts), *args, **options)

    assert peak_arrays(sampler, LINEAR, (32, 28, 28, 1)) < 6.5


def test_inpainting_has_both_parts_of_the_image_besides():
    """The part that was made and the known one, before they are put into one array."""
    mask = np.zeros((28, 28, 1), bool)

    def sampler(denoiser, schedule, x_T, **options):
        return inpaint(
            denoiser, schedule, x_T, known=np.zeros_like(x_T), mask=mask, steps=8, jump=2,
            resamples=2, clip=(-1, 1), **options,
        )  # fmt: skip

    assert peak_arrays(sampler, LINEAR, (32, 28, 28, 1)) < 6.5


@pytest.mark.parametrize("clip", [None, (-1, 1)])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_no_state_is_written_into_once_it_was_yielded(name, clip, predicts):
    x_T = np.random.default_rng(0).standard_normal((4, 2))
    start, kept = x_T.copy(), []
    asked, seen = everywhere(MIXTURE, LINEAR), []

    def denoiser(xt, t):
        seen.append((xt, xt.copy()))
        return asked(xt, t)

    sampler = samplers.make(name, steps=6, clip=clip)
    asked_for = Predicting(denoiser, predicts)
    for state in sampler(asked_for, LINEAR, x_T, rng=np.random.default_rng(0)):
        kept.append((state, state.x.copy(), state.x0.copy()))
    for state, x, x0 in kept:
        assert_array_equal(state.x, x)
        assert_array_equal(state.x0, x0)
    for xt, then in seen:  # nor what a denoiser was shown, which it may remember
        assert_array_equal(xt, then)
    assert_array_equal(x_T, start)


@pytest.mark.parametrize("clip", [None, (-1, 1), dynamic_threshold])
@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_nor_is_what_a_denoiser_returned(name, predicts, clip):
    """It may return the same array each time, as one that predicts a constant does."""
    eps = np.full((4, 2), 0.5)
    denoiser = Predicting(lambda xt, t: eps, predicts)
    states = samplers.make(name, steps=6, clip=clip)(
        denoiser, LINEAR, np.ones((4, 2)), rng=np.random.default_rng(0)
    )
    samplers.final(states)
    assert (eps == 0.5).all()
