import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import exact, schedules
from minidiff.diffusion.samplers import ddim, ddim_inversion, final
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError
from tests.diffusion.models import MIXTURE, everywhere, gaussian

LINEAR = schedules.linear()


def test_states_go_from_the_image_to_the_noise():
    x0 = np.random.default_rng(0).standard_normal((3, 1))
    states = list(ddim_inversion(gaussian(0.0, 1.0, LINEAR), LINEAR, x0, steps=4))
    assert [state.t for state in states] == [0, 250, 500, 750, 1000]
    assert states[0].x is x0
    assert states[0].x0 is x0


def test_the_model_is_asked_at_the_clean_end_of_each_step():
    asked = []

    def denoiser(xt, t, labels):
        asked.append((int(t[0]), labels))
        return 0 * xt

    final(ddim_inversion(denoiser, LINEAR, np.ones((2, 1)), steps=4, labels="given"))
    assert asked == [(1, "given"), (250, "given"), (500, "given"), (750, "given")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    x0 = np.ones((3, 1), dtype=dtype)
    states = ddim_inversion(gaussian(0.0, 1.0, LINEAR), LINEAR, x0, steps=7)
    assert {state.x.dtype for state in states} == {np.dtype(dtype)}


@pytest.mark.parametrize("data", [(0.0, 1.0), (1.5, 0.25), (-0.5, 2.0)])
def test_exact_value_on_a_gaussian(data):
    """Euler steps of dy/dsigma = sigma / (v + sigma^2) y upwards, with y = x - m."""
    m, v = data
    sigmas = np.sqrt(1 / LINEAR.abar[[0, 250, 500, 750, 1000]] - 1)
    asked = np.sqrt(1 / LINEAR.abar[[1, 250, 500, 750]] - 1)
    a, b = 1.0, 0.0  # x = a x_0 + b
    for sigma, upper, at in zip(sigmas[:-1], sigmas[1:], asked, strict=True):
        # eps(x_t, t) is asked with x_t = x sqrt(abar_sigma), but told the level `at`
        scale = np.sqrt((1 + at**2) / (1 + sigma**2))
        gain = at / (v + at**2)
        a, b = (
            a + (upper - sigma) * gain * scale * a,
            b + (upper - sigma) * gain * (scale * b - m),
        )
    denoiser = gaussian(*data, LINEAR)
    map_ = exact.propagate(lambda x, rng: final(ddim_inversion(denoiser, LINEAR, x, steps=4)), (1,))
    root = np.sqrt(LINEAR.abar[1000])
    assert_allclose(map_.mean, root * b, rtol=1e-9, atol=1e-12)
    assert_allclose(map_.matrix, root * a, rtol=1e-9)


def equal_in_sigma(T):
    return Schedule.from_sigmas(4 * np.arange(1, T + 1) / T)


def test_the_way_there_and_back_is_exact_to_first_order():
    """The error halves with the steps: each way is an Euler method, with eps from its own end."""
    schedule = equal_in_sigma(512)
    denoiser = everywhere(MIXTURE, schedule)
    x0 = MIXTURE.sample(20, rng=np.random.default_rng(0))

    def error(steps):
        x_T = final(ddim_inversion(denoiser, schedule, x0, steps=steps))
        back = final(ddim(denoiser, schedule, x_T, steps=steps))
        return np.sqrt(np.mean((back - x0) ** 2))

    errors = [error(steps) for steps in (64, 128, 256)]
    assert errors[-1] < 0.02
    assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.15)


def test_the_noise_of_a_drawn_image_is_the_noise_it_was_drawn_from():
    schedule = equal_in_sigma(512)
    denoiser = everywhere(MIXTURE, schedule)
    x_T = np.random.default_rng(0).standard_normal((20, 2))
    x0 = final(ddim(denoiser, schedule, x_T, steps=None))
    back = final(ddim_inversion(denoiser, schedule, x0, steps=None))
    assert np.abs(back - x_T).max() < 0.02
    assert np.abs(back - x_T).max() > 1e-6  # it is not exact, and does not claim to be


def test_bad_arguments():
    with pytest.raises(InputError, match="array of floats"):
        ddim_inversion(wrong, LINEAR, np.ones((2, 2), dtype=int))
    with pytest.raises(InputError, match=r"steps must lie in 1\.\.1000"):
        ddim_inversion(wrong, LINEAR, np.ones((2, 2)), steps=0)
    with pytest.raises(InputError, match="returned shape"):
        final(ddim_inversion(wrong, LINEAR, np.ones((2, 2)), steps=3))


def wrong(xt, t):
    return xt[:, 0]


def test_the_image_is_not_changed():
    x0 = np.ones((2, 1))
    final(ddim_inversion(gaussian(0.0, 1.0, LINEAR), LINEAR, x0, steps=5))
    assert_array_equal(x0, 1.0)
