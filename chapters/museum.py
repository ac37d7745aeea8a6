"""Write appendix A anew from the collection of mistakes in `tests/mutants`.

    python chapters/museum.py          writes the notebook and executes it

The words, the lines and the tests come from the collection; `museum.json` says which chapter
notices which mistake (`python -m tests.mutants.in_chapters` finds that out).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

CHAPTERS = Path(__file__).resolve().parent
sys.path[:0] = [str(CHAPTERS), str(CHAPTERS.parent)]

import build  # noqa: E402
from chapterlib import museum  # noqa: E402

from tests.mutants.collection import MUTANTS  # noqa: E402
from tests.mutants.errata import ERRATA, WITHOUT_MUTANT  # noqa: E402
from tests.mutants.mutant import Mutant  # noqa: E402

NOTEBOOK = CHAPTERS / "A_errata_and_bug_museum.ipynb"
FOUND = CHAPTERS / "museum.json"

ENTRANCE = """\
# A. Errata and bug museum

Every mistake here was printed or made: in the five student texts from which this project took
its list of topics, or in programs that people use. A diffusion model with a mistake in it
rarely crashes. It trains, and it draws pictures, and they look a little worse than they should,
or not even that. So each mistake is kept here as an exhibit, together with what sees it.

**How an exhibit is made.** A *mutant* is the package with one line exchanged. The tests that it
names are run with the wrong line in place, and at least one of them must fail; if none did,
that formula would not really be tested. The cells below do it before your eyes: each names the
mistake and the test that failed first. `make test` does it for all of them and prints how many
were caught.

**How to use it.** Somebody's sampler behaves oddly? Look for the symptom. Are you reviewing
code? Walk through the hall that it belongs to. Do you want to know whether *your* tests are any
good? Make the mistakes in your own code, one by one, and count how many your tests see.

In the exchanged lines t is the noisier time and s the cleaner one; `-` is right, `+` is wrong."""

FIGURE = """\
The samplers first. Gaussian data have a perfect noise predictor that is known in closed form, and
it is linear, so the variance of what a sampler generates can be computed without drawing a single
sample (chapter 9). Which mistakes show on data from $\\mathcal N(0,1)$, and which on data that are
a single point, of variance $10^{-8}$?"""

CAPTION = """\
*The figure to remember. Blue: what the right sampler generates in as many steps; orange: with the
mistake. On the left most of the mistakes can hardly be seen. On the right four of them leave a
noise of variance $10^{-4}$, ten thousand times that of the data; but the minus sign, which is
plain on the left, has vanished. Test a sampler on more than one kind of data.*"""

ERRATA_ABOVE = """\
## Errata of the five texts

What is printed wrongly, or left out, or invites a mistake. Where it is a formula there is an
exhibit, and its name is given; the others are words or claims, and it says why there is nothing
to exchange.

| | what is printed | exhibit |
|---|---|---|"""

EXIT = """\
## On the way out

* A formula that no mutant touches may be untested. A test that kills no mutant may test
  nothing.
* Mistakes of the same kind come back: an index off by one, a variance for a standard deviation,
  a sign, a mean where there should be a sum, the wrong argument first in a divergence.
* The tests that catch most are exact ones: a known answer for known data, to twelve digits.

**Papers.** DeMillo, Lipton & Sayward 1978, *Hints on test data selection* (mutants as a measure
of tests). Just et al. 2014, *Are mutants a valid substitute for real faults?* (they are,
mostly). Karras et al. 2022, appendix B and C, for how much small differences between samplers
matter."""


def origin(mutant: Mutant) -> str:
    """Where it comes from, with the threads and papers as they are named in the collection."""
    return mutant.origin.rstrip(".")


def exhibit(mutant: Mutant, noticed: dict[str, str | None]) -> str:
    """One mistake in words and lines."""
    names = (name.rpartition("::")[2].partition("[")[0] for name in mutant.killed_by)
    tests = ", ".join(f"`{name}`" for name in names)
    where = noticed.get(mutant.id)
    chapter = f" Chapter {int(where[:2])} notices it." if where else ""
    return f"""\
**{mutant.id}**: the code {mutant.name}. *Origin: {origin(mutant)}.*

{mutant.misconception}

```diff
{mutant.diff}
```

Seen by {tests}.{chapter}"""


def errata() -> str:
    """The table of all errata."""
    exhibits: dict[int, list[str]] = {number: [] for number in ERRATA}
    for mutant in MUTANTS:
        for number in re.findall(r"\bE(\d+)\b", mutant.origin):
            exhibits[int(number)].append(f"**{mutant.id}**")
    rows = [
        f"| E{number} | {text.replace('|', chr(92) + '|')} | "
        f"{', '.join(exhibits[number]) or WITHOUT_MUTANT[number]} |"
        for number, text in ERRATA.items()
    ]
    return "\n".join([ERRATA_ABOVE, *rows])


def notebook() -> nbformat.NotebookNode:
    """The appendix, not executed."""
    noticed = json.loads(FOUND.read_text())
    hidden = {"metadata": {"tags": ["hide-input"]}}
    cells = [
        new_markdown_cell(ENTRANCE),
        new_code_cell(
            "from chapterlib.figures import use_style\n"
            "from chapterlib.museum import autopsy, what_samplers_generate\n\nuse_style()"
        ),
        new_markdown_cell(FIGURE),
        new_code_cell("what_samplers_generate()", **hidden),
        new_markdown_cell(CAPTION),
    ]
    for number, (hall, title) in enumerate(museum.HALLS.items(), 1):
        exhibits = "\n\n".join(exhibit(m, noticed) for m in museum.mutants(hall))
        cells += [
            new_markdown_cell(f"## Hall {number}: {title}"),
            new_code_cell(f'autopsy("{hall}")'),
            new_markdown_cell(exhibits),
        ]
    cells += [new_markdown_cell(errata()), new_markdown_cell(EXIT)]
    nb = new_notebook(cells=cells)
    return build.clean(nb)


def main() -> None:
    """Write, execute, store clean."""
    nbformat.write(notebook(), NOTEBOOK)
    build.main([NOTEBOOK.name])


if __name__ == "__main__":
    main()
