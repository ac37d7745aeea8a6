"""Gaussian conditioning by brute force: what the closed forms of the package are held against."""

import numpy as np


def condition(mean, covariance, given, values):
    """Mean and covariance of the remaining variables, given that those at `given` are `values`."""
    rest = np.setdiff1d(np.arange(len(mean)), given)
    gain = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, rest)]).T
    return (
        mean[rest] + gain @ (values - mean[given]),
        covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(given, rest)],
    )


def chain(betas, mean=0.0, variance=1.0):
    """Mean and covariance of (x_0, ..., x_T) for x_0 ~ N(mean, variance), step by step.

    From the definition alone: x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) times new noise. Row t
    of the matrix holds x_t in terms of x_0 and all noises, which are independent.
    """
    rows = [np.eye(1, len(betas) + 1)[0] * np.sqrt(variance)]
    means = [mean]
    for t, beta in enumerate(betas, start=1):
        row = np.sqrt(1 - beta) * rows[-1]
        row[t] = np.sqrt(beta)
        rows.append(row)
        means.append(np.sqrt(1 - beta) * means[-1])
    a = np.array(rows)
    return np.array(means), a @ a.T
