"""The estimate of memory: near what is measured, and a refusal where there is less."""

import threading
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from minidiff import backend
from minidiff.backend import memory as machine
from minidiff.backend.kernels.numpy import memory as kernels_memory
from minidiff.cli import main
from minidiff.data import Dataset
from minidiff.errors import InputError
from minidiff.training import Trainer, checkpoint, memory, sampling
from minidiff.training.config import TrainConfig
from minidiff.unet import UNet, UNetConfig
from tests.training.tiny import tiny_without_file, write_tiny

DEMO = {"image_size": 8, "channels": 12, "multipliers": (1, 2), "attention": (4,), "groups": 4}
NETWORKS = {
    "of the demo": (DEMO | {"num_classes": 10}, 64),
    "three levels": ({"image_size": 16, "channels": 16, "multipliers": (1, 2, 2), "blocks": 2}, 16),
    "colours": ({"image_size": 32, "channels": 8, "multipliers": (1, 2), "in_channels": 3}, 16),
    "attention": ({"image_size": 16, "channels": 16, "multipliers": (1,), "attention": (16,)}, 16),
    "one level": ({"image_size": 32, "channels": 8, "multipliers": (1,)}, 4),
    "many blocks": ({"image_size": 8, "channels": 8, "multipliers": (1,), "blocks": 20}, 4),
    "wide": ({"image_size": 8, "multipliers": (1, 2), "time_conditioning": "scale_shift"}, 1),
    "narrowing": ({"image_size": 16, "channels": 8, "multipliers": (4, 2, 1)}, 1),
}


@pytest.fixture(params=NETWORKS, name="config")
def config_of_a_network(request):
    u, batch = NETWORKS[request.param]
    return TrainConfig(unet=UNetConfig(**{"blocks": 1, "groups": 8} | u), batch_size=batch, T=20)


@pytest.fixture
def peak(monkeypatch):
    """A function that calls another one, and returns the most bytes that it had at a time."""

    def measure(function):
        monkeypatch.setattr(kernels_memory, "_arena", threading.local())  # as in a new process
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_training_takes_what_is_estimated(tmp_path, config, peak):
    u = config.unet
    images = np.zeros((16, u.image_size, u.image_size, u.in_channels), np.float32)
    images[0] = -1
    data = Dataset("dots", images, np.arange(16) % 10, tuple("0123456789"))

    def train():
        trainer = Trainer(config, data)
        trainer.train_step()
        checkpoint.save(tmp_path, trainer.state())

    assert 0.5 < memory.of_training(config) / peak(train) < 2


def test_sampling_takes_what_is_estimated(config, peak):
    n, batch = 100, config.batch_size
    labels = None if config.unet.num_classes is None else np.arange(n) % 10

    def draw():
        model = UNet(config.unet, rng=backend.host_generator(0))
        w = 0.0 if labels is None else 1.0
        sampling.draw(model, config.make_schedule(), n, labels, steps=1, batch=batch, w=w)

    assert 0.5 < memory.of_sampling(config, n, batch) / peak(draw) < 2


def test_parameters_are_estimated(config):
    model = UNet(config.unet, rng=backend.host_generator(0))
    assert memory.parameters(config.unet) == pytest.approx(model.num_parameters, rel=0.3)


def test_processes_share_the_batch():
    c = tiny_without_file()
    assert memory.of_batch(c, 8) < memory.of_batch(c, 1) / 5
    assert memory.of_training(c, 8) < memory.of_training(c, 1)


@pytest.mark.parametrize(
    "setting", ["batch_size=1000000", "unet.channels=1000", "unet.blocks=1000000"]
)
def test_training_that_cannot_fit_is_refused_at_once(tmp_path, monkeypatch, capsys, setting):
    monkeypatch.setattr(memory, "available", lambda: 500_000_000)
    out = str(tmp_path / "run")
    assert main(["train", write_tiny(tmp_path), "--out", out, "--set", setting]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "GB of memory, and 500 MB are free" in line and "; lower batch_size (" in line
    assert not (tmp_path / "run").exists()


def test_more_images_than_fit_are_refused_at_once(tmp_path, monkeypatch, capsys):
    recipe, run = write_tiny(tmp_path), str(tmp_path / "run")
    assert main(["train", recipe, "--out", run, "--steps", "1"]) == 0
    assert "The arrays take about" in capsys.readouterr().out
    monkeypatch.setattr(memory, "available", lambda: 10**12)
    for n in (10**10, 10**400):
        assert main(["sample", run, "--n", str(n)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "1e+03 GB are free; draw fewer" in line
    monkeypatch.setattr(memory, "available", lambda: None)
    batch = ["--batch", str(10**400)]
    assert main(["sample", run, "--n", "1", "--steps", "1", *batch]) == 0  # all at a time


def test_where_nothing_is_known_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.check(10**30, "")
    monkeypatch.setattr(memory, "available", lambda: 10)
    memory.check(20, "")  # an estimate may be twice too high
    with pytest.raises(InputError, match="1e-05 MB are free; buy some"):
        memory.check(21, "buy some")


def test_what_linux_tells_of_the_memory(tmp_path, monkeypatch):
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_MEMINFO", str(info))
    monkeypatch.setattr(machine, "_LIMIT", str(limit))
    monkeypatch.setattr(backend, "name", "numpy")
    assert machine.available() is None  # another system
    info.write_text("MemTotal:       24000 kB\nMemAvailable:   10000 kB\n")
    assert machine.available() == 10_240_000
    limit.write_text("max\n")
    assert machine.available() == 10_240_000
    limit.write_text("4000000\n")
    assert machine.available() == 4_000_000


def test_on_a_gpu_it_is_that_of_the_device(monkeypatch):
    pool = SimpleNamespace(free_bytes=lambda: 5)
    cuda = SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (100, 1000)))
    xp = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool)
    monkeypatch.setattr(backend, "name", "cupy")
    monkeypatch.setattr(backend, "xp", xp)
    assert machine.available() == 105
