"""Plain definitions of operations: loops and sums as one would write them on a blackboard."""

import math

import numpy as np


def logsumexp(x, axis, keepdims):
    return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))


def conv2d(x, w, b, stride, padding):
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    kh, kw = w.shape[:2]
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((len(x), rows, columns, w.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            for o in range(w.shape[3]):
                window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
                y[:, i, j, o] = (window * w[..., o]).sum(axis=(1, 2, 3))
    return y if b is None else y + b


def upsample_nearest(x, factor):
    y = np.zeros((len(x), x.shape[1] * factor, x.shape[2] * factor, x.shape[3]), x.dtype)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            y[:, i, j] = x[:, i // factor, j // factor]
    return y


def pool(x, size, stride, reduce):
    stride = stride or size
    rows, columns = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    y = np.zeros((len(x), rows, columns, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = reduce(window, axis=(1, 2))
    return y


def group_norm(x, gamma, beta, groups, eps):
    y, width = np.zeros_like(x), x.shape[-1] // groups
    for n in range(len(x)):
        for k in range(groups):
            part = x[n, ..., k * width : (k + 1) * width]
            normal = (part - part.mean()) / np.sqrt(part.var() + eps)
            y[n, ..., k * width : (k + 1) * width] = normal
    return gamma * y + beta


def group_norm_silu(x, gamma, beta, shift=0, *, groups, eps):
    """One sample at a time, with its own row of what has one."""
    y = np.zeros_like(x)
    for n in range(len(x)):
        a, b, s = (p[n] if np.ndim(p) == 2 else p for p in (gamma, beta, shift))
        u = group_norm(x[n : n + 1] + s, a, b, groups, eps)[0]
        y[n] = u / (1 + np.exp(-u))
    return y


def layer_norm(x, gamma, beta, eps):
    y = np.zeros_like(x)
    for i in np.ndindex(x.shape[:-1]):
        y[i] = (x[i] - x[i].mean()) / np.sqrt(x[i].var() + eps)
    return gamma * y + beta


def attention(q, k, v, heads, mask=None):
    """One query of one head of one sample at a time; a masked key is left out of the sum."""
    (n, length, c), s = q.shape, k.shape[1]
    d = c // heads
    seen = np.ones((n, heads, length, s), bool) & (True if mask is None else mask)
    y = np.zeros_like(q)
    for i in range(n):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for a in range(length):
                keys = np.flatnonzero(seen[i, h, a])
                weights = np.array(
                    [np.exp(q[i, a, part] @ k[i, j, part] / math.sqrt(d)) for j in keys]
                )
                for j, weight in zip(keys, weights / weights.sum(), strict=True):
                    y[i, a, part] += weight * v[i, j, part]
    return y


def embedding(table, indices):
    indices = np.asarray(indices)
    y = np.zeros((*indices.shape, table.shape[1]), table.dtype)
    for i in np.ndindex(indices.shape):
        y[i] = table[indices[i]]
    return y


def huber(pred, target, delta):
    d = np.abs(pred - target)
    return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2)).mean()


def cross_entropy(logits, labels):
    terms = [-np.log(np.exp(z[k]) / np.exp(z).sum()) for z, k in zip(logits, labels, strict=True)]
    return np.mean(terms)
