"""The table of what is covered where: statements of the five texts, chapters, cells.

`docs/statements.toml` says which chapter owes what; the tags "seed:S0-01" of the cells say what was
done. `python docs/covered.py` lists what is owed by a chapter that exists and covered by no cell.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parent.parent
TAG = re.compile(r"seed:(S\d-\d\d)")


class Cell(NamedTuple):
    """A cell that covers a statement."""

    chapter: int
    file: str
    id: str
    section: str
    """The heading above it."""


def statements() -> dict[str, dict]:
    """Row -> {"text": what is stated, "chapters": those that owe it}."""
    return tomllib.loads((ROOT / "docs" / "statements.toml").read_text())


def chapters() -> list[Path]:
    """The numbered chapters."""
    return sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))


def covering() -> dict[str, list[Cell]]:
    """Row -> the cells with its tag, in the order of the chapters."""
    found: dict[str, list[Cell]] = {}
    for path in chapters():
        section = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                # a formula may stand in a cell before its heading: the last heading counts
                for heading in re.findall(r"^#{1,3} (.+)$", cell.source, re.M):
                    section = heading.strip()
            for tag in cell.metadata.get("tags", []):
                if match := TAG.fullmatch(tag):
                    where = Cell(int(path.name[:2]), path.name, cell.id, section)
                    found.setdefault(match[1], []).append(where)
    return found


def owed() -> list[str]:
    """Rows that a chapter of today owes and no cell covers."""
    done, here = covering(), {int(p.name[:2]) for p in chapters()}
    rows = ((row, here.intersection(s["chapters"])) for row, s in statements().items())
    return [row for row, due in rows if due and row not in done]


def shown(row: str) -> str:
    """The name of a row with a hyphen at which no line breaks."""
    return row.replace("-", "\u2011")


def anchor(heading: str) -> str:
    """The link within a page to a heading; what it is for one with a formula cannot be told."""
    if "$" in heading:
        return ""
    return "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


ABOVE = """\
# What is covered where

minidiff took its list of topics from five student texts on diffusion models: a poster (S0), slides
on samplers (S1), a review of the DDPM paper (S2), slides on metrics (S3) and a report (S4). Each
row is something that one of them states, draws or measures. Beside it stands where a chapter
derives it or checks it. What was stated wrongly is told in the appendix.

| row | what the text has | where |
|---|---|---|"""

BELOW = """
Chapters that are still to come (the network, metrics, likelihood, experiments with real data) owe
{number} more: {rows}.
"""


def page() -> str:
    """The table in MyST markdown, for a file in a folder of docs/."""
    done = covering()
    lines = [ABOVE]
    for row, statement in statements().items():
        if row not in done:
            continue
        places = []
        for cell in done[row]:
            place = f"[{cell.chapter}, {cell.id}](../../chapters/{cell.file}{anchor(cell.section)})"
            places.append(place)
        text = statement["text"].replace("|", "\\|")
        lines.append(f"| {shown(row)} | `{text}` | {'; '.join(places)} |")
    later = [row for row in statements() if row not in done]
    lines.append(BELOW.format(number=len(later), rows=", ".join(later)))
    return "\n".join(lines)


if __name__ == "__main__":
    missing = owed()
    for row in missing:
        print(row, statements()[row]["chapters"], statements()[row]["text"])
    raise SystemExit(bool(missing))
