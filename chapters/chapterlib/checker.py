"""Exercises that check themselves, and name the mistake when it is a known one.

An exercise has a reference (as a rule what minidiff itself computes), a list of inputs from small
to large, and a collection of known mistakes: functions that go wrong in one particular way, whose
docstring explains it. The reader's function is run on all inputs. If it agrees with the reference
everywhere it is solved; if one of its results is wrong, and agrees everywhere with a mistake, it
has made that mistake; else the smallest input that shows the difference is printed.

The exercises of chapter NN are in ``exercises/chNN.py``, as a dictionary EXERCISES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import getdoc
from types import ModuleType
from typing import Any

import numpy as np

Case = tuple[Any, ...]


@dataclass(frozen=True)
class Mistake:
    """A way to get an exercise wrong: its name, and a function that gets it wrong so."""

    name: str
    f: Callable[..., Any]

    @property
    def explanation(self) -> str:
        """What went wrong, and what to think of."""
        return getdoc(self.f) or ""


@dataclass(frozen=True)
class Exercise:
    """What is asked, and all that is needed to judge an answer.

    `arguments` and `results` name what the function takes and returns, as it is printed. The cases
    are tuples of arguments, host arrays or anything else, the smallest first.
    """

    arguments: tuple[str, ...]
    results: tuple[str, ...]
    reference: Callable[..., Any]
    cases: Callable[[], Sequence[Case]]
    mistakes: list[Mistake] = field(default_factory=list)

    def mistake(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate a function that makes the mistake `name`, and explains it in its docstring.

        It goes on after "your function": "overwrites instead of adding".
        """

        def decorate(f: Callable[..., Any]) -> Callable[..., Any]:
            self.mistakes.append(Mistake(name, f))
            return f

        return decorate


@dataclass(frozen=True)
class Diagnosis:
    """status: "solved", "open" (not tried yet), "known" (a mistake, named), or "wrong"."""

    status: str
    text: str
    mistakes: tuple[str, ...] = ()


def check(name: str, f: Callable[..., Any]) -> None:
    """Judge the reader's answer `f` to the exercise `name`, and print what is to be said."""
    print(diagnose(name, f).text)


def diagnose(name: str, f: Callable[..., Any]) -> Diagnosis:
    """Compare `f` with the reference of the exercise `name`, and with its known mistakes."""
    exercise = load("exercises", int(name.split(".")[0])).EXERCISES[name]
    cases = exercise.cases()
    answers = [_run(f, case) for case in cases]
    missing = sorted({part for a in answers for part in _missing(exercise, a)})
    if len(missing) == len(exercise.results):
        return Diagnosis("open", f"Exercise {name}: not tried yet.")
    if missing:
        return Diagnosis("open", f"Exercise {name}: {', '.join(missing)} still to be done.")
    expected = [_run(exercise.reference, case) for case in cases]
    wrong = [i for i in range(len(cases)) if not _same(answers[i], expected[i])]
    if not wrong:
        text = f"Exercise {name}: solved. It agrees with minidiff on all {len(cases)} inputs."
        return Diagnosis("solved", text)
    known = _recognize(exercise, cases, answers, expected)
    if known:
        lines = [f"Exercise {name}: not yet."]
        for m, results in known:
            part = "" if results == exercise.results else f"for {', '.join(results)} "
            lines += [f"Your function {part}{m.name}.", m.explanation]
        return Diagnosis("known", "\n".join(lines), tuple(m.name for m, _ in known))
    case = _shrink(exercise, f, cases[wrong[0]])
    return Diagnosis("wrong", _report(name, exercise, f, case))


def load(folder: str, chapter: int) -> ModuleType:
    """The module of a chapter in ``exercises/`` or ``solutions/``."""
    return importlib.import_module(f"{folder}.ch{chapter:02d}")


def _run(f: Callable[..., Any], case: Case) -> Any:
    """The results of f as a tuple of arrays, or the error that it raised; `...` is not done yet."""
    try:
        out = f(*(a.copy() if isinstance(a, np.ndarray) else a for a in case))
        if out is None or out is ...:
            return ...
        parts = out if isinstance(out, tuple) else (out,)
        return tuple(p if p is ... else np.asarray(p, dtype=np.float64) for p in parts)
    except Exception as error:
        return error


def _missing(exercise: Exercise, answer: Any) -> Sequence[str]:
    """The names of the results that are not done yet."""
    if answer is ...:
        return exercise.results
    if _failed(answer):
        return ()
    return [r for r, part in zip(exercise.results, answer, strict=False) if part is ...]


def _recognize(
    exercise: Exercise, cases: Sequence[Case], answers: list[Any], expected: list[Any]
) -> list[tuple[Mistake, tuple[str, ...]]]:
    """The mistakes that explain every wrong result, with the results that each explains.

    One mistake that explains the whole answer is preferred to one for each result.
    """
    outcomes = [(m, [_run(m.f, case) for case in cases]) for m in exercise.mistakes]
    for m, outs in outcomes:
        if all(map(_same, answers, outs)):
            return [(m, exercise.results)]
    found: dict[str, tuple[Mistake, tuple[str, ...]]] = {}
    for i, result in enumerate(exercise.results):
        if _agree(answers, expected, i):
            continue
        for m, outs in outcomes:
            if _agree(answers, outs, i):
                found[m.name] = (m, (*found.get(m.name, (m, ()))[1], result))
                break
        else:
            return []
    blamed = [outs for m, outs in outcomes if m.name in found]
    for outs in zip(answers, *blamed, strict=True):
        if _failed(outs[0]) and not any(map(_failed, outs[1:])):
            return []  # the answer fails where these mistakes do not
    return list(found.values())


def _agree(answers: list[Any], others: list[Any], i: int) -> bool:
    """Result i is the same in all cases in which neither is an error, and there is such a case."""
    pairs = [
        (a, b) for a, b in zip(answers, others, strict=True) if not _failed(a) and not _failed(b)
    ]
    return bool(pairs) and all(i < len(a) and _same(a[i : i + 1], b[i : i + 1]) for a, b in pairs)


def _failed(outcome: Any) -> bool:
    return isinstance(outcome, Exception)


def _same(a: Any, b: Any) -> bool:
    if _failed(a) or _failed(b):
        return _failed(a) and _failed(b)
    return len(a) == len(b) and all(
        p.shape == q.shape and np.allclose(p, q, rtol=1e-9, atol=1e-9)
        for p, q in zip(a, b, strict=True)
    )


def _shrink(exercise: Exercise, f: Callable[..., Any], case: Case) -> Case:
    """The same case with as many numbers made 0, or else 1, as still show the difference."""
    for i, argument in enumerate(case):
        if not isinstance(argument, np.ndarray):
            continue
        for index in np.ndindex(argument.shape):
            for simple in (0, 1):
                simpler = argument.copy()
                simpler[index] = simple
                tried = (*case[:i], simpler, *case[i + 1 :])
                if not _same(_run(f, tried), _run(exercise.reference, tried)):
                    case, argument = tried, simpler
                    break
    return case


def _report(name: str, exercise: Exercise, f: Callable[..., Any], case: Case) -> str:
    lines = [f"Exercise {name}: not yet. The smallest input on which it goes wrong:"]
    width = max(map(len, (*exercise.arguments, *exercise.results)))
    lines += [
        f"  {argument:{width}} = {_show(a)}"
        for argument, a in zip(exercise.arguments, case, strict=True)
    ]
    answer, expected = _run(f, case), _run(exercise.reference, case)
    if _failed(answer):
        return "\n".join([*lines, f"It raised {type(answer).__name__}: {answer}"])
    if len(answer) != len(expected):
        wanted = ", ".join(exercise.results)
        return "\n".join([*lines, f"It returned {len(answer)} results; wanted are {wanted}."])
    lines.append("It returned")
    for result, a, b in zip(exercise.results, answer, expected, strict=True):
        ok = _same((a,), (b,))
        lines.append(f"  {result:{width}} = {_show(a)}" + (", right" if ok else ""))
        if not ok:
            lines.append(f"  {'':{width}}   where minidiff has {_show(b)}")
    return "\n".join(lines)


def _show(a: Any) -> str:
    if not isinstance(a, np.ndarray):
        return str(a)
    whole = bool(np.all(np.isfinite(a)) and np.all(a == np.round(a)))
    return str((a.astype(int) if whole else np.round(a, 6)).tolist())
