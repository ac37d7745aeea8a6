"""Products: matmul, einsum, the linear layer."""

from __future__ import annotations

from typing import Any

from minidiff.autograd import VJP, Array, op
from minidiff.backend import kernels
from minidiff.errors import InputError
from minidiff.ops.checks import check_floats

Result = tuple[Array, VJP]


@op
def matmul(xp: Any, a: Array, b: Array) -> Result:
    """y = a b over the last two axes, the leading ones broadcast;  a_bar = g b^T, b_bar = a^T g."""
    left, right = (getattr(x, "shape", ()) for x in (a, b))
    if not left or not right or left[-1:] != right[-2:][:1]:
        raise InputError(f"matmul: shapes {left} and {right} do not fit")

    def vjp(g: Array) -> tuple[Any, Any]:
        # a vector is a matrix of one row (left) or one column (right)
        a2, b2 = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
        g2 = g[..., None] if b.ndim == 1 else g
        g2 = g2[..., None, :] if a.ndim == 1 else g2

        def da() -> Array:
            d = g2 @ b2.swapaxes(-1, -2)  # eq. (1.9)
            return d[..., 0, :] if a.ndim == 1 else d

        def db() -> Array:
            d = a2.swapaxes(-1, -2) @ g2
            return d[..., 0] if b.ndim == 1 else d

        return da, db

    return a @ b, vjp


@op
def linear(xp: Any, x: Array, w: Array, b: Array | None = None) -> Result:
    """y = x w + b over the last axis of x, w of shape (D_in, D_out);  w_bar = x^T g."""
    check_floats("linear", x=x, w=w, **({} if b is None else {"b": b}))
    if (
        w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]
        or (b is not None and b.shape != w.shape[1:])
    ):  # fmt: skip
        raise InputError(
            f"linear wants x (..., D_in), w (D_in, D_out) and b (D_out,), got {x.shape}, "
            f"{w.shape} and {None if b is None else b.shape}"
        )
    flat, product = x.reshape(-1, x.shape[-1]), kernels.of(xp).matmul
    y = product(xp, flat, w)  # eq. (2.1)
    if b is not None:
        y += b

    def vjp(g: Array) -> tuple[Any, Any, Any]:
        g = g.reshape(-1, g.shape[-1])
        return (
            lambda: product(xp, g, w.T).reshape(x.shape),
            lambda: product(xp, flat.T, g),
            lambda: column_sums(xp, g),
        )

    return y.reshape(*x.shape[:-1], w.shape[1]), vjp


def column_sums(xp: Any, g: Array) -> Array:
    """The sum over all axes but the last, as a product with ones: several times faster than sum."""
    g = g.reshape(-1, g.shape[-1])
    return kernels.of(xp).matmul(xp, xp.ones((1, len(g)), g.dtype), g)[0]


@op
def einsum(xp: Any, subscripts: str, *xs: Array) -> Result:
    """y = einsum("ij,jk->ik", a, b), with an explicit result and no index twice in one operand.

    The gradient of an operand is the einsum of g with the other operands onto its indices.
    """
    ins, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = ins.split(",")
    if not arrow or "." in subscripts or any(len(set(t)) < len(t) for t in [*terms, out]):
        raise InputError(
            f"einsum {subscripts!r}: write 'ij,jk->ik', with the result named, no dots, and "
            "no index twice in one operand"
        )
    if [len(t) for t in terms] != [x.ndim for x in xs]:
        raise InputError(
            f"einsum {subscripts!r} does not fit {', '.join(str(x.shape) for x in xs)}"
        )
    sizes: dict[str, int] = {}
    for t, x in zip(terms, xs, strict=True):
        if any(sizes.setdefault(c, n) != n for c, n in zip(t, x.shape, strict=True)):
            raise InputError(
                f"einsum {subscripts!r}: an index has several sizes in {sizes}, {x.shape}"
            )

    def pull(i: int, g: Array) -> Array:
        others = [t for j, t in enumerate(terms) if j != i]
        known = "".join(c for c in terms[i] if c in out or any(c in t for t in others))
        d = xp.einsum(
            f"{','.join([out, *others])}->{known}",
            *(g, *(x for j, x in enumerate(xs) if j != i)),
            optimize=True,
        )
        # an index that only this operand has was summed away: its gradient is spread back
        spread = tuple(slice(None) if c in known else None for c in terms[i])
        return xp.broadcast_to(d[spread], xs[i].shape)

    y = xp.einsum(subscripts, *xs, optimize=True)
    return y, lambda g: (None, *((lambda i=i: pull(i, g)) for i in range(len(xs))))
