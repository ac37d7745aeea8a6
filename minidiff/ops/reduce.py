"""Functions that sum, average or compare over axes. `axis` is an int, a tuple, or None for all."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autograd import VJP, Array, op
from minidiff.errors import InputError

Axis = int | tuple[int, ...] | None
Result = tuple[Array, VJP]


def _kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape of a reduction over `axis` with the reduced axes kept at length 1."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if shape and not all(a in range(-len(shape), len(shape)) for a in axes):
        raise InputError(f"axis {axis} is none of an array of shape {shape}")
    reduced = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


def _count(name: str, shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements go into each value of a reduction over `axis`; none is refused."""
    n = math.prod(m for m, kept in zip(shape, _kept(shape, axis), strict=True) if m != kept)
    if not n:
        raise InputError(f"{name} of no elements: shape {shape}, axis {axis}")
    return n


@op
def sum(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = sum x;  x_bar = g, spread over the reduced axes."""
    shape, kept = x.shape, _kept(x.shape, axis)
    y = x.sum(axis=axis, keepdims=keepdims)
    return y, lambda g: (xp.broadcast_to(g.reshape(kept), shape),)  # eq. (1.8)


@op
def mean(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = (1/n) sum x."""
    shape, kept, n = x.shape, _kept(x.shape, axis), _count("mean", x.shape, axis)
    y = x.mean(axis=axis, keepdims=keepdims)
    return y, lambda g: (xp.broadcast_to(g.reshape(kept) / n, shape),)


@op
def var(xp: Any, x: Array, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Result:
    """y = sum (x - mean)^2 / (n - ddof);  x_bar = 2 g (x - mean) / (n - ddof)."""
    kept, n = _kept(x.shape, axis), _count("var", x.shape, axis) - ddof
    if not n > 0:
        raise InputError(f"var: ddof {ddof} leaves nothing of {n + ddof} elements")
    d = x - x.mean(axis=axis, keepdims=True)
    y = (d * d).sum(axis=axis, keepdims=keepdims) / n
    return y, lambda g: (g.reshape(kept) * d * (2 / n),)


@op
def max(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = max x; elements that tie for the maximum share the gradient equally."""
    _count("max", x.shape, axis)
    kept = _kept(x.shape, axis)
    y = x.max(axis=axis, keepdims=keepdims)

    def vjp(g: Array) -> tuple[Array]:
        winners = (x == y.reshape(kept)).astype(x.dtype)
        return (winners * (g.reshape(kept) / winners.sum(axis=axis, keepdims=True)),)

    return y, vjp


@op
def logsumexp(xp: Any, x: Array, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """y = log sum e^x;  x_bar = g e^x / sum e^x."""
    _count("logsumexp", x.shape, axis)
    kept = _kept(x.shape, axis)
    top = x.max(axis=axis, keepdims=True)
    e = xp.exp(x - top)
    total = e.sum(axis=axis, keepdims=True)
    y = xp.log(total) + top
    out = y if keepdims else y.sum(axis=axis)  # over axes of length 1
    return out, lambda g: (g.reshape(kept) / total * e,)


@op
def softmax(xp: Any, x: Array, *, axis: int = -1) -> Result:
    """y = e^x / sum e^x;  x_bar = y (g - <g, y>)."""
    e = xp.exp(x - x.max(axis=axis, keepdims=True))
    y = e / e.sum(axis=axis, keepdims=True)
    return y, lambda g: (y * (g - (g * y).sum(axis=axis, keepdims=True)),)  # eq. (1.11)


@op
def log_softmax(xp: Any, x: Array, *, axis: int = -1) -> Result:
    """y = x - log sum e^x;  x_bar = g - e^y sum g."""
    d = x - x.max(axis=axis, keepdims=True)
    y = d - xp.log(xp.exp(d).sum(axis=axis, keepdims=True))
    return y, lambda g: (g - xp.exp(y) * g.sum(axis=axis, keepdims=True),)
