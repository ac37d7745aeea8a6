"""Solutions of the exercises of the preface, and why they are right."""

import numpy as np


def my_smallest_visible(draws):
    """0.1. Five standard errors of the mean, equation (0.2)."""
    return 5 * np.std(draws, ddof=1) / np.sqrt(len(draws))


def my_draws(sigma, difference):
    """0.2. Equation (0.5): half the difference takes four times the draws."""
    return (5 * sigma / difference) ** 2


def my_equal(a, b, tol):
    """0.3. Equation (0.6). Asked in this form NaN is not equal to anything."""
    return np.max(np.abs(a - b)) <= tol * np.max(np.abs(b))


SOLUTIONS = {"0.1": my_smallest_visible, "0.2": my_draws, "0.3": my_equal}
