"""Checkpoints: a folder ``step-000400`` of safetensors and JSON, there whole or not at all.

==========================  ===========================================================
weights.safetensors         ``model/NAME`` and ``ema/NAME`` for each parameter and buffer
optimizer.safetensors       the vectors that the optimizer keeps, such as ``m`` and ``v``
state.json                  the step, the optimizer's and the average's counters, and a
                            checksum of the files above
==========================  ===========================================================

The randomness of a run is a function of (seed, step), so these are all that a run needs to go on
to the same bits. There is no pickle in it: loading a checkpoint runs no code.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from minidiff.errors import InputError
from minidiff.training.files import read_json, remove_folder, whole_folder, write_json

Arrays = dict[str, np.ndarray]
FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """What is saved of a run after `step` steps: host arrays, and counters for JSON."""

    step: int
    model: Arrays
    ema: Arrays
    optimizer: Arrays
    counters: dict[str, int]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` as a new folder in `folder`, then remove the older ones.

    Raises
    ------
    OSError
        When the disk is full, say; the older checkpoint is then still there.
    """
    path = folder / f"step-{checkpoint.step:06d}"
    if not path.exists():  # else it is this one: a step's result is a function of the config
        weights = _prefixed("model", checkpoint.model) | _prefixed("ema", checkpoint.ema)
        with whole_folder(path) as new:
            checksums = {
                "weights.safetensors": _write(new / "weights.safetensors", weights),
                "optimizer.safetensors": _write(
                    new / "optimizer.safetensors", checkpoint.optimizer
                ),
            }
            state = {
                "format": FORMAT,
                "step": checkpoint.step,
                "counters": checkpoint.counters,
                "crc32": checksums,
            }
            write_json(new / "state.json", state | {"own_crc32": _crc32_of(state)})
    for older in all_in(folder)[:-1]:
        remove_folder(older)
    return path


def all_in(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest last."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in found if _NAME.fullmatch(p.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint folder's name tells."""
    return int(path.name.removeprefix("step-"))


def load(path: Path) -> Checkpoint:
    """Read the checkpoint folder `path` and check it against its checksums.

    Raises
    ------
    InputError
        If a file is missing, cut short, altered or of another kind; the message names it.
    """
    state = _read_state(path / "state.json")
    weights = _read(path / "weights.safetensors", state)
    return Checkpoint(
        step=state["step"],
        model=_unprefixed("model", weights),
        ema=_unprefixed("ema", weights),
        optimizer=_read(path / "optimizer.safetensors", state),
        counters=state["counters"],
    )


def load_weights(path: Path, kind: str) -> Arrays:
    """Read only the weights of `kind`, "model" or "ema", from the checkpoint folder `path`."""
    return _unprefixed(kind, _read(path / "weights.safetensors", _read_state(path / "state.json")))


def damaged(path: Path, why: object) -> InputError:
    """The error for a checkpoint, or a file of it, that cannot be used."""
    folder = path if path.is_dir() else path.parent
    return InputError(
        f"{path} cannot be used: {why}; if it was copied, copy it again, else remove {folder} to "
        "go on from an older checkpoint or from the start"
    )


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}/{name}": a for name, a in arrays.items()}


def _unprefixed(prefix: str, arrays: Arrays) -> Arrays:
    start = f"{prefix}/"
    return {name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)}


def _write(file: Path, arrays: Arrays) -> int:
    # safetensors takes an array's memory as it lies: one that is not contiguous would be
    # written scrambled, without an error.
    data = to_bytes({name: np.asarray(a, order="C") for name, a in arrays.items()})
    file.write_bytes(data)
    return zlib.crc32(data)


def _read(file: Path, state: dict[str, Any]) -> Arrays:
    try:
        data = file.read_bytes()
        if zlib.crc32(data) != state["crc32"].get(file.name):
            raise damaged(file, f"its {len(data)} bytes are not those that were written")
        return dict(sorted(from_bytes(data).items()))
    except FileNotFoundError as error:
        raise damaged(file, "it is missing") from error
    except SafetensorError as error:
        raise damaged(file, error) from error


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = read_json(file)
    except FileNotFoundError as error:
        raise damaged(file, "it is missing") from error
    except InputError as error:
        raise damaged(file, "it is no JSON") from error
    kinds = {"format": int, "step": int, "counters": dict, "crc32": dict}
    if not isinstance(state, dict) or any(type(state.get(k)) is not v for k, v in kinds.items()):
        raise damaged(file, "it is no checkpoint's state")
    if state["format"] != FORMAT:
        raise damaged(file, f"its format is {state['format']}, this version reads {FORMAT}")
    if state.pop("own_crc32", None) != _crc32_of(state):
        raise damaged(file, "its values are not those that were written")
    if state["step"] != step_of(file.parent):
        raise damaged(file, f"it is of step {state['step']}, and the folder has another name")
    return state


def _crc32_of(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
