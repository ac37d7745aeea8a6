"""Reverse-mode automatic differentiation: a Tensor, a tape, and one backward pass.

An operation computes its value and hands back a function that pulls a cotangent (the gradient of
the loss with respect to the value) back to its inputs: the vector-Jacobian product, VJP. The tape
is made of the nodes that remember these functions; `Tensor.backward` walks it once, from the loss
to the leaves, and frees it as it goes. VJPs work on raw arrays, not on Tensors, so gradients are
of first order only, by design: training, sampling and guidance of diffusion models need no more.
"""

from __future__ import annotations

import functools
import heapq
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.errors import InputError

Array = Any  # an array of the chosen backend
VJP = Callable[[Array], tuple[Any, ...]]

OPS: dict[str, Callable[..., Tensor]] = {}
"""Every differentiable operation by name; filled by `op`, read by the operators of `Tensor`."""


class _Mode:
    recording = True
    anomalies = False


def _method(name: str, *, reflected: bool = False) -> Callable[..., Tensor]:
    """The operation `name` as a method or operator of Tensor."""

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return OPS[name](args[0], self) if reflected else OPS[name](self, *args, **kwargs)

    call.__name__ = name
    return call


class Tensor:
    """An array that remembers how it was made.

    Parameters
    ----------
    data : an array of the backend, or what it can be made from
    requires_grad : whether `backward` shall leave a gradient in `.grad`
    """

    __slots__ = ("__weakref__", "_node", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # so that `array * tensor` asks Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise InputError("a Tensor cannot be wrapped in a Tensor; use it, or its .data")
        if not hasattr(data, "dtype") or isinstance(data, np.generic):
            data = backend.asarray(data)
        if requires_grad and data.dtype.kind != "f":
            raise InputError(f"a gradient needs floating-point numbers, the data are {data.dtype}")
        self.data: Array = data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self._node: _Node | None = None

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({self.data!r}{grad})"

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def item(self) -> float:
        """The value of a tensor of one element, as a Python number."""
        return self.data.item()

    def detach(self) -> Tensor:
        """The same data, cut off from the tape."""
        return Tensor(self.data)

    def backward(self, cotangent: Array | None = None) -> None:
        """Add d<cotangent, self>/d(leaf) to `.grad` of every leaf that requires a gradient.

        `cotangent` has the shape of the tensor; a tensor of one element needs none (it is 1).
        The tape is freed on the way: a second call on the same tape is an error.
        """
        if not self.requires_grad:
            raise InputError("backward() on a tensor that depends on nothing that requires_grad")
        if cotangent is None:
            if self.size != 1:
                raise InputError(
                    f"backward() of a tensor of shape {self.shape} needs a cotangent of that shape"
                )
            cotangent = backend.array_module(self.data).ones_like(self.data)
        elif isinstance(cotangent, Tensor):
            raise InputError("a cotangent is an array, not a Tensor: gradients are of first order")
        cotangent = backend.array_module(self.data).asarray(cotangent, dtype=self.dtype)
        if cotangent.shape != self.shape:
            raise InputError(f"cotangent of shape {cotangent.shape} for a tensor of {self.shape}")
        if self._node is None:
            _accumulate(self, cotangent)
        else:
            _walk(self._node, cotangent)

    __add__ = _method("add")
    __radd__ = _method("add", reflected=True)
    __sub__ = _method("sub")
    __rsub__ = _method("sub", reflected=True)
    __mul__ = _method("mul")
    __rmul__ = _method("mul", reflected=True)
    __truediv__ = _method("div")
    __rtruediv__ = _method("div", reflected=True)
    __pow__ = _method("pow")
    __rpow__ = _method("pow", reflected=True)
    __matmul__ = _method("matmul")
    __rmatmul__ = _method("matmul", reflected=True)
    __neg__ = _method("neg")
    __getitem__ = _method("getitem")
    sum = _method("sum")
    mean = _method("mean")
    reshape = _method("reshape")
    transpose = _method("transpose")


class _Node:
    """One operation on the tape: where its cotangents go, and the function that makes them.

    `inputs` holds, for each positional input, None (no gradient wanted) or (target, shape, dtype),
    the target being the node that made the input, or the leaf Tensor itself. The input arrays are
    not kept: a VJP closes over those that it needs.
    """

    __slots__ = ("id", "inputs", "name", "vjp")
    _ids = itertools.count()

    def __init__(self, name: str, inputs: tuple[Any, ...], vjp: VJP | None) -> None:
        self.id = next(_Node._ids)
        self.name, self.inputs, self.vjp = name, inputs, vjp


def _walk(root: _Node, cotangent: Array, only: Tensor | None = None) -> None:
    """The backward pass. A node is younger than its inputs, so youngest first is the order.

    With `only`, no other leaf gets a gradient.
    """
    cotangents = {root: cotangent}
    sums = set()  # of nodes whose cotangent is a sum made here, which nobody else holds
    queue = [(-root.id, root)]
    while queue:
        _, node = heapq.heappop(queue)
        g = cotangents.pop(node)
        if node.vjp is None:
            raise InputError("this part of the tape was freed by an earlier backward()")
        inputs, gradients = node.inputs, node.vjp(g)  # eq. (1.1); in turn, eq. (1.4)
        node.inputs, node.vjp = (), None  # free the tape as we go
        for edge, gx in zip(inputs, gradients, strict=True):
            if edge is None or gx is None:
                continue
            target, shape, dtype = edge
            if only is not None and isinstance(target, Tensor) and target is not only:
                continue
            gx = _unbroadcast(gx() if callable(gx) else gx, shape, node.name)
            if gx.dtype != dtype:
                gx = gx.astype(dtype)
            if isinstance(target, Tensor):
                _accumulate(target, gx)
            elif target in sums:
                cotangents[target] += gx
            elif target in cotangents:
                cotangents[target] = cotangents[target] + gx  # eq. (1.5)
                sums.add(target)
            else:
                cotangents[target] = gx
                heapq.heappush(queue, (-target.id, target))


def _accumulate(leaf: Tensor, g: Array) -> None:
    """Add into the leaf's gradient, in place: it may be a view of a model's flat gradient."""
    if leaf.grad is None:  # a copy: g may be shared with another input
        leaf.grad = np.array(g) if isinstance(g, np.generic) else g.copy()
    else:
        leaf.grad += g


def _unbroadcast(g: Array, shape: tuple[int, ...], name: str) -> Array:
    """Sum `g` over the axes along which an input of `shape` was broadcast."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[lead:], strict=True)):
        raise AssertionError(f"the VJP of {name} gave shape {g.shape} for an input of {shape}")
    stretched = tuple(
        i for i, m in enumerate(g.shape) if i < lead or (shape[i - lead] == 1 and m != 1)
    )
    return g.sum(axis=stretched, keepdims=True).reshape(shape)  # eq. (1.6)


def vjp(f: Callable[[Tensor], Tensor], x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """(f(x), pull), where pull(u) is u^T J, J being the Jacobian of `f` at `x`.

    For gradients with respect to an input, as a classifier's that guides a sampler: the leaves
    that f brings along, such as the parameters of a model, get no gradient. The tape serves one
    pull.

    Parameters
    ----------
    f : takes a Tensor and returns one
    x : array of floats

    Returns
    -------
    The value, an array, and the function from an array like the value to one like `x`.
    """
    leaf = Tensor(x, requires_grad=True)
    y = f(leaf)
    if not (isinstance(y, Tensor) and y.requires_grad):
        raise InputError(
            "f must return a Tensor that it computed, not within no_grad, from the one it is given"
        )

    def pull(u: Array) -> Array:
        xp = backend.array_module(leaf.data)
        if u.shape != y.shape:
            raise InputError(f"cotangent of shape {u.shape} for a tensor of {y.shape}")
        if y is leaf:
            return xp.asarray(u, dtype=leaf.dtype)
        if y._node is not None:
            _walk(y._node, xp.asarray(u, dtype=y.dtype), only=leaf)
        return xp.zeros_like(leaf.data) if leaf.grad is None else leaf.grad

    return y.data, pull


def op(f: Callable[..., tuple[Array, VJP]]) -> Callable[..., Tensor]:
    """Make a differentiable operation of ``f(xp, *arrays, **options) -> (value, vjp)``.

    ``vjp(g)`` returns one entry for each positional input: an array, None (no gradient), or a
    function without arguments that is called only if that input's gradient is wanted. A gradient
    of the shape that the input was broadcast to is summed back by the engine. The operation takes
    Tensors, arrays and Python scalars, and returns a Tensor. An input may be given by name, and
    one that is left out is its default; the options after ``*`` are no inputs and take no Tensor.
    """
    declared = list(inspect.signature(f).parameters.values())[1:]
    inputs = [p for p in declared if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        for p in inputs[len(args) :]:
            if p.name not in kwargs and p.default is p.empty:
                break  # f itself says what is missing
            args = (*args, kwargs.pop(p.name, p.default))
        for name, v in kwargs.items():
            if isinstance(v, Tensor):
                raise InputError(f"{f.__name__}: no gradient reaches {name}; pass an array")
        if len(args) == 1 and not isinstance(args[0], Tensor):
            args = (Tensor(args[0]),)  # a number alone: no other input says what dtype it has
        arrays = [
            # a NumPy scalar would turn float32 into float64; a Python scalar does not
            a.data if isinstance(a, Tensor) else a.item() if isinstance(a, np.generic) else a
            for a in args
        ]
        xp = backend.array_module(*arrays)
        y, vjp = f(xp, *arrays, **kwargs)
        if isinstance(y, np.generic):
            y = xp.asarray(y)
        if _Mode.anomalies and y.dtype.kind == "f" and not bool(xp.isfinite(y).all()):
            raise FloatingPointError(f"{f.__name__} gave a value that is not finite")
        out = Tensor(y)
        if _Mode.recording and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            out.requires_grad = True
            out._node = _Node(f.__name__, tuple(_edge(a) for a in args), vjp)
        return out

    OPS[f.__name__] = call
    return call


def _edge(a: Any) -> tuple[Any, ...] | None:
    if not (isinstance(a, Tensor) and a.requires_grad):
        return None
    return (a if a._node is None else a._node), a.data.shape, a.data.dtype


@contextmanager
def no_grad() -> Iterator[None]:
    """Within it nothing is recorded: values only, and no memory for a backward pass."""
    before, _Mode.recording = _Mode.recording, False
    try:
        yield
    finally:
        _Mode.recording = before


@contextmanager
def detect_anomalies() -> Iterator[None]:
    """Within it an operation whose value is NaN or infinite raises FloatingPointError, named.

    It looks at every value, so it is slow (and synchronizes a GPU): a tool to find where a NaN
    was born.
    """
    before, _Mode.anomalies = _Mode.anomalies, True
    try:
        yield
    finally:
        _Mode.anomalies = before
