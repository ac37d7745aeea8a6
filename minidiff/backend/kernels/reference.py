"""Definitions of the kernels, in plain array code: what they compute, not how to do it fast.

Every function takes the array module first. Images are NHWC, convolution kernels HWIO, `pads` is
((top, bottom), (left, right)).
"""

from __future__ import annotations

import math
from typing import Any

Array = Any
Pads = tuple[tuple[int, int], tuple[int, int]]


def _windows(xp: Any, x: Array, size: tuple[int, int], stride: int, pads: Pads) -> Array:
    """Every window that a kernel of `size` sees: (N, H', W', C, kh, kw)."""
    x = xp.pad(x, ((0, 0), *pads, (0, 0)))
    view = xp.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return view[:, ::stride, ::stride]


def conv2d(xp: Any, x: Array, w: Array, stride: int, pads: Pads, b: Array | None = None) -> Array:
    """y[n,i,j,o] = b[o] + sum_{k,l,c} xpad[n, s i + k, s j + l, c] w[k,l,c,o]."""
    y = xp.tensordot(_windows(xp, x, w.shape[:2], stride, pads), w, axes=((4, 5, 3), (0, 1, 2)))
    return y if b is None else y + b


def conv2d_dx(
    xp: Any, g: Array, w: Array, x_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """xpad_bar[n, s i + a, s j + b, c] += sum_o g[n,i,j,o] w[a,b,c,o]; the padding is cut off."""
    (n, h, width, c), (out_h, out_w) = x_shape, g.shape[1:3]
    (top, bottom), (left, right) = pads
    dx = xp.zeros((n, h + top + bottom, width + left + right, c), g.dtype)
    for a in range(w.shape[0]):
        for b in range(w.shape[1]):
            rows, cols = slice(a, a + stride * out_h, stride), slice(b, b + stride * out_w, stride)
            dx[:, rows, cols] += xp.tensordot(g, w[a, b], axes=((3,), (1,)))
    return dx[:, top : top + h, left : left + width]


def conv2d_dw(
    xp: Any, x: Array, g: Array, w_shape: tuple[int, ...], stride: int, pads: Pads
) -> Array:
    """w_bar[a,b,c,o] = sum_{n,i,j} xpad[n, s i + a, s j + b, c] g[n,i,j,o]."""
    view = _windows(xp, x, (w_shape[0], w_shape[1]), stride, pads)
    return xp.tensordot(view, g, axes=((0, 1, 2), (0, 1, 2))).transpose(1, 2, 0, 3)


def _by_group(x: Array, groups: int) -> Array:
    """(N, ..., C) as (N, positions, G, C / G)."""
    return x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)


def _spread(p: Array, x: Array) -> Array:
    """A number for each channel, (C,), or for each sample and channel, (N, C), beside x."""
    return p if p.ndim == 1 else p.reshape(p.shape[0], *(1,) * (x.ndim - 2), p.shape[1])


def _gather(g: Array, p: Array) -> Array:
    """The transpose of `_spread`: the sum of g over all that shares a number of p."""
    return g.sum(axis=tuple(range(p.ndim - 1, g.ndim - 1)))


def group_norm(
    xp: Any, x: Array, gamma: Array, beta: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """y = gamma x_hat + beta with x_hat = (x - m) r and r = 1/sqrt(v + eps), m and v the mean and
    variance over the positions and the channels of a group of one sample; gamma, beta: (C,) or
    (N, C). Returns y, and m and r of shape (N, G).
    """
    z = _by_group(x, groups)
    m = z.mean(axis=(1, 3), keepdims=True)
    r = 1 / xp.sqrt(((z - m) ** 2).mean(axis=(1, 3), keepdims=True) + eps)
    y = _spread(gamma, x) * ((z - m) * r).reshape(x.shape) + _spread(beta, x)
    return y, m[:, 0, :, 0], r[:, 0, :, 0]


def group_norm_grad(
    xp: Any, g: Array, x: Array, m: Array, r: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """x_bar = r (h - <h> - x_hat <h x_hat>) with h = gamma g and <.> the mean over a group;
    gamma_bar = sum g x_hat, beta_bar = sum g, of the shape of gamma.
    """
    groups, m, r = r.shape[1], m[:, None, :, None], r[:, None, :, None]
    x_hat = (_by_group(x, groups) - m) * r
    h = _by_group(_spread(gamma, x) * g, groups)
    mean_h, mean_hx = (z.mean(axis=(1, 3), keepdims=True) for z in (h, h * x_hat))
    dx = (r * (h - mean_h - x_hat * mean_hx)).reshape(x.shape)
    return dx, _gather(g * x_hat.reshape(x.shape), gamma), _gather(g, gamma)


def group_norm_silu(
    xp: Any, x: Array, gamma: Array, beta: Array, shift: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """y = silu(group_norm(x + shift)): gamma, beta and shift are (C,) or (N, C), shift may be None.
    Returns y, and the m and r of x + shift.
    """
    z = x if shift is None else x + _spread(shift, x)
    u, m, r = group_norm(xp, z, gamma, beta, groups, eps)
    return silu(xp, u)[0], m, r


def group_norm_silu_grad(
    xp: Any, g: Array, x: Array, y: Array, m: Array, r: Array, gamma: Array, beta: Array,
    shift: Array | None,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """u = gamma x_hat + beta is computed anew, u_bar = silu'(u) g, and then as group_norm_grad;
    shift_bar = sum x_bar. `y` is the result: s = y / u spares the exponential (0/0 means 1/2).
    """
    z = x if shift is None else x + _spread(shift, x)
    x_hat = (_by_group(z, r.shape[1]) - m[:, None, :, None]) * r[:, None, :, None]
    s = silu(xp, _spread(gamma, x) * x_hat.reshape(x.shape) + _spread(beta, x))[1]
    du = silu_grad(xp, g, y, s)
    dx, dgamma, _ = group_norm_grad(xp, du, z, m, r, gamma)
    return dx, dgamma, _gather(du, beta), None if shift is None else _gather(dx, shift)


def silu(xp: Any, x: Array) -> tuple[Array, Array]:
    """y = x s with s = sigmoid(x); returns y and s."""
    s = 0.5 * (1 + xp.tanh(0.5 * x))  # this form of the sigmoid cannot overflow
    return x * s, s


def silu_grad(xp: Any, g: Array, y: Array, s: Array) -> Array:
    """x_bar = g (s + y (1 - s))."""
    return g * (s + y * (1 - s))


def attention(xp: Any, q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
    """o = p v with p = softmax(q k^T / sqrt(d)); (..., L, d) and (..., S, d). Returns o and p.

    `mask` broadcasts to (..., L, S) and is True where a query may look at a key.
    """
    scores = (q @ k.swapaxes(-1, -2)) * (1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        scores = xp.where(mask, scores, -math.inf)
    e = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p @ v, p


def attention_grad(
    xp: Any, g: Array, q: Array, k: Array, v: Array, p: Array
) -> tuple[Array, Array, Array]:
    """s_bar = p (p_bar - <p_bar, p>) with p_bar = g v^T, through the scores s to q and k."""
    dp = g @ v.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * (1 / math.sqrt(q.shape[-1]))
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g


def matmul(xp: Any, a: Array, b: Array) -> Array:
    """y = a b over the last two axes of matrices; the leading ones broadcast."""
    return a @ b


def sum_rows(xp: Any, g: Array, rows: Array, count: int) -> Array:
    """s[k] = sum of g[n] over all n with rows[n] = k < count: (N, D) becomes (count, D).

    As a product, some k at a time: add.at on a GPU adds in an order that differs from run to run.
    """
    s = xp.empty((count, g.shape[1]), g.dtype)
    some = max(1, (1 << 24) // max(1, len(rows)))
    for k in range(0, count, some):
        chosen = xp.arange(k, min(k + some, count))[:, None] == rows
        s[k : k + some] = chosen.astype(g.dtype) @ g
    return s


def adam(
    xp: Any, p: Array, g: Array, m: Array, v: Array, step: float, lr: float,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """Algorithm 1 of Kingma & Ba (2015), in place: m and v move towards g and g^2, and
    p <- p - lr m_hat / (sqrt(v_hat) + eps) with m_hat = m/(1-beta1^t), v_hat = v/(1-beta2^t).
    """
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    p -= lr * m_hat / (xp.sqrt(v_hat) + eps)


def clip_norm(xp: Any, g: Array, max_norm: float) -> Array:
    """g <- g min(1, max_norm / |g|), in place. Returns |g| as it was, a scalar of the library."""
    norm = xp.sqrt(g @ g)
    g /= xp.maximum(norm / max_norm, 1)  # by 1, so not at all, below max_norm
    return norm


def moving_average(xp: Any, average: Array, p: Array, decay: float) -> None:
    """average <- decay average + (1 - decay) p, in place."""
    average += (1 - decay) * (p - average)


def update(
    xp: Any, p: Array, g: Array, m: Array, v: Array, average: Array | None,
    clock: Any, max_norm: float, beta1: float, beta2: float, eps: float, weight_decay: float,
) -> Array:  # fmt: skip
    """What follows the gradient in a step of training: `clip_norm`, the shrinking of AdamW, `adam`,
    and `moving_average` unless `average` is None. Returns the norm. `clock` is (step, lr, decay of
    the average): Python numbers or, for a captured graph to read, an array of the device.
    """
    step, lr, decay = clock
    norm = clip_norm(xp, g, max_norm)
    p *= 1 - lr * weight_decay
    adam(xp, p, g, m, v, step, lr, beta1, beta2, eps)
    if average is not None:
        moving_average(xp, average, p, decay)
    return norm


def uniform(xp: Any, key: Array, draw: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform on [0, 1): draw number `draw` of the generator with this key, uint32 (2,)."""
    return _below_one(xp, _bits(xp, key, draw, math.prod(shape), dtype)).reshape(shape)


def normal(xp: Any, key: Array, draw: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """N(0, 1), each two numbers by Box & Muller (1958): r cos(2 pi v) and r sin(2 pi v) with
    r = sqrt(-2 ln u), u uniform on (0, 1], v on [0, 1).
    """
    n = math.prod(shape)
    k = _bits(xp, key, draw, n + n % 2, dtype).reshape(-1, 2)
    u = (k[:, 0].astype(dtype) + 1) * 2.0 ** (-8 * k.itemsize)  # of all bits: near 0 they count
    r, angle = xp.sqrt(-2 * xp.log(u)), 2 * math.pi * _below_one(xp, k[:, 1])
    pairs = xp.stack((r * xp.cos(angle), r * xp.sin(angle)), axis=-1)
    return pairs.reshape(-1)[:n].reshape(shape)


def _philox(xp: Any, key: Array, counter: tuple[Array, ...]) -> Array:
    """Philox4x32-10: Salmon et al. (2011). The four words of n counters, uint64 arrays (n,) below
    2^32, become uint32 (n, 4).
    """
    (k0, k1), (c0, c1, c2, c3), low = key.astype(xp.uint64), counter, 2**32 - 1
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # 64 bits: their halves change places
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & low, (a >> 32) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return xp.stack((c0, c1, c2, c3), axis=-1).astype(xp.uint32)


def _bits(xp: Any, key: Array, draw: int, n: int, dtype: Any) -> Array:
    """n numbers of 32 random bits for float32, of 64 for float64: the words of the counters
    (i, draw) with i = 0, 1, ... in its lower 64 bits.
    """
    size = xp.dtype(dtype).itemsize
    i = xp.arange(-(-n * size // 16), dtype=xp.uint64)
    counter = (i & (2**32 - 1), i >> 32, xp.full_like(i, draw), xp.zeros_like(i))
    return _philox(xp, key, counter).reshape(-1).view(f"u{size}")[:n]


def _below_one(xp: Any, k: Array) -> Array:
    """k / 2^b in [0, 1) of b random bits, as many of the upper ones as a number keeps."""
    digits, dtype = {4: (24, xp.float32), 8: (53, xp.float64)}[k.itemsize]
    return (k >> (8 * k.itemsize - digits)).astype(dtype) * 2.0**-digits
