"""Which chapter notices which mistake: runs the chapters with each mutant of `minidiff.diffusion`.

    python -m tests.mutants.in_chapters            all mutants, and write chapters/museum.json anew
    python -m tests.mutants.in_chapters ID [ID]    those only, and change their entries

A chapter notices a mistake when a cell raises, or prints other text than the one that is stored.
Each chapter runs in a process of its own, forked from one that has imported everything. It takes
about a quarter of an hour on two processors; a test demands that no mutant is missing in the file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import linecache
import multiprocessing
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType

import nbformat
from tqdm import tqdm

from tests.mutants.collection import BY_ID, MUTANTS
from tests.mutants.mutant import Mutant

CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"
FOUND = CHAPTERS / "museum.json"
SLOWEST = 300.0
"""Seconds after which a chapter counts as noticing nothing, whatever it was about to do."""


def of_diffusion() -> list[Mutant]:
    """The mutants that change a formula of `minidiff.diffusion`."""
    return [m for m in MUTANTS if m.edits[0].where.startswith("minidiff.diffusion.")]


def notebooks() -> list[Path]:
    """The numbered chapters; the appendix is made from what is found here."""
    return sorted(CHAPTERS.glob("[0-9]*.ipynb"))


def likely_first(mutant: Mutant) -> list[Path]:
    """The chapters, those first that name the function, then those that name its module."""
    module, path = mutant.edits[0].where.split(":")
    words = (path.split(".")[0], module.rpartition(".")[2])
    texts = {p: p.read_text() for p in notebooks()}
    return sorted(
        texts, key=lambda p: [-len(re.findall(rf"\b{re.escape(w)}\b", texts[p])) for w in words]
    )


def _compiled(source: str, name: str) -> CodeType:
    """Its code; hypothesis, which seeds its draws by the source of a function, finds that too."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    return compile(source, name, "exec")


def first_failure(notebook: Path) -> str | None:
    """The id of the first cell that raises or prints something else, or None."""
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
            continue
        stored = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                exec(_compiled(cell.source, f"<{notebook.stem} {cell.id}>"), names)
        except Exception:
            return cell.id
        if printed.getvalue() != stored:
            return cell.id
    return None


def _child(mutant_id: str | None, notebook: Path, pipe) -> None:
    os.chdir(CHAPTERS)
    with BY_ID[mutant_id].applied() if mutant_id else contextlib.nullcontext():
        pipe.send(first_failure(notebook))
    pipe.close()
    os._exit(0)


def failure(mutant_id: str | None, notebook: Path) -> str | None:
    """`first_failure` with a mutant, in a process of its own; a crash counts as a failure."""
    fork = multiprocessing.get_context("fork")
    mine, its = fork.Pipe()
    process = fork.Process(target=_child, args=(mutant_id, notebook, its))
    process.start()
    its.close()
    try:
        if not mine.poll(SLOWEST):
            return None
        return mine.recv()
    except EOFError:
        return "crash"
    finally:
        process.kill()
        process.join()


def noticed(mutant: Mutant) -> tuple[str, str] | None:
    """(chapter, cell) of a chapter that fails with the mutant, or None."""
    for notebook in likely_first(mutant):
        if cell := failure(mutant.id, notebook):
            return notebook.stem, cell
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="mutants; all if none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    args = parser.parse_args()
    sys.path.insert(0, str(CHAPTERS))
    import chapterlib.labels  # noqa: F401  what every chapter imports, before the forks

    chosen = [BY_ID[i] for i in args.ids] or of_diffusion()
    with ThreadPoolExecutor(args.jobs) as pool:
        if not args.ids:
            wrong = [p.stem for p in pool.map(lambda p: failure(None, p) and p, notebooks()) if p]
            if wrong:
                print("these chapters fail without any mistake:", ", ".join(wrong))
                return 1
        found = dict(
            zip(
                [m.id for m in chosen],
                tqdm(pool.map(noticed, chosen), total=len(chosen), unit="mutant"),
                strict=True,
            )
        )
    for mutant_id, where in found.items():
        print(f"{mutant_id:<32} {' '.join(where) if where else 'NOT NOTICED'}")
    missed = [i for i, where in found.items() if where is None]
    print(f"{len(found) - len(missed)} of {len(found)} mutants are noticed by a chapter")
    known = json.loads(FOUND.read_text()) if args.ids else {}
    known |= {i: where and where[0] for i, where in found.items()}
    ordered = {m.id: known[m.id] for m in of_diffusion() if m.id in known}
    FOUND.write_text(json.dumps(ordered, indent=1) + "\n")
    return bool(missed)


if __name__ == "__main__":
    raise SystemExit(main())
