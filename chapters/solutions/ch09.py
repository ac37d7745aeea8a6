"""Solutions of the exercises of chapter 9, and why they are right."""

import numpy as np


def my_step(schedule, xt, t, eps, z, variance):
    """9.1. Equation (9.3), and (9.4): no noise in the last step, else the root of a variance."""
    beta, alpha, abar = schedule.beta[t], schedule.alpha[t], schedule.abar[t]
    mean = (xt - beta / np.sqrt(1 - abar) * eps) / np.sqrt(alpha)
    if t == 1:
        return mean
    tilde = (1 - schedule.abar[t - 1]) / (1 - abar) * beta
    return mean + np.sqrt({"beta": beta, "posterior": tilde}[variance]) * z


def my_recursion(schedule, m, v, variance):
    """9.2. Equation (9.5), from x_T ~ N(0, 1) down to 0."""
    M, V = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        beta, abar, before = schedule.beta[t], schedule.abar[t], schedule.abar[t - 1]
        c_0 = np.sqrt(before) * beta / (1 - abar)
        c_t = np.sqrt(1 - beta) * (1 - before) / (1 - abar)
        k = np.sqrt(abar) * v / (abar * v + 1 - abar)
        tilde = (1 - before) / (1 - abar) * beta
        sigma2 = {"beta": beta, "posterior": tilde}[variance] if t > 1 else 0.0
        M = c_0 * (m + k * (M - np.sqrt(abar) * m)) + c_t * M
        V = (c_0 * k + c_t) ** 2 * V + sigma2
    return M, V


def my_verdicts():
    """9.3. Compared with the first line of the table.

    A (one level off): too wide everywhere, and its mean is off on N(1.5, 0.25). B agrees in all
    digits. C (noise in the last step): beta_1 more everywhere, a gross failure for the point, the
    mean untouched. D (beta-tilde): too narrow by some percent. E (root forgotten): collapsed.
    """
    return 3, 0, 1, 4, 2


SOLUTIONS = {"9.1": my_step, "9.2": my_recursion, "9.3": my_verdicts}
