"""The table of a CPU: minidiff beside eager PyTorch, and beside NumPy as it is written at first.

    python -m benchmarks.cpu [--threads 2] [--quick] [--json FILE] [--page FILE]

For each network: the time of a training step and of an evaluation without recording (sampling) as
ratios minidiff / PyTorch, in the better of PyTorch's layouts, with the quartiles over the rounds;
the largest memory of each process. Below 1 minidiff is faster. Then how many times slower the same
step is with im2col over the whole batch, and a residual block with HIPS autograd. How it measures
is told in benchmarks/README.md; everything is taken in turns.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.train_step import OURS, THREAD_VARIABLES, measure, quartiles

RESULTS = Path(__file__).parents[1] / "docs" / "results"
# network, images in a step, rounds, seconds of a turn, steps to warm up, steps of a turn at least
RUNS = (
    ("digits8", 64, 12, 0.5, 5, 3),
    ("mnist-small", 64, 8, 2.0, 2, 2),
    ("cifar-ddpm", 8, 3, 1.0, 1, 1),
)
TARGETS = {"digits8": 1.2, "mnist-small": 1.5, "cifar-ddpm": 1.5}
FASTER, MEMORY = 5, 1.3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=2, help="of each contestant (default 2)")
    parser.add_argument(
        "--config", choices=TARGETS, action="append", help="this network alone; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of each: a look")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RESULTS / "cpu.json")
    parser.add_argument("--page", type=Path, metavar="FILE", default=RESULTS / "cpu.md")
    args = parser.parse_args(arguments)
    for package in ("torch", "autograd"):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: pip install -e '.[parity]'", file=sys.stderr)
            return 2
    for variable in THREAD_VARIABLES:  # read when the libraries load, in the child processes
        os.environ[variable] = str(args.threads)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "threads": args.threads, "runs": {},
    }  # fmt: skip
    for config, batch, rounds, seconds, warm_up, least in RUNS:
        if args.config and config not in args.config:
            continue
        options = {"warm_up": warm_up, "least": least}
        rounds = min(rounds, 2) if args.quick else rounds
        run = {"torch": measure(config, batch, args.threads, rounds, seconds, **options)}
        fewer = 1 if args.quick or least == 1 else 3
        run["im2col"] = measure(
            config, batch, args.threads, fewer, seconds, [OURS, "im2col"], warm_up=1, least=1
        )
        result["runs"][config] = run
        print(summary(config, run), flush=True)
    result["block"] = measure(
        "mnist-small", 64, args.threads, 1 if args.quick else 5, 0.5,
        ["minidiff, a block", "autograd, a block"], warm_up=1, least=1,
    )  # fmt: skip
    text = page(result)
    print(f"\n{text}")
    for path, content in ((args.json, json.dumps(result, indent=1) + "\n"), (args.page, text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


def ratios(run: dict[str, Any], row: str, a: str, b: str) -> tuple[float, float, float]:
    """The quartiles over the rounds of the times of `row`, contestant `a` by contestant `b`."""
    turns = run["seconds"]
    return quartiles([x[row] / y[row] for x, y in zip(turns[a], turns[b], strict=True)])


def better_layout(run: dict[str, Any], row: str) -> str:
    """PyTorch's contestant with the smaller median."""
    torch = [name for name in run["seconds"] if name.startswith("torch")]
    return min(torch, key=lambda name: statistics.median(t[row] for t in run["seconds"][name]))


def cells(config: str, run: dict[str, Any]) -> list[str]:
    """A row of the table."""
    torch, plain = run["torch"], run["im2col"]
    out = [f"{config}, batch {torch['batch']}"]
    for row in ("step", "sampling"):
        low, middle, high = ratios(torch, row, OURS, better_layout(torch, row))
        out.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    ms = statistics.median(t["step"] for t in torch["seconds"][OURS]) * 1e3
    peak, theirs = torch["peak_mib"], torch["peak_mib"][better_layout(torch, "step")]
    out += [f"{ms:.0f}", f"{peak[OURS]:.0f}, {theirs:.0f}", f"{peak[OURS] / theirs:.2f}"]
    out.append(f"{ratios(plain, 'step', 'im2col', OURS)[1]:.1f}")
    return out


def summary(config: str, run: dict[str, Any]) -> str:
    """One line while the benchmark goes on."""
    name, step, sampling, ms, *_, plain = cells(config, run)
    return f"{name}: step {step} ({ms} ms), sampling {sampling}, im2col {plain} times slower"


def page(result: dict[str, Any]) -> str:
    """The page of results."""
    runs = result["runs"]
    first = next(iter(runs.values()))["torch"]
    machine, versions = first["machine"], {}
    for run in runs.values():
        versions |= run["torch"]["versions"]
    head = [
        "network", "training step", "sampling", "a step, ms", "peak MiB (minidiff, PyTorch)",
        "ratio", "im2col over the whole batch, times slower",
    ]  # fmt: skip
    rows = [cells(config, run) for config, run in runs.items()]
    block = ratios(result["block"], "step", "autograd, a block", "minidiff, a block")
    loads = ", ".join(f"{run['torch']['machine']['load']:.1f}" for run in runs.values())
    targets = ", ".join(f"{TARGETS[c]} for {c}" for c in runs)
    return "\n".join([
        "# Speed on a CPU",
        "",
        "Times of minidiff divided by those of eager PyTorch, in the better of its two layouts: "
        "below 1 minidiff is faster. Medians over rounds in turns, with quartiles.",
        "",
        f"{result['date']}; {machine['cpu']}, {result['threads']} threads for each on "
        f"{machine['cores']} cores; {', '.join(f'{k} {v}' for k, v in versions.items())}; load of "
        f"the machine at each row: {loads} (a benchmark alone makes it 1 to {result['threads']}).",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        f"A residual block (64 images of 28 x 28, 32 channels), forward and backward, takes HIPS "
        f"autograd {block[1]:.1f} times as long as minidiff ({block[0]:.1f} to {block[2]:.1f}).",
        "",
        f"The aim is a training step and an evaluation of at most {targets}, memory at most "
        f"{MEMORY} times PyTorch's, and im2col and autograd at least {FASTER} times slower.",
        "",
        "`python -m benchmarks.cpu` writes this page; what is measured and how, and more numbers: "
        "`benchmarks/README.md` and `cpu.json` beside this page.",
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
