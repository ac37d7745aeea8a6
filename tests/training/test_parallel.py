"""Several processes: the run of one, to the rounding of a sum, and one end for all of them."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.training import Run, Trainer, checkpoint, metrics, parallel, sampling, train
from minidiff.training.parallel import ALONE, Communicator, SlicedGenerator
from tests.training.tiny import tiny, tiny_without_file

ROOT = Path(__file__).parents[2]
# Of the same environment as Python, else whichever there is.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
SECONDS = 120  # a hang is a failure; a busy machine is none

mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason='needs mpi4py and mpiexec: pip install "minidiff[mpi]"',
)


def launch(n, scenario, folder, *options):
    """Run a scenario of `in_ranks` in n processes; those of a launch that hangs are ended."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "HYDRA"))}
    process = subprocess.Popen(
        [
            MPIEXEC, "-n", str(n), sys.executable, "-m", "tests.training.in_ranks",
            scenario, str(folder), *map(str, options),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=clean | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpiexec passes it on
        pytest.fail(f"{n} processes did not end: {process.communicate()}")
    return process.returncode, out, err


class One(Communicator):
    """One of several processes, which hears nothing from the others."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run that all others are held against, in one process."""
    folder = tmp_path_factory.mktemp("alone")
    run = Run.create(folder / "run", tiny(folder))
    trainer = Trainer(run.config)
    for _ in train(trainer, run):
        pass
    labels = sampling.label_plan(5, range(10))
    images = sampling.draw(trainer.model.eval(), trainer.schedule, 5, labels, w=1.0, steps=4)
    return run, images


def assert_same_run(run, other):
    """The same curve and the same weights, to rounding."""
    for a, b in zip(metrics.read(run.metrics), metrics.read(other.metrics), strict=True):
        assert (a["step"], a["lr"]) == (b["step"], b["lr"])
        assert a["loss"] == pytest.approx(b["loss"], rel=5e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=5e-6)
    ours, theirs = (checkpoint.load(r.last_checkpoint()) for r in (run, other))
    assert ours.step == theirs.step and ours.counters == theirs.counters
    for name, array in theirs.model.items():
        if not name.endswith("key.bias"):  # softmax does not see it: Adam follows the rounding
            np.testing.assert_allclose(ours.model[name], array, atol=5e-6, err_msg=name)
            np.testing.assert_allclose(ours.ema[name], theirs.ema[name], atol=5e-6, err_msg=name)


# ------------------------------------------------------------------------ without a launcher


@pytest.mark.parametrize("n", [1, 2, 7, 8, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_rows_are_divided_evenly_and_all_are_taken(n, size):
    slices = [One(rank, size).rows(n) for rank in range(size)]
    assert [i for s in slices for i in range(n)[s]] == list(range(n))
    counts = [s.stop - s.start for s in slices]
    assert max(counts) - min(counts) <= 1


def test_the_gradients_of_all_rows_add_up_to_that_of_the_batch():
    """Without communication: each trainer leaves its share of the sum where the sum would be."""
    config, shares = tiny_without_file().replace(grad_clip=1e9), []
    whole = Trainer(config)
    loss, _ = whole.train_step()
    losses = []
    for rank in range(3):  # 8 rows by 3: uneven
        trainer = Trainer(config, ranks=One(rank, 3))
        losses.append(trainer.train_step()[0])
        shares.append(trainer.flat.grad.copy())
    np.testing.assert_allclose(sum(shares), whole.flat.grad, rtol=1e-4, atol=1e-7)
    assert sum(losses) == pytest.approx(loss, rel=1e-6)
    assert not np.allclose(shares[0], shares[1])


def test_draws_are_those_of_the_whole_batch():
    whole = np.random.default_rng(3).random((7, 2, 5), dtype=np.float32)
    for rows in (slice(0, 2), slice(2, 7)):
        rng = SlicedGenerator(np.random.default_rng(3), rows, 7)
        mine = rng.random((rows.stop - rows.start, 2, 5), dtype=np.float32)
        np.testing.assert_array_equal(mine, whole[rows], strict=True)


def test_a_process_needs_an_image():
    with pytest.raises(InputError, match="batch_size is 8, too small for 9 processes"):
        Trainer(tiny_without_file(), ranks=One(0, 9))


def test_a_stop_while_the_average_is_handed_out_leaves_the_weights_alone():
    """What is saved then must not be the average, or the zeros of the others."""

    class Stopped(One):
        def allreduce(self, array):
            raise KeyboardInterrupt

    for rank in range(2):
        trainer = Trainer(tiny_without_file(), ranks=Stopped(rank, 2))
        before = trainer.flat.data.copy()
        if trainer.ema is not None:
            trainer.ema.data += 1
        with pytest.raises(KeyboardInterrupt), trainer.averaged():
            pass
        np.testing.assert_array_equal(trainer.flat.data, before)


def test_sample_works_in_one_process(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("minidiff.cli.commands.world", lambda: One(0, 2))
    assert main(["sample", str(tmp_path)]) == 2
    assert "leave mpiexec away" in capsys.readouterr().err


def test_alone_there_is_nobody_to_ask():
    array = np.arange(3.0)
    ALONE.allreduce(array)
    ALONE.check_same(array, "nothing")
    assert array.tolist() == [0, 1, 2] and ALONE.first and ALONE.barrier()
    assert ALONE.broadcast(3) == ALONE.maximum(3) == ALONE.on_first(max, 2, 3) == 3
    assert ALONE.gather("a") == ["a"] and ALONE.rows(5) == slice(0, 5)
    assert ALONE.share(max) is max
    with pytest.raises(ZeroDivisionError):
        ALONE.on_first(lambda: 1 // 0)


def test_the_communicator_is_chosen_by_what_the_launcher_says(monkeypatch):
    for name in (*parallel._RANKS, *parallel._SIZES):
        monkeypatch.delenv(name, raising=False)
    parallel.world.cache_clear()
    assert parallel.launched_rank() is None and parallel.world() is ALONE
    parallel.world.cache_clear()
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # as if it were not installed
    assert parallel.launched_rank() == 1
    with pytest.raises(InputError, match=r'pip install "minidiff\[mpi\]"'):
        parallel.world()


def test_without_mpi4py_rank_0_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    parallel.world.cache_clear()
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("PMI_RANK", rank)
        assert main(["train", "digits8", "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == lines and all("minidiff[mpi]" in line for line in said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["x", "", "-1", "1.5", "\u00b2"])
@pytest.mark.parametrize("name", parallel._RANKS)
def test_what_no_launcher_writes_is_one_line(monkeypatch, capsys, tmp_path, name, value):
    for known in (*parallel._RANKS, *parallel._SIZES):
        monkeypatch.delenv(known, raising=False)
    parallel.world.cache_clear()
    monkeypatch.setenv(name, value)
    assert main(["train", "digits8", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"minidiff: error: {name}={value!r}") and "unset it" in line
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- with a launcher


@mpi
@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_run_of_several_processes_is_that_of_one(tmp_path, alone, n):
    """The same curve, weights and images; three of them share 8 images as 2, 3 and 3.

    A rank that touches a file of the run but for rank 0 fails, see `in_ranks.keep_out`.
    """
    code, _, err = launch(n, "whole", tmp_path)
    assert code == 0, err
    run, images = alone
    assert_same_run(Run.open(tmp_path / "run"), run)
    np.testing.assert_allclose(np.load(tmp_path / "drawn.npy"), images, atol=1e-3)


@mpi
def test_sums_are_whole(tmp_path):
    code, _, err = launch(3, "sums", tmp_path)
    assert code == 0, err


@mpi
def test_a_demo_in_two_processes(tmp_path):
    code, out, err = launch(2, "demo", tmp_path)
    assert code == 0, err
    assert out.count("in 2 processes") == out.count("What next?") == 1
    assert Run.open(tmp_path / "run").last_step() == 3
    for name in ("samples.png", "process.png", "process.gif", "loss.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
    code, out, err = launch(2, "demo", tmp_path)
    assert code == 0 and out.count("finished demo") == 1, err


@pytest.fixture
def begun(tmp_path):
    """A run that has only its config."""
    return Run.create(tmp_path / "run", tiny(tmp_path))


@mpi
def test_a_dead_process_ends_the_run_which_then_goes_on_in_another_number(tmp_path, begun, alone):
    code, _, _ = launch(2, "stopped", tmp_path, "dies", 7, 1)
    assert code != 0
    assert begun.last_step() == 5  # whole, or it would not load
    code, out, err = launch(3, "stopped", tmp_path, "is told", 8, 2)
    assert code == 128 + 15 and "Step 8 of 12 is done and saved." in out, err
    assert out.count("in 3 processes") == 1 and err.count("Finishing") == 0  # it was not rank 0
    assert begun.last_step() == 8
    assert main(["train", "--resume", "--out", str(begun.folder)]) == 0
    assert_same_run(begun, alone[0])


@mpi
def test_an_error_in_one_process_ends_all(tmp_path, begun):
    code, _, err = launch(2, "stopped", tmp_path, "raises", 7, 1)
    assert code == 1 and "the machine is on fire" in err and "(rank 1)" in err
    assert begun.last_step() == 5
    checkpoint.load(begun.last_checkpoint())


@mpi
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("drifts", "the weights after step 10 differ between the processes (rank 1 from rank 0"),
        ("has no disk", "No space left on device"),
    ],
)
def test_what_all_processes_find_wrong_is_one_line(tmp_path, begun, how, message):
    code, _, err = launch(2, "stopped", tmp_path, how, 7, 0 if "disk" in how else 1)
    (line,) = (line for line in err.splitlines() if "error" in line)
    assert code == 2 and line.startswith("minidiff: error: ") and message in line
    assert "BAD TERMINATION" not in err and "Abort" not in err
    assert begun.last_step() == 5
