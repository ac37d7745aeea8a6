"""The density of a mixture once more, with the operations of the engine: differentiable, and slow.

Written from the definition, by inverse and determinant, not from the package's code.
"""

import numpy as np

from minidiff import ops
from minidiff.diffusion.sigma import sigma_of


def log_joint(mixture, x, signal, sigma):
    """log w_k + log N(x; signal m_k, signal^2 C_k + sigma^2 I): a Tensor (N, K)."""
    d = int(np.prod(mixture.shape))
    flat = x.reshape((-1, d))
    columns = []
    for k, w in enumerate(mixture.weights):
        c = mixture.covariances[k]
        covariance = signal**2 * (c if np.ndim(c) else c * np.eye(d)) + sigma**2 * np.eye(d)
        z = ops.sub(flat, signal * mixture.means[k].reshape(-1))
        squares = ops.sum(ops.matmul(z, np.linalg.inv(covariance)) * z, axis=1)
        log_norm = np.linalg.slogdet(2 * np.pi * covariance)[1]
        columns.append((-0.5 * (squares + log_norm) + np.log(w)).reshape((-1, 1)))
    return ops.concat(*columns, axis=1)


def log_density(mixture, x, signal, sigma):
    """log q(x): a Tensor (N,)."""
    return ops.logsumexp(log_joint(mixture, x, signal, sigma), axis=1)


def log_label(mixture, x, labels, signal, sigma):
    """log p(y | x): a Tensor (N,)."""
    joint = log_joint(mixture, x, signal, sigma)
    outside = np.where(mixture.labels == np.asarray(labels)[:, None], 0.0, -1e9)
    return ops.logsumexp(joint + outside, axis=1) - ops.logsumexp(joint, axis=1)


def eps_model(mixture, schedule):
    """The optimal eps as a differentiable model: sum_k r_k sigma P_k (x_t - signal m_k)."""
    d = int(np.prod(mixture.shape))

    def model(xt, t, **cond):
        level = float(sigma_of(schedule, t)[0])  # one for all, as the flow asks
        signal, sigma = 1 / np.sqrt(1 + level**2), level / np.sqrt(1 + level**2)
        r = ops.softmax(log_joint(mixture, xt, signal, sigma), axis=1)
        flat = xt.reshape((-1, d))
        total = 0.0
        for k in range(len(mixture.weights)):
            c = mixture.covariances[k]
            covariance = signal**2 * (c if np.ndim(c) else c * np.eye(d)) + sigma**2 * np.eye(d)
            z = ops.sub(flat, signal * mixture.means[k].reshape(-1))
            total = r[:, k : k + 1] * ops.matmul(z, np.linalg.inv(covariance)) + total
        return (sigma * total).reshape(xt.shape)

    return model
