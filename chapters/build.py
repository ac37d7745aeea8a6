"""Execute notebooks and store them clean: text outputs kept, images and timings dropped.

    python chapters/build.py            all chapters
    python chapters/build.py 01 02      those whose names begin so

A clean notebook depends on nothing but its source: cells have the ids c00, c01, ... in order,
there are no images (the site draws them anew), no times and no versions. So a second run changes
nothing, a diff shows what an author changed, and nbval can compare every text output.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat

CHAPTERS = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
MACHINE = re.compile(r"0x[0-9a-f]{6,}|(?<![\w.])/(?:home|root|tmp|usr|Users|work)/")


def notebooks() -> list[Path]:
    """The chapters, in order."""
    return sorted(CHAPTERS.glob("[0-9A]*.ipynb"))


def clean(nb: Any) -> Any:
    """A clean copy of an executed notebook."""
    nb = copy.deepcopy(nb)
    nb.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nb.nbformat, nb.nbformat_minor = 4, 5
    for i, cell in enumerate(nb.cells):
        cell.id = f"c{i:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
            for output in cell.outputs:
                if "data" in output:
                    output.metadata = nbformat.from_dict({})
                    for mime in [m for m in output.data if not m.startswith("text/")]:
                        del output.data[mime]
    return nb


def _merged(outputs: list[Any]) -> list[Any]:
    """Neighbouring pieces of one stream put together: where it was cut depends on timing."""
    merged: list[Any] = []
    for output in outputs:
        same = merged and output.output_type == "stream" == merged[-1].output_type
        if same and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def problems(nb: Any) -> list[str]:
    """Why the notebook should not be committed as it is; empty if it may be."""
    found = [] if nb == clean(nb) else ["it is not clean: run chapters/build.py"]
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its code cells were not all executed once, in order")
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {cell.id} ends in an error")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {cell.id} writes to stderr")
            if MACHINE.search(output.get("text", "") + str(output.get("data", ""))):
                found.append(f"cell {cell.id} shows an address or a path of this machine")
    return found


def execute(path: Path) -> Any:
    """The notebook run from the top in a new kernel, in the folder of the chapters."""
    from nbclient import NotebookClient

    nb = nbformat.read(path, as_version=4)
    NotebookClient(
        nb,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(CHAPTERS)}},
        extra_arguments=["--log-level=ERROR"],
    ).execute()
    return nb


def main(names: list[str]) -> None:
    """Execute, clean and store the chapters whose file names begin with one of `names`."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for path in notebooks():
        if names and not path.name.startswith(tuple(names)):
            continue
        start = time.perf_counter()
        nb = clean(execute(path))
        nbformat.write(nb, path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s", *problems(nb), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
