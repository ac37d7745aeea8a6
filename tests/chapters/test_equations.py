"""Numbered equations: the text, the cells that check them, and the tags in the code agree.

In the text an equation ends in ``\\tag{1.7}``, and below it stands a line
``> **(1.7)** checked: `symbolic` `exact`. Code: `minidiff/ops/elementwise.py`.`` In that file a
comment ``# eq. (1.7)`` marks the line. An equation without code says "this chapter only".
"""

import ast
import re
from collections import Counter

import build
import nbformat
import pytest
from chapterlib.labels import LABELS

ROOT = build.CHAPTERS.parent
NUMBER = r"(\w+\.\d+)"
EQUATION = re.compile(rf"\\tag\{{{NUMBER}\}}")
CLAIM = re.compile(rf"^> \*\*\({NUMBER}\)\*\* checked: ((?:`[^`]+` ?)+)\. Code: (.+)\.$", re.M)
TAG = re.compile(rf"\beq\. \({NUMBER}\)")

notebooks = pytest.mark.parametrize("path", build.notebooks(), ids=lambda path: path.stem)


def cells(path, kind):
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def equations(path):
    return [eq for source in cells(path, "markdown") for eq in EQUATION.findall(source)]


def claims(path):
    """For each equation the labels and the files that the line below it names."""
    found = {}
    for source in cells(path, "markdown"):
        for eq, labels, code in CLAIM.findall(source):
            assert EQUATION.findall(source).count(eq) == 1, f"({eq}) stands in another cell"
            assert eq not in found, f"({eq}) has two such lines"
            found[eq] = re.findall("`([^`]+)`", labels), re.findall("`([^`]+)`", code)
            assert found[eq][1] or code == "this chapter only", f"({eq}) Code: {code}"
    return found


def checked(path):
    """The pairs (equation, label) that the calls in the cells stand for."""
    calls = [
        node
        for source in cells(path, "code")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LABELS
    ]
    return {(call.args[0].value, LABELS[call.func.id]) for call in calls}


def tags():
    """The pairs (equation, file) of all tags in the package."""
    files = sorted((ROOT / "minidiff").rglob("*.py"))
    return {
        (eq, file.relative_to(ROOT).as_posix())
        for file in files
        for eq in TAG.findall(file.read_text(encoding="utf-8"))
    }


@notebooks
def test_equations_are_numbered_in_order(path):
    numbers = equations(path)
    chapter = path.name.split("_")[0].lstrip("0") or "0"
    assert numbers == [f"{chapter}.{i}" for i in range(1, len(numbers) + 1)]


@notebooks
def test_each_equation_says_how_it_is_checked_and_the_cells_do_so(path):
    stated = claims(path)
    assert list(stated) == equations(path)
    assert {(eq, label) for eq, (labels, _) in stated.items() for label in labels} == checked(path)
    assert all(max(Counter(labels).values()) == 1 for labels, _ in stated.values())


@notebooks
def test_the_text_refers_to_equations_that_exist(path):
    known, number = set(equations(path)), path.name.split("_")[0]
    chapter = number.lstrip("0") or "0"
    helpers = [build.CHAPTERS / f / f"ch{number}.py" for f in ("exercises", "solutions")]
    texts = cells(path, "markdown") + cells(path, "code")
    texts += [helper.read_text(encoding="utf-8") for helper in helpers if helper.exists()]
    mentioned = {eq for text in texts for eq in re.findall(rf"(?<!\w)\(({chapter}\.\d+)\)", text)}
    assert mentioned <= known


def test_tags_in_the_code_and_files_in_the_text_are_the_same():
    stated = {
        (eq, file)
        for path in build.notebooks()
        for eq, (_, files) in claims(path).items()
        for file in files
    }
    assert tags() == stated
