"""Solutions of the exercises of chapter 11, and why they are right."""

import numpy as np


def my_adapter(eps, x, sigma, t):
    """11.1. Equation (11.4): scale for the network's eyes only, then take sigma times eps off."""
    return x - sigma * eps(x / np.sqrt(1 + sigma**2), t)


def my_step(D, x, sigma, lower, alpha):
    """11.2. Equation (11.6). Only alpha = 1 can reach level 0; then the step is Euler's."""
    h = lower - sigma
    d = (x - D(x, sigma)) / sigma
    between = lower if alpha == 1 else sigma + alpha * h
    if between == 0:
        return x + h * d
    ahead = x + (between - sigma) * d
    there = (ahead - D(ahead, between)) / between
    w = 1 / (2 * alpha)
    return x + h * ((1 - w) * d + w * there)


def my_multistep(history):
    """11.3. Equation (11.7): the weights, newest first, for as many slopes as there are."""
    weights = {
        1: [1],
        2: [3 / 2, -1 / 2],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    newest_first = history[::-1][:4]
    return sum(w * d for w, d in zip(weights[len(newest_first)], newest_first, strict=True))


SOLUTIONS = {"11.1": my_adapter, "11.2": my_step, "11.3": my_multistep}
