"""The measurements of a run, one JSON object a line: ``{"step": 10, "loss": 0.31, ...}``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from minidiff.errors import InputError
from minidiff.training.files import write_bytes

Record = dict[str, Any]
LARGEST = sys.float_info.max


class MetricsLog:
    """Appends records to a JSON Lines file, each flushed at once so that it can be followed."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, record: Record) -> None:
        """Write one record; it must have a "step" and a "loss", and be of finite numbers."""
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Have what was appended on the disk, as before a checkpoint that it leads up to."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Record]:
    """All records of the file, an absent one counting as empty.

    A last line that was only half written (the process was killed) is passed over; any other line
    that is no record is an InputError.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is no line
        try:
            record = json.loads(line)
            if not (isinstance(record, dict) and {"step", "loss"} <= record.keys()):
                raise ValueError("it has no step or no loss")
            if not all(type(v) in (int, float) and abs(v) <= LARGEST for v in record.values()):
                raise ValueError("its values are not all finite numbers")
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} is damaged: line {number} is no record ({error}); remove that line"
            ) from error
        records.append(record)
    return records


def cut(path: Path, step: int) -> None:
    """Drop the records after `step`: those of steps that are done again when a run resumes."""
    kept = [record for record in read(path) if record["step"] <= step]
    write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
