"""The script that measures a GPU: on a CPU its parts run, and what is wrong is seen."""

import json

import numpy as np
import pytest

from benchmarks import gpu
from minidiff.backend import kernels

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


def test_a_part_that_fails_or_takes_too_long_leaves_the_others_alone(tmp_path):
    class Args:
        out, dry_run = tmp_path, True

    assert gpu.run_part("parity", "float32", 1.0, Args) == {"error": "no time was left"}
    assert "stopped after" in gpu.run_part("training", "float32", 5.1, Args)["error"]
