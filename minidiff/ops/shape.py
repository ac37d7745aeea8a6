"""Functions that move elements and change none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidiff.autograd import VJP, Array, Tensor, op
from minidiff.backend import kernels
from minidiff.errors import InputError

Result = tuple[Array, VJP]


@op
def reshape(xp: Any, x: Array, *shape: Any) -> Result:
    """y = the elements of x, in order, in another shape: reshape(x, 2, 3) or reshape(x, (2, 3))."""
    new = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    old = x.shape  # alone: a VJP that names x keeps it in memory
    return x.reshape(new), lambda g: (g.reshape(old), *(None for _ in shape))


@op
def transpose(xp: Any, x: Array, axes: Sequence[int] | None = None) -> Result:
    """y = x with its axes in another order (reversed when `axes` is None)."""
    order = tuple(range(x.ndim))[::-1] if axes is None else tuple(a % x.ndim for a in axes)
    if sorted(order) != list(range(x.ndim)) or (axes and max(map(abs, axes)) > x.ndim):
        raise InputError(f"transpose: {tuple(axes or ())} are not the axes of shape {x.shape}")
    inverse = tuple(order.index(i) for i in range(x.ndim))
    return x.transpose(order), lambda g: (g.transpose(inverse), None)


@op
def concat(xp: Any, *xs: Array, axis: int = -1) -> Result:
    """y = the xs one after the other along `axis`."""
    shapes = [x.shape for x in xs]
    if not xs or not -len(shapes[0]) <= axis < len(shapes[0]):
        raise InputError(f"concat: no axis {axis} in arrays of shapes {shapes}")
    ends = np.cumsum([0] + [x.shape[axis] for x in xs]).tolist()

    def vjp(g: Array) -> tuple[Array, ...]:
        lead = (slice(None),) * (axis % g.ndim)
        return tuple(g[(*lead, slice(a, b))] for a, b in itertools.pairwise(ends))

    return xp.concatenate(xs, axis=axis), vjp


def split(x: Tensor, sections: int, *, axis: int = -1) -> list[Tensor]:
    """`x` cut along `axis` into `sections` equal parts."""
    if not -x.ndim <= axis < x.ndim:
        raise InputError(f"split: no axis {axis} in an array of shape {x.shape}")
    if not isinstance(sections, int) or sections < 1 or x.shape[axis] % sections:
        raise InputError(f"axis {axis} of length {x.shape[axis]} has no {sections} equal parts")
    n = x.shape[axis] // sections
    lead = (slice(None),) * (axis % x.ndim)
    return [getitem(x, (*lead, slice(i * n, (i + 1) * n))) for i in range(sections)]


@op
def pad(xp: Any, x: Array, *, widths: Sequence[tuple[int, int]]) -> Result:
    """y = x with zeros around it: `widths` gives (before, after) for each axis."""
    if len(widths) != x.ndim or not all(len(w) == 2 and min(w) >= 0 for w in widths):
        raise InputError(
            f"pad: widths are (before, after), not negative, for each of {x.ndim} axes; "
            f"got {widths}"
        )
    inside = tuple(slice(a, a + n) for (a, _), n in zip(widths, x.shape, strict=True))
    return xp.pad(x, tuple(widths)), lambda g: (g[inside],)


@op
def getitem(xp: Any, x: Array, index: Any) -> Result:
    """y = x[index], with slices, integers and integer arrays; a repeated index accumulates."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(xp.asarray(p) if isinstance(p, np.ndarray | list) else p for p in parts)
    basic = all(p is None or p is Ellipsis or isinstance(p, int | slice) for p in parts)
    shape = x.shape

    def vjp(g: Array) -> tuple[Array, None]:
        dx = xp.zeros(shape, g.dtype)
        if basic:
            dx[parts] = g
        else:
            xp.add.at(dx, parts, g)
        return dx, None

    return x[parts], vjp


@op
def broadcast_to(xp: Any, x: Array, *, shape: tuple[int, ...]) -> Result:
    """y = x repeated to `shape`; the engine sums the gradient back."""
    return xp.broadcast_to(x, shape), lambda g: (g,)


def checked_indices(xp: Any, name: str, indices: Any, count: int) -> Array:
    """`indices` as an array of `xp`; those that come from the host must lie in 0..count-1.

    Without the check NumPy counts a negative one from the end, and a GPU wraps any of them.
    """
    host = isinstance(indices, np.ndarray) or not hasattr(indices, "dtype")
    if host:
        try:
            indices = np.asarray(indices)
        except ValueError:
            raise InputError(f"{name}: indices must be an array, got {indices!r}") from None
    if indices.dtype.kind not in "iu":
        raise InputError(f"{name}: indices must be integers, got {indices.dtype}")
    if host and indices.size and (indices.min() < 0 or indices.max() >= count):
        raise InputError(
            f"{name}: indices must lie in 0..{count - 1}, got {indices.min()}..{indices.max()}"
        )
    return xp.asarray(indices)


@op
def embedding(xp: Any, table: Array, indices: Any) -> Result:
    """y = table[indices], of a (K, ...) table;  table_bar[k] = sum of g where the index is k."""
    if not getattr(table, "shape", ()):
        raise InputError("embedding wants a table of shape (K, ...), an array")
    shape, rows = table.shape, checked_indices(xp, "embedding", indices, table.shape[0])

    def vjp(g: Array) -> tuple[Array, None]:
        g = g.reshape(rows.size, math.prod(shape[1:]))
        return kernels.of(xp).sum_rows(xp, g, rows.reshape(-1), shape[0]).reshape(shape), None

    return table[rows], vjp
