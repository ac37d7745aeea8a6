"""``kill -9`` at a moment that nobody chose, then ``--resume``: the same bits as without it."""

import os
import random
import subprocess
import sys
import time

from minidiff.cli import main
from minidiff.training import Run
from tests.training.tiny import write_tiny

STEPS, KILLS = 60, 2


def train(*arguments):
    return ["train", *arguments, "--out"]


def wait_for_lines(path, lines, process):
    """Until the metrics have so many lines; False if the process ended before."""
    while not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def test_killed_at_random_moments(tmp_path):
    recipe = write_tiny(tmp_path)
    start = train(recipe, "--steps", str(STEPS), "--set", "checkpoint_every=3")
    assert main([*start, str(tmp_path / "whole")]) == 0

    folder, moments = tmp_path / "killed", []
    for i in range(KILLS):
        done = Run.open(folder).last_step() if i else 0
        moments.append((random.randint(done, STEPS - 10), random.uniform(0, 0.03)))
        process = subprocess.Popen(
            [sys.executable, "-m", "minidiff", *(train("--resume") if i else start), str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            assert wait_for_lines(folder / "metrics.jsonl", moments[-1][0], process)
            time.sleep(moments[-1][1])
        finally:
            process.kill()
            process.wait()
    print("killed at", moments)  # shown if what follows fails

    assert main([*train("--resume"), str(folder)]) == 0
    killed, whole = (Run.open(tmp_path / name) for name in ("killed", "whole"))
    assert killed.last_step() == whole.last_step() == STEPS
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        ours, theirs = killed.last_checkpoint() / name, whole.last_checkpoint() / name
        assert ours.read_bytes() == theirs.read_bytes(), f"{name} differs, killed at {moments}"
    assert [p.name for p in (folder / "checkpoints").iterdir()] == [f"step-{STEPS:06d}"]
