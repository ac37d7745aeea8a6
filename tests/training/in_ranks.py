"""What each process does that `test_parallel` starts: a scenario, its folder and options."""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from minidiff.cli import main
from minidiff.training import Run, Trainer, config, parallel, sampling, train
from tests.training.tiny import tiny_without_file


def whole(folder):
    """A run from its start to its end in FOLDER/run, and images drawn from it in drawn.npy."""
    ranks = parallel.world()
    run = ranks.on_first(Run.create, folder / "run", tiny_without_file())
    trainer = Trainer(run.config, ranks=ranks)
    for _ in train(trainer, run):
        pass
    own, average = trainer.flat.data.copy(), ranks.broadcast(trainer.ema and trainer.ema.data)
    assert (trainer.ema is None) == (ranks.rank > 0) and not np.array_equal(own, average)
    with trainer.averaged():
        np.testing.assert_array_equal(trainer.flat.data, average)
    np.testing.assert_array_equal(trainer.flat.data, own)
    labels = sampling.label_plan(5, range(10))
    images = sampling.draw(
        trainer.model.eval(), trainer.schedule, 5, labels, ranks=ranks, w=1.0, steps=4
    )
    assert all(np.array_equal(images, others) for others in ranks.gather(images))
    ranks.on_first(np.save, folder / "drawn.npy", images)


def sums(folder):
    """Sums of more numbers than a piece holds, of none, and of numbers that do not lie in order."""
    ranks = parallel.world()
    parallel._PIECE = 5
    arrays = np.arange(17.0), np.zeros(0), np.arange(24.0).reshape(4, 6).T, np.arange(24.0)[::2]
    for array in arrays:
        expected = sum((rank + 1) * array for rank in range(ranks.size))
        array *= ranks.rank + 1
        ranks.allreduce(array)
        np.testing.assert_array_equal(array, expected)


def stopped(folder, how, step, rank):
    """The command line in FOLDER/run, to which something happens in step STEP on rank RANK."""
    real_step = Trainer.train_step

    def train_step(self):
        if self.step + 1 == int(step) and self.ranks.rank == int(rank):
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raises":
                raise RuntimeError("the machine is on fire")
            if how == "is told":
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "drifts":
                self.flat.data[3] += 1e-3
            if how == "has no disk":
                Run.save = no_space
        return real_step(self)

    def no_space(self, state):
        raise OSError(28, "No space left on device")

    Trainer.train_step = train_step
    sys.exit(main(["train", "--resume", "--out", str(folder / "run")]))


def demo(folder):
    """The demo of a tiny recipe in FOLDER/run."""
    config.read = lambda recipe: tiny_without_file()
    sys.exit(main(["demo", "--out", str(folder / "run"), "--steps", "3"]))


def keep_out(folder):
    """Refuse this process every file in `folder`."""

    def look(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.listdir") and arguments:
            place = arguments[0]
            if isinstance(place, str | Path) and str(place).startswith(str(folder)):
                raise AssertionError(f"rank {parallel.world().rank} touched {place} by {event}")

    sys.addaudithook(look)


if __name__ == "__main__":
    scenario, folder, *options = sys.argv[1:]
    if not parallel.world().first:
        keep_out(folder)
    scenarios = {"whole": whole, "sums": sums, "stopped": stopped, "demo": demo}
    scenarios[scenario](Path(folder), *options)
