"""Committed chapters are executed and clean, else nbval would compare nothing and say nothing."""

import build
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


@pytest.mark.parametrize("path", build.notebooks(), ids=lambda path: path.stem)
def test_committed_notebook_is_clean(path):
    assert build.problems(nbformat.read(path, as_version=4)) == []


def executed():
    """As it comes out of a kernel, with all that shall not be stored."""
    cell = new_code_cell("plot()", execution_count=1, metadata={"tags": ["x"], "scrolled": True})
    cell.metadata.execution = {"iopub.status.busy": "2000-01-01T00:00:00Z"}
    cell.outputs = [
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stdout", text="b\n"),
        new_output("display_data", {"text/plain": "<Figure>", "image/png": "aGk="}),
    ]
    nb = new_notebook(cells=[new_markdown_cell("text"), cell])
    nb.metadata.language_info = {"name": "python", "version": "3.11.7"}
    return nb


def test_clean_keeps_text_and_tags_and_drops_the_rest():
    nb = build.clean(executed())
    assert build.problems(nb) == []
    assert [cell.id for cell in nb.cells] == ["c00", "c01"]
    assert nb.cells[1].metadata == {"tags": ["x"]}
    assert nb.cells[1].outputs[0].text == "a\nb\n"
    assert list(nb.cells[1].outputs[1].data) == ["text/plain"]
    assert nb.metadata.language_info == {"name": "python"}
    assert build.clean(nb) == nb
    nbformat.validate(nb)


def not_run(cell):
    cell.execution_count, cell.outputs = None, []


def run_twice(cell):
    cell.execution_count = 2


def other_id(cell):
    cell.id = "a1b2c3"


def timed(cell):
    cell.metadata.execution = {"iopub.status.busy": "2000-01-01T00:00:00Z"}


def with_image(cell):
    cell.outputs[1].data["image/png"] = "aGk="


def failed(cell):
    cell.outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def warned(cell):
    cell.outputs[0].name = "stderr"


def address(cell):
    cell.outputs[0].text = "<object at 0x7f2a3c4d5e6f>\n"


def path(cell):
    cell.outputs[1].data["text/plain"] = "/home/me/minidiff"


@pytest.mark.parametrize(
    "spoil", [not_run, run_twice, other_id, timed, with_image, failed, warned, address, path]
)
def test_each_fault_is_found(spoil):
    nb = build.clean(executed())
    spoil(nb.cells[1])
    assert build.problems(nb)


def test_fractions_and_file_names_are_no_paths():
    nb = build.clean(executed())
    nb.cells[1].outputs[0].text = "loss/work per step, minidiff/ops/reduce.py, 0x10\n"
    assert build.problems(nb) == []
