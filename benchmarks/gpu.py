"""Everything that only a machine with a GPU can tell, in one run of at most twelve minutes.

    python -m benchmarks.gpu [--dry-run] [--out docs/results] [--minutes 12] [--only PART]

Parts, each a process of its own, and most of them one for each precision, so that one that fails
leaves the others alone: the tests that are marked `gpu`; forward and all gradients against the
definitions on NumPy; steps and evaluations, and 50 steps of DDIM, beside eager PyTorch, where that
is installed; what share of the machine's arithmetic and memory each kernel reaches; and two
trainings, of `mnist-small` for three minutes if there is the time. The result is `gpu.json` and a
page, `gpu.md`; a part that is stopped leaves what it had. ``--dry-run`` does all of it on the CPU,
tiny, to test this script; what it writes says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import gzip
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "tf32")
ALLOWED = {"float32": 1e-4, "tf32": 2e-2}
"""Largest |a - b| of a parameter's gradient, relative to the largest |b|, against NumPy."""
SHARE = {"parity": 60, "steps": 60, "sampling": 80, "kernels": 30, "training": 240, "tests": 300}
"""The parts in their order, and seconds after which each is stopped, if so many are left."""
TWICE = ("parity", "steps", "sampling", "kernels")
"""Those that are done in each precision."""
LAYERS = (  # (images a side, channels in, channels out) of 3 x 3 convolutions
    (28, 32, 32), (14, 64, 64), (14, 128, 64), (7, 64, 64), (32, 128, 128), (16, 256, 256),
    (8, 256, 256), (4, 256, 256),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tiny, and on the CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--minutes", type=float, default=12.0, help="for all parts together")
    parser.add_argument("--only", choices=SHARE, action="append", help="do this part alone")
    parser.add_argument("--part", choices=SHARE, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--seconds", type=float, default=300.0, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.part:
        so_far(_PART[args.part](args.dry_run, args.precision, args.out, args.seconds))
        return 0
    if not args.dry_run and not _has_gpu():
        print("no CuPy, or no GPU that it can use; --dry-run does without", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(args.dry_run), "dry_run": args.dry_run}
    end = time.monotonic() + 60 * args.minutes
    for part in args.only or SHARE:
        both = PRECISIONS if part in TWICE else PRECISIONS[:1]
        for precision in both:
            left = end - time.monotonic()
            name = part if len(both) == 1 else f"{part} {precision}"
            print(f"{name} ...", file=sys.stderr, flush=True)
            result[name] = run_part(part, precision, min(SHARE[part], left), args)
            # written after every part: what is there is kept if the machine goes away
            (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
            (args.out / "gpu.md").write_text(page(result))
    print(page(result))
    failed = [k for k, v in result.items() if isinstance(v, dict) and {"error", "failed"} & set(v)]
    return 1 if failed else 0


def _has_gpu() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


def run_part(part: str, precision: str, seconds: float, args: Any) -> dict[str, Any]:
    """The numbers of a part, those that it had before an error too, and the error."""
    if seconds < 5:
        return {"error": "no time was left"}
    flags = ["--part", part, "--precision", precision, "--out", str(args.out)]
    flags += ["--seconds", str(seconds), *(["--dry-run"] if args.dry_run else [])]
    environment = os.environ | {
        "MINIDIFF_BACKEND": "numpy" if args.dry_run else "cupy",
        "MINIDIFF_PRECISION": precision,
    }
    start = time.monotonic()
    try:
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", *flags],
            cwd=ROOT, env=environment, timeout=seconds, capture_output=True,
        )  # fmt: skip
        printed = run.stdout
        error = (run.stderr or run.stdout).decode()[-2000:] if run.returncode else None
    except subprocess.TimeoutExpired as stopped:
        printed, error = stopped.stdout or b"", f"stopped after {seconds:.0f} s"
    report = {"seconds": round(time.monotonic() - start, 1)}
    try:
        report |= json.loads(printed.splitlines()[-1])
    except (ValueError, IndexError):
        error = error or "no result"
    return report | ({"error": error} if error else {})


def so_far(report: dict[str, Any]) -> None:
    """Tell what a part has found, of which the last counts: it may be stopped, or fail later."""
    print(json.dumps(report), flush=True)


def machine(dry_run: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if not dry_run:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(0)
        about |= {
            "gpu": properties["name"].decode(),
            "cupy": cupy.__version__,
            "driver": cupy.cuda.runtime.driverGetVersion(),
            "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        }
        try:
            import torch

            about["torch"] = torch.__version__
        except ImportError:
            about["torch"] = None
    return about


# ------------------------------------------------------------------------------- parts


def tests(dry_run: bool, precision: str, out: Path, seconds: float) -> dict[str, Any]:
    """The tests that need a GPU; in a dry run those of the kernels on the CPU."""
    chosen = ["tests/gpu/test_whole.py"] if dry_run else ["-m", "gpu", "tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "--maxfail=5", *chosen]
    run = subprocess.run(  # it must end before this process is ended
        command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, seconds - 10)
    )
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr[-500:]
    report = {"outcome": last}
    if run.returncode:
        report["error"] = run.stdout[-3000:]
    return report


def parity(dry_run: bool, precision: str, *_: Any) -> dict[str, Any]:
    """The network forward and every gradient: here, and by the definitions on NumPy."""
    from benchmarks.configs import CONFIGS
    from minidiff import backend
    from minidiff.backend import kernels

    device, found = backend.xp, {}
    report: dict[str, Any] = {"networks": found, "allowed": ALLOWED[precision]}
    variants = {name: CONFIGS[name] for name in (["digits8"] if dry_run else CONFIGS)}
    adagn = dataclasses.replace(CONFIGS["digits8"], time_conditioning="scale_shift")
    variants["digits8, AdaGN"] = adagn
    for name, config in variants.items():
        batch = 2 if name.startswith("cifar") else 5
        backend.xp = np
        with kernels.definitions_only():
            exact = _gradients(config, batch)
        backend.xp = device
        got = _gradients(config, batch)
        errors = {
            key: float(np.abs(got[key] - exact[key]).max() / max(np.abs(exact[key]).max(), 1e-3))
            for key in exact
        }
        worst = max(errors, key=lambda key: np.nan_to_num(errors[key], nan=np.inf))
        found[name] = {"worst": worst, "error": errors[worst], "forward": errors["forward"]}
        so_far(report)
    # "not <=", so that NaN fails
    wrong = [n for n, f in found.items() if not f["error"] <= ALLOWED[precision]]
    if wrong:
        report["error"] = f"differs from the definitions: {', '.join(wrong)}"
    return report


def _gradients(config: Any, batch: int) -> dict[str, np.ndarray]:
    from benchmarks.configs import batches, model
    from minidiff import backend, ops

    host = backend.xp
    backend.xp = np  # the weights are drawn on the host
    weights = model(config).state_dict()
    backend.xp = host
    from minidiff.unet import UNet

    net = UNet(config, rng=np.random.default_rng(0)).train()
    net.load_state_dict(weights)
    b = batches(config, batch, 1)[0]
    y = net(backend.asarray(b.x), b.t, b.labels)
    ops.mse(y, backend.asarray(b.target)).backward()
    found = {name: backend.to_numpy(p.grad) for name, p in net.named_parameters()}
    return found | {"forward": backend.to_numpy(y.data)}


def kernels(dry_run: bool, precision: str, *_: Any) -> dict[str, Any]:
    """Milliseconds of each kernel and of its definition, and the machine's own two limits."""
    from minidiff import backend
    from minidiff.backend import kernels

    xp, rng, batch = backend.xp, np.random.default_rng(0), 2 if dry_run else 128
    own, definitions = kernels.of(xp), kernels.reference

    def draw(*shape: int) -> Any:
        return backend.asarray(rng.standard_normal(shape, dtype=np.float32))

    def row(name: str, *args: Any, gflop: float = 0.0, megabytes: float = 0.0) -> dict[str, Any]:
        calls = (functools.partial(getattr(k, name), xp, *args) for k in (own, definitions))
        ms, by_definition = (milliseconds(f, dry_run) for f in calls)
        done = {"kernel": name, "ms": ms, "definition ms": by_definition}
        return done | {"TFLOP/s": gflop / ms, "GB/s": megabytes / ms}

    table: dict[str, dict[str, Any]] = {}
    for side, c, o in LAYERS[3:4] if dry_run else LAYERS:
        x, w, g = draw(batch, side, side, c), draw(3, 3, c, o), draw(batch, side, side, o)
        gflop, pads = 2 * batch * side * side * 9 * c * o / 1e9, ((1, 1), (1, 1))
        at = f"{side}x{side}, {c} to {o}"
        table[f"conv2d {at}"] = row("conv2d", x, w, 1, pads, gflop=gflop)
        table[f"dx {at}"] = row("conv2d_dx", g, w, x.shape, 1, pads, gflop=gflop)
        table[f"dw {at}"] = row("conv2d_dw", x, g, w.shape, 1, pads, gflop=gflop)
    side, c, groups = (7, 16, 4) if dry_run else (32, 128, 32)
    x, g, gamma, beta = draw(batch, side, side, c), draw(batch, side, side, c), draw(c), draw(c)
    size = 4 * x.size / 1e6
    y, m, r = own.group_norm_silu(xp, x, gamma, beta, None, groups, 1e-6)
    at = f"{side}x{side}x{c}"
    table[f"norm and SiLU {at}"] = row(
        "group_norm_silu", x, gamma, beta, None, groups, 1e-6, megabytes=2 * size
    )
    table[f"its gradient {at}"] = row(
        "group_norm_silu_grad", g, x, y, m, r, gamma, beta, None, megabytes=3 * size
    )
    n, d = (9, 8) if dry_run else (256, 256)
    q = draw(batch, n, d)
    gflop = 4 * batch * n * n * d / 1e9
    table[f"attention {n}x{d}"] = row("attention", q, q, q, None, gflop=gflop)
    n = 10**4 if dry_run else 35_700_000
    p, grad, m, v, average = (draw(n) for _ in range(5))
    v **= 2
    table[f"update of {n:,}"] = row(
        "update", p, grad, m, v, average, (3.0, 1e-3, 0.9), 1.0, 0.9, 0.999, 1e-8, 0.0,
        megabytes=4 * 9 * n / 1e6,
    )  # fmt: skip
    key = backend.asarray(backend.key(0))
    table[f"normal, {n:,}"] = row("normal", key, 0, (n,), np.float32, megabytes=4 * n / 1e6)

    n = 256 if dry_run else 8192
    a = draw(n, n)
    return {
        "kernels": table, "batch": batch,
        "product TFLOP/s": 2 * n**3 / 1e9 / milliseconds(lambda: a @ a, dry_run),
        "copy GB/s": 2 * 4 * n * n / 1e6 / milliseconds(a.copy, dry_run),
    }  # fmt: skip


def milliseconds(f: Callable[[], Any], dry_run: bool) -> float:
    """The median of many timed calls, by events of the device."""
    from minidiff import backend

    for _ in range(3):
        f()
    times = []
    if dry_run:
        for _ in range(3):
            start = time.perf_counter()
            f()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)
    cuda, busy = backend.xp.cuda, backend.xp.empty(1 << 28, np.float32)
    for _ in range(30):
        for _ in range(8):  # some milliseconds of work, so that the host gets ahead: else the time
            busy.fill(0)  # of a short kernel would be that of Python to launch it
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        f()
        end.record()
        end.synchronize()
        times.append(cuda.get_elapsed_time(begin, end))
    return statistics.median(times)


def steps(dry_run: bool, precision: str, *_: Any) -> dict[str, Any]:
    """Milliseconds of a training step and of an evaluation: captured, launched one by one, and
    PyTorch's, each a median over rounds that take turns; and the memory that each took.
    """
    from benchmarks.configs import CONFIGS

    report: dict[str, Any] = {"networks": {}}
    chosen = {"digits8": 4} if dry_run else {"digits8": 64, "mnist-small": 128, "cifar-ddpm": 128}
    for name, batch in chosen.items():
        players = _players(STEPS, name, CONFIGS[name], batch, precision, report)
        memory = {kind: player.memory for kind, player in players.items()}
        calls = {
            f"{kind} {what}": (getattr(player, what), player.wait)
            for kind, player in players.items() for what in ("step", "evaluation")
        }  # fmt: skip
        times = take_turns(calls, rounds=2 if dry_run else 5)
        report["networks"][name] = {
            "batch": batch, "memory MiB": memory,
            "step": _compared(times, "step"), "evaluation": _compared(times, "evaluation"),
        }  # fmt: skip
        so_far(report)
        players.clear(), calls.clear()
        gc.collect()  # trainers and their graphs know each other
    return report


def sampling(dry_run: bool, precision: str, *_: Any) -> dict[str, Any]:
    """Seconds of 50 steps of DDIM for a batch: the whole loop captured, the evaluation captured,
    launched one by one, and PyTorch's.
    """
    from benchmarks.configs import CONFIGS

    report: dict[str, Any] = {"networks": {}, "evaluations": 3 if dry_run else 50}
    chosen = {"digits8": 4} if dry_run else {"digits8": 250, "mnist-small": 250, "cifar-ddpm": 64}
    for name, batch in chosen.items():
        players = _players(LOOPS, name, CONFIGS[name], batch, precision, report)
        calls = {
            f"{kind} loop": (functools.partial(player.loop, report["evaluations"]), player.wait)
            for kind, player in players.items()
        }
        loops = _compared(take_turns(calls, rounds=2 if dry_run else 3), "loop")
        report["networks"][name] = {"batch": batch, "loop": loops}
        so_far(report)
        players.clear(), calls.clear()
        gc.collect()  # trainers and their graphs know each other
    return report


def _players(
    makers: dict[str, Any], name: str, config: Any, batch: int, precision: str, report: Any
) -> dict[str, Any]:
    """Those that can be made; what is absent or fails is told in the report."""
    players = {}
    for kind, make in makers.items():
        try:
            players[kind] = make(config, batch, precision)
        except ImportError:
            report.setdefault("absent", []).append(f"{name}, {kind}")
        except Exception as error:  # the others are measured all the same
            report.setdefault("failed", {})[f"{name}, {kind}"] = repr(error)[:500]
    return players


def take_turns(
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]], *, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, short ones the mean of as many as fill 0.1 s."""

    def timed(f: Callable[[], Any], wait: Callable[[], Any], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            f()
        wait()
        return 1e3 * (time.perf_counter() - start) / repeats

    times: dict[str, list[float]] = {name: [] for name in calls}
    for f, wait in calls.values():  # twice: a graph is captured in the second call
        timed(f, wait, 2)
    repeats = {name: int(1 + 100 / timed(*call, 1)) for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(*call, min(repeats[name], 50)))
    return times


def _compared(times: dict[str, list[float]], what: str) -> dict[str, Any]:
    """The medians of all players, and the ratio of our first to the better of PyTorch."""
    mine = {key.removesuffix(f" {what}"): t for key, t in times.items() if key.endswith(what)}
    result: dict[str, Any] = {"ms": {kind: statistics.median(t) for kind, t in mine.items()}}
    theirs = [t for kind, t in mine.items() if kind.startswith("PyTorch")]
    if theirs and len(mine) > len(theirs):
        best, ours = min(theirs, key=statistics.median), next(iter(mine.values()))
        ratios = [a / b for a, b in zip(ours, best, strict=True)]
        result |= {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}
    return result


def _trainer(config: Any, batch: int) -> Any:
    from minidiff.data import Dataset
    from minidiff.training import TrainConfig
    from minidiff.training.trainer import Trainer

    rng = np.random.default_rng(0)
    shape = (512, config.image_size, config.image_size, config.in_channels)
    classes = config.num_classes or 1
    data = Dataset(
        "noise", rng.uniform(-1, 1, shape).astype(np.float32), rng.integers(0, classes, 512),
        tuple(map(str, range(classes))),
    )  # fmt: skip
    return Trainer(TrainConfig(unet=config, batch_size=batch, steps=10**6), data)


class Ours:
    """A trainer of ours and its network, `captured` or launched one by one."""

    def __init__(self, config: Any, batch: int, captured: bool) -> None:
        from minidiff import backend
        from minidiff.training import captured as graphs

        self.wait = backend.synchronize
        before = _held(anew=True)
        self.trainer = _trainer(config, batch)
        if not captured:
            self.trainer._captured = None
        model = self.trainer.model
        self.denoise = graphs.denoiser(model) if captured else model.denoise
        self.question = _question(config, batch)
        self.step = self.trainer.train_step
        for _ in range(3):  # a graph is captured in the second
            self.step()
            self.evaluation()
        self.memory = None if before is None else _held() - before

    def evaluation(self) -> None:
        self.denoise(*self.question)


def _held(anew: bool = False) -> Any:
    """MiB that CuPy's pools hold, ours for graphs too; None on a CPU. With `anew` the graphs that
    follow have a pool of their own: those before keep theirs, which they still write to.
    """
    from minidiff import backend
    from minidiff.backend import graphs

    if backend.xp is np:
        return None
    default = backend.xp.get_default_memory_pool()
    if anew:
        default.free_all_blocks()
        graphs._place.cache_clear()
    return (default.total_bytes() + graphs._place(backend.xp)[1].total_bytes()) / 2**20


class OurLoop:
    """Sampling of ours in one of three ways."""

    def __init__(self, config: Any, batch: int, way: str) -> None:
        from benchmarks.configs import model
        from minidiff import backend
        from minidiff.diffusion import schedules
        from minidiff.unet import UNet

        host = backend.xp
        backend.xp = np
        weights = model(config).state_dict()
        backend.xp = host
        self.model = UNet(config, rng=np.random.default_rng(0)).eval()
        self.model.load_state_dict(weights)
        self.schedule, self.way, self.wait = schedules.linear(), way, backend.synchronize
        classes = config.num_classes
        self.labels = None if classes is None else np.arange(batch) % classes
        self.batch, self.loops = batch, {}

    def loop(self, evaluations: int) -> None:
        from minidiff import backend
        from minidiff.diffusion import samplers
        from minidiff.training import captured

        def states(denoise: Any, x_T: Any, rng: Any, labels: Any) -> Any:
            cond = {} if labels is None else {"labels": labels}
            return samplers.ddim(
                denoise, self.schedule, x_T, steps=evaluations, clip=(-1.0, 1.0), **cond
            )

        c = self.model.config
        shape = (self.batch, c.image_size, c.image_size, c.in_channels)
        if self.way == "whole":
            if evaluations not in self.loops:
                self.loops[evaluations] = captured.Loop(self.model, states, shape)
            self.loops[evaluations](backend.key(0), self.labels)
            return
        if self.way not in self.loops:
            by_graph = self.way == "evaluation"
            self.loops[self.way] = captured.denoiser(self.model) if by_graph else self.model.denoise
        x_T = backend.generator(0).standard_normal(shape, dtype=np.float32)
        samplers.final(states(self.loops[self.way], x_T, None, self.labels))


def _question(config: Any, batch: int) -> tuple[Any, np.ndarray, np.ndarray | None]:
    from benchmarks.configs import batches
    from minidiff import backend

    b = batches(config, batch, 1)[0]
    return backend.asarray(b.x), b.t, b.labels


class Theirs:
    """Eager PyTorch, which does not wait for the device either."""

    def __init__(self, config: Any, batch: int, precision: str, layout: str) -> None:
        import torch

        from benchmarks.configs import batches
        from benchmarks.contestants import PyTorch
        from minidiff import backend
        from minidiff.diffusion import schedules

        self.torch, self.on_gpu = torch, torch.cuda.is_available()
        if not self.on_gpu:
            torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        chosen, backend.xp = backend.xp, np  # the weights go from NumPy to PyTorch
        self.player = PyTorch(config, layout)
        backend.xp = chosen
        before = 0
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_reserved()
            self.player.model.cuda()
            self.player.average = [p.detach().clone() for p in self.player.parameters]
        self.question = tuple(
            a.cuda() if self.on_gpu and a is not None else a
            for a in self.player.put(batches(config, batch, 1)[0])
        )
        self.wait = torch.cuda.synchronize if self.on_gpu else lambda: None
        self.abar, self.memory = schedules.linear().abar, None
        for _ in range(3 if self.on_gpu else 1):
            self.step()
            self.evaluation()
        if self.on_gpu:
            self.memory = (torch.cuda.max_memory_reserved() - before) / 2**20

    def step(self) -> None:
        torch, player, (x, target, t, labels) = self.torch, self.player, self.question
        player.adam.zero_grad()
        torch.nn.functional.mse_loss(player.model(x, t, labels), target).backward()
        torch.nn.utils.clip_grad_norm_(player.parameters, 1.0, foreach=True)
        player.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(player.average, player.parameters, 1e-3)

    def evaluation(self) -> None:
        self.player.sample(self.question)

    def loop(self, evaluations: int) -> None:
        """DDIM with eta = 0, x0 clipped; as one would write it."""
        torch, (x, _, t, labels) = self.torch, self.question
        x = torch.randn_like(x)
        times = np.linspace(1000, 0, evaluations + 1).round().astype(int)
        with torch.inference_mode():
            for now, then in itertools.pairwise(times):
                eps = self.player.model(x, torch.full_like(t, int(now)), labels)
                a, b = float(self.abar[now]), float(self.abar[then])
                x0 = ((x - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
                eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
                x = b**0.5 * x0 + (1 - b) ** 0.5 * eps


NCHW, NHWC = "PyTorch, NCHW", "PyTorch, channels_last"
BESIDE = {
    NCHW: lambda config, batch, precision: Theirs(config, batch, precision, "contiguous_format"),
    NHWC: lambda config, batch, precision: Theirs(config, batch, precision, "channels_last"),
}
STEPS = {
    "captured": lambda config, batch, _: Ours(config, batch, True),
    "one by one": lambda config, batch, _: Ours(config, batch, False),
} | BESIDE
LOOPS = {
    "whole loop captured": lambda config, batch, _: OurLoop(config, batch, "whole"),
    "evaluation captured": lambda config, batch, _: OurLoop(config, batch, "evaluation"),
    "one by one": lambda config, batch, _: OurLoop(config, batch, "none"),
} | BESIDE


def training(dry_run: bool, precision: str, out: Path, seconds: float) -> dict[str, Any]:
    """`digits8`, and `mnist-small` for three minutes or what is left, with samples as pictures."""
    from benchmarks.configs import CONFIGS
    from minidiff.data import load
    from minidiff.training import TrainConfig, read

    digits = load("digits")
    config = dataclasses.replace(CONFIGS["mnist-small"], num_classes=10)
    if dry_run:
        config = dataclasses.replace(config, channels=8, blocks=1)
    runs = {
        "digits8": (read("digits8"), digits, 5 if dry_run else 20),
        "mnist-small": (
            TrainConfig(unet=config, batch_size=8 if dry_run else 128, lr=5e-4, warmup=100,
                        steps=10**6),
            _mnist() or _enlarged(digits), 5 if dry_run else max(5.0, min(180.0, seconds - 60)),
        ),
    }  # fmt: skip
    report: dict[str, Any] = {}
    for name, run in runs.items():
        report[name] = _train(name, *run, dry_run, out)
        if "sampling_s" not in report[name]:
            report.setdefault("failed", {})[name] = "the loss is not finite"
        so_far(report)
    return report


def _train(
    name: str, config: Any, data: Any, seconds: float, dry_run: bool, out: Path
) -> dict[str, Any]:
    from minidiff import backend, plot
    from minidiff.training.sampling import draw
    from minidiff.training.trainer import Trainer

    trainer = Trainer(config, data)
    losses: list[float] = []
    for _ in range(2):  # compiles, and is captured
        trainer.train_step()
    backend.synchronize()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds and trainer.step < config.steps:
        n = min(5 if dry_run else 100, config.steps - trainer.step)
        new = [trainer.train_step()[0] for _ in range(n)]  # to read them is to wait for the device
        losses += backend.to_numpy(backend.xp.stack(new)).tolist()
    elapsed, values = time.perf_counter() - start, np.array(losses)
    report = {
        "data": data.name,
        "steps": trainer.step,
        "images_per_s": config.batch_size * len(losses) / elapsed,
        "first_loss": float(values[:10].mean()),
        "last_loss": float(values[-100:].mean()),
    }
    if not np.isfinite(values).all():
        return report
    start = time.perf_counter()
    labels = np.arange(10).repeat(1 if dry_run else 6)
    with trainer.ema.swapped():
        images = draw(
            trainer.model, trainer.schedule, len(labels), labels, steps=5 if dry_run else 50
        )
    report["sampling_s"] = time.perf_counter() - start
    if not dry_run:
        plot.save(plot.grid(images), out / f"gpu-{name}.png")
    return report


def _mnist() -> Any:
    """MNIST from the folder MINIDIFF_DATA, if it is there."""
    from minidiff.data import Dataset, from_uint8

    folder = Path(os.environ.get("MINIDIFF_DATA", ""))
    found = {p.name: p for p in folder.rglob("train-*-ubyte.gz")} if folder.is_dir() else {}
    try:
        images = gzip.decompress(found["train-images-idx3-ubyte.gz"].read_bytes())[16:]
        labels = gzip.decompress(found["train-labels-idx1-ubyte.gz"].read_bytes())[8:]
    except KeyError:
        return None
    x = np.frombuffer(images, np.uint8).reshape(-1, 28, 28, 1)
    y = np.frombuffer(labels, np.uint8).astype(np.int64)
    return Dataset("mnist", from_uint8(x), y, tuple("0123456789"))


def _enlarged(digits: Any) -> Any:
    """The bundled digits, three times as large, in 28x28 pixels."""
    x = digits.images.repeat(3, axis=1).repeat(3, axis=2)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1)
    return dataclasses.replace(digits, name="digits, enlarged", images=x)


_PART = {
    "tests": tests, "parity": parity, "kernels": kernels, "steps": steps, "sampling": sampling,
    "training": training,
}  # fmt: skip


# -------------------------------------------------------------------------------- page


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    lines = ["# Speed on a GPU", ""]
    if result["dry_run"]:
        lines += ["**A dry run on a CPU, tiny: it tests the script and measures nothing.**", ""]
    about = ", ".join(f"{k} {v}" for k, v in result["machine"].items() if v)
    lines += [f"Written by `python -m benchmarks.gpu`. {about}.", ""]
    for section, (title, text, rows_of) in _SECTIONS.items():
        part = "steps" if section == "memory" else section
        found = {
            p: result[name] for p in PRECISIONS
            for name in (f"{part} {p}", part) if name in result and (p == "float32" or name != part)
        }  # fmt: skip
        if not found:
            continue
        rows = [row for precision, report in found.items() for row in rows_of(precision, report)]
        if not rows and section != part:
            continue
        lines += [f"## {title}", "", text, "", *(_table(rows) if rows else []), ""]
        for precision, report in found.items() if section == part else ():
            lines += _troubles(precision, report)
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a table of Markdown; the columns are those of all rows, in their order."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers = [all(not isinstance(r.get(n), str) for r in rows) for n in names]
    cells = [[_shown(row.get(name)) for name in names] for row in rows]
    return [
        f"| {' | '.join(names)} |",
        f"|{'|'.join('---:' if right else '---' for right in numbers)}|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]


def _troubles(precision: str, report: dict[str, Any]) -> list[str]:
    lines = []
    if absent := report.get("absent"):
        lines += [f"Not installed ({precision}): {'; '.join(absent)}.", ""]
    for what, error in report.get("failed", {}).items():
        lines += [f"**Failed** ({precision}): {what}: `{error}`", ""]
    if "error" in report:
        lines += [f"**Failed** ({precision}):", "", "```", str(report["error"]).strip(), "```", ""]
    return lines


def _parity_rows(precision: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "network": name, "precision": precision, "forward": f"{f['forward']:.1e}",
            "worst gradient": f"{f['error']:.1e}", "of": f"`{f['worst']}`",
            "allowed": f"{report['allowed']:.0e}",
        }
        for name, f in report.get("networks", {}).items()
    ]  # fmt: skip


def _times(first: dict[str, Any], compared: dict[str, Any], unit: str = "ms") -> dict[str, Any]:
    row = dict(first)
    for kind, ms in compared["ms"].items():
        row[f"{kind}, {unit}"] = ms / 1e3 if unit == "s" else ms
    low, high = compared.get("spread", (None, None))
    if low is not None:
        row["ratio"] = f"**{compared['ratio']:.2f}** ({low:.2f} to {high:.2f})"
    return row


def _step_rows(precision: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, found in report.get("networks", {}).items():
        for what in ("step", "evaluation"):
            first = {"network": name, "batch": found["batch"], "precision": precision}
            rows.append(_times(first | {"what": what}, found[what]))
    return rows


def _memory_rows(precision: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"network": name, "batch": found["batch"], "precision": precision}
        | {kind: None if m is None else round(m) for kind, m in found["memory MiB"].items()}
        for name, found in report.get("networks", {}).items()
    ]


def _loop_rows(precision: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, found in report.get("networks", {}).items():
        first = {"network": name, "batch": found["batch"], "precision": precision}
        row = _times(first, found["loop"], "s")
        fastest = min(ms for kind, ms in found["loop"]["ms"].items() if "PyTorch" not in kind)
        rows.append(row | {"our images/s": round(1e3 * found["batch"] / fastest)})
    return rows


def _kernel_rows(precision: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    limits = {"TFLOP/s": report.get("product TFLOP/s"), "GB/s": report.get("copy GB/s")}
    rows: list[dict[str, Any]] = [
        {"kernel": kernel, "precision": precision, "reached": f"{limits[unit]:.3g} {unit}"}
        for kernel, unit in (("cuBLAS, square matrices", "TFLOP/s"), ("a copy", "GB/s"))
        if limits[unit]
    ]
    for name, found in report.get("kernels", {}).items():
        unit = "TFLOP/s" if found["TFLOP/s"] else "GB/s"
        rows.append(
            {
                "kernel": name, "precision": precision, "ms": found["ms"],
                "its definition, ms": found["definition ms"],
                "reached": f"{found[unit]:.3g} {unit}",
                "of the machine's": f"{100 * found[unit] / limits[unit]:.0f} %",
            }
        )  # fmt: skip
    return rows


def _training_rows(_: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    runs = {name: run for name, run in report.items() if isinstance(run, dict)}
    return [{"network": name} | {k.replace("_", " "): v for k, v in run.items()} for name, run in
            runs.items() if name != "failed"]  # fmt: skip


def _test_rows(_: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"tests": report["outcome"]}] if "outcome" in report else []


_SECTIONS: dict[str, tuple[str, str, Callable[[str, dict[str, Any]], list[dict[str, Any]]]]] = {
    "parity": (
        "The same numbers",
        "The largest difference from the definitions on NumPy, of all numbers of the forward pass "
        "and of each parameter's gradient, relative to the largest number.",
        _parity_rows,
    ),
    "steps": (
        "A training step, an evaluation",
        "Medians of rounds that take turns. The ratio is that of the captured step, or evaluation, "
        "to the better of PyTorch's two layouts, in eager mode; below 1 we are faster.",
        _step_rows,
    ),
    "memory": (
        "Memory of a training step",
        "MiB that the allocators hold after some steps and evaluations.",
        _memory_rows,
    ),
    "sampling": (
        "Fifty steps of DDIM",
        "Seconds for one batch, from noise to images; the ratio is that of the loop that is "
        "captured as one graph.",
        _loop_rows,
    ),
    "kernels": (
        "Kernels",
        "Beside each kernel its definition in array code, by CuPy's own kernels and cuBLAS. The "
        "machine's arithmetic is what cuBLAS reaches with large square matrices in the same "
        "precision, and its memory what a copy does; bytes are those that must be moved.",
        _kernel_rows,
    ),
    "training": ("Trainings", "In float32, from the first step.", _training_rows),
    "tests": ("Tests", "Those that need a GPU.", _test_rows),
}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
