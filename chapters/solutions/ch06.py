"""Solutions of the exercises of chapter 6, and why they are right."""

import numpy as np


def my_weight(beta, abar, abar_before, sigma2):
    """6.1. The means differ by c_0 (x_0 - x0_hat), and c_0^2 is divided by 2 sigma^2 (6.2)."""
    c_0 = np.sqrt(abar_before) * beta / (1 - abar)
    return c_0**2 / (2 * sigma2)


def my_from_v(abar, xt, v):
    """6.2. (x_t, v) is (x_0, eps) turned by the angle; turn it back (6.6)."""
    cosine, sine = np.sqrt(abar), np.sqrt(1 - abar)
    return cosine * xt - sine * v, sine * xt + cosine * v


def my_loss(schedule, model, x0, t, eps):
    """6.3. Equation (6.8): a column of abar, so that each image has the one of its own time."""
    abar = schedule.abar[t][:, None]
    xt = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps
    return np.mean((eps - model(xt, t)) ** 2)


def my_floor(abar, m, v):
    """6.4. Equation (6.13). The mean only moves everything; it is known, and costs nothing."""
    return abar * v / (abar * v + 1 - abar)


SOLUTIONS = {"6.1": my_weight, "6.2": my_from_v, "6.3": my_loss, "6.4": my_floor}
