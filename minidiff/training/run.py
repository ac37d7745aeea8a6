"""The folder of a run: where its files are, and the care that none is lost or overwritten.

::

    runs/demo/
      config.json                    what decides the run
      metrics.jsonl                  one record a line: step, loss, lr, grad_norm, images_per_s
      checkpoints/step-000400/       weights, optimizer, counters (see `checkpoint`)
      loss.png, samples/*.png        pictures, drawn by the command line
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minidiff.errors import InputError
from minidiff.training import checkpoint, metrics
from minidiff.training.checkpoint import Checkpoint
from minidiff.training.config import TrainConfig
from minidiff.training.files import read_json, write_json
from minidiff.training.parallel import ALONE, Communicator


@dataclass(frozen=True)
class Run:
    """The folder of a run and the config that is in it; made by `create` or `open`."""

    folder: Path
    config: TrainConfig

    @classmethod
    def create(cls, folder: str | Path, config: TrainConfig) -> Run:
        """Make a new run of the folder; an InputError if that is not free, see `check_free`."""
        folder = Path(folder)
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, config)
        with run.locked():
            run.write_config()
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run that is in the folder; an InputError if there is none or its config is bad."""
        folder = Path(folder)
        if not is_run(folder):
            raise InputError(
                f"{folder} is no run (it has no config.json); 'minidiff train RECIPE --out "
                f"{folder}' starts one"
            )
        file = folder / "config.json"
        values = read_json(file)
        try:
            return cls(folder, TrainConfig.from_dict(values))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    def extend(self, steps: int) -> Run:
        """The same run with another number of steps in all; the file learns it from `train`."""
        last = self.last_step()
        if steps < last:
            raise InputError(
                f"{self.folder} has done {last} steps already, which is more than {steps}"
            )
        return Run(self.folder, self.config.replace(steps=steps))

    def write_config(self) -> None:
        """Write the config into the folder."""
        write_json(self.folder / "config.json", self.config.to_dict())

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of the measurements."""
        return self.folder / "metrics.jsonl"

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint's folder; None before the first."""
        found = checkpoint.all_in(self.checkpoints)
        return found[-1] if found else None

    def last_step(self) -> int:
        """How many steps the newest checkpoint has behind it; 0 before the first."""
        last = self.last_checkpoint()
        return checkpoint.step_of(last) if last else 0

    def save(self, state: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all, and remove the older ones."""
        checkpoint.save(self.checkpoints, state)

    def rewind(self, load_state: Callable[[Checkpoint], None], ranks: Communicator = ALONE) -> None:
        """Hand the newest checkpoint, if any, to `load_state`, and cut the metrics to its step.

        Rank 0 of `ranks` reads and cuts; all of them load.
        """
        newest = ranks.on_first(self._newest)
        if newest is not None:
            path, state = newest
            try:
                load_state(state)
            except (InputError, KeyError) as error:
                raise checkpoint.damaged(path, error) from error
        ranks.on_first(lambda: metrics.cut(self.metrics, self.last_step()))

    def _newest(self) -> tuple[Path, Checkpoint] | None:
        last = self.last_checkpoint()
        return None if last is None else (last, checkpoint.load(last))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder; an InputError if one does."""
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(f"another process is training in {self.folder}") from error
        try:
            yield
        finally:
            os.close(descriptor)  # which gives the lock back, as the end of the process does


def check_free(folder: str | Path) -> None:
    """Refuse a folder that a new run would share with something else.

    It may be absent, empty, or hold a run that ended before its first checkpoint: there is nothing
    to go on from in that one, and it is replaced.
    """
    folder = Path(folder)
    if is_run(folder):
        if _is_fruitless(folder):
            return
        raise InputError(
            f"{folder} holds a run already; go on with it by --resume, or choose another folder"
        )
    if os.path.lexists(folder) and not folder.is_dir():  # a link to nowhere is no folder either
        raise InputError(f"{folder} is a file or a broken link; choose a folder for the run")
    if folder.exists() and any(not _is_temporary(path) for path in folder.iterdir()):
        raise InputError(
            f"{folder} is not empty and is no run; choose another folder, so that nothing in it is "
            "overwritten"
        )


def is_run(folder: str | Path) -> bool:
    """Whether the folder holds a run."""
    return (Path(folder) / "config.json").is_file()


def _is_fruitless(folder: Path) -> bool:
    """Whether the folder holds a run without a checkpoint, and no file that is not the run's."""
    names = {path.name for path in folder.iterdir() if not _is_temporary(path)}
    if not names <= {"config.json", "metrics.jsonl", "samples", "loss.png", "checkpoints"}:
        return False
    try:
        return Run.open(folder).last_checkpoint() is None
    except InputError:  # somebody else's config.json
        return False


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")
