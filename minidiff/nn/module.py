"""Module, Parameter, and the one flat vector that all parameters of a model live in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from minidiff import backend
from minidiff.autograd import Array, Tensor
from minidiff.errors import InputError


class Parameter(Tensor):
    """A Tensor that is trained. Made of host data, float32 unless it is float64 already."""

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        data = np.asarray(data)
        dtype = np.float64 if data.dtype == np.float64 else np.float32
        super().__init__(backend.asarray(data, dtype), requires_grad=True)


@dataclass(frozen=True)
class Flat:
    """All parameters of a model as one vector, and all gradients as another."""

    data: Array
    grad: Array


class Module:
    """Something with parameters. Attributes that are Parameters, Modules, or lists of them are
    its parts, in the order in which they were assigned; `buffer_names` names the attributes that
    are arrays which are saved with it but not trained.
    """

    buffer_names: tuple[str, ...] = ()
    training = True
    _flat: Flat | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the module; every module defines its own."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct parts that are modules; "blocks.0" for parts in a list."""
        for name, value in self._attributes():
            if isinstance(value, Module):
                yield name, value

    def _attributes(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of all attributes, with the items of lists as "name.0", "name.1", ..."""
        for name, value in vars(self).items():
            if isinstance(value, list | tuple):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value))
            else:
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module ("" at the top) and everything below it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of everything that is trained."""
        for prefix, module in self.named_modules():
            for name, value in module._attributes():
                if isinstance(value, Parameter):
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> list[Parameter]:
        """Everything that is trained."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """(dotted name, array) of everything that is saved but not trained."""
        for prefix, module in self.named_modules():
            for name in module.buffer_names:
                yield f"{prefix}.{name}" if prefix else name, getattr(module, name)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.size for p in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout acts) here and below; returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below; returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set every gradient to zero (one vector operation once the model is flat)."""
        if self._flat is not None:
            self._flat.grad[...] = 0
        else:
            for p in self.parameters():
                p.grad = None

    def flatten(self) -> Flat:
        """Move all parameters into one vector and all gradients into another.

        Each parameter, and its gradient, becomes a view of its part, so an optimizer, clipping or
        an average is one vector operation. Idempotent; called when the model is complete.
        """
        if self._flat is None:
            parameters = self.parameters()
            if not parameters:
                raise InputError(f"{type(self).__name__} has no parameters")
            xp = backend.array_module(parameters[0].data)
            data = xp.concatenate([p.data.reshape(-1) for p in parameters])
            self._flat = Flat(data, xp.zeros_like(data))
            start = 0
            for p in parameters:
                part = slice(start, start + p.size)
                start += p.size
                p.data = data[part].reshape(p.shape)
                p.grad = self._flat.grad[part].reshape(p.shape)
        return self._flat

    def astype(self, dtype: Any) -> Self:
        """Convert parameters and floating-point buffers in place (before `flatten`)."""
        if self._flat is not None:
            raise InputError("astype() after flatten(): convert the model first")
        if dtype not in ("float32", "float64", np.float32, np.float64):
            raise InputError(f"astype(): a model is float32 or float64, not {dtype!r}")
        for p in self.parameters():
            p.data, p.grad = p.data.astype(dtype), None
        for _, module in self.named_modules():
            for name in module.buffer_names:
                value = getattr(module, name)
                if value.dtype.kind == "f":
                    setattr(module, name, value.astype(dtype))
        return self

    def state_dict(self) -> dict[str, Array]:
        """Name -> array of all parameters and buffers; the arrays are the model's own."""
        return {n: p.data for n, p in self.named_parameters()} | dict(self.named_buffers())

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy `state` into the model. All names and shapes must match, or nothing is changed."""
        own = self.state_dict()
        problems = [f"missing {n}" for n in own if n not in state]
        problems += [f"unexpected {n}" for n in state if n not in own]
        problems += [
            f"{n} has shape {tuple(state[n].shape)}, expected {a.shape}"
            for n, a in own.items()
            if hasattr(state.get(n), "shape") and tuple(state[n].shape) != a.shape
        ]
        problems += [
            f"{n} must be an array of real numbers, got {getattr(a, 'dtype', type(a).__name__)}"
            for n, a in state.items()
            if getattr(getattr(a, "dtype", None), "kind", "O") not in "fiu"
        ]
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            raise InputError(f"the weights do not fit this model: {'; '.join(problems[:3])}{more}")
        for name, array in own.items():
            array[...] = backend.asarray(state[name], dtype=array.dtype)
