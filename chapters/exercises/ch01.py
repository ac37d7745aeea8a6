"""Exercises of chapter 1: the backward loop, and the VJPs of mul, sum and matmul."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend, ops
from minidiff.autograd import Tensor

# --- 1.1 the backward loop ---------------------------------------------------------------------


class Step(NamedTuple):
    """One line of a program: slot `out` was computed from the slots `inputs`.

    `vjp` takes the gradient of the result with respect to slot `out`, and returns what it
    contributes to each of the inputs, in order.
    """

    out: int
    inputs: tuple[int, ...]
    vjp: Callable[[float], tuple[float, ...]]


class Tape(list[Step]):
    """The steps of a program in the order in which they ran; `size` is the number of slots.

    Parameters
    ----------
    leaves : the numbers that the program begins with, slots 0, 1, ...
    program : the further slots, each made by "+" or "*" from two earlier ones
    """

    def __init__(self, leaves: Sequence[float], program: Sequence[tuple[str, int, int]]) -> None:
        super().__init__()
        self.leaves, self.program = tuple(leaves), tuple(program)
        self.size = len(leaves) + len(program)
        values = list(leaves)
        for sign, i, j in program:
            a, b = values[i], values[j]
            if sign == "+":
                vjp = _vjp_add
                values.append(a + b)
            else:
                vjp = _vjp_mul(a, b)
                values.append(a * b)
            self.append(Step(len(values) - 1, (i, j), vjp))

    def __repr__(self) -> str:
        leaves = [f"x{i} = {value:g}" for i, value in enumerate(self.leaves)]
        steps = [
            f"x{step.out} = x{i} {sign} x{j}"
            for step, (sign, i, j) in zip(self, self.program, strict=True)
        ]
        return "; ".join([*leaves, *steps])


def _vjp_add(g: float) -> tuple[float, float]:
    return g, g


def _vjp_mul(a: float, b: float) -> Callable[[float], tuple[float, float]]:
    return lambda g: (g * b, g * a)


def _backward_by_minidiff(tape: Tape, g: float) -> list[float]:
    """The gradient of each slot: the program again, with that slot as the only leaf."""
    bar = []
    for k in range(tape.size):
        values: list[Any] = [
            Tensor(float(x), requires_grad=i == k) for i, x in enumerate(tape.leaves)
        ]
        for sign, i, j in tape.program:
            value = values[i] + values[j] if sign == "+" else values[i] * values[j]
            values.append(Tensor(value.data, requires_grad=True) if len(values) == k else value)
        if values[-1].requires_grad:
            values[-1].backward(backend.asarray(float(g)))
        bar.append(0.0 if values[k].grad is None else float(values[k].grad))
    return bar


def _tapes() -> list[Case]:
    tapes = [
        Tape([2], [("+", 0, 0)]),
        Tape([2, 3], [("*", 0, 1)]),
        Tape([3], [("*", 0, 0)]),
        Tape([3], [("*", 0, 0), ("+", 1, 0)]),
        Tape([3], [("*", 0, 0), ("*", 1, 1)]),
        Tape([2, 3], [("*", 0, 1), ("+", 2, 0), ("*", 3, 2)]),
    ]
    rng = np.random.default_rng(11)
    for steps in (3, 4, 5, 6):
        program = [
            (str(rng.choice(["+", "*"])), int(rng.integers(2 + k)), 1 + k) for k in range(steps)
        ]
        tapes.append(Tape([2, -1], program))
    return [(tape, g) for tape in tapes for g in (1.0, 2.0)]


backward_loop = Exercise(
    arguments=("tape", "g"),
    results=("bar",),
    reference=_backward_by_minidiff,
    cases=_tapes,
)


@backward_loop.mistake("overwrites instead of adding")
def _overwrites(tape: Tape, g: float) -> list[float]:
    """A value that is used twice gets a gradient from each of its uses, and they add up (1.5).

    With = in place of += only the use that is looked at last is counted.
    """
    bar = [0.0] * tape.size
    bar[-1] = g
    for step in reversed(tape):
        for i, contribution in zip(step.inputs, step.vjp(bar[step.out]), strict=True):
            bar[i] = contribution
    return bar


@backward_loop.mistake("walks the tape from its beginning")
def _oldest_first(tape: Tape, g: float) -> list[float]:
    """The gradient is known at the end of the program first. A step near the beginning has
    nothing to pass on until those after it have spoken: go through the tape backwards.
    """
    bar = [0.0] * tape.size
    bar[-1] = g
    for step in tape:
        for i, contribution in zip(step.inputs, step.vjp(bar[step.out]), strict=True):
            bar[i] += contribution
    return bar


@backward_loop.mistake("counts a value once where a step uses it twice")
def _each_input_once(tape: Tape, g: float) -> list[float]:
    """In x * x the same slot is both inputs. Each of the two places contributes."""
    bar = [0.0] * tape.size
    bar[-1] = g
    for step in reversed(tape):
        contributions = dict(zip(step.inputs, step.vjp(bar[step.out]), strict=True))
        for i, contribution in contributions.items():
            bar[i] += contribution
    return bar


@backward_loop.mistake("starts with 1 instead of g")
def _starts_with_one(tape: Tape, g: float) -> list[float]:
    """The gradient of the last slot is what the caller hands in. It is 1 only where that slot
    is the loss itself.
    """
    return _backward(tape, 1.0)


@backward_loop.mistake("never tells the last slot its gradient")
def _starts_with_zero(tape: Tape, g: float) -> list[float]:
    """All gradients come out zero, since each is a multiple of the one at the end. Put g there
    before the loop.
    """
    return _backward(tape, 0.0)


@backward_loop.mistake("passes a gradient on before it is complete")
def _too_early(tape: Tape, g: float) -> list[float]:
    """Each time a contribution arrives the running total is sent on at once, so what came before
    is sent again. Wait until all uses of a value have contributed, then pass it on once.
    """
    bar = [0.0] * tape.size
    bar[-1] = g
    made_by = {step.out: step for step in tape}

    def visit(slot: int) -> None:
        step = made_by.get(slot)
        if step:
            for i, contribution in zip(step.inputs, step.vjp(bar[slot]), strict=True):
                bar[i] += contribution
                visit(i)

    visit(tape.size - 1)
    return bar


def _backward(tape: Tape, g: float) -> list[float]:
    bar = [0.0] * tape.size
    bar[-1] = g
    for step in reversed(tape):
        for i, contribution in zip(step.inputs, step.vjp(bar[step.out]), strict=True):
            bar[i] += contribution
    return bar


# --- 1.2 to 1.4: VJPs of operations ------------------------------------------------------------


def _pull_back(f: Callable[..., Tensor], g: np.ndarray, *inputs: np.ndarray) -> tuple[Any, ...]:
    """The gradients that minidiff gives to the inputs of f, for the cotangent g."""
    tensors = [Tensor(backend.asarray(x), requires_grad=True) for x in inputs]
    f(*tensors).backward(backend.asarray(g))
    return tuple(backend.to_numpy(t.grad) for t in tensors)


def _whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small whole numbers, none of them 0 or 1, so that few things come out right by chance."""
    return rng.choice([-3.0, -2.0, 2.0, 3.0, 4.0, 5.0], size=shape)


def _sum_to(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    lead = g.ndim - len(shape)
    g = g.sum(axis=tuple(range(lead)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True)


def _mul_cases() -> list[Case]:
    rng = np.random.default_rng(12)
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((), ()), ((2,), (2,)), ((2,), ()), ((), (2,)), ((2,), (1,)), ((1, 2), (2, 2)),
        ((2, 2), (2,)), ((2,), (3, 2)), ((2, 1), (3,)), ((2, 3), (2, 1)), ((1, 3), (2, 1)),
        ((4,), (2, 3, 1)), ((2, 1, 3), (2, 1)), ((3, 1, 2), (1, 4, 1)),
    ]  # fmt: skip
    return [
        (_whole(rng, *np.broadcast_shapes(a, b)), _whole(rng, *a), _whole(rng, *b))
        for a, b in shapes
    ]


mul_vjp = Exercise(
    arguments=("g", "a", "b"),
    results=("a_bar", "b_bar"),
    reference=lambda g, a, b: _pull_back(ops.mul, g, a, b),
    cases=_mul_cases,
)


@mul_vjp.mistake("does not sum over the broadcast axes")
def _mul_not_summed(g: Any, a: Any, b: Any) -> Any:
    """The gradient of an input has the shape of that input. Where the input was repeated by
    broadcasting, each of the copies got a gradient: add them up (1.6).
    """
    return g * b, g * a


@mul_vjp.mistake("gives each factor its own value")
def _mul_swapped(g: Any, a: Any, b: Any) -> Any:
    """How much a b changes with a is b, the *other* factor (1.7)."""
    return _sum_to(g * a + 0 * b, a.shape), _sum_to(g * b + 0 * a, b.shape)


@mul_vjp.mistake("leaves out g")
def _mul_without_g(g: Any, a: Any, b: Any) -> Any:
    """b is how a b changes with a. How the loss changes with a is that times the gradient g which
    arrives from above; leaving it out is right only where g is 1 everywhere.
    """
    return _sum_to(b + 0 * g, a.shape), _sum_to(a + 0 * g, b.shape)


@mul_vjp.mistake("averages over the broadcast axes")
def _mul_averaged(g: Any, a: Any, b: Any) -> Any:
    """Every copy of a repeated input moves the loss, so the effects add up: a sum, not a mean."""
    da, db = g * b, g * a
    return (
        _sum_to(da, a.shape) / (da.size / a.size),
        _sum_to(db, b.shape) / (db.size / b.size),
    )


@mul_vjp.mistake("sums only over the axes that were put in front")
def _mul_front_only(g: Any, a: Any, b: Any) -> Any:
    """Broadcasting does two things: it puts missing axes in front, and it stretches axes of
    length 1. Sum over both kinds, and keep the stretched ones with length 1.
    """
    da, db = g * b, g * a
    return (
        da.sum(axis=tuple(range(da.ndim - a.ndim))),
        db.sum(axis=tuple(range(db.ndim - b.ndim))),
    )


@mul_vjp.mistake("loses the axes of length 1")
def _mul_squeezed(g: Any, a: Any, b: Any) -> Any:
    """A stretched axis is summed, but it stays, with length 1: sum with keepdims=True there."""

    def squeezed(d: Any, shape: tuple[int, ...]) -> Any:
        lead = d.ndim - len(shape)
        front = tuple(range(lead))
        stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1 and d.shape[i + lead] > 1)
        return d.sum(axis=front + stretched)

    return squeezed(g * b, a.shape), squeezed(g * a, b.shape)


@mul_vjp.mistake("sums everything")
def _mul_summed_to_scalar(g: Any, a: Any, b: Any) -> Any:
    """Only the axes along which this input was repeated are summed. An element that was used
    once has a gradient of its own.
    """
    return (
        np.broadcast_to((g * b).sum(), a.shape),
        np.broadcast_to((g * a).sum(), b.shape),
    )


def _sum_cases() -> list[Case]:
    rng = np.random.default_rng(13)
    cases = []
    for shape, axis in [
        ((1,), 0), ((2,), 0), ((2, 2), 0), ((2, 2), 1), ((2, 3), 0), ((2, 3), 1), ((3, 2), -1),
        ((2, 3, 2), 1), ((2, 2, 2), -3), ((3, 3, 3), 2),
    ]:  # fmt: skip
        kept = list(shape)
        del kept[axis]
        cases.append((_whole(rng, *kept), shape, axis))
    return cases


def _sum_by_minidiff(g: Any, shape: tuple[int, ...], axis: int) -> Any:
    return _pull_back(lambda x: ops.sum(x, axis=axis), g, np.zeros(shape))


sum_vjp = Exercise(
    arguments=("g", "shape", "axis"),
    results=("x_bar",),
    reference=_sum_by_minidiff,
    cases=_sum_cases,
)


@sum_vjp.mistake("does not spread g over the summed axis")
def _sum_not_spread(g: Any, shape: tuple[int, ...], axis: int) -> Any:
    """g has the shape of the sum; the answer has the shape of x. Each element that went into a sum
    moves it by as much as it moves itself, so each gets the gradient of that sum (1.8).
    """
    return g


@sum_vjp.mistake("divides by the number of summands")
def _sum_as_mean(g: Any, shape: tuple[int, ...], axis: int) -> Any:
    """That is the gradient of the mean. In a sum, each summand counts fully."""
    return np.broadcast_to(np.expand_dims(g, axis), shape) / shape[axis]


@sum_vjp.mistake("spreads g along the wrong axis")
def _sum_wrong_axis(g: Any, shape: tuple[int, ...], axis: int) -> Any:
    """Broadcasting puts a missing axis in front, wherever it was taken out. Put it back in its
    place first: np.expand_dims(g, axis).
    """
    return np.broadcast_to(g, shape)


@sum_vjp.mistake("keeps length 1 on the summed axis")
def _sum_only_expanded(g: Any, shape: tuple[int, ...], axis: int) -> Any:
    """The axis is back in its place, but the gradient has to have the full shape of x: repeat it
    along that axis with np.broadcast_to.
    """
    return np.expand_dims(g, axis)


@sum_vjp.mistake("leaves out g")
def _sum_ones(g: Any, shape: tuple[int, ...], axis: int) -> Any:
    """Ones are the derivatives of the sum itself. Multiply by the gradient g of that sum."""
    return np.ones(shape)


def _matmul_cases() -> list[Case]:
    rng = np.random.default_rng(14)
    sizes = [(1, 1, 1), (1, 2, 1), (2, 1, 2), (2, 2, 2), (2, 3, 2), (2, 3, 4), (3, 3, 3)]
    return [(_whole(rng, n, m), _whole(rng, n, k), _whole(rng, k, m)) for n, k, m in sizes]


matmul_vjp = Exercise(
    arguments=("g", "a", "b"),
    results=("a_bar", "b_bar"),
    reference=lambda g, a, b: _pull_back(ops.matmul, g, a, b),
    cases=_matmul_cases,
)


@matmul_vjp.mistake("does not transpose")
def _matmul_plain(g: Any, a: Any, b: Any) -> Any:
    """With square matrices the shapes fit, and yet it is wrong. Going backwards, what was summed
    over is now spread and the other way round, which is the transpose: g b^T and a^T g (1.9).
    """
    return g @ b, a @ g


@matmul_vjp.mistake("multiplies from the wrong side")
def _matmul_wrong_side(g: Any, a: Any, b: Any) -> Any:
    """Matrices do not commute. b stood to the right of a, and its transpose stands to the right
    of g; a stood to the left of b, and its transpose stands to the left of g (1.9).
    """
    return b.T @ g, g @ a.T


@matmul_vjp.mistake("returns the transposes of the gradients")
def _matmul_transposed(g: Any, a: Any, b: Any) -> Any:
    """A gradient has the shape of its input: element (i, k) belongs to element (i, k) of a."""
    return b @ g.T, g.T @ a


@matmul_vjp.mistake("transposes g")
def _matmul_g_transposed(g: Any, a: Any, b: Any) -> Any:
    """g has the shape of the product and stays as it is; a and b are transposed (1.9)."""
    return g.T @ b.T, a.T @ g.T


@matmul_vjp.mistake("returns the two gradients in the wrong order")
def _matmul_reversed(g: Any, a: Any, b: Any) -> Any:
    """Both are right, but the gradient of a comes first."""
    return a.T @ g, g @ b.T


@matmul_vjp.mistake("multiplies element by element")
def _matmul_elementwise(g: Any, a: Any, b: Any) -> Any:
    """g * b is the rule for the product of numbers. Here each element of a goes into a whole row
    of the result, so its gradient is a sum over that row: a matrix product (1.9).
    """
    return g * b, g * a


@matmul_vjp.mistake("leaves out g")
def _matmul_without_g(g: Any, a: Any, b: Any) -> Any:
    """The transpose of b says how the product changes with a; the gradient g of the product says
    how much that matters, and differs from element to element.
    """
    ones = np.ones_like(g)
    return ones @ b.T, a.T @ ones


EXERCISES = {
    "1.1": backward_loop,
    "1.2": mul_vjp,
    "1.3": sum_vjp,
    "1.4": matmul_vjp,
}
