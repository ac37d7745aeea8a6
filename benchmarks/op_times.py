"""Where the time of minidiff's training step goes: each op, forward and backward, by shape.

The ops are wrapped from here, so the library pays nothing for it. Every number is the median over
some steps, in milliseconds of one step. What is left over is the tape, the sums of cotangents
that meet, and what the layers do between the ops.
"""

from __future__ import annotations

import functools
import inspect
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.configs import CONFIGS, batches
from benchmarks.contestants import PARTS, MiniDiff
from minidiff import autograd

STEPS, WARM_UP, ROWS = 11, 3, 24
ENGINE = {"_unbroadcast": "(unbroadcast)", "_accumulate": "(leaf gradient)"}


@dataclass
class Cost:
    """Milliseconds spent in one kind of call; `pulls` are the VJPs of single inputs."""

    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    pulls: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        """Forward and backward together."""
        return self.forward + self.backward


Key = tuple[str, str]  # name of the op and shapes of its inputs


def main(config: str, batch: int) -> str:
    """Measure some steps of `config`; the tables as text."""
    player = MiniDiff(CONFIGS[config])
    data = [player.put(b) for b in batches(CONFIGS[config], batch, 4)]
    for i in range(WARM_UP):
        player.step(data[i % len(data)])
    steps, parts = [], []
    for i in range(STEPS):
        with timed() as costs:
            parts.append(player.step(data[i % len(data)])[1])
        steps.append(costs)
    medians = {key: _median([costs[key] for costs in steps]) for key in steps[0]}
    return tables(medians, [1e3 * statistics.median(p) for p in zip(*parts, strict=True)])


@contextmanager
def timed() -> Iterator[dict[Key, Cost]]:
    """Within it every op adds its times to the dictionary."""
    costs: dict[Key, Cost] = defaultdict(Cost)
    spaces = [vars(m) for name, m in sys.modules.items() if f"{name}.".startswith("minidiff.ops.")]
    before = [
        (space, name, call)
        for space in (*spaces, autograd.OPS)
        for name, call in autograd.OPS.items()
        if name in space
    ]
    before += [(vars(autograd), name, vars(autograd)[name]) for name in ENGINE]
    for space, name, call in before:
        space[name] = (_timed_engine if name in ENGINE else _timed_op)(name, call, costs)
    try:
        yield costs
    finally:
        for space, name, call in before:
            space[name] = call


def _timed_op(name: str, call: Callable[..., Any], costs: dict[Key, Cost]) -> Callable[..., Any]:
    @functools.wraps(call)
    def op(*args: Any, **kwargs: Any) -> Any:
        cost = costs[name, " ".join(_short(a.shape) for a in args if hasattr(a, "shape"))]
        start = time.perf_counter()
        out = call(*args, **kwargs)
        cost.forward += _ms_since(start)
        cost.calls += 1
        if out._node is not None:
            out._node.vjp = _timed_vjp(out._node.vjp, cost)
        return out

    return op


def _timed_vjp(vjp: Callable[..., Any], cost: Cost) -> Callable[..., Any]:
    def pull(i: int, gradient: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = gradient()
        cost.pulls[i] += (spent := _ms_since(start))
        cost.backward += spent
        return value

    def pull_all(g: Any) -> tuple[Any, ...]:
        start = time.perf_counter()
        entries = vjp(g)
        cost.backward += _ms_since(start)
        return tuple(
            functools.partial(pull, i, e) if inspect.isroutine(e) else e
            for i, e in enumerate(entries)
        )

    return pull_all


def _timed_engine(
    name: str, call: Callable[..., Any], costs: dict[Key, Cost]
) -> Callable[..., Any]:
    def work(*args: Any) -> Any:
        start = time.perf_counter()
        value = call(*args)
        cost = costs[ENGINE[name], ""]
        cost.backward += _ms_since(start)
        cost.calls += 1
        return value

    return work


def tables(costs: dict[Key, Cost], parts: Sequence[float]) -> str:
    """By op with what is left over, then the dearest shapes, from the milliseconds of PARTS."""
    by_op: dict[str, Cost] = defaultdict(Cost)
    for (name, _), cost in costs.items():
        op = by_op[name]
        op.calls += cost.calls
        op.forward += cost.forward
        op.backward += cost.backward
    rest = Cost(
        0,
        parts[0] - sum(c.forward for c in costs.values()),
        parts[1] - sum(c.backward for c in costs.values()),
    )
    whole = parts[0] + parts[1]
    head = f"{'calls':>6}{'forward':>10}{'backward':>10}{'share':>7}"
    lines = [", ".join(f"{name} {p:.1f} ms" for name, p in zip(PARTS, parts, strict=True)), ""]
    lines += [f"{'op':<18}{head}"]
    lines += [f"{name:<18}{_numbers(cost, whole)}" for name, cost in _dearest(by_op)]
    lines += [f"{'(the rest)':<18}{_numbers(rest, whole)}", ""]
    lines += [f"{'op and shapes':<52}{head}  backward by input"]
    for (name, shapes), cost in _dearest(costs)[:ROWS]:
        pulls = " + ".join(f"{ms:.2f}" for _, ms in sorted(cost.pulls.items()))
        lines.append(f"{f'{name} {shapes}':<52}{_numbers(cost, whole)}  {pulls}".rstrip())
    return "\n".join(lines)


def _median(costs: list[Cost]) -> Cost:
    median = statistics.median
    return Cost(
        costs[0].calls,
        median(c.forward for c in costs),
        median(c.backward for c in costs),
        {i: median(c.pulls[i] for c in costs) for i in costs[0].pulls},
    )


def _dearest(costs: dict[Any, Cost]) -> list[tuple[Any, Cost]]:
    return sorted(costs.items(), key=lambda item: -item[1].total)


def _numbers(cost: Cost, whole: float) -> str:
    return f"{cost.calls:>6}{cost.forward:>10.2f}{cost.backward:>10.2f}{cost.total / whole:>7.1%}"


def _short(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def _ms_since(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)
