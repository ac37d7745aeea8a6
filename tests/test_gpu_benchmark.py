"""The script that measures a GPU: on a CPU its parts run, and what is wrong is seen."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gpu
from minidiff import backend
from minidiff.backend import graphs, kernels

OUT = None  # the parts that are called here write no file


def test_parity_holds_and_says_how_well():
    report = gpu.parity(True, "float32", OUT)
    assert "error" not in report and report["allowed"] == 1e-4
    assert all(0 < f["error"] < 1e-5 for f in report["networks"].values())


def spoilt(kernel, by):
    def wrong(*args):
        y, *rest = kernel(*args)
        return by(y), *rest

    return wrong


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("group_norm_silu", lambda y: 1.001 * y),
        ("group_norm_silu_grad", lambda dx: dx + 0.01 * np.abs(dx).max()),
        ("group_norm_silu_grad", lambda dx: np.full_like(dx, np.nan)),
        ("attention_grad", lambda dq: np.zeros_like(dq)),
    ],
    ids=["forward", "gradient", "NaN", "a gradient that is missing"],
)
def test_parity_sees_a_wrong_kernel(monkeypatch, name, by):
    table = kernels.of(np)
    monkeypatch.setattr(table, name, spoilt(getattr(table, name), by))
    report = gpu.parity(True, "float32", OUT)
    assert report["error"] == "differs from the definitions: digits8, digits8, AdaGN"
    assert "**Failed** (float32)" in gpu.page({"machine": {}, "dry_run": True, "parity": report})


def test_a_run_writes_numbers_and_a_page_of_tables(tmp_path, capsys):
    assert gpu.main(["--dry-run", "--out", str(tmp_path), "--only", "parity"]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["dry_run"] and set(result) >= {"parity float32", "parity tf32"}
    page = (tmp_path / "gpu.md").read_text()
    assert page == capsys.readouterr().out.rstrip() + "\n"
    rows = [line for line in page.splitlines() if line.startswith("| digits8")]
    assert len(rows) == 4 and all(row.count("|") == 7 for row in rows)


def test_the_kernels_part_compares_with_the_machine():
    report = gpu.kernels(True, "float32", OUT)
    page = gpu.page({"machine": {}, "dry_run": True, "kernels float32": report})
    assert page.count(" % |") == len(report["kernels"]) >= 8


def test_samplers_of_all_ways_are_timed_and_compared():
    makers = {k: m for k, m in gpu.LOOPS.items() if "PyTorch" not in k}
    report = {"networks": {}}
    players = gpu._players(makers, "digits8", gpu_config(), 2, "float32", report)
    calls = {f"{k} loop": (lambda p=p: p.loop(2), p.wait) for k, p in players.items()}
    compared = gpu._compared(gpu.take_turns(calls, rounds=1), "loop")
    assert set(compared["ms"]) == set(makers) and "ratio" not in compared
    assert min(compared["ms"].values()) > 0 and "failed" not in report


def gpu_config():
    from benchmarks.configs import CONFIGS

    return CONFIGS["digits8"]


def test_a_ratio_is_to_the_better_of_the_others():
    times = {"captured step": [1.0, 3.0, 2.0], "one by one step": [9.0] * 3,
             gpu.NCHW + " step": [4.0, 4.0, 4.0], gpu.NHWC + " step": [8.0] * 3}  # fmt: skip
    assert gpu._compared(times, "step")["ratio"] == 0.5
    assert gpu._compared(times, "step")["spread"] == [0.25, 0.75]


class Args:
    dry_run = True

    def __init__(self, out):
        self.out = out


def test_a_part_without_time_says_so(tmp_path):
    assert gpu.run_part("parity", "float32", 1.0, Args(tmp_path)) == {"error": "no time was left"}


PARTS = {
    "is stopped": "import time; print('noise'); {tell}; time.sleep(60)",
    "fails": "{tell}; raise KeyError('later')",
    "ends": "{tell}",
    "says nothing": "print('noise')",
}


@pytest.mark.parametrize("how", PARTS)
def test_a_part_that_fails_or_is_stopped_leaves_what_it_had(tmp_path, monkeypatch, how):
    tell = 'print(\'{"networks": {"a": 1}}\', flush=True)'
    code = PARTS[how].replace("{tell}", tell)
    real, given = gpu.subprocess.run, []

    def run(command, **options):
        given.extend(command)
        return real([command[0], "-c", code], **options)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    report = gpu.run_part("training", "float32", 5.0, Args(tmp_path))
    assert given[given.index("--seconds") + 1] == "5.0"
    assert report.get("networks") == (None if how == "says nothing" else {"a": 1})
    said = {"is stopped": "stopped after 5 s", "fails": "later", "says nothing": "no result"}
    assert said.get(how, "") in report.get("error", "") and ("error" in report) == (how in said)


def test_the_large_network_is_trained_for_three_minutes_where_there_is_the_time(monkeypatch):
    asked = {}

    def train(name, config, data, seconds, dry_run, out):
        asked[name] = seconds
        return {"sampling_s": 1.0} if name == "digits8" else {}

    monkeypatch.setattr(gpu, "_train", train)
    report = gpu.training(False, "float32", OUT, gpu.SHARE["training"])
    assert asked["mnist-small"] == 180 and set(report["failed"]) == {"mnist-small"}
    gpu.training(False, "float32", OUT, 100.0)
    assert asked["mnist-small"] == 40


def test_each_player_measures_the_memory_of_its_own_graphs(monkeypatch):
    """Those of the one before stay where they are: it still replays them."""
    pools = []

    class Pool:
        def __init__(self, allocator=None):
            self.freed, self.size = False, 2**20 * (1 + len(pools))
            pools.append(self)

        def total_bytes(self):
            return self.size

        def free_all_blocks(self):
            self.freed = True

    default = Pool()
    cuda = SimpleNamespace(MemoryPool=Pool, Stream=lambda non_blocking: None)

    class Device:
        pass

    Device.cuda, Device.get_default_memory_pool = cuda, staticmethod(lambda: default)
    monkeypatch.setattr(graphs, "_place", functools.cache(graphs._place.__wrapped__))
    monkeypatch.setattr(backend, "xp", Device())
    first, again, second = gpu._held(anew=True), gpu._held(), gpu._held(anew=True)
    assert (first, again, second) == (3, 3, 4)
    assert [p.freed for p in pools] == [True, False, False]
