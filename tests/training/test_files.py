"""A file or folder is written whole or not at all, whatever happens on the way."""

import errno
import os

import pytest

from minidiff.errors import InputError
from minidiff.training.files import (
    read_json,
    remove_folder,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path):
    write_bytes(tmp_path / "a", b"new")
    write_bytes(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == b"newer"
    assert names(tmp_path) == ["a"]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    write_bytes(tmp_path / ("\u20ac" * 85), b"new")  # 255 bytes
    assert names(tmp_path) == ["\u20ac" * 85]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path, error):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(error), whole_file(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half of the n")
        raise error
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    write_bytes(tmp_path / "a", b"old")
    with full_disk(1000), pytest.raises(OSError, match="File too large"):
        write_bytes(tmp_path / "a", bytes(5000))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_failing_flush_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_appears_whole(tmp_path):
    with whole_folder(tmp_path / "f") as temporary:
        (temporary / "a").write_bytes(b"a")
        assert not (tmp_path / "f").exists()
    assert names(tmp_path) == ["f"] and names(tmp_path / "f") == ["a"]


def test_an_error_leaves_no_folder_and_a_leftover_is_no_obstacle(tmp_path):
    with pytest.raises(ValueError), whole_folder(tmp_path / "f") as temporary:
        (temporary / "a").write_bytes(b"a")
        raise ValueError
    assert names(tmp_path) == []
    temporary.mkdir()
    (temporary / "b").write_bytes(b"of a process that was killed")
    with whole_folder(tmp_path / "f") as again:
        (again / "a").write_bytes(b"a")
    assert names(tmp_path / "f") == ["a"]


def test_a_folder_loses_its_name_before_its_files(tmp_path, monkeypatch):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_bytes(b"a")
    seen = []

    def note(path, **options):
        seen.append((tmp_path / "f").exists())

    monkeypatch.setattr("shutil.rmtree", note)
    remove_folder(tmp_path / "f")
    assert seen[-1] is False


def test_json(tmp_path):
    value = {"a": [1, 2.5, None], "b": "é"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10**5])
def test_broken_json_names_the_file(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is damaged"):
        read_json(path)
