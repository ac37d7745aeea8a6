"""Solutions of the exercises of chapter 8, and why they are right."""

import numpy as np


def my_batch(schedule, x0, u, eps):
    """8.1. T equal pieces of [0, 1), one for each time; then the jump of chapter 3, by rows."""
    t = 1 + np.floor(schedule.T * u).astype(int)
    abar = schedule.abar[t][:, None]
    return t, np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps


def my_learning_rate(epoch, lr, milestones, gamma):
    """8.2. Equation (8.5): one factor for each milestone that has been reached."""
    return lr * gamma ** sum(m <= epoch for m in milestones)


def my_average(weights, decay):
    """8.3. One update after the other, each with its own decay."""
    average = weights[0]
    for k, w in enumerate(weights[1:]):
        d = min(decay, (1 + k) / (10 + k))
        average = d * average + (1 - d) * w
    return average


SOLUTIONS = {"8.1": my_batch, "8.2": my_learning_rate, "8.3": my_average}
