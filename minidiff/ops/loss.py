"""Losses, each the mean over all elements (cross_entropy: over the rows)."""

from __future__ import annotations

from typing import Any

from minidiff.autograd import VJP, Array, op
from minidiff.errors import InputError, check_number
from minidiff.ops.checks import check_floats
from minidiff.ops.shape import checked_indices

Result = tuple[Array, VJP]


def _difference(name: str, pred: Array, target: Array) -> Array:
    shapes = [getattr(x, "shape", ()) for x in (pred, target)]  # a number has none
    if shapes[0] != shapes[1]:
        raise InputError(f"{name}: shapes {shapes[0]} and {shapes[1]} differ")
    check_floats(name, pred=pred, target=target)
    if not pred.size:
        raise InputError(f"{name}: no elements to average, in arrays of shape {shapes[0]}")
    return pred - target


@op
def mse(xp: Any, pred: Array, target: Array) -> Result:
    """L = mean (pred - target)^2."""
    d = _difference("mse", pred, target)

    def vjp(g: Array) -> tuple[Any, Any]:
        slope = d * (g * (2 / d.size))
        return slope, lambda: -slope

    return (d * d).mean(), vjp


@op
def l1(xp: Any, pred: Array, target: Array) -> Result:
    """L = mean |pred - target|."""
    d = _difference("l1", pred, target)

    def vjp(g: Array) -> tuple[Any, Any]:
        slope = xp.sign(d) * (g / d.size)
        return slope, lambda: -slope

    return xp.abs(d).mean(), vjp


@op
def huber(xp: Any, pred: Array, target: Array, *, delta: float = 1.0) -> Result:
    """L = mean of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2). Huber (1964)."""
    if not check_number("huber: delta", delta) > 0:
        raise InputError(f"huber: delta must be positive, got {delta}")
    d = _difference("huber", pred, target)
    near = xp.clip(d, -delta, delta)

    def vjp(g: Array) -> tuple[Any, Any]:
        slope = near * (g / d.size)
        return slope, lambda: -slope

    return (near * (d - 0.5 * near)).mean(), vjp


@op
def cross_entropy(xp: Any, logits: Array, labels: Any) -> Result:
    """L = mean over rows of -log softmax(logits)[label]; logits (N, K), labels (N,) integers."""
    check_floats("cross_entropy", logits=logits)
    if logits.ndim != 2 or not logits.size:
        raise InputError(f"cross_entropy wants logits (N, K), got shape {logits.shape}")
    n, k = logits.shape
    rows, columns = xp.arange(n), checked_indices(xp, "cross_entropy", labels, k)
    if columns.shape != (n,):
        raise InputError(f"cross_entropy: {n} rows of logits, labels of shape {columns.shape}")
    d = logits - logits.max(axis=1, keepdims=True)
    log_p = d - xp.log(xp.exp(d).sum(axis=1, keepdims=True))

    def vjp(g: Array) -> tuple[Array, None]:
        slope = xp.exp(log_p)
        slope[rows, columns] -= 1
        return slope * (g / n), None

    return -log_p[rows, columns].mean(), vjp
