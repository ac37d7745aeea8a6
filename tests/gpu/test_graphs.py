"""Graphs: what may be captured, that a replay is the work itself, steps and samplers as graphs.

The double captures and replays by CuPy's rules. On a GPU the same tests run on CuPy.
"""

import dataclasses
import gc
import threading
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from minidiff import backend
from minidiff.backend import graphs, kernels
from minidiff.backend.philox import Philox
from minidiff.diffusion import samplers, schedules
from minidiff.errors import InputError
from minidiff.training import captured, sampling
from minidiff.training.config import ObjectiveConfig
from minidiff.training.parallel import Communicator
from minidiff.training.trainer import Trainer
from minidiff.unet import Conditions, UNet, UNetConfig
from tests import double
from tests.training.tiny import tiny_without_file


@pytest.fixture
def recorded(monkeypatch):
    """The graphs that are captured on the double, in order."""
    found = []

    def pool(allocator):
        return SimpleNamespace(malloc=allocator)

    class Memory:
        def __init__(self, size):
            self.size = size

    class Stream(double.Stream):
        def end_capture(self):
            found.append(super().end_capture())
            return found[-1]

    cuda = SimpleNamespace(
        Stream=Stream, Graph=double.Graph, MemoryPool=pool, Memory=Memory,
        MemoryPointer=lambda memory, offset: SimpleNamespace(mem=memory),
        using_allocator=lambda malloc: nullcontext(),
    )  # fmt: skip
    monkeypatch.setattr(backend, "xp", double.xp)
    monkeypatch.setattr(double.xp, "cuda", cuda)
    default = SimpleNamespace(free_all_blocks=lambda: None)
    monkeypatch.setitem(vars(double.xp), "get_default_memory_pool", lambda: default)
    graphs._place.cache_clear()
    yield found
    graphs._place.cache_clear()


@pytest.fixture
def with_libraries(monkeypatch):
    """The kernels' definitions may be captured, and run faster than kernels thread by thread."""
    monkeypatch.setattr(double, "LIBRARIES", frozenset())


def scaled(x, a):
    """y = a x in a few steps, some of them in place; and how often that was done."""
    y = x * a
    y += 0 * x
    scaled.count += 1
    scaled.rows[1:] = y[:2]
    return (y, scaled.rows)


@pytest.fixture
def scale(recorded):
    scaled.count, scaled.rows = double.xp.zeros(1), double.xp.zeros(3)
    return graphs.Captured(scaled)


def test_every_call_does_the_work_once_with_its_own_inputs(scale, recorded):
    results = []
    for i in range(1, 7):
        results.append(scale(np.arange(3.0), double.xp.asarray([float(i)])))
        assert scaled.count._a == i
    assert [g.launches for g in recorded] == [6 - graphs.WARM_UP]
    for i, (y, rows) in enumerate(results, 1):  # copies: a later call leaves them alone
        np.testing.assert_array_equal(y._a, i * np.arange(3.0))
        if i > graphs.WARM_UP:
            np.testing.assert_array_equal(rows._a, [0, 0, i])


def test_an_input_may_be_overwritten_by_its_owner_after_the_call(scale):
    x = np.arange(3.0)
    results = []
    for i in range(4):
        x[...] = i
        results.append(scale(x, np.ones(1))[0])
        x[...] = np.nan
    assert [y._a.tolist() for y in results] == [[i] * 3 for i in range(4)]


def test_other_shapes_are_refused(scale):
    scale(np.arange(3.0), np.ones(1))
    with pytest.raises(InputError, match="captured graph"):
        scale(np.arange(4.0), np.ones(1))
    with pytest.raises(InputError, match="float32"):
        scale(np.arange(3.0, dtype=np.float32), np.ones(1))


FORBIDDEN = {  # what CuPy refuses while a stream is captured
    "data from the host": lambda xp, x: x + xp.asarray(np.ones(3)),
    "waiting": lambda xp, x: x * float(x[0]),
    "a decision by numbers": lambda xp, x: x if x[0] > 0 else -x,
    "cuBLAS": lambda xp, x: x[:, None] @ x[None],
    "a library": lambda xp, x: xp.sort(x),
    "places": lambda xp, x: xp.where(x > 0)[0],
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_error_ends_the_capture(recorded, what):
    call = graphs.Captured(lambda x: (FORBIDDEN[what](double.xp, x),))
    for _ in range(graphs.WARM_UP):
        call(np.ones(3))
    for _ in range(2):  # half of a graph is never replayed
        with pytest.raises(double.Forbidden):
            call(np.ones(3))
        assert double.capturing() is None
    assert [g.launches for g in recorded] == [0, 0]


def test_memory_of_graphs_is_never_given_back(recorded):
    """A pool of CuPy that runs out drops its free blocks, which replays still write to."""
    _, pool = graphs._place(double.xp)
    blocks = [weakref.ref(pool.malloc(size).mem) for size in (512, 1024)]
    gc.collect()
    assert [block().size for block in blocks] == [512, 1024]


def test_without_graphs_the_function_just_runs():
    y = graphs.Captured(lambda x: (x + 1,))(np.ones(2))[0]
    np.testing.assert_array_equal(y, [2, 2])


def test_definitions_are_not_captured(scale, recorded):
    """They multiply with cuBLAS."""
    with kernels.definitions_only():
        for _ in range(3):
            scale(np.arange(3.0), np.ones(1))
    assert recorded == []


# ----------------------------------------------------------------------- a training step

OBJECTIVES = {
    "eps": {},
    "v": {"objective": ObjectiveConfig(target="v")},
    "x0": {"objective": ObjectiveConfig(target="x0", weight="min_snr", times="stratified")},
    "eps, weights": {"objective": ObjectiveConfig(weight="min_snr")},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.3},
}


def config_of(**changes):
    config = tiny_without_file()
    unet = dataclasses.replace(config.unet, dropout=changes.pop("dropout", 0.0))
    return config.replace(batch_size=3, warmup=2, unet=unet, **changes)


def state(trainer):
    arrays = trainer.flat.data, trainer.ema.data, trainer.optimizer.m, trainer.optimizer.v
    return [backend.to_numpy(a).copy() for a in arrays]


def steps_of(trainer, n=3):
    """(loss, norm) of each of n steps, none of which waits for the device; and the state then."""
    with double.forbid("synchronization"):
        results = [trainer.train_step() for _ in range(n)]
    assert (trainer.step, trainer.optimizer.steps, trainer.ema.updates) == (n, n, n)
    return [[float(a) for a in r] for r in results], state(trainer)


def launched_one_by_one(config):
    trainer = Trainer(config)
    trainer._captured = None
    return trainer


def assert_same_run(got, expected):
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    for a, b in zip(got[1], expected[1], strict=True):  # Adam divides gradients that are next to 0
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)


def assert_captured(config, recorded):
    trainer = Trainer(config)
    got = steps_of(trainer)
    assert [g.launches for g in recorded] == [len(got[0]) - graphs.WARM_UP] * 2
    assert_same_run(got, steps_of(launched_one_by_one(config)))


@pytest.mark.parametrize("what", OBJECTIVES)
def test_a_captured_step_is_the_step_of_the_trainer(recorded, with_libraries, what):
    assert_captured(config_of(**OBJECTIVES[what], dropout=0.3), recorded)


def test_a_step_by_the_kernels_of_a_gpu_can_be_captured(emulated, recorded):
    assert_captured(config_of(dropout=0.3), recorded)


def test_a_captured_step_is_that_of_numpy(recorded, with_libraries, monkeypatch):
    """With the same draws: other sums, other kernels, the same mathematics."""
    got = steps_of(Trainer(config_of()))
    monkeypatch.setattr(backend, "xp", np)
    monkeypatch.setattr(backend, "generator", lambda *of: Philox(backend.key(*of)))
    assert_same_run(got, steps_of(Trainer(config_of())))


class Two(Communicator):
    """Process `rank` of two in one program, each a thread that has its turn between two sums."""

    def __init__(self, rank, meeting):
        self.rank, self.size, self.meeting = rank, 2, meeting

    def allreduce(self, array):
        self.meeting.add_up(self.rank, array)


class Meeting:
    """Where two threads add up; one of them runs at a time, as the double has one stream."""

    def __init__(self):
        self.turns = [threading.Semaphore(1), threading.Semaphore(0)]
        self.first = None

    def add_up(self, rank, array):
        if rank == 0:
            self.first = array
            self.turns[1].release()
            self.turns[0].acquire()
        else:
            total = self.first + array
            self.first[...] = total
            array[...] = total
            self.turns[0].release()
            self.turns[1].acquire()


def test_two_processes_have_the_curve_of_one(recorded, with_libraries):
    config = config_of(dropout=0.3, **OBJECTIVES["v"])
    meeting, found = Meeting(), {}

    def run(rank):
        meeting.turns[rank].acquire()
        trainer = Trainer(config, ranks=Two(rank, meeting))
        found[rank] = (
            [[float(a) for a in trainer.train_step()] for _ in range(3)],
            trainer.flat.data._a.copy(),
        )
        meeting.turns[1 - rank].release()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    alone = steps_of(Trainer(config), 3)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert_same_run((found[0][0], [found[0][1]]), (alone[0], alone[1][:1]))


# ------------------------------------------------------------------------------ sampling

SCHEDULE = schedules.make("cosine", 20)
OPTIONS = {
    "rk2": {"alpha": 0.5}, "edm": {"s_churn": 2.0}, "annealed_langevin": {"corrections": 1},
    "ddim": {"eta": 0.5},
}  # fmt: skip


def network():
    """A U-Net none of whose parameters is zero."""
    config = UNetConfig(4, channels=4, multipliers=(1,), blocks=1, groups=2, num_classes=3)
    model = UNet(config, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data += backend.asarray(0.1 * rng.standard_normal(p.shape, dtype=np.float32))
    return model


class Formula:
    """A network that is one formula, so that many evaluations take no time."""

    conditions, label_rows = UNet.conditions, UNet.label_rows

    def __init__(self, num_classes=3):
        self.config = SimpleNamespace(image_size=2, in_channels=3, num_classes=num_classes)
        self.classes = num_classes  # not None where there are labels

    def time_features(self, t, dtype):
        return backend.asarray(np.stack([t / 20, np.sqrt(t)], axis=1).astype(dtype))

    def denoise(self, x, t, labels=None):
        given = t if isinstance(t, Conditions) else self.conditions(t, labels, x.dtype)
        time, rows, known = given
        y = backend.array_module(x).tanh(x * time[:, :1, None, None]) + time[:, 1:, None, None]
        return (
            y
            if rows is None
            else y - (known[:, 0] * rows.astype(x.dtype) * 0.1)[:, None, None, None]
        )


def images(model, *, whole, n=9, **options):
    labels = None if model.config.num_classes is None else np.arange(n) % 3
    options = {"steps": 4, "batch": 2, "seed": 5} | options
    with double.forbid("synchronization"):
        batches = list(sampling.sample(model, SCHEDULE, n, labels, only_last=whole, **options))
    assert not whole or len([s for rows, s in batches if rows.start == 0]) == 1
    return np.concatenate([backend.to_numpy(s.x) for _, s in batches if s.t == 0])


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_sampler_as_one_graph_gives_the_bits_of_its_steps(recorded, sampler, monkeypatch):
    model = Formula()
    options = {"sampler": sampler, "w": 0.7} | OPTIONS.get(sampler, {})
    got = images(model, whole=True, **options)
    assert [g.launches for g in recorded][:1] == [4 - graphs.WARM_UP], "four batches of two"
    by_steps = images(model, whole=False, **options)
    monkeypatch.setattr(captured, "supported", lambda: False)
    monkeypatch.setattr(graphs, "supported", lambda: False)
    np.testing.assert_array_equal(by_steps, images(model, whole=False, **options))
    np.testing.assert_array_equal(got, by_steps)


@pytest.mark.parametrize(
    "options", [{"target": "v"}, {"target": "x0", "w": 1.0}, {"w": -1.0}, {"num_classes": None}],
    ids=str,
)  # fmt: skip
def test_guidance_and_what_is_predicted(recorded, options):
    options = {"sampler": "ddpm", **options}
    model = Formula(options.pop("num_classes", 3))
    got = images(model, whole=True, **options)
    assert recorded[0].launches == 3
    np.testing.assert_array_equal(got, images(model, whole=False, **options))


def test_a_network_in_a_whole_sampler(emulated, recorded):
    model, options = network(), {"n": 4, "batch": 1, "steps": 2, "w": 0.5}
    got = images(model, whole=True, **options)
    np.testing.assert_array_equal(got, images(model, whole=False, **options))


def test_the_weights_are_read_where_they_are(recorded, with_libraries):
    model = network()
    evaluate, x = captured.denoiser(model), backend.asarray(np.ones((2, 4, 4, 1), np.float32))
    for i in range(4):
        model.conv_in.weight.data[...] += 0.1
        got = evaluate(x, np.full(2, 5 + i), labels=np.array([i % 3, 3]))
        expected = model.denoise(x, np.full(2, 5 + i), np.array([i % 3, 3]))
        np.testing.assert_array_equal(got._a, expected._a)
    assert recorded[0].launches == 4 - graphs.WARM_UP


def test_when_a_whole_sampler_is_captured(recorded, monkeypatch):
    """From four batches on, if it does not ask too often, and if somebody's graphs are there."""

    def states(denoise, x_T, rng, labels):
        return samplers.ddim(denoise, SCHEDULE, x_T, steps=10)

    model, shape = Formula(None), (2, 2, 2, 3)
    assert captured.sampler(model, states, shape, captured.BATCHES).evaluations == 10
    assert captured.sampler(model, states, shape, captured.BATCHES - 1) is None
    monkeypatch.setattr(captured, "EVALUATIONS", 9)
    assert captured.sampler(model, states, shape, 99) is None
    monkeypatch.setattr(captured, "EVALUATIONS", 10)
    monkeypatch.setattr(captured, "supported", lambda: False)
    assert captured.sampler(model, states, shape, 99) is None


def test_several_processes_divide_each_evaluation(recorded, monkeypatch):
    """A whole sampler as one graph would draw all images in each of them."""

    class Half(Communicator):
        size = 2

    monkeypatch.setattr(captured, "sampler", None)  # an error, if it is called
    labels = np.arange(8) % 3
    sampling.draw(Formula(), SCHEDULE, 8, labels, steps=2, batch=2, ranks=Half())
    assert [g.launches for g in recorded] == [8 - graphs.WARM_UP]


def test_what_a_sampler_asks_does_not_depend_on_the_images():
    """Else a rehearsal would not tell what to bring along."""
    asked = {}
    for value in (0.0, 3.0):
        for name in samplers.SAMPLERS:
            run = samplers.make(name, clip=(-1.0, 1.0), steps=6, **OPTIONS.get(name, {}))

            def note(xt, t, name=name, value=value):
                asked.setdefault((name, value), []).append(t.tolist())
                return np.cos(value * xt)

            rng = np.random.default_rng(int(value))
            samplers.final(run(note, SCHEDULE, rng.standard_normal((2, 3, 1)), rng=rng))
    assert all(asked[name, 0.0] == asked[name, 3.0] for name in samplers.SAMPLERS)


# ----------------------------------------------------------- what only a GPU can tell


@pytest.fixture
def cupy(monkeypatch):
    module = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not module.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    monkeypatch.setattr(backend, "xp", module)
    monkeypatch.setattr(backend, "name", "cupy")
    return module


@pytest.mark.gpu
def test_on_a_gpu_replays_keep_their_inputs_results_and_memory_apart(cupy):
    """The host overwrites an input while it may be on its way; others take freed memory."""
    call = graphs.Captured(lambda x, a: (cupy.sqrt(x * x + 1) * a, (x * a).sum()))
    x, results = np.empty(1 << 20, np.float32), []
    for i in range(50):
        x[...] = i
        results.append(call(x, np.full(1, 2.0, np.float32)))
        x[...] = np.nan
        others = [cupy.full(1 << 20, np.nan, np.float32) for _ in range(4)]
        del others
    for i, (y, total) in enumerate(results):
        np.testing.assert_allclose(y.get(), 2 * np.hypot(i, 1), rtol=1e-6)
        np.testing.assert_allclose(total.get(), 2 * i * (1 << 20), rtol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_a_capture_that_fails_leaves_it_usable(cupy):
    call = graphs.Captured(lambda x: (x @ x,))  # CuPy lets no cuBLAS into a graph
    x = cupy.eye(8, dtype=np.float32)
    call(x)
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            call(x)
    np.testing.assert_array_equal((x @ x).get(), np.eye(8))
    call = graphs.Captured(lambda x: (x + 1,))
    assert all(float(call(x)[0].sum()) == 72 for _ in range(3))


@pytest.mark.gpu
def test_on_a_gpu_graphs_that_are_dropped_leave_no_memory_behind(cupy):
    def capture():
        call = graphs.Captured(lambda x: (cupy.sqrt(x * 2) + x,))
        for _ in range(3):
            call(np.ones(1 << 20, np.float32))
        backend.synchronize()
        return graphs._place(cupy)[1].total_bytes()

    capture()
    assert capture() == max(capture() for _ in range(10))


@pytest.mark.gpu
def test_on_a_gpu_a_pool_that_runs_out_does_not_take_the_memory_of_a_graph(cupy):
    call = graphs.Captured(lambda x: (cupy.sqrt(x * 2) + x,))
    for _ in range(2):
        call(np.ones(1 << 20, np.float32))
    free, _ = cupy.cuda.runtime.memGetInfo()
    _, pool = graphs._place(cupy)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        pool.malloc(2 * free)
    others = [cupy.full(1 << 20, np.nan, np.float32) for _ in range(16)]
    result = call(np.full(1 << 20, 2.0, np.float32))[0]
    np.testing.assert_array_equal(result.get(), 4)
    assert all(bool(cupy.isnan(a).all()) for a in others), "a replay wrote to memory of others"


@pytest.mark.gpu
@pytest.mark.parametrize("what", OBJECTIVES)
def test_on_a_gpu_a_captured_step_is_the_step(cupy, what):
    config = config_of(**OBJECTIVES[what], dropout=0.3)
    assert_same_run(steps_of(Trainer(config), 6), steps_of(launched_one_by_one(config), 6))


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_on_a_gpu_a_sampler_as_one_graph_gives_the_bits_of_its_steps(cupy, sampler, monkeypatch):
    model, options = network(), {"sampler": sampler, "w": 0.7} | OPTIONS.get(sampler, {})
    whole = images(model, whole=True, **options)
    by_steps = images(model, whole=False, **options)
    monkeypatch.setattr(captured, "supported", lambda: False)
    np.testing.assert_array_equal(by_steps, images(model, whole=False, **options))
    np.testing.assert_array_equal(whole, by_steps)


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_in_a_captured_step(cupy):
    """Steps are asked for faster than they are done: the host does not stand in line."""
    trainer = Trainer(config_of())
    for _ in range(3):
        trainer.train_step()
    backend.synchronize()
    busy = cupy.ones((4096, 4096), np.float32)
    for _ in range(50):
        busy = busy @ busy * 0
    end = cupy.cuda.get_current_stream().record()
    for _ in range(3):
        trainer.train_step()
    assert not end.done, "the host waited for the device somewhere in a step"
    backend.synchronize()
