"""Solutions of the exercises of chapter 5, and why they are right."""

import numpy as np

from minidiff.diffusion.process import posterior


def my_kl(mean, variance, other_mean, other_variance):
    """5.1. Equation (5.5): the widths, and the means in units of the second width."""
    r = variance / other_variance
    return (r - 1 - np.log(r)) / 2 + (mean - other_mean) ** 2 / (2 * other_variance)


def my_bound(log_w):
    """5.2. Take the largest out of the sum, so that no power is larger than 1, and put it back."""
    top = log_w.max(axis=1)
    return top + np.log(np.mean(np.exp(log_w - top[:, None]), axis=1))


def my_prior(abar_T, m, v):
    """5.3. Equation (3.16) with the mean of x_0^2, which is m^2 + v: the KL is linear in x_0^2."""
    return (abar_T * (m**2 + v - 1) - np.log(1 - abar_T)) / 2


def my_term(schedule, t, x0, xt, x0_hat):
    """5.4. Equation (5.12). c_t x_t cancels in the difference of the means; pixels add up."""
    c_0, c_t, variance = posterior(schedule, t - 1, t)
    beta = schedule.beta[t]
    if t == 1:  # the mean is x0_hat: c_0 = 1 and c_t = 0
        return np.sum((x0 - x0_hat) ** 2 / (2 * beta) + np.log(2 * np.pi * beta) / 2)
    mean, mu = c_0 * x0 + c_t * xt, c_0 * x0_hat + c_t * xt
    return np.sum(my_kl(mean, variance, mu, beta))


SOLUTIONS = {"5.1": my_kl, "5.2": my_bound, "5.3": my_prior, "5.4": my_term}
