"""One training step of the same U-Net in minidiff and in eager PyTorch, side by side.

    python -m benchmarks.train_step [--config digits8] [--batch 64] [--threads 2] [--rounds 12]

Every contestant lives in a process of its own, with the same number of threads; they take turns,
A B C A B C, each working while the others sleep, so that a busy spell of the machine hits all of
them. A turn counts by the median of its steps; the result is the median over the rounds of the
ratio within a round, with its quartiles. On a machine that others use, look at the "best step",
and with one thread at the CPU time of a step.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.contestants import MAKERS, OTHERS, PARTS

OURS, IN_RANKS, RANKS = "minidiff", "minidiff, 2 ranks", 2
ROWS = (*PARTS, "step", "sampling", "CPU of a step", "best step")
WARM_UP, TOLERANCE = 5, 1e-3
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def main(arguments: list[str] | None = None) -> int:
    from benchmarks.configs import CONFIGS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", choices=CONFIGS, default="digits8")
    parser.add_argument("--batch", type=int, default=64, help="images in a step (default 64)")
    parser.add_argument("--threads", type=int, default=2, help="of each contestant (default 2)")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each (default 12)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn, about")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument(
        "--only", choices=MAKERS | OTHERS, action="append", help="measure only this one"
    )
    parser.add_argument("--profile", action="store_true", help="where minidiff's time goes, by op")
    args = parser.parse_args(arguments)
    if args.profile:
        for variable in THREAD_VARIABLES:  # read when the libraries load, in the child process
            os.environ[variable] = str(args.threads)
        return _join(_context().Process(target=_profile, args=(args.config, args.batch)))
    if importlib.util.find_spec("torch") is None and set(args.only or MAKERS) != {OURS}:
        print(
            "PyTorch is not installed: install it with pip install -e '.[parity]', "
            "or measure without it: --only minidiff",
            file=sys.stderr,
        )
        return 2
    result = measure(args.config, args.batch, args.threads, args.rounds, args.seconds, args.only)
    print(report(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(
    config: str, batch: int, threads: int, rounds: int, seconds: float,
    only: list[str] | None = None, *, warm_up: int = WARM_UP, least: int = 3, sampling: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Run the rounds; everything that is known about them, as JSON can hold it.

    A turn has `least` steps or more, and evaluations without recording if `sampling`.
    """
    from benchmarks.configs import CONFIGS, model

    players = {
        name: Player(name, config, batch, threads, warm_up, least, sampling)
        for name in only or MAKERS
    }
    try:
        losses = {name: player.receive() for name, player in players.items()}
        first = next(iter(losses.values()))
        for name, loss in losses.items():
            pairs = zip(loss, first, strict=True)
            if not all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs):
                raise SystemExit(f"{name} trains otherwise: losses {loss}, expected {first}")
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in players}
        for _ in range(rounds):
            for name, player in players.items():
                turns[name].append(player.ask(seconds))
        about = {name: player.ask(None) for name, player in players.items()}
    finally:
        for player in players.values():
            player.process.terminate()
    return {
        "config": config,
        "batch": batch,
        "threads": threads,
        "machine": machine(),
        "parameters": model(CONFIGS[config]).num_parameters,
        "peak_mib": {name: a["peak_mib"] for name, a in about.items()},
        "grown_mib": {name: a["grown_mib"] for name, a in about.items()},
        "versions": {k: v for a in about.values() for k, v in a["versions"].items()},
        "losses": first,
        "seconds": turns,
    }


class Player:
    """A contestant in a process of its own, which works when asked and sleeps otherwise."""

    def __init__(self, name: str, config: str, batch: int, threads: int, *rest: Any) -> None:
        self.name, processes = name, RANKS if name == IN_RANKS else 1
        threads //= processes
        for variable in THREAD_VARIABLES:  # read when the libraries load, in the child process
            os.environ[variable] = str(threads)
        if processes > 1:
            self.pipe: Any = Launched(processes, [name, config, batch, threads, *rest])
            self.process: Any = self.pipe.process
            return
        self.pipe, other = multiprocessing.Pipe()
        args = (other, name, config, batch, threads, *rest)
        self.process = _context().Process(target=serve, args=args, daemon=True)
        self.process.start()
        other.close()

    def receive(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.name} failed: see its error above") from None

    def ask(self, question: Any) -> Any:
        time.sleep(0.05)  # the threads of the one before spin a while after its last step
        self.pipe.send(question)
        return self.receive()


class Launched:
    """Processes under MPI, and the way to talk to the first of them: a line of JSON each."""

    def __init__(self, processes: int, args: list[Any]) -> None:
        own = shutil.which("mpiexec", path=Path(sys.executable).parent)
        if (mpiexec := own or shutil.which("mpiexec")) is None:
            raise SystemExit("there is no mpiexec: pip install -e '.[mpi]' brings one")
        python = [sys.executable, "-m", "mpi4py", "-m", "benchmarks.in_ranks"]
        self.process = subprocess.Popen(
            [mpiexec, "-n", str(processes), *python, json.dumps(args)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def send(self, question: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def recv(self) -> Any:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise EOFError
        return json.loads(line)


class Alone:
    """What `serve` wants to know of the other processes of its contestant: there are none."""

    first = True

    @staticmethod
    def broadcast(value: Any) -> Any:
        return value

    @staticmethod
    def gather(value: Any) -> list[Any]:
        return [value]


def serve(
    pipe: Any, name: str, config: str, batch: int, threads: int, warm_up: int, least: int,
    sampling: bool, ranks: Any = Alone,
) -> None:  # fmt: skip
    """The child's life: the losses of the warm-up, then a turn for each question in seconds."""
    from benchmarks.configs import CONFIGS, batches

    if "torch" in name:
        import torch

        torch.set_num_threads(threads)
    player = (MAKERS | OTHERS)[name](CONFIGS[config])
    data = [player.put(b) for b in batches(CONFIGS[config], batch, 4)]
    before = _peak_mib()
    pipe.send([player.step(data[i % len(data)])[0] for i in range(warm_up)])
    try:
        while (seconds := pipe.recv()) is not None:
            pipe.send(_turn(player, data, seconds, least, sampling, ranks))
        peak = _peak_mib()
        twice = 0.0 if ranks.first else _shared_mib()  # the first process has counted it
        about = {
            "peak_mib": sum(ranks.gather(peak - twice)),
            "grown_mib": sum(ranks.gather(peak - before)),
            "versions": _versions(name),
        }
        pipe.send(about)
    except (EOFError, KeyboardInterrupt):
        pass


def _turn(
    player: Any, data: list[Any], seconds: float, least: int, sampling: bool, ranks: Any
) -> dict[str, float]:
    """Times of a step and its parts over about `seconds`; the first call wakes the threads."""
    steps: list[list[float]] = []
    samples: list[float] = []
    cpu_times: list[float] = []
    if sampling:
        player.sample(data[0])
    end, i = time.perf_counter() + 0.75 * seconds, 0
    while ranks.broadcast(time.perf_counter() < end or len(steps) < least):
        cpu = time.process_time()
        _, parts = player.step(data[i % len(data)])
        cpu_times.append(time.process_time() - cpu)
        steps.append([*parts, sum(parts)])
        i += 1
    end = time.perf_counter() + 0.25 * seconds
    while sampling and ranks.broadcast(time.perf_counter() < end or len(samples) < least):
        start = time.perf_counter()
        player.sample(data[i % len(data)])
        samples.append(time.perf_counter() - start)
        i += 1
    medians = [statistics.median(c or [math.nan]) for c in (*zip(*steps, strict=True), samples)]
    cpu = sum(ranks.gather(statistics.median(cpu_times)))
    return dict(zip(ROWS, (*medians, cpu, min(s[-1] for s in steps)), strict=True))


def report(result: dict[str, Any]) -> str:
    """The table that is printed."""
    turns, versions, machine = result["seconds"], result["versions"], result["machine"]
    medians = {n: {r: statistics.median(t[r] for t in ts) for r in ROWS} for n, ts in turns.items()}
    for n, ts in turns.items():
        medians[n]["best step"] = min(t["best step"] for t in ts)
    others = [n for n in turns if n.startswith("torch")]
    lines = [
        f"{result['config']}: {result['parameters']:,} parameters, batch {result['batch']}, "
        f"{result['threads']} threads, {len(next(iter(turns.values())))} rounds",
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f}; "
        + ", ".join(f"{k} {v}" for k, v in versions.items()),
        "",
        f"{'median ms':<14}" + "".join(f"{n:>21}" for n in turns),
    ]
    if compared := bool(others) and OURS in turns:
        lines[-1] += "   minidiff / better torch (quartiles)"
    for row in ROWS:
        line = f"{row:<14}" + "".join(f"{1e3 * m[row]:>21.2f}" for m in medians.values())
        if compared:
            # the better layout of a whole step (or of sampling), for its parts too
            whole = "sampling" if row == "sampling" else "step"
            best = min(others, key=lambda n: medians[n][whole])
            low, middle, high = quartiles(
                [a[row] / b[row] for a, b in zip(turns[OURS], turns[best], strict=True)]
            )
            line += f"   {middle:.2f} ({low:.2f} to {high:.2f})"
        lines.append(line)
    speeds = [result["batch"] / m["step"] for m in medians.values()]
    lines.append(f"{'images/s':<14}" + "".join(f"{speed:>21.0f}" for speed in speeds))
    for row, key in (("peak MiB", "peak_mib"), ("by steps MiB", "grown_mib")):
        lines.append(f"{row:<14}" + "".join(f"{result[key][n]:>21.0f}" for n in turns))
    return "\n".join(lines)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The first, second (median) and third quartile; one value is all three."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, and how busy they are."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return {"cpu": cpu, "cores": cores, "load": load, "system": platform.system()}


def _versions(name: str) -> dict[str, str]:
    if "torch" in name:
        return {"PyTorch": metadata.version("torch")}
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        blas.get("name", "BLAS"): blas.get("version", "?"),
    }


def _peak_mib() -> float:
    """The largest memory that this process has held."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def _shared_mib() -> float:
    """How much of this process's memory others hold too: libraries, and where ranks exchange."""
    rollup = Path("/proc/self/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("Shared_")) / 1024


def _profile(config: str, batch: int) -> None:
    from benchmarks.op_times import main

    print(main(config, batch))


def _context() -> Any:
    return multiprocessing.get_context("spawn")


def _join(process: Any) -> int:
    process.start()
    process.join()
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
