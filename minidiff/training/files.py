"""Files and folders that are written whole or not at all.

Each is built under a temporary name beside its place, flushed to the disk and renamed, which the
file system does in one step. A crash, a full disk or ``kill -9`` leaves the old one or the new
one, never half of one; what is left over carries a name that starts with a dot.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minidiff.errors import InputError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The temporary path to write to; it becomes `path` when the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")  # no longer than allowed
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The temporary folder to fill; it becomes `path`, which must not exist, likewise."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        os.rename(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Take `path` away; its name goes first, so that it is never seen half empty."""
    doomed = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` as the file `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON (nan and inf are refused: JSON has no such numbers)."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file; broken JSON is an InputError that names file and place."""
    try:
        return json.loads(Path(path).read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged: it is no JSON ({error}); restore it from a copy"
        ) from error


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    if os.name == "nt":  # Windows flushes neither a folder nor a file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
