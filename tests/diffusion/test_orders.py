"""How fast each solver comes near the exact probability flow of a mixture."""

from functools import cache

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import sigma_of
from tests.diffusion.models import MIXTURE, everywhere

X_T = np.random.default_rng(0).standard_normal((8, 2))
STEPS = (32, 64, 128)
T = 6 * STEPS[-1]  # halves and thirds of every step are whole times


def equal_in_sigma(highest=4.0):
    """A schedule whose sigma_t is a multiple of t."""
    return Schedule.from_sigmas(highest * np.arange(1, T + 1) / T)


SCHEDULES = {"sigma": equal_in_sigma(), "linear": schedules.linear(T, 0.1 / T, 10 / T)}


@cache
def flow(kind, share):
    """x_t of the probability flow from X_T, at t = share * T, by a fine solver in sigma."""
    schedule = SCHEDULES[kind]
    first, last = sigma_of(schedule, T), max(sigma_of(schedule, share * T), 1e-9)

    def slope(sigma, x):
        x = x.reshape(X_T.shape)
        return ((x - MIXTURE.at(1.0, sigma).x0(x)) / sigma).ravel()

    start = (X_T * np.sqrt(1 + first**2)).ravel()
    x = solve_ivp(slope, (first, last), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    return x.reshape(X_T.shape) / np.sqrt(1 + last**2)


def slopes(name, kind, share, **options):
    """log2 of the ratio of errors at t = share * T as the number of steps doubles."""
    schedule = SCHEDULES[kind]
    denoiser = everywhere(MIXTURE, schedule)
    errors = []
    for steps in STEPS:
        states = samplers.make(name, steps=steps, **options)(denoiser, schedule, X_T)
        x = next(state.x for state in states if state.t == share * T)
        errors.append(np.sqrt(np.mean((x - flow(kind, share)) ** 2)))
    return np.log2(np.divide(errors[:-1], errors[1:]))


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {}, 1),
        ("euler", {}, 1),
        ("rk2", {"alpha": 1.0}, 2),
        ("rk2", {"alpha": 0.5}, 2),
        ("rk2", {"alpha": 2 / 3}, 2),
        ("edm", {"s_churn": 0.0}, 2),
        ("dpmpp_2m", {}, 2),
    ],
)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_order_down_to_a_quarter_of_the_time(name, options, order, kind):
    assert samplers.FACTS[name].order == order
    np.testing.assert_allclose(slopes(name, kind, 0.25, **options)[-1], order, atol=0.15)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {}, 1),
        ("euler", {}, 1),
        ("rk2", {"alpha": 1.0}, 2),
        ("rk2", {"alpha": 0.5}, 2),
        ("rk2", {"alpha": 2 / 3}, 2),
    ],
)
def test_order_down_to_clean_data(name, options, order):
    """Where steps are equal in sigma, the last one, to 0, costs no order."""
    np.testing.assert_allclose(slopes(name, "sigma", 0, **options)[-1], order, atol=0.15)


def test_the_last_step_to_clean_data_costs_an_order_where_it_is_long():
    """sigma_1 of the linear schedule falls as T^-1/2 only: Heun's last step is Euler's, h^2."""
    assert slopes("rk2", "linear", 0)[-1] < 1.6
    assert slopes("rk2", "linear", 0, alpha=0.5)[-1] > 1.9


@pytest.mark.parametrize("name", ["plms", "pndm"])
def test_pseudo_methods_are_of_second_order_in_t(name):
    """As their paper proves; the four-step formula alone would be of fourth."""
    np.testing.assert_allclose(slopes(name, "linear", 0.25)[-1], 2, atol=0.15)
    assert samplers.FACTS[name].order == 2


def test_the_four_step_formula_is_of_fourth_order_with_equal_steps_in_sigma():
    """There the step of DDIM is an Euler step, and nothing is pseudo."""
    for share in (0, 0.25):
        assert slopes("pndm", "sigma", share)[-1] > 3.5
    assert slopes("plms", "sigma", 0.25)[-1] > 2.85  # its start is of third order
