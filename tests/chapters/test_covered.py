"""What the five student texts state is covered: the tags of the cells against the list."""

import importlib.util
from pathlib import Path

import nbformat

DOCS = Path(__file__).resolve().parents[2] / "docs"
spec = importlib.util.spec_from_file_location("covered", DOCS / "covered.py")
covered = importlib.util.module_from_spec(spec)
spec.loader.exec_module(covered)


def test_a_chapter_covers_what_it_owes():
    assert covered.owed() == []


def test_tags_name_rows_that_exist():
    assert covered.covering().keys() <= covered.statements().keys()


def test_a_cell_that_covers_something_runs():
    for path in covered.chapters():
        for cell in nbformat.read(path, as_version=4).cells:
            if any(tag.startswith("seed:") for tag in cell.metadata.get("tags", [])):
                assert cell.cell_type == "code", f"{path.name} {cell.id}"


def test_the_table_has_a_place_for_each_covered_row():
    page = covered.page()
    for row in covered.covering():
        assert f"| {covered.shown(row)} |" in page
    assert "|  |" not in page
