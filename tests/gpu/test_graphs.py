"""Captured steps: what the graph is given, that nothing else reaches it, and that it is a step."""

import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from minidiff import backend
from minidiff.backend import graphs
from minidiff.errors import InputError
from minidiff.training import captured
from minidiff.training.trainer import Trainer
from tests import double
from tests.gpu import emulator
from tests.training.tiny import tiny_without_file


class Graph:
    """Stands in for CuPy's: a capture does no work, a replay does all of it again."""

    def __init__(self, work):
        self.work, self.launches = work, 0

    def launch(self):
        self.launches += 1
        self.work()


class Recorder:
    """A function on arrays as the device would run it: in a capture it only takes note."""

    def __init__(self):
        self.capturing = self.graph = None

    def stream(self):
        def begin():
            self.capturing = []

        def end():
            work, self.capturing = self.capturing, None
            self.graph = Graph(lambda: [f() for f in work])
            return self.graph

        stream = contextlib.nullcontext()
        stream.begin_capture, stream.end_capture = begin, end
        return stream

    def run(self, f):
        if self.capturing is None:
            f()
        else:
            self.capturing.append(f)


@pytest.fixture
def recorder(monkeypatch):
    """The double with a stream whose captures are recorded."""
    recorder = Recorder()
    cuda = SimpleNamespace(
        Stream=recorder.stream,
        Graph=Graph,
        MemoryPool=lambda: SimpleNamespace(malloc=None),
        using_allocator=lambda malloc: contextlib.nullcontext(),
    )
    monkeypatch.setattr(backend, "xp", double.xp)
    monkeypatch.setattr(double.xp, "cuda", cuda)
    return recorder


def scale_and_count(recorder):
    """(captured function y = a x, how often it has run): the count is state of the device."""
    y, count = double.xp.zeros(3), double.xp.zeros(1)

    def f(x, a):
        def work():
            y[...] = x * a
            count[...] = count + 1

        recorder.run(work)
        return (y,)

    return graphs.Captured(f), count


def test_every_call_does_the_work_once_with_its_own_inputs(recorder):
    f, count = scale_and_count(recorder)
    results = []
    for i in range(1, 7):
        results.append(f(np.arange(3.0), double.xp.asarray([float(i)]))[0])
        assert count._a == i
    assert recorder.graph.launches == 6 - graphs.WARM_UP
    for i, result in enumerate(results, 1):  # results are copies: a later call leaves them alone
        np.testing.assert_array_equal(result._a, i * np.arange(3.0))


def test_other_shapes_are_refused(recorder):
    f, _ = scale_and_count(recorder)
    f(np.arange(3.0), np.ones(1))
    with pytest.raises(InputError, match="captured graph"):
        f(np.arange(4.0), np.ones(1))
    with pytest.raises(InputError, match="float32"):
        f(np.arange(3.0, dtype=np.float32), np.ones(1))


def test_an_error_ends_the_capture(recorder):
    def f(x):
        if recorder.capturing is not None:
            raise RuntimeError("not in a capture")
        return (x,)

    call = graphs.Captured(f)
    for _ in range(graphs.WARM_UP):
        call(np.ones(2))
    for _ in range(2):  # half of a graph is never replayed
        with pytest.raises(RuntimeError, match="not in a capture"):
            call(np.ones(2))
        assert recorder.capturing is None


def test_without_graphs_the_function_just_runs():
    y = graphs.Captured(lambda x: (x + 1,))(np.ones(2))[0]
    np.testing.assert_array_equal(y, [2, 2])


@pytest.mark.skipif(emulator.COMPILER is None, reason="no g++ to compile the kernels with")
def test_a_captured_step_is_the_step_of_the_trainer(emulated, monkeypatch):
    """On the double, with the kernels of CuPy and numbers that come from memory, against NumPy."""
    config = tiny_without_file()
    unet = dataclasses.replace(config.unet, dropout=0.0)
    config = config.replace(batch_size=3, warmup=2, unet=unet)
    expected = Trainer(config)
    monkeypatch.setattr(captured, "supported", lambda: True)
    monkeypatch.setattr(backend, "xp", double.xp)
    monkeypatch.setattr(  # on NumPy, too
        backend, "generator", lambda *of: backend.Philox(backend.asarray(backend.key(*of)))
    )
    trainer = Trainer(config)
    assert trainer._captured is not None and expected._captured is None
    for _ in range(3):
        monkeypatch.setattr(backend, "xp", np)
        loss, norm = expected.train_step()
        monkeypatch.setattr(backend, "xp", double.xp)
        with double.forbid("synchronization"):
            got = trainer.train_step()
        np.testing.assert_allclose([a._a for a in got], [loss, norm], rtol=1e-4)
    for name in ("flat.data", "ema.data", "optimizer.m", "optimizer.v"):
        owner, attribute = name.split(".")
        got, want = (getattr(getattr(t, owner), attribute) for t in (trainer, expected))
        np.testing.assert_allclose(got._a, want, rtol=1e-3, atol=1e-5, err_msg=name)
    assert (trainer.step, trainer.optimizer.steps, trainer.ema.updates) == (3, 3, 3)
