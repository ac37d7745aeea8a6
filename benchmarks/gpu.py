"""Everything that only a machine with a GPU can tell, in one run of at most ten minutes.

    python -m benchmarks.gpu [--dry-run] [--out docs/results] [--minutes 10]

Parts, each a process of its own, so that one that fails leaves the others alone: the tests that
are marked `gpu`; forward and all gradients against NumPy; each convolution of the networks as our
kernel and as its definition (im2col and cuBLAS); steps and evaluations beside eager PyTorch, where
that is installed; and two trainings. The result is `gpu.json` and a page, `gpu.md`. ``--dry-run``
does all of it on the CPU, tiny, to test this script; what it writes says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
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
PARTS = ("tests", "parity", "layers", "steps", "training")
SHARE = {"tests": 150, "parity": 90, "layers": 60, "steps": 100, "training": 270}
"""Seconds after which a part is stopped."""
LAYERS = (  # (images a side, channels in, channels out) of 3 x 3 convolutions
    (28, 32, 32), (14, 64, 64), (14, 128, 64), (7, 64, 64), (32, 128, 128), (16, 256, 256),
    (8, 256, 256), (4, 256, 256),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tiny, and on the CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    parser.add_argument("--only", choices=PARTS, action="append", help="do this part alone")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    args = parser.parse_args(arguments)
    if args.part:
        print(json.dumps(_PART[args.part](args.dry_run, args.precision, args.out)))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(args.dry_run), "dry_run": args.dry_run}
    end = time.monotonic() + 60 * args.minutes
    for part in args.only or PARTS:
        both = PRECISIONS if part in ("parity", "layers", "steps") else PRECISIONS[:1]
        for precision in both:
            left = end - time.monotonic()
            name = part if len(both) == 1 else f"{part} {precision}"
            print(f"{name} ...", file=sys.stderr, flush=True)
            result[name] = run_part(part, precision, min(SHARE[part], left), args)
            # written after every part: what is there is kept if the machine goes away
            (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
            (args.out / "gpu.md").write_text(page(result))
    print(page(result))
    failed = [k for k, v in result.items() if isinstance(v, dict) and "error" in v]
    return 1 if failed else 0


def run_part(part: str, precision: str, seconds: float, args: Any) -> dict[str, Any]:
    """The numbers of a part, or the error that it ended with."""
    if seconds < 5:
        return {"error": "no time was left"}
    flags = ["--part", part, "--precision", precision, "--out", str(args.out)]
    command = [sys.executable, "-m", "benchmarks.gpu", *flags]
    environment = os.environ | {
        "MINIDIFF_BACKEND": "numpy" if args.dry_run else "cupy",
        "MINIDIFF_PRECISION": precision,
    }
    start = time.monotonic()
    try:
        run = subprocess.run(
            [*command, *(["--dry-run"] if args.dry_run else [])],
            cwd=ROOT, env=environment, timeout=seconds, capture_output=True, text=True,
        )  # fmt: skip
        if run.returncode:
            return {"error": (run.stderr or run.stdout)[-2000:]}
        return json.loads(run.stdout.splitlines()[-1]) | {
            "seconds": round(time.monotonic() - start, 1)
        }
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {seconds:.0f} s"}
    except (ValueError, IndexError) as error:
        return {"error": f"no result: {error}"}


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


def tests(dry_run: bool, precision: str, out: Path) -> dict[str, Any]:
    """The tests that need a GPU; in a dry run those of the kernels on the CPU."""
    chosen = ["tests/gpu/test_whole.py"] if dry_run else ["-m", "gpu", "tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "--maxfail=5", *chosen]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr[-500:]
    report = {"outcome": last}
    if run.returncode:
        report["error"] = run.stdout[-3000:]
    return report


def parity(dry_run: bool, precision: str, out: Path) -> dict[str, Any]:
    """The network forward and every gradient, on the GPU in float32 and on NumPy in float32."""
    from benchmarks.configs import CONFIGS
    from minidiff import backend

    device, found = backend.xp, {}
    variants = {name: CONFIGS[name] for name in (["digits8"] if dry_run else CONFIGS)}
    adagn = dataclasses.replace(CONFIGS["digits8"], time_conditioning="scale_shift")
    variants["digits8, AdaGN"] = adagn
    for name, config in variants.items():
        batch = 2 if name.startswith("cifar") else 5
        backend.xp = np
        exact = _gradients(config, batch)
        backend.xp = device
        got = _gradients(config, batch)
        errors = {
            key: float(np.abs(got[key] - exact[key]).max() / max(np.abs(exact[key]).max(), 1e-3))
            for key in exact
        }
        worst = max(errors, key=errors.__getitem__)
        found[name] = {"worst": worst, "error": errors[worst], "forward": errors["forward"]}
    report: dict[str, Any] = {"networks": found, "allowed": ALLOWED[precision]}
    # "not <=", so that NaN fails
    wrong = [n for n, f in found.items() if not f["error"] <= ALLOWED[precision]]
    if wrong:
        report["error"] = f"differs from NumPy: {', '.join(wrong)}"
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


def layers(dry_run: bool, precision: str, out: Path) -> dict[str, Any]:
    """Milliseconds of each convolution: as our kernel, and as its definition."""
    from minidiff import backend
    from minidiff.backend import kernels

    xp, rng = backend.xp, np.random.default_rng(0)
    table, batch = {}, 2 if dry_run else 128
    own, definitions = kernels.of(xp), kernels.reference
    for side, c, o in LAYERS[3:4] if dry_run else LAYERS:
        x, w, g = (
            backend.asarray(rng.standard_normal(s, dtype=np.float32))
            for s in ((batch, side, side, c), (3, 3, c, o), (batch, side, side, o))
        )
        pads = ((1, 1), (1, 1))
        row: dict[str, float] = {"gflop": 2 * batch * side * side * 9 * c * o / 1e9}
        for name, args in {
            "conv2d": (x, w, 1, pads),
            "conv2d_dx": (g, w, x.shape, 1, pads),
            "conv2d_dw": (x, g, w.shape, 1, pads),
        }.items():
            for kind, table_of in (("own", own), ("definition", definitions)):
                f = getattr(table_of, name)
                call = functools.partial(f, xp, *args)
                row[f"{name} {kind} ms"] = milliseconds(call, dry_run)
        table[f"{side}x{side}, {c} to {o}"] = row
    return {"layers": table, "batch": batch}


def milliseconds(f: Callable[[], Any], dry_run: bool) -> float:
    """The median of many timed calls, by events of the device."""
    from minidiff import backend

    repeats = 3 if dry_run else 30
    for _ in range(3):
        f()
    backend.synchronize()
    times = []
    for _ in range(repeats):
        if dry_run:
            start = time.perf_counter()
            f()
            times.append(1e3 * (time.perf_counter() - start))
            continue
        cuda = backend.xp.cuda
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        f()
        end.record()
        end.synchronize()
        times.append(cuda.get_elapsed_time(begin, end))
    return statistics.median(times)


def steps(dry_run: bool, precision: str, out: Path) -> dict[str, Any]:
    """Milliseconds of a training step and of an evaluation: captured, launched one by one, and
    PyTorch's, each a median over rounds that take turns.
    """
    from benchmarks.configs import CONFIGS

    report: dict[str, Any] = {}
    chosen = {"digits8": 4} if dry_run else {"digits8": 64, "mnist-small": 128, "cifar-ddpm": 128}
    for name, batch in chosen.items():
        players: dict[str, Any] = {}
        for kind, make in (("captured", _captured), ("eager", _eager), ("torch", _torch)):
            try:
                players[kind] = make(CONFIGS[name], batch, precision)
            except ImportError:
                report.setdefault("absent", []).append(kind)
            except Exception as error:  # the others are measured all the same
                report.setdefault("failed", {})[f"{name}, {kind}"] = repr(error)[:500]
        times: dict[str, list[float]] = {}
        for _ in range(2 if dry_run else 5):
            for kind, (step, sample, wait) in players.items():
                for what, f in (("step", step), ("evaluation", sample)):
                    times.setdefault(f"{kind} {what}", []).append(_per_call(f, wait, dry_run))
        report[name] = {key: statistics.median(values) for key, values in times.items()}
        for what in ("step", "evaluation"):
            ours, theirs = times.get(f"captured {what}"), times.get(f"torch {what}")
            if ours and theirs:
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                report[name][f"ratio {what}"] = statistics.median(ratios)
                report[name][f"ratio {what} spread"] = [min(ratios), max(ratios)]
        players.clear()
    return report


def _per_call(f: Callable[[], Any], wait: Callable[[], Any], dry_run: bool) -> float:
    calls = 2 if dry_run else 10
    f()
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        f()
    wait()
    return 1e3 * (time.perf_counter() - start) / calls


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


def _captured(config: Any, batch: int, precision: str) -> Any:
    from minidiff import backend
    from minidiff.training import captured

    trainer = _trainer(config, batch)
    denoise, x, t, labels = captured.denoiser(trainer.model), *_question(config, batch)
    for _ in range(4):  # warm-up and capture
        trainer.train_step()
        denoise(x, t, labels)
    return trainer.train_step, lambda: denoise(x, t, labels), backend.synchronize


def _eager(config: Any, batch: int, precision: str) -> Any:
    from minidiff import backend

    trainer = _trainer(config, batch)
    trainer._captured = None
    x, t, labels = _question(config, batch)
    denoise = trainer.model.denoise
    return trainer.train_step, lambda: denoise(x, t, labels), backend.synchronize


def _question(config: Any, batch: int) -> tuple[Any, np.ndarray, np.ndarray | None]:
    from benchmarks.configs import batches
    from minidiff import backend

    b = batches(config, batch, 1)[0]
    return backend.asarray(b.x), b.t, b.labels


def _torch(config: Any, batch: int, precision: str) -> Any:
    import torch

    from benchmarks.configs import batches
    from benchmarks.contestants import PyTorch
    from minidiff import backend

    on_gpu = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    chosen, backend.xp = backend.xp, np  # the weights go from NumPy to PyTorch
    player = PyTorch(config, "channels_last")
    backend.xp = chosen
    if on_gpu:
        player.model.cuda()
        player.average = [p.detach().clone() for p in player.parameters]
    x, target, t, labels = (
        a.cuda() if on_gpu and a is not None else a
        for a in player.put(batches(config, batch, 1)[0])
    )

    def step() -> None:  # that of the contestant, but that it never waits for the device
        player.adam.zero_grad()
        torch.nn.functional.mse_loss(player.model(x, t, labels), target).backward()
        torch.nn.utils.clip_grad_norm_(player.parameters, 1.0, foreach=True)
        player.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(player.average, player.parameters, 1e-3)

    wait = torch.cuda.synchronize if on_gpu else lambda: None
    return step, lambda: player.sample((x, target, t, labels)), wait


def training(dry_run: bool, precision: str, out: Path) -> dict[str, Any]:
    """`mnist-small` for three minutes and `digits8` to its end, with samples as a picture."""
    from benchmarks.configs import CONFIGS
    from minidiff.data import load
    from minidiff.training import TrainConfig, read

    digits = load("digits")
    config = dataclasses.replace(CONFIGS["mnist-small"], num_classes=10)
    if dry_run:
        config = dataclasses.replace(config, channels=8, blocks=1)
    runs = {
        "digits8": (read("digits8"), digits, 5 if dry_run else 30),
        "mnist-small": (
            TrainConfig(unet=config, batch_size=8 if dry_run else 128, lr=5e-4, warmup=100,
                        steps=10**6),
            _mnist() or _enlarged(digits), 5 if dry_run else 180,
        ),
    }  # fmt: skip
    return {name: _train(name, *run, dry_run, out) for name, run in runs.items()}


def _train(
    name: str, config: Any, data: Any, seconds: float, dry_run: bool, out: Path
) -> dict[str, Any]:
    from minidiff import backend, plot
    from minidiff.training.sampling import draw
    from minidiff.training.trainer import Trainer

    trainer = Trainer(config, data)
    losses: list[Any] = []
    trainer.train_step()
    backend.synchronize()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds and trainer.step < config.steps:
        losses.append(trainer.train_step()[0])
        if len(losses) % 100 == 0:
            backend.synchronize()  # else the host runs ahead of the clock
    values = backend.to_numpy(backend.xp.stack(losses)).astype(float)
    elapsed = time.perf_counter() - start
    report = {
        "data": data.name,
        "steps": trainer.step,
        "images_per_s": config.batch_size * len(losses) / elapsed,
        "first_loss": float(values[:10].mean()),
        "last_loss": float(values[-100:].mean()),
    }
    if not np.isfinite(values).all():
        report["error"] = "the loss is not finite"
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
    "tests": tests, "parity": parity, "layers": layers, "steps": steps, "training": training,
}  # fmt: skip


# -------------------------------------------------------------------------------- page


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    about = result["machine"]
    lines = ["# Results on a GPU", ""]
    if result["dry_run"]:
        lines += ["**A dry run on a CPU, tiny: it tests the script and measures nothing.**", ""]
    lines += [", ".join(f"{k} {v}" for k, v in about.items() if v) + ".", ""]
    for name, part in result.items():
        if name in ("machine", "dry_run"):
            continue
        lines += [f"## {name}", ""]
        if "error" in part:
            lines += ["Failed:", "", "```", str(part["error"]).strip(), "```", ""]
        rows = {k: v for k, v in part.items() if isinstance(v, dict)}
        for key in ("networks", "layers"):
            rows |= rows.pop(key, {})
        for key, value in part.items():
            if key != "error" and not isinstance(value, dict):
                lines.append(f"* {key}: {_shown(value)}")
        for key, row in rows.items():
            numbers = ", ".join(f"{k} {_shown(v)}" for k, v in row.items())
            lines.append(f"* **{key}**: {numbers}")
        lines.append("")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
