"""Functions of each element. Broadcasting is undone by the engine, not here."""

from __future__ import annotations

import math
from typing import Any

from minidiff import backend
from minidiff.autograd import VJP, Array, op
from minidiff.backend import kernels

Result = tuple[Array, VJP]


@op
def add(xp: Any, a: Array, b: Array) -> Result:
    """y = a + b."""
    return a + b, lambda g: (g, g)


@op
def sub(xp: Any, a: Array, b: Array) -> Result:
    """y = a - b."""
    return a - b, lambda g: (g, lambda: -g)


@op
def mul(xp: Any, a: Array, b: Array) -> Result:
    """y = a b."""
    return a * b, lambda g: (lambda: g * b, lambda: g * a)  # eq. (1.7)


@op
def div(xp: Any, a: Array, b: Array) -> Result:
    """y = a / b;  b_bar = -g y / b."""
    y = a / b
    return y, lambda g: (lambda: g / b, lambda: -g * y / b)


@op
def neg(xp: Any, x: Array) -> Result:
    """y = -x."""
    return -x, lambda g: (-g,)


@op
def pow(xp: Any, x: Array, p: Array) -> Result:
    """y = x^p;  x_bar = g p x^(p-1), p_bar = g y log x (x > 0 where p needs a gradient)."""
    y = x**p
    return y, lambda g: (lambda: g * p * x ** (p - 1), lambda: g * y * xp.log(x))


@op
def exp(xp: Any, x: Array) -> Result:
    """y = e^x;  x_bar = g y."""
    y = xp.exp(x)
    return y, lambda g: (g * y,)


@op
def log(xp: Any, x: Array) -> Result:
    """y = log x, x > 0;  x_bar = g / x."""
    return xp.log(x), lambda g: (g / x,)


@op
def sqrt(xp: Any, x: Array) -> Result:
    """y = sqrt(x), x > 0;  x_bar = g / (2 y)."""
    y = xp.sqrt(x)
    return y, lambda g: (0.5 * g / y,)


@op
def tanh(xp: Any, x: Array) -> Result:
    """y = tanh x;  x_bar = g (1 - y^2)."""
    y = xp.tanh(x)
    return y, lambda g: (g * (1 - y * y),)


@op
def sigmoid(xp: Any, x: Array) -> Result:
    """y = 1 / (1 + e^-x);  x_bar = g y (1 - y)."""
    y = 0.5 * (1 + xp.tanh(0.5 * x))  # this form cannot overflow
    return y, lambda g: (g * y * (1 - y),)


@op
def silu(xp: Any, x: Array) -> Result:
    """y = x sigmoid(x)  (also called swish)."""
    k = kernels.of(xp)
    y, s = k.silu(xp, x)
    return y, lambda g: (k.silu_grad(xp, g, y, s),)  # eq. (2.9)


@op
def gelu(xp: Any, x: Array) -> Result:
    """y = x Phi(x), Phi the distribution function of N(0, 1);  x_bar = g (Phi + x phi)."""
    cdf = 0.5 * (1 + backend.special(xp).erf(x * math.sqrt(0.5)))

    def vjp(g: Array) -> tuple[Array]:
        pdf = xp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
        return (g * (cdf + x * pdf),)

    return x * cdf, vjp


@op
def relu(xp: Any, x: Array) -> Result:
    """y = max(x, 0), with slope 0 at 0."""
    return xp.maximum(x, 0), lambda g: (g * (x > 0),)


@op
def abs(xp: Any, x: Array) -> Result:
    """y = |x|, with slope 0 at 0."""
    return xp.abs(x), lambda g: (g * xp.sign(x),)


@op
def clip(xp: Any, x: Array, *, low: float, high: float) -> Result:
    """y = min(max(x, low), high); the gradient passes where low <= x <= high."""
    return xp.clip(x, low, high), lambda g: (g * ((x >= low) & (x <= high)),)


@op
def where(xp: Any, condition: Array, a: Array, b: Array) -> Result:
    """y = a where the condition holds, else b."""
    return xp.where(condition, a, b), lambda g: (
        None,
        lambda: xp.where(condition, g, 0),
        lambda: xp.where(condition, 0, g),
    )


@op
def maximum(xp: Any, a: Array, b: Array) -> Result:
    """y = max(a, b); at a tie each gets half of the gradient."""

    def vjp(g: Array) -> tuple[Any, Any]:
        tie = 0.5 * g * (a == b)
        return lambda: g * (a > b) + tie, lambda: g * (a < b) + tie

    return xp.maximum(a, b), vjp
