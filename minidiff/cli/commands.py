"""What the commands of the command line do."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minidiff import backend, data, plot
from minidiff.cli.terminal import Bar, stop_signals
from minidiff.diffusion.samplers import State
from minidiff.errors import InputError
from minidiff.training import config, memory, metrics, sampling
from minidiff.training.config import TrainConfig
from minidiff.training.files import whole_file
from minidiff.training.parallel import world
from minidiff.training.run import Run, check_free, is_run
from minidiff.training.sampling import Watch
from minidiff.training.trainer import Record, Trainer
from minidiff.training.trainer import train as train_records
from minidiff.unet import UNet

DEMO_PICTURES = ("samples.png", "process.png", "process.gif", "loss.png")


def demo(*, out: str, steps: int | None, seed: int | None) -> int:
    """Train on the digits, then draw each of them; goes on with a demo that was stopped."""
    given = _given(steps=steps, seed=seed)
    wanted, folder = config.read("digits8").replace(**given), Path(out)
    run, finished = world().on_first(_stopped_demo, folder, wanted, given)
    if run is None:
        run, trainer = _new(folder, wanted)
    elif finished:
        print(f"{folder} holds a finished demo, so nothing was done.{_demo_outlook(folder)}")
        return 0
    else:
        trainer = Trainer(run.config, ranks=world())
    stopped = _train(trainer, run, f"minidiff demo --out {shlex.quote(out)}")
    if stopped:
        return stopped
    right = _draw_demo(run)
    print(
        f"Of 100 samples, {right} are nearest to a real digit of the class that was asked for."
        f"{_demo_outlook(folder)}"
    )
    return 0


def train(
    *, recipe: str | None, out: str, resume: bool, steps: int | None, settings: list[str]
) -> int:
    """Train a recipe in a new folder, or go on in the folder of a run."""
    wanted = None
    if recipe is not None:
        wanted = config.read(recipe, settings).replace(**_given(steps=steps))
    elif settings:
        raise InputError("--set changes a recipe, but no recipe is given")
    if resume:
        run = world().on_first(_stopped_run, out, wanted, steps)
        trainer = Trainer(run.config, ranks=world())
    elif wanted is not None:
        run, trainer = _new(out, wanted)
    else:
        raise InputError(
            f"say what to train: {', '.join(config.recipes())} or a .toml file (or --resume, to "
            "go on with the run in --out)"
        )
    if world().on_first(run.last_step) == run.config.steps:
        print(f"{out} has done all its {run.config.steps} steps; --steps N goes on to step N.")
        return 0
    stopped = _train(trainer, run, f"minidiff train --resume --out {shlex.quote(out)}")
    if not stopped:
        print(f"Done. To draw images:\n  minidiff sample {shlex.quote(out)}")
    return stopped


def sample(
    *,
    run: str,
    n: int | None,
    classes: Sequence[str] | None,
    w: float | None,
    out: str | None,
    npz: str | None,
    force: bool,
    weights: str,
    **options: Any,
) -> int:
    """Draw images from a run; write a grid of them and, if asked for, their arrays."""
    if world().size > 1:
        raise InputError("sample works in one process; leave mpiexec away")
    from_run = Run.open(run)
    names = data.class_names(from_run.config.data)
    conditional = from_run.config.unet.num_classes is not None
    if classes is not None and not conditional:
        raise InputError(f"{run} was trained without classes; leave --class away")
    chosen = _class_numbers(classes, names) if conditional else []
    n = n if n is not None else 10 * max(1, len(chosen))
    w = w if w is not None else float(conditional)
    options = {"steps": min(100, from_run.config.T)} | _given(**options)

    needed = memory.of_sampling(from_run.config, n, options["batch"])
    memory.check(needed, "draw fewer at a time with --batch, or in all with --n")

    name = _picture_name(n=n, classes=classes, w=w, weights=weights, **options)
    picture = Path(out) if out is not None else from_run.folder / "samples" / name
    _check_output(picture, ".png", force, make_folder=out is None)
    if npz is not None:
        _check_output(Path(npz), ".npz", force)

    model = sampling.load_model(from_run, weights)
    labels = sampling.label_plan(n, chosen) if conditional else None
    images = _draw(from_run.config, model, n, labels, w=w, **options)
    picture.parent.mkdir(exist_ok=True)  # RUN/samples; any other is there
    shown = plot.selection(n, labels)
    plot.save(plot.grid(images[shown], None if labels is None else labels[shown], names), picture)
    print(f"Wrote {picture}: {len(shown)} of {n} images by {options['sampler']}, w = {w:g}.")
    if npz is not None:
        arrays = {"images": data.to_uint8(images)} | ({} if labels is None else {"labels": labels})
        with whole_file(npz) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        print(f"Wrote {npz}: {', '.join(f'{k} {a.dtype} {a.shape}' for k, a in arrays.items())}.")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {"demo": demo, "train": train, "sample": sample}


def _given(**values: Any) -> dict[str, Any]:
    """Those of the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _stopped_demo(
    folder: Path, wanted: TrainConfig, given: dict[str, Any]
) -> tuple[Run | None, bool]:
    """The demo in the folder, None if it has to begin, and whether it is finished."""
    if not is_run(folder) or Run.open(folder).last_checkpoint() is None:
        return None, False
    run = Run.open(folder)
    here = {"steps": run.config.steps, "seed": run.config.seed}
    if run.config != wanted.replace(**(here | given)):
        raise InputError(
            f"{folder} holds another run, of {run.config.steps} steps with seed "
            f"{run.config.seed}; choose another folder with --out"
        )
    drawn = all((folder / name).exists() for name in DEMO_PICTURES)
    if drawn and run.last_step() == run.config.steps:
        return run, True
    print(f"{folder} holds a demo that was stopped after step {run.last_step()}; going on.")
    return run, False


def _stopped_run(folder: str, wanted: TrainConfig | None, steps: int | None) -> Run:
    """The run in the folder, to go on with to step `steps`; `wanted` must be its config."""
    run = Run.open(folder)
    if wanted is not None:
        _check_same(run, wanted)
    return run if steps is None else run.extend(steps)


def _check_same(run: Run, wanted: TrainConfig) -> None:
    """A run keeps its config, but for the number of steps, or it would not be one run."""
    old, new = run.config.to_dict(), wanted.replace(steps=run.config.steps).to_dict()
    changed = [key for key in old if old[key] != new[key]]
    if changed:
        raise InputError(
            f"the run in {run.folder} began with another {', '.join(changed)}; leave the recipe "
            "and --set away to go on with it as it began, or choose another --out"
        )


def _class_numbers(chosen: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    for name in chosen or ():
        if name not in names:
            raise InputError(f"there is no class {name!r}; the classes are: {', '.join(names)}")
    return [names.index(name) for name in dict.fromkeys(chosen or names)]


def _picture_name(
    *, sampler: str, steps: int, n: int, w: float, seed: int, classes: Sequence[str] | None,
    weights: str, eta: float = 0.0, batch: int = 0,
) -> str:  # fmt: skip
    """A name that tells how the images were drawn, such as ddim-steps100-w1-n100-seed0.png."""
    parts = [sampler, f"steps{steps}", f"eta{eta:g}" if eta else "", f"w{w:g}", f"n{n}"]
    parts += [f"class{'+'.join(dict.fromkeys(classes))}" if classes else "", f"seed{seed}"]
    parts += [weights if weights != "ema" else ""]
    return "-".join(part for part in parts if part) + ".png"


def _check_output(path: Path, suffix: str, force: bool, *, make_folder: bool = False) -> None:
    """Refuse a file that could not be written, before the time to draw it is spent."""
    if path.suffix != suffix:
        raise InputError(f"{path} must be the name of a file that ends in {suffix}")
    if path.is_dir() or (path.exists() and not force):
        raise InputError(f"{path} exists already; choose another name, or --force to overwrite it")
    if not make_folder and not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} into")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent} may not be written into; choose another place")


# ---------------------------------------------------------------------------- training


def _new(folder: str | Path, wanted: TrainConfig) -> tuple[Run, Trainer]:
    """A new run; its folder is made last, when nothing can fail any more."""
    world().on_first(check_free, folder)
    trainer = Trainer(wanted, ranks=world())
    return world().on_first(Run.create, folder, wanted), trainer


def _train(trainer: Trainer, run: Run, resume: str) -> int:
    """Train to the last step with a bar and pictures; 0, or the exit code if it was stopped."""
    c, ranks = run.config, trainer.ranks
    parameters = f"{trainer.model.num_parameters:,} parameters"
    print(
        f"Training a U-Net of {parameters} on {len(trainer.labels):,} images ({c.data}): "
        f"{c.steps} steps of {c.batch_size} images"
        f"{f', in {ranks.size} processes' if ranks.size > 1 else ''}. "
        f"The arrays take about {memory.in_words(memory.of_training(c, ranks.size))}"
        f"{' in each' if ranks.size > 1 else ''}."
    )
    stop = 0
    with (
        stop_signals(loud=ranks.first) as caught,
        Bar("train", c.steps, done=ranks.on_first(run.last_step)) as bar,
        closing(train_records(trainer, run)) as records,
    ):
        for record in records:
            bar.step(partial(_describe, record))
            stop = ranks.maximum(caught[0] if caught else 0)  # whichever process was told to stop
            if stop:
                break
            if record.step % c.sample_every == 0:
                _draw_progress(run, trainer)
    title = f"{c.data}, {parameters}, batch {c.batch_size}"
    ranks.on_first(_draw_loss, run, title)
    if not stop:
        return 0
    print(f"Step {trainer.step} of {c.steps} is done and saved. To go on:\n  {resume}")
    return 128 + stop


def _draw_loss(run: Run, title: str) -> None:
    if measured := metrics.read(run.metrics):
        plot.save(plot.loss_curve(measured, title), run.folder / "loss.png")


def _describe(record: Record) -> str:
    return f"loss {float(record.loss):.4f}, {record.images_per_s:,.0f} images/s"


def _draw_progress(run: Run, trainer: Trainer) -> None:
    """Four quick samples of each of the first ten classes, from the same noise every time."""
    names = data.class_names(run.config.data)[:10]
    n = 4 * len(names)
    conditional = run.config.unet.num_classes is not None
    labels = sampling.label_plan(n, range(len(names))) if conditional else None
    with trainer.averaged():
        images = sampling.draw(
            trainer.model, trainer.schedule, n, labels, target=run.config.objective.target,
            ranks=trainer.ranks, w=float(conditional), steps=min(10, run.config.T),
        )  # fmt: skip

    def save() -> None:
        folder = run.folder / "samples"
        folder.mkdir(exist_ok=True)
        plot.save(plot.grid(images, labels, names), folder / f"step-{trainer.step:06d}.png")

    trainer.ranks.on_first(save)


# ------------------------------------------------------------------------------ drawing


def _draw(
    c: TrainConfig,
    model: UNet,
    n: int,
    labels: np.ndarray | None,
    *,
    watch: Watch | None = None,
    **options: Any,
) -> np.ndarray:
    """The images of `sampling.draw` for a run with the config `c`, with a bar."""
    started = time.perf_counter()
    steps = sampling.total_steps(n, steps=options["steps"], batch=options["batch"])
    with Bar("draw", steps) as bar:

        def speed() -> str:
            return f"{n * bar.done / steps / (time.perf_counter() - started):,.1f} images/s"

        def show(rows: slice, state: State) -> None:
            if watch is not None:
                watch(rows, state)
            # a batch that was drawn as a whole has no state but its last
            drawn = options["steps"] * (1 + rows.start // options["batch"])
            for _ in range(bar.done, drawn if state.t == 0 else bar.done + 1):
                bar.step(speed)

        return sampling.draw(
            model, c.make_schedule(), n, labels, watch=show, only_last=watch is None,
            target=c.objective.target, ranks=world(), **options,
        )  # fmt: skip


def _draw_demo(run: Run) -> int:
    """Write the pictures of the demo; of 100 samples, how many read as the digit asked for."""
    names = data.class_names(run.config.data)
    labels = sampling.label_plan(100, range(len(names)))
    first = np.searchsorted(labels, range(len(names)))  # one image of each class
    film: list[tuple[int, np.ndarray, np.ndarray]] = []

    def keep(rows: slice, state: State) -> None:
        xt, x0 = backend.to_numpy(state.x), backend.to_numpy(state.x0)
        film.append((int(state.t), xt[first], x0[first]))

    print("Drawing ten of each digit from noise, with guidance w = 1.")
    model = world().on_first(sampling.load_model, run)
    images = _draw(
        run.config, model, len(labels), labels, watch=keep, sampler="ddpm",
        steps=min(50, run.config.T), w=1.0, batch=len(labels), seed=run.config.seed,
    )  # fmt: skip

    def save() -> None:
        plot.save(plot.grid(images, labels, names), run.folder / "samples.png")
        plot.save(plot.process([(t, xt) for t, xt, _ in film], names), run.folder / "process.png")
        plot.save_gif(plot.process_frames(film), run.folder / "process.gif")

    world().on_first(save)
    return int((data.nearest_label(images) == labels).sum())


def _demo_outlook(folder: Path) -> str:
    run = shlex.quote(str(folder))
    return f"""

  {folder / "samples.png"}   ten samples of each digit, a row for each
  {folder / "process.png"}   how they came out of noise, from t = 1000 to t = 0
  {folder / "process.gif"}   the same as a film, with what the network takes for x0 below
  {folder / "loss.png"}      the loss over the steps

What next?
  minidiff sample {run} --class 3 8 --n 40 --w 3     threes and eights, stronger guidance
  minidiff sample {run} --steps 10 --seed 1          all the way in ten steps
  minidiff train --resume --out {run} --steps 3000   train it for longer"""
