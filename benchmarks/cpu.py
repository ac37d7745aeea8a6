"""The table of a CPU: minidiff beside eager PyTorch, and beside NumPy as it is written at first.

    python -m benchmarks.cpu [--cores 1] [--config digits8] [--quick] [--json FILE] [--page FILE]

For each network, once with one thread for each contestant and once with two cores: the time of a
training step and of an evaluation without recording (sampling) as ratios minidiff / PyTorch, in
the better of PyTorch's layouts, with the quartiles over the rounds; the largest memory. Below 1
minidiff is faster. On two cores minidiff is one process with two BLAS threads or two processes
under MPI with one each, whichever takes a step in less time. Then how many times longer the same
step takes with im2col over the whole batch and with HIPS autograd (`benchmarks.naive`). How it
measures is told in benchmarks/README.md; everything is taken in turns.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contestants import MAKERS
from benchmarks.train_step import IN_RANKS, OURS, measure, quartiles

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NAIVE = ["im2col", "autograd"]
TARGETS = {"digits8": 1.2, "mnist-small": 1.5, "cifar-ddpm": 1.5}
MEMORY, FASTER = 1.3, 5


class Plan(NamedTuple):
    """How a network is measured: `least` steps in a turn; the naive ones take `naive` turns."""

    batch: int
    rounds: int
    seconds: float
    warm_up: int
    least: int
    naive: int


PLANS = {
    "digits8": Plan(64, 8, 0.5, 5, 3, 4),
    "mnist-small": Plan(64, 4, 1.0, 2, 1, 2),
    "cifar-ddpm": Plan(8, 2, 1.0, 1, 1, 1),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cores", type=int, choices=(1, 2), help="these alone (default both)")
    parser.add_argument(
        "--config", choices=PLANS, action="append", help="this network alone; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of each: a look")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RESULTS / "cpu.json")
    parser.add_argument("--page", type=Path, metavar="FILE", default=RESULTS / "cpu.md")
    args = parser.parse_args(arguments)
    for package, extra in (("torch", "parity"), ("autograd", "parity"), ("mpi4py", "mpi")):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: pip install -e '.[{extra}]'", file=sys.stderr)
            return 2
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "runs": []}
    for config in args.config or PLANS:
        for cores in (args.cores,) if args.cores else (1, 2):
            run = measured(config, cores, args.quick)
            result["runs"].append(run)
            print(summary(run), flush=True)
    text = page(result)
    print(f"\n{text}")
    for path, content in ((args.json, json.dumps(result, indent=1) + "\n"), (args.page, text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


def measured(config: str, cores: int, quick: bool) -> dict[str, Any]:
    """All numbers of a network on so many cores."""
    plan = PLANS[config]
    rounds = min(2, plan.rounds) if quick else plan.rounds
    own = [OURS, IN_RANKS] if cores == 2 else [OURS]
    torch = measure(
        config, plan.batch, cores, rounds, plan.seconds,
        [*own, *(name for name in MAKERS if name != OURS)],
        warm_up=plan.warm_up, least=plan.least,
    )  # fmt: skip
    best = min(own, key=lambda name: median(torch, "step", name))
    naive = measure(
        config, plan.batch, cores, 1 if quick else plan.naive, plan.seconds, [best, *NAIVE],
        warm_up=1, least=1, sampling=False,
    )  # fmt: skip
    return {"config": config, "cores": cores, "ours": best, "torch": torch, "naive": naive}


def median(run: dict[str, Any], row: str, name: str) -> float:
    """The median over the rounds."""
    return statistics.median(turn[row] for turn in run["seconds"][name])


def ratios(run: dict[str, Any], row: str, a: str, b: str) -> tuple[float, float, float]:
    """The quartiles over the rounds of the times of `row`, contestant `a` by contestant `b`."""
    turns = run["seconds"]
    return quartiles([x[row] / y[row] for x, y in zip(turns[a], turns[b], strict=True)])


def better_layout(run: dict[str, Any], row: str) -> str:
    """PyTorch's contestant with the smaller median."""
    return min(
        (n for n in run["seconds"] if n.startswith("torch")), key=lambda n: median(run, row, n)
    )


def findings(run: dict[str, Any]) -> dict[str, Any]:
    """What the table says about a run: ratios with their quartiles, MiB, times slower."""
    torch, naive = run["torch"], run["naive"]
    own = [name for name in torch["seconds"] if not name.startswith("torch")]
    fast = {
        row: min(own, key=lambda n, row=row: median(torch, row, n)) for row in ("step", "sampling")
    }
    out = {
        row: ratios(torch, row, fast[row], better_layout(torch, row))
        for row in ("step", "sampling")
    }
    peak = torch["peak_mib"][run["ours"]], torch["peak_mib"][better_layout(torch, "step")]
    slower = {name: ratios(naive, "step", name, run["ours"])[1] for name in NAIVE}
    return out | slower | {"ms": 1e3 * median(torch, "step", run["ours"]), "mib": peak}


def cells(run: dict[str, Any]) -> list[str]:
    """A row of the table."""
    f = findings(run)
    how = "one thread" if run["cores"] == 1 else run["ours"].partition(", ")[2] or "2 threads"
    low, middle, high = f["step"]
    low2, middle2, high2 = f["sampling"]
    ours, theirs = f["mib"]
    return [
        f"{run['config']}, batch {run['torch']['batch']}", f"{run['cores']}: {how}",
        f"{f['ms']:.0f}", f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{middle2:.2f} ({low2:.2f} to {high2:.2f})", f"{ours:.0f} / {theirs:.0f}",
        f"{f['im2col']:.1f}", f"{f['autograd']:.1f}",
    ]  # fmt: skip


def summary(run: dict[str, Any]) -> str:
    """One line while the benchmark goes on."""
    name, how, ms, step, sampling, _, im2col, autograd = cells(run)
    return (
        f"{name}, cores {how}: a step {ms} ms, by PyTorch's {step}, sampling {sampling}; "
        f"im2col takes {im2col} times as long, autograd {autograd}"
    )


def judged(run: dict[str, Any]) -> list[str]:
    """A row of the table of targets: each number, and whether it is what was aimed at."""
    f, most = findings(run), TARGETS[run["config"]]
    ours, theirs = f["mib"]
    aims = [
        (f["step"][1], most), (f["sampling"][1], most), (ours / theirs, MEMORY),
        (-f["im2col"], -FASTER), (-f["autograd"], -FASTER),
    ]  # fmt: skip
    words = [
        f"{abs(value):.2f}, {'at most' if aim > 0 else 'at least'} {abs(aim)}: "
        f"{'met' if value <= aim else 'missed'}"
        for value, aim in aims
    ]
    return [run["config"], str(run["cores"]), *words]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def page(result: dict[str, Any]) -> str:
    """The page of results."""
    runs, versions = result["runs"], {}
    for run in runs:
        versions |= run["torch"]["versions"]
    machine = runs[0]["torch"]["machine"]
    loads = ", ".join(f"{run['torch']['machine']['load']:.1f}" for run in runs)
    return "\n".join([
        "# Speed on a CPU",
        "",
        "Times of minidiff divided by those of eager PyTorch in the better of its two layouts: "
        "below 1 minidiff is faster. Medians over rounds in turns, with quartiles. The last two "
        "columns: how many times as long as minidiff the same step takes with im2col over the "
        "whole batch in ordinary NumPy, and with HIPS autograd.",
        "",
        f"{result['date']}; {machine['cpu']}, {machine['cores']} cores; "
        f"{', '.join(f'{k} {v}' for k, v in versions.items())}. Load of the machine after each "
        f"row: {loads} (the benchmark alone makes it 1 to 2).",
        "",
        *table(
            ["network", "cores", "a step, ms", "training step", "sampling",
             "peak MiB, minidiff / PyTorch", "im2col", "autograd"],
            [cells(run) for run in runs],
        ),
        "",
        "On two cores minidiff is one process with two BLAS threads, or two processes under MPI "
        "with one each (their memory is added up, what they share once), whichever takes a step in "
        "less time; for sampling likewise. All others have two threads.",
        "",
        "What was aimed at:",
        "",
        *table(
            ["network", "cores", "training step", "sampling", "memory", "im2col", "autograd"],
            [judged(run) for run in runs],
        ),
        "",
        "`python -m benchmarks.cpu` writes this page; what is measured and how, and more numbers: "
        "`benchmarks/README.md` and `cpu.json` beside this page.",
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
