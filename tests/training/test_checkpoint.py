"""Checkpoints: what goes in comes out; damage is named; nothing is ever half written."""

import json
import shutil

import numpy as np
import pytest

from minidiff.errors import InputError
from minidiff.training import checkpoint
from minidiff.training.checkpoint import Checkpoint

RNG = np.random.default_rng(0)


def make(step=4, **changes):
    weights = {"conv.w": RNG.standard_normal((3, 3, 2, 5)).astype(np.float32), "b": np.zeros(1)}
    values = {
        "step": step,
        "model": weights,
        "ema": {name: w + 1 for name, w in weights.items()},
        "optimizer": {"m": RNG.standard_normal(9), "v": RNG.random(9)},
        "counters": {"optimizer": step, "ema": step},
    }
    return Checkpoint(**values | changes)


def assert_same(a, b):
    assert (a.step, a.counters) == (b.step, b.counters)
    for part in ("model", "ema", "optimizer"):
        x, y = getattr(a, part), getattr(b, part)
        assert sorted(x) == sorted(y)
        for name in x:
            assert x[name].dtype == y[name].dtype
            np.testing.assert_array_equal(x[name], y[name], strict=True)


def test_round_trip(tmp_path):
    saved = make()
    path = checkpoint.save(tmp_path, saved)
    assert path.name == "step-000004"
    loaded = checkpoint.load(path)
    assert_same(loaded, saved)
    for kind in ("model", "ema"):
        weights = checkpoint.load_weights(path, kind)
        for name, array in getattr(saved, kind).items():
            np.testing.assert_array_equal(weights[name], array)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[:, ::2],
        lambda a: a[::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a[0, 0],
    ],
    ids=["transposed", "strided", "reversed", "fortran", "broadcast", "scalar"],
)
def test_arrays_that_are_not_contiguous_are_not_scrambled(tmp_path, view):
    array = view(RNG.standard_normal((6, 4)))
    path = checkpoint.save(tmp_path, make(model={"w": array}, optimizer={"m": array}))
    loaded = checkpoint.load(path)
    np.testing.assert_array_equal(loaded.model["w"], array, strict=True)
    np.testing.assert_array_equal(loaded.optimizer["m"], array, strict=True)


def test_the_format_alone_would_scramble_them():
    """Why `save` copies: this fails the day that safetensors mends it."""
    from safetensors.numpy import load, save

    array = np.arange(6.0).reshape(2, 3).T
    assert not np.array_equal(load(save({"a": array}))["a"], array)


def test_the_same_state_gives_the_same_bytes(tmp_path):
    state = make()
    a, b = checkpoint.save(tmp_path / "a", state), checkpoint.save(tmp_path / "b", state)
    for file in a.iterdir():
        assert file.read_bytes() == (b / file.name).read_bytes()


def test_only_the_newest_is_kept_and_order_is_by_number(tmp_path):
    for step in (5, 999_999, 1_000_000):
        checkpoint.save(tmp_path, make(step))
    assert [path.name for path in checkpoint.all_in(tmp_path)] == ["step-1000000"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000000"]


def test_a_folder_without_checkpoints(tmp_path):
    (tmp_path / ".step-000003.tmp").mkdir()  # of a process that was killed
    (tmp_path / "notes").mkdir()
    assert checkpoint.all_in(tmp_path) == []
    assert checkpoint.all_in(tmp_path / "absent") == []


@pytest.mark.parametrize("size", [0, 100, 700, 1100])
def test_a_full_disk_leaves_the_older_one(tmp_path, full_disk, size):
    older = make(4)
    path = checkpoint.save(tmp_path, older)
    with full_disk(size), pytest.raises(OSError, match="File too large"):
        checkpoint.save(tmp_path, make(5, optimizer={"m": np.zeros(1000)}))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000004"]
    assert checkpoint.load(path).step == 4


FILES = ["weights.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "altered", "appended"])
def test_damage_is_named(tmp_path, name, damage):
    path = checkpoint.save(tmp_path, make())
    file = path / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {
                "empty": b"",
                "cut": content[:-5],
                "altered": content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
                "appended": content + b"}",
            }[damage]
        )
    with pytest.raises(InputError, match=f"{name} cannot be used.*remove"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "state",
    [
        [],
        {},
        {"format": 2, "step": 4, "counters": {}, "crc32": {}},
        {"format": 1, "step": "4", "counters": {}, "crc32": {}},
        {"format": 1, "step": 4, "counters": [], "crc32": {}},
        {"format": 1, "step": 4, "counters": {}, "crc32": {}},
        {"format": 1, "step": 4, "counters": {}, "crc32": {}, "own_crc32": 1},
    ],
)
def test_another_state_is_refused(tmp_path, state):
    path = checkpoint.save(tmp_path, make())
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="cannot be used"):
        checkpoint.load(path)


def test_the_name_of_a_folder_is_not_believed(tmp_path):
    path = checkpoint.save(tmp_path, make(4)).rename(tmp_path / "step-000009")
    for read in (checkpoint.load, lambda path: checkpoint.load_weights(path, "ema")):
        with pytest.raises(InputError, match="it is of step 4, and the folder has another name"):
            read(path)


def test_no_pickle_is_ever_read(tmp_path):
    path = checkpoint.save(tmp_path, make())
    for name in FILES[:2]:
        assert b"pickle" not in (path / name).read_bytes()
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    shutil.copy(tmp_path / "evil.npy", path / FILES[0])
    with pytest.raises(InputError, match="cannot be used"):
        checkpoint.load(path)
