"""Appendix A is what the collection of mistakes says, and a chapter notices every one."""

import importlib.util
import json
from pathlib import Path

import nbformat
import pytest

from tests.mutants import in_chapters

CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"
FOUND = json.loads((CHAPTERS / "museum.json").read_text())


@pytest.fixture(scope="module")
def museum():
    spec = importlib.util.spec_from_file_location("museum", CHAPTERS / "museum.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_chapter_notices_each_mistake_in_a_formula():
    """`python -m tests.mutants.in_chapters` finds out which; here only that none is missing."""
    assert list(FOUND) == [mutant.id for mutant in in_chapters.of_diffusion()]
    stems = {path.stem for path in in_chapters.notebooks()}
    assert [id for id, chapter in FOUND.items() if chapter not in stems] == []


@pytest.mark.parametrize(
    "id", ["sign-of-v", "minus-the-direction", "guidance-the-wrong-way", "beta-for-posterior"]
)
def test_what_the_file_says_is_so(id):
    assert in_chapters.failure(id, CHAPTERS / f"{FOUND[id]}.ipynb")


def test_the_appendix_is_up_to_date(museum):
    stored = nbformat.read(museum.NOTEBOOK, as_version=4)
    fresh = museum.notebook()
    assert [(c.cell_type, c.source, c.metadata) for c in stored.cells] == [
        (c.cell_type, c.source, c.metadata) for c in fresh.cells
    ], "write it anew: python chapters/museum.py"


def test_every_mistake_is_shown_once(museum):
    text = "\n".join(c.source for c in museum.notebook().cells if c.cell_type == "markdown")
    for mutant in in_chapters.MUTANTS:
        assert text.count(f"**{mutant.id}**: the code {mutant.name}.") == 1
