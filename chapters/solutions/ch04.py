"""Solutions of the exercises of chapter 4, and why they are right."""

import numpy as np


def my_posterior(schedule, t):
    """4.1. Equations (4.5) and (4.4). The array has abar[0] = 1, so t = 1 is no special case."""
    beta, alpha = schedule.beta[t], schedule.alpha[t]
    before, abar = schedule.abar[t - 1], schedule.abar[t]
    c_0 = np.sqrt(before) * beta / (1 - abar)
    c_t = np.sqrt(alpha) * (1 - before) / (1 - abar)
    return c_0, c_t, (1 - before) / (1 - abar) * beta


def my_jump(schedule, s, t):
    """4.2. Equation (4.6): the same with a for alpha_t, 1 - a for beta_t, and s for t - 1."""
    before, abar = schedule.abar[s], schedule.abar[t]
    a = abar / before
    c_0 = np.sqrt(before) * (1 - a) / (1 - abar)
    c_t = np.sqrt(a) * (1 - before) / (1 - abar)
    return c_0, c_t, (1 - before) * (1 - a) / (1 - abar)


def my_mean(schedule, xt, t, eps):
    """4.3. Equation (4.10): take off the step's share of the noise, then undo the shrinking."""
    share = schedule.beta[t] / np.sqrt(1 - schedule.abar[t])
    return (xt - share * eps) / np.sqrt(schedule.alpha[t])


SOLUTIONS = {"4.1": my_posterior, "4.2": my_jump, "4.3": my_mean}
