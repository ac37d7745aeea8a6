"""Solutions pass, stubs are reported as not tried, every known mistake is called by its name."""

import ast
from itertools import combinations

import build
import nbformat
import numpy as np
import pytest
from chapterlib.checker import _run, _same, check, diagnose, load

CHAPTERS = sorted(int(path.stem[2:]) for path in build.CHAPTERS.glob("exercises/ch*.py"))
EXERCISES = {
    name: exercise
    for chapter in CHAPTERS
    for name, exercise in load("exercises", chapter).EXERCISES.items()
}
SOLUTIONS = {
    name: f for chapter in CHAPTERS for name, f in load("solutions", chapter).SOLUTIONS.items()
}
MISTAKES = [(name, m) for name, exercise in EXERCISES.items() for m in exercise.mistakes]


def stubs():
    """For each exercise that a notebook asks, what the function in its cell is before an answer."""
    found = {}
    for path in build.notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "\ncheck(" in cell.source:
                *body, last = ast.parse(cell.source).body
                scope = {"np": np}
                exec(compile(ast.Module(body, []), path.name, "exec"), scope)
                name, function = last.value.args
                found[name.value] = scope[function.id]
    return found


def test_every_exercise_is_asked_and_has_a_solution():
    assert EXERCISES.keys() == SOLUTIONS.keys() == stubs().keys()
    assert all(len(exercise.mistakes) >= 3 for exercise in EXERCISES.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_passes(name):
    diagnosis = diagnose(name, SOLUTIONS[name])
    assert diagnosis.status == "solved", diagnosis.text


@pytest.mark.parametrize("name", EXERCISES)
def test_stub_is_not_solved_and_says_so(name, capsys):
    f = stubs()[name]
    assert diagnose(name, f).status == "open"
    check(name, f)
    assert capsys.readouterr().out == f"Exercise {name}: not tried yet.\n"


@pytest.mark.parametrize(("name", "m"), MISTAKES, ids=lambda x: getattr(x, "name", x))
def test_mistake_is_called_by_its_name_and_explained(name, m):
    diagnosis = diagnose(name, m.f)
    assert (diagnosis.status, diagnosis.mistakes) == ("known", (m.name,))
    assert m.explanation and m.explanation in diagnosis.text


@pytest.mark.parametrize("name", EXERCISES)
def test_mistakes_differ_from_each_other(name):
    exercise = EXERCISES[name]
    outcomes = {m.name: [_run(m.f, c) for c in exercise.cases()] for m in exercise.mistakes}
    assert len(outcomes) == len(exercise.mistakes)
    for a, b in combinations(outcomes.values(), 2):
        assert not all(map(_same, a, b))


def test_a_mistake_in_one_result_is_named_with_that_result():
    diagnosis = diagnose("1.4", lambda g, a, b: (g @ b.T, a @ g))
    assert diagnosis.mistakes == ("does not transpose",)
    assert "Your function for b_bar does not transpose." in diagnosis.text


def test_two_mistakes_are_both_named():
    diagnosis = diagnose("1.4", lambda g, a, b: (np.ones_like(g) @ b.T, a @ g))
    assert diagnosis.mistakes == ("leaves out g", "does not transpose")


def test_an_unknown_mistake_shows_the_smallest_input():
    def wrong_sign(g, a, b):
        a_bar, b_bar = SOLUTIONS["1.2"](g, a, b)
        return -a_bar, b_bar

    diagnosis = diagnose("1.2", wrong_sign)
    assert diagnosis.status == "wrong"
    assert diagnosis.text.splitlines() == [
        "Exercise 1.2: not yet. The smallest input on which it goes wrong:",
        "  g     = 1",
        "  a     = 0",
        "  b     = 1",
        "It returned",
        "  a_bar = -1",
        "          where minidiff has 1",
        "  b_bar = 0, right",
    ]


def test_an_unknown_mistake_with_a_tape_shows_the_program():
    text = diagnose("1.1", lambda tape, g: [g] * tape.size).text
    assert "tape = x0 = 2; x1 = x0 + x0" in text


def test_errors_and_wrong_numbers_of_results_are_told():
    assert "ZeroDivisionError" in diagnose("1.4", lambda g, a, b: 1 / 0).text
    assert "1 results; wanted are a_bar, b_bar" in diagnose("1.4", lambda g, a, b: g).text


def test_half_an_answer_is_told_what_is_missing():
    diagnosis = diagnose("1.4", lambda g, a, b: (..., a.T @ g))
    assert diagnosis.status == "open" and "a_bar still to be done" in diagnosis.text


def test_an_answer_that_changes_its_inputs_is_judged_by_what_it_returns():
    def in_place(g, a, b):
        g += 0
        a_bar, b_bar = g @ b.T, a.T @ g
        g *= 0
        return a_bar, b_bar

    assert diagnose("1.4", in_place).status == "solved"
