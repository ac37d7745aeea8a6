"""Scaled dot-product attention. Vaswani et al. (2017), section 3.2."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.autograd import VJP, Array, op
from minidiff.backend import kernels
from minidiff.errors import InputError, check_count
from minidiff.ops.checks import check_floats


@op
def attention(
    xp: Any, q: Array, k: Array, v: Array, *, heads: int = 1, mask: Array | None = None
) -> tuple[Array, VJP]:
    """o = softmax(q k^T / sqrt(d)) v, in each of `heads` slices of d channels.

    q is (N, L, C), k and v are (N, S, C), o is (N, L, C), d = C / heads. `mask` broadcasts to
    (N, heads, L, S) and is True where a query may look at a key. Each query needs one such key:
    a mask on the host is checked (on a GPU that would mean to wait for it).
    """
    check_floats("attention", q=q, k=k, v=v)
    if q.ndim != 3 or k.ndim != 3 or k.shape != v.shape or k.shape[::2] != q.shape[::2]:
        raise InputError(
            "attention wants q (N, L, C) and k, v (N, S, C), got "
            f"{q.shape}, {k.shape} and {v.shape}"
        )
    if 0 in q.shape + k.shape:
        raise InputError(f"attention: nothing to look at in q {q.shape} and k {k.shape}")
    n, _, c = q.shape
    if c % check_count("attention: heads", heads):
        raise InputError(f"attention: {heads} heads do not divide {c} channels")
    if mask is not None:
        host, mask = mask, xp.asarray(mask)
        if mask.dtype.kind != "b" or not hasattr(host, "dtype"):
            # 0 and -inf to be added to the scores would mean the reverse
            raise InputError(
                f"attention: the mask is {getattr(host, 'dtype', type(host).__name__)}; it must be "
                "an array of bool, True where a query may look"
            )
        scores = (n, heads, q.shape[1], k.shape[1])
        if mask.ndim > 4 or any(
            m not in (1, s) for m, s in zip(mask.shape[::-1], scores[::-1], strict=False)
        ):
            raise InputError(f"attention: a mask of shape {mask.shape} does not fit {scores}")
        if isinstance(host, np.ndarray) and not host.any(axis=-1).all():
            raise InputError("attention: the mask leaves a query without any key to look at")

    def split(x: Array) -> Array:  # (N, L, C) -> (N, heads, L, d)
        return x.reshape(n, -1, heads, c // heads).transpose(0, 2, 1, 3)

    def join(x: Array) -> Array:
        return x.transpose(0, 2, 1, 3).reshape(n, -1, c)

    kernel = kernels.of(xp)
    qh, kh, vh = split(q), split(k), split(v)
    o, p = kernel.attention(xp, qh, kh, vh, mask)  # eq. (2.10)

    def vjp(g: Array) -> tuple[Array, ...]:
        # eq. (2.12)
        return tuple(join(d) for d in kernel.attention_grad(xp, split(g), qh, kh, vh, p))

    return join(o), vjp
