"""Exercises of chapter 2: convolution, the gradient of a norm, attention, a step of Adam."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend, nn, ops, optim
from minidiff.autograd import Tensor


def _whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small whole numbers, none of them 0 or 1."""
    return rng.choice([-4.0, -3.0, -2.0, 2.0, 3.0, 5.0], shape)


# --- 2.1 convolution -----------------------------------------------------------------------------


def _conv_by_minidiff(x: Any, w: Any) -> Any:
    y = ops.conv2d(backend.asarray(x), backend.asarray(w), padding=1)
    return backend.to_numpy(y.data)


def _conv_cases() -> list[Case]:
    rng = np.random.default_rng(21)
    shapes = [
        ((1, 1, 1, 1), (3, 3, 1, 1)),
        ((1, 3, 3, 1), (3, 3, 1, 1)),
        ((2, 4, 3, 2), (3, 3, 2, 3)),
    ]
    shapes += [((2, 4, 4, 3), (3, 3, 3, 3))]
    return [(_whole(rng, *x), _whole(rng, *w)) for x, w in shapes]


conv = Exercise(
    arguments=("x", "w"), results=("y",), reference=_conv_by_minidiff, cases=_conv_cases
)


@conv.mistake("turns the kernel round")
def _flipped(x: Any, w: Any) -> Any:
    """That is a convolution in the mathematical sense. Networks do not turn it (2.3): place
    (0, 0) of the kernel belongs to the neighbour above on the left, which is x[i - 1, j - 1].
    """
    return _conv_by_minidiff(x, w[::-1, ::-1])


@conv.mistake("swaps rows and columns of the kernel")
def _transposed(x: Any, w: Any) -> Any:
    """The first axis of the kernel goes with the rows of the image, the second with its columns."""
    return _conv_by_minidiff(x, w.transpose(1, 0, 2, 3))


@conv.mistake("wraps around at the edges")
def _wrapped(x: Any, w: Any) -> Any:
    """np.roll brings the last row back as the first. Outside of the image there are zeros."""
    return sum(
        np.roll(x, (1 - a, 1 - b), axis=(1, 2)) @ w[a, b] for a in range(3) for b in range(3)
    )


@conv.mistake("repeats the pixels at the edge")
def _edge(x: Any, w: Any) -> Any:
    """Outside of the image there are zeros: np.pad with its defaults."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    y = ops.conv2d(backend.asarray(padded), backend.asarray(w))
    return backend.to_numpy(y.data)


@conv.mistake("does not shift")
def _unshifted(x: Any, w: Any) -> Any:
    """Then the nine matrices can be added up first, and no pixel ever sees its neighbours."""
    return x @ w.sum((0, 1))


# --- 2.2 the gradient of a norm ------------------------------------------------------------------


def _norm_by_minidiff(g: Any, x: Any, eps: float) -> Any:
    leaf = Tensor(backend.asarray(x[None]), requires_grad=True)
    one = backend.asarray(np.ones_like(x))
    ops.group_norm(leaf, one, 0 * one, groups=1, eps=eps).backward(backend.asarray(g[None]))
    return backend.to_numpy(leaf.grad)[0]


def _norm_cases() -> list[Case]:
    rng = np.random.default_rng(22)
    return [
        (_whole(rng, n), _whole(rng, n) + np.arange(n), eps)
        for n in (2, 3, 5)
        for eps in (0.5, 2.0)
    ]


def _parts(x: Any, eps: float) -> tuple[Any, Any]:
    r = 1 / np.sqrt(x.var() + eps)
    return r, r * (x - x.mean())


norm = Exercise(
    arguments=("g", "x", "eps"), results=("x_bar",), reference=_norm_by_minidiff, cases=_norm_cases
)


@norm.mistake("treats mean and variance as constants")
def _constants(g: Any, x: Any, eps: float) -> Any:
    """They move when x moves. Two things are taken out of g because of that: its mean, since the
    mean of x is taken out on the way forwards, and its part along x_hat, since the size is.
    """
    return _parts(x, eps)[0] * g


@norm.mistake("forgets the way through the variance")
def _no_variance(g: Any, x: Any, eps: float) -> Any:
    """The part of g along x_hat must go: to make x larger in its own direction changes hardly
    anything. A test with g = (1, ..., 1) does not see this mistake, as the mean of x_hat is 0.
    """
    return _parts(x, eps)[0] * (g - g.mean())


@norm.mistake("forgets the way through the mean")
def _no_mean(g: Any, x: Any, eps: float) -> Any:
    """A constant added to all of x changes nothing, so the gradient must sum to 0."""
    r, hat = _parts(x, eps)
    return r * (g - hat * (hat * g).mean())


@norm.mistake("takes sums in place of means")
def _sums(g: Any, x: Any, eps: float) -> Any:
    """Mean and variance are means over n numbers; each of the two terms has its 1/n."""
    r, hat = _parts(x, eps)
    return r * (g - g.sum() - hat * (hat * g).sum())


@norm.mistake("forgets the factor r")
def _no_r(g: Any, x: Any, eps: float) -> Any:
    """x is divided by its size on the way forwards, and so is what comes back."""
    return _norm_by_minidiff(g, x, eps) / _parts(x, eps)[0]


@norm.mistake("has x where x_hat belongs")
def _x_for_hat(g: Any, x: Any, eps: float) -> Any:
    """The direction that is taken out is that of the *normalized* numbers, of mean 0 and size 1."""
    r = _parts(x, eps)[0]
    return r * (g - g.mean() - x * (x * g).mean())


# --- 2.3 attention -------------------------------------------------------------------------------


def _attention_by_minidiff(q: Any, k: Any, v: Any) -> Any:
    q, k, v = (backend.asarray(a[None]) for a in (q, k, v))
    return backend.to_numpy(ops.attention(q, k, v).data)[0]


def _attention_cases() -> list[Case]:
    rng = np.random.default_rng(23)
    sizes = [(1, 2, 2), (2, 1, 2), (2, 2, 4), (3, 3, 3), (2, 4, 5)]
    return [
        tuple(_whole(rng, n, d) / 2 for n in (queries, keys, keys)) for queries, keys, d in sizes
    ]


def _attend(fits: Any, v: Any, axis: int = 1) -> Any:
    e = np.exp(fits - fits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True) @ v


attention = Exercise(
    arguments=("q", "k", "v"),
    results=("out",),
    reference=_attention_by_minidiff,
    cases=_attention_cases,
)


@attention.mistake("takes the softmax over the queries")
def _over_queries(q: Any, k: Any, v: Any) -> Any:
    """For each query the weights of all keys sum to 1. Over the other axis each key has one vote to
    share out, and one key alone does not give its value. Shapes, gradients and pictures hide it.
    """
    return _attend(q @ k.T / math.sqrt(q.shape[1]), v, axis=0)


@attention.mistake("leaves out 1 / sqrt(d)")
def _no_scale(q: Any, k: Any, v: Any) -> Any:
    """A sum of d products has a standard deviation of sqrt(d) (2.11). Undivided, the softmax picks
    one key, and its gradient vanishes.
    """
    return _attend(q @ k.T, v)


@attention.mistake("divides by d, not by its root")
def _by_d(q: Any, k: Any, v: Any) -> Any:
    """The *variance* of q . k is d, so its size is sqrt(d) (2.11). Divided by d, the fits are close
    to 0 and all keys count alike.
    """
    return _attend(q @ k.T / q.shape[1], v)


@attention.mistake("has no softmax")
def _no_softmax(q: Any, k: Any, v: Any) -> Any:
    """Without it the weights are neither positive nor do they sum to 1, and the answer is no mean
    of values.
    """
    return q @ k.T / math.sqrt(q.shape[1]) @ v


@attention.mistake("takes one softmax over queries and keys together")
def _over_all(q: Any, k: Any, v: Any) -> Any:
    """np.sum without an axis adds up the whole table. Each query has weights of its own."""
    fits = np.exp(q @ k.T / math.sqrt(q.shape[1]))
    return fits / fits.sum() @ v


# --- 2.4 a step of Adam --------------------------------------------------------------------------


class _Weights(nn.Module):
    def __init__(self, w: Any) -> None:
        self.w = nn.Parameter(w)


def _adam_by_minidiff(
    theta: Any, g: Any, m: Any, v: Any, t: int, lr: float, beta1: float, beta2: float, eps: float
) -> Any:
    flat = _Weights(theta).flatten()
    optimizer = optim.Adam(flat, lr, betas=(beta1, beta2), eps=eps)
    optimizer.load_state_dict({"m": m, "v": v, "steps": t - 1})
    flat.grad[...] = backend.asarray(g)
    optimizer.step()
    return tuple(map(backend.to_numpy, (flat.data, optimizer.m, optimizer.v)))


def _adam_cases() -> list[Case]:
    rng = np.random.default_rng(24)
    options = [(0.5, 0.75, 0.5), (0.9, 0.99, 0.25)]
    return [
        (_whole(rng, n), _whole(rng, n), _whole(rng, n) / 2, _whole(rng, n) ** 2, t, 0.5, *o)
        for n, t, o in ((1, 2, options[0]), (2, 1, options[1]), (3, 3, options[1]))
    ]


adam = Exercise(
    arguments=("theta", "g", "m", "v", "t", "lr", "beta1", "beta2", "eps"),
    results=("theta", "m", "v"),
    reference=_adam_by_minidiff,
    cases=_adam_cases,
)


@adam.mistake("does not correct m and v for their start at zero")
def _uncorrected(theta, g, m, v, t, lr, beta1, beta2, eps):
    """After t steps m is too small by 1 - beta1^t and v by 1 - beta2^t (2.15). Uncorrected, the
    first steps are more than three times too long, since v is the one that is more too small.
    """
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return theta - lr * m / (np.sqrt(v) + eps), m, v


@adam.mistake("puts eps under the root")
def _eps_inside(theta, g, m, v, t, lr, beta1, beta2, eps):
    """eps is added to the root. Under it, 1e-8 counts like 1e-4 outside."""
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return theta - lr * m / (1 - beta1**t) / np.sqrt(v / (1 - beta2**t) + eps), m, v


@adam.mistake("does not take the root of v")
def _no_root(theta, g, m, v, t, lr, beta1, beta2, eps):
    """v has the unit of g^2. Only its root takes the unit out of m."""
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return theta - lr * m / (1 - beta1**t) / (v / (1 - beta2**t) + eps), m, v


@adam.mistake("corrects as if one more step had been made")
def _one_more(theta, g, m, v, t, lr, beta1, beta2, eps):
    """t counts from 1, and the first correction is by 1 - beta1: the exponent is t itself."""
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    step = m / (1 - beta1 ** (t + 1)) / (np.sqrt(v / (1 - beta2 ** (t + 1))) + eps)
    return theta - lr * step, m, v


@adam.mistake("keeps the corrected means")
def _corrected_kept(theta, g, m, v, t, lr, beta1, beta2, eps):
    """The corrections are for this step alone. If they are stored, the next step corrects again
    what is corrected already.
    """
    theta, m, v = _adam_by_minidiff(theta, g, m, v, t, lr, beta1, beta2, eps)
    return theta, m / (1 - beta1**t), v / (1 - beta2**t)


@adam.mistake("goes up")
def _up(theta, g, m, v, t, lr, beta1, beta2, eps):
    """The gradient points to where the loss grows. A step goes against it."""
    down, m, v = _adam_by_minidiff(theta, g, m, v, t, lr, beta1, beta2, eps)
    return 2 * theta - down, m, v


@adam.mistake("gives beta to the new and 1 - beta to the old")
def _betas_swapped(theta, g, m, v, t, lr, beta1, beta2, eps):
    """beta is the share that is *kept*: 0.999 of v stays, a thousandth is new."""
    m, v = (1 - beta1) * m + beta1 * g, (1 - beta2) * v + beta2 * g**2
    step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return theta - lr * step, m, v


EXERCISES = {"2.1": conv, "2.2": norm, "2.3": attention, "2.4": adam}
