"""Solutions of the exercises of chapter 10, and why they are right."""

import numpy as np


def my_coefficients(schedule, s, t, eta):
    """10.1. Equations (10.4) and (10.3). At s = 0 abar is 1, so sigma is 0 by itself."""
    abar, before = schedule.abar[t], schedule.abar[s]
    sigma = eta * np.sqrt((1 - before) / (1 - abar) * (1 - abar / before))
    return np.sqrt(before), np.sqrt(1 - before - sigma**2), sigma


def my_step(schedule, xt, t, s, eps, eta, z):
    """10.2. Equation (10.3): guess the image, then put back the noise of the time s."""
    abar = schedule.abar[t]
    x0 = (xt - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    image, old, sigma = my_coefficients(schedule, s, t, eta)
    return image * x0 + old * eps + sigma * z


def my_step_up(schedule, xs, s, t, eps):
    """10.3. Equation (10.9): the same, with the levels of s taken off and those of t put on."""
    abar, later = schedule.abar[s], schedule.abar[t]
    x0 = (xs - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    return np.sqrt(later) * x0 + np.sqrt(1 - later) * eps


SOLUTIONS = {"10.1": my_coefficients, "10.2": my_step, "10.3": my_step_up}
