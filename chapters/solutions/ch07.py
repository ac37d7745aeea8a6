"""Solutions of the exercises of chapter 7, and why they are right."""

import numpy as np


def my_x0(xt, score, abar):
    """7.1. Equation (7.4): uphill by the variance of the noise, then undo the shrinking."""
    return (xt + (1 - abar) * score) / np.sqrt(abar)


def my_eps(xt, weights, means, variances, abar):
    """7.2. Equation (7.6) times -sqrt(1 - abar), by (7.3).

    The largest logarithm is subtracted, so that one exponential at least is 1.
    """
    V = abar * variances + 1 - abar
    off = xt[:, None] - np.sqrt(abar) * means
    log_r = np.log(weights) - off**2 / (2 * V) - np.log(V) / 2
    r = np.exp(log_r - log_r.max(axis=1, keepdims=True))
    r /= r.sum(axis=1, keepdims=True)
    return np.sqrt(1 - abar) * (r * off / V).sum(axis=1)


def my_langevin(x, score, alpha, z):
    """7.3. Equation (7.13): noise of variance alpha, and the drift that undoes it."""
    return x + alpha / 2 * score + np.sqrt(alpha) * z


def my_ways_back(x, score, beta):
    """7.4. Equations (7.17) and (7.16), with f = -beta x / 2 and g^2 = beta."""
    return -beta / 2 * x - beta * score, -beta / 2 * x - beta / 2 * score


SOLUTIONS = {"7.1": my_x0, "7.2": my_eps, "7.3": my_langevin, "7.4": my_ways_back}
