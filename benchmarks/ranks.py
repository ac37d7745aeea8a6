"""Training in two processes against one, each with one BLAS thread: how much faster is a step?

    python -m benchmarks.ranks [--config mnist-small] [--batch 64] [--ranks 2] [--quick]

The same steps of the trainer on the same batches, in turns: all processes together, then the first
alone while the others sleep. A turn counts by the median of its steps; the result is the median
over the pairs of turns of their ratio, with its spread. Two processes on two cores can at best be
twice as fast; what is lost goes to the sum of the gradients, to what every process does whole (the
draws, Adam, the average), to memory that both cores share, and to whoever else uses the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.train_step import THREAD_VARIABLES, machine, quartiles

IN_A_RANK = "MINIDIFF_BENCHMARK_RANK"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="mnist-small", help="as of benchmarks.train_step")
    parser.add_argument("--batch", type=int, default=64, help="images in a step, of all processes")
    parser.add_argument("--ranks", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of turns (default 12)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, about")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="3 pairs of half a second: a look")
    args = parser.parse_args(arguments)
    if args.quick:
        args.pairs, args.seconds = 3, 0.5
    if IN_A_RANK in os.environ:
        measure(args)
        return 0
    mpiexec = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if mpiexec is None:
        print("there is no mpiexec: pip install 'minidiff[mpi]' brings one", file=sys.stderr)
        return 2
    words = sys.argv[1:] if arguments is None else arguments
    return subprocess.call(
        [mpiexec, "-n", str(args.ranks), sys.executable, "-m", "benchmarks.ranks", *words],
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {IN_A_RANK: "1"},
    )


def measure(args: argparse.Namespace) -> None:
    """In each process: take turns; rank 0 prints the result."""
    from minidiff.training.parallel import ALONE, world

    ranks = world()
    together = trainer(args.config, args.batch, ranks)
    alone = trainer(args.config, args.batch, ALONE) if ranks.first else None
    for _ in range(2):  # whatever is made once
        together.train_step()
    ranks.barrier()
    steps, turns = 1, []
    for pair in range(-1, args.pairs):  # the turn of pair -1 finds how many steps are a turn
        ranks.barrier()  # asleep: a rank that waits in a collective call would take a core
        one = turn(alone, steps) if alone else (0.0, 0.0)
        ranks.barrier()
        many = turn(together, steps)
        if pair >= 0:
            turns.append((one, many))
        else:
            steps = ranks.on_first(lambda one=one: max(1, round(args.seconds / one[0])))
    if ranks.first:
        print(report(args, turns, steps, together.model.num_parameters))
        if args.json:
            result = {"machine": machine(), "ranks": ranks.size, "seconds": turns}
            args.json.write_text(json.dumps(vars(args) | result, indent=1, default=str) + "\n")


def trainer(name: str, batch: int, ranks: Any) -> Any:
    """A trainer of the network on random images of its size."""
    import numpy as np

    from benchmarks.configs import CONFIGS
    from minidiff.data import Dataset
    from minidiff.training import TrainConfig, Trainer

    c = CONFIGS[name]
    shape = (1024, c.image_size, c.image_size, c.in_channels)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    classes = c.num_classes or 1
    names = tuple(str(i) for i in range(classes))
    data = Dataset("random", images, np.arange(1024) % classes, names)
    return Trainer(TrainConfig(unet=c, batch_size=batch), data, ranks=ranks)


def turn(trainer: Any, steps: int) -> tuple[float, float]:
    """Seconds of a step, the median, and how much of a core this process had."""
    seconds, begin, cpu = [], time.perf_counter(), time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        trainer.train_step()
        seconds.append(time.perf_counter() - start)
    share = (time.process_time() - cpu) / (time.perf_counter() - begin)
    return statistics.median(seconds), share


def report(
    args: argparse.Namespace,
    turns: list[tuple[tuple[float, float], tuple[float, float]]],
    steps: int,
    parameters: int,
) -> str:
    """The lines that are printed."""
    ratios = [one / many for (one, _), (many, _) in turns]
    low, middle, high = quartiles(ratios)
    one, many = (statistics.median(pair[i][0] for pair in turns) for i in (0, 1))
    shares = [statistics.median(pair[i][1] for pair in turns) for i in (0, 1)]
    here = machine()
    return (
        f"{args.config}: {parameters:,} parameters, batch {args.batch}, one BLAS thread each; "
        f"{len(turns)} pairs of {steps} steps\n"
        f"{here['cpu']}, {here['cores']} cores, load {here['load']:.1f}\n\n"
        f"1 process     {1e3 * one:8.1f} ms a step {args.batch / one:8.0f} images/s\n"
        f"{args.ranks} processes   {1e3 * many:8.1f} ms a step {args.batch / many:8.0f} images/s\n"
        f"faster by     {middle:8.2f} (median; quartiles {low:.2f} to {high:.2f}, "
        f"all {min(ratios):.2f} to {max(ratios):.2f})\n"
        f"a process had {shares[0]:.2f} of a core alone, {shares[1]:.2f} beside the others; with "
        "less than 0.95, others use the machine, and the ratio is not that of an idle one"
    )


if __name__ == "__main__":
    sys.exit(main())
