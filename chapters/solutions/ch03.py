"""Solutions of the exercises of chapter 3, and why they are right."""

import numpy as np


def my_jump(schedule, x0, t, eps):
    """3.1. Equations (3.4) and (3.5). beta_0 = 0 contributes a factor of 1 and does no harm."""
    abar = np.prod(1 - schedule.beta[: t + 1])
    return np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps


def my_forward(schedule, s, t):
    """3.2. The steps s + 1, ..., t: the alphas of the first s are divided out (3.6)."""
    a = schedule.abar[t] / schedule.abar[s]
    return np.sqrt(a), 1 - a


def my_cosine(T, s, beta_max):
    """3.3. T + 1 values of (3.13), T ratios, the clip (3.14), and abar from what was clipped."""
    t = np.arange(T + 1)
    f = np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], beta_max)  # f(0) would cancel in the ratio
    beta = np.append(0, beta)
    return beta, np.cumprod(1 - beta)


def my_prior_bits(abar_T, x0):
    """3.4. Equation (3.16) for each pixel, added up; from nats to bits."""
    nats = (abar_T * (x0**2 - 1) - np.log(1 - abar_T)) / 2
    return nats.sum() / np.log(2)


SOLUTIONS = {"3.1": my_jump, "3.2": my_forward, "3.3": my_cosine, "3.4": my_prior_bits}
