"""Training: Algorithm 1 as written, the same bits after a stop, and no step into the dark."""

import contextlib
import json
import os
from itertools import pairwise

import numpy as np
import pytest

from minidiff import backend, data
from minidiff.diffusion import objectives, process, schedules, time_draws
from minidiff.errors import InputError
from minidiff.training import Run, TrainConfig, Trainer, checkpoint, memory, metrics, train
from tests import double
from tests.training.tiny import tiny


def finish(trainer, run):
    for _ in train(trainer, run):
        pass
    return trainer


def stop_after(step, trainer, run):
    with contextlib.closing(train(trainer, run)) as records:
        for record in records:
            if record.step == step:
                break


def vectors(trainer):
    opt = trainer.optimizer
    return {"weights": trainer.flat.data, "m": opt.m, "v": opt.v, "ema": trainer.ema.data}


def assert_same_bits(a, b):
    for name, vector in vectors(a).items():
        np.testing.assert_array_equal(vector, vectors(b)[name], err_msg=name, strict=True)
    assert (a.step, a.ema.updates, a.optimizer.steps) == (b.step, b.ema.updates, b.optimizer.steps)


def without_time(path):
    return [{k: v for k, v in r.items() if k != "images_per_s"} for r in metrics.read(path)]


@pytest.fixture
def uninterrupted(tmp_path):
    config = tiny(tmp_path)
    run = Run.create(tmp_path / "whole", config)
    return finish(Trainer(config), run), run


@pytest.mark.parametrize("stops", [[1], [4], [5], [11], [12], [3, 4, 9]])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, uninterrupted, stops):
    trainer, whole = uninterrupted
    run = Run.create(tmp_path / "run", trainer.config)
    for step in stops:
        stop_after(step, Trainer(run.config), run)
        assert run.last_step() == step
        run = Run.open(run.folder)
    assert_same_bits(finish(Trainer(run.config), run), trainer)
    assert without_time(run.metrics) == without_time(whole.metrics)
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        ours, theirs = run.last_checkpoint() / name, whole.last_checkpoint() / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_crash_between_checkpoints_costs_only_the_steps_since(tmp_path, uninterrupted):
    trainer, whole = uninterrupted
    run = Run.create(tmp_path / "run", trainer.config)
    crashing = Trainer(run.config)
    real_step = crashing.train_step

    def crash():
        if crashing.step == 8:
            raise RuntimeError("the machine is on fire")
        return real_step()

    crashing.train_step = crash
    with pytest.raises(RuntimeError):
        finish(crashing, run)
    assert run.last_step() == 5 and len(metrics.read(run.metrics)) == 8
    with run.metrics.open("a") as file:
        file.write('{"step": 9, "lo')  # and it went down in the middle of a line
    assert_same_bits(finish(Trainer(run.config), run), trainer)
    assert without_time(run.metrics) == without_time(whole.metrics)


def test_a_longer_run_is_the_shorter_one_gone_on(tmp_path, uninterrupted):
    trainer, _ = uninterrupted
    run = Run.create(tmp_path / "run", trainer.config.replace(steps=7))
    finish(Trainer(run.config), run)
    run = run.extend(12)
    assert_same_bits(finish(Trainer(run.config), run), trainer)
    assert Run.open(run.folder).config.steps == 12
    with pytest.raises(InputError, match="has done 12 steps already"):
        run.extend(11)


def test_randomness_depends_on_the_seed(tmp_path, uninterrupted):
    trainer, _ = uninterrupted
    other = Trainer(trainer.config.replace(seed=8))
    assert np.all(other.flat.data.shape == trainer.flat.data.shape)
    first = Trainer(trainer.config)
    assert np.mean(first.flat.data == other.flat.data) < 0.5  # zeros and ones agree
    assert first.train_step()[0] != other.train_step()[0]


def test_the_step_is_algorithm_1(tmp_path):
    """The loss, computed again from its definition with the draws of (seed, step)."""
    config = tiny(tmp_path)
    trainer = Trainer(config)
    trainer.train_step()  # the output of a new network is zero, which would hide much
    step = trainer.step + 1
    host, device = backend.host_generator(config.seed, step), backend.generator(config.seed, step)
    images, labels = data.digits()
    rows = data.batch_indices(1797, 8, seed=config.seed, step=step)
    t = objectives.draw_t(trainer.schedule, 8, rng=host)
    eps = device.standard_normal((8, 8, 8, 1), dtype=np.float32)
    y = objectives.drop_labels(labels[rows], p_uncond=config.p_uncond, null=10, rng=host)
    xt = process.q_sample(schedules.make("cosine", 20), images[rows], t, eps)
    expected = np.mean((trainer.model(xt, t, y, rng=device).data - eps) ** 2)
    loss, norm = trainer.train_step()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert loss.dtype == np.float32 and norm > 0


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("weight", ["uniform", "min_snr"])
def test_other_objectives(tmp_path, target, weight):
    """The loss from its definition: the error of the target, weighted as that of x0 would be."""
    o = {"target": target, "weight": weight, "gamma": 0.5, "times": "stratified"}
    config = TrainConfig.from_dict(tiny(tmp_path).to_dict() | {"objective": o})
    trainer = Trainer(config)
    for _ in range(3):
        trainer.train_step()
    step = trainer.step + 1
    host, device = backend.host_generator(config.seed, step), backend.generator(config.seed, step)
    images, labels = data.digits()
    rows = data.batch_indices(1797, 8, seed=config.seed, step=step)
    schedule = schedules.make("cosine", 20)
    t = time_draws.stratified(schedule, 8, rng=host)
    eps = device.standard_normal((8, 8, 8, 1), dtype=np.float32)
    y = objectives.drop_labels(labels[rows], p_uncond=config.p_uncond, null=10, rng=host)
    x0 = images[rows]
    a, s = (np.sqrt(c)[t].reshape(-1, 1, 1, 1) for c in (schedule.abar, 1 - schedule.abar))
    what = {"eps": eps, "x0": x0, "v": a * eps - s * x0}[target]
    prediction = trainer.model(
        process.q_sample(schedule, x0, t, eps), t, y, rng=device
    ).data.astype(np.float64)
    losses = np.mean((prediction - what) ** 2, axis=(1, 2, 3))
    if weight == "min_snr":
        snr = schedule.snr[t]
        losses = losses * np.minimum(snr, 0.5) / {"eps": snr, "x0": 1, "v": snr + 1}[target]
    loss, norm = trainer.train_step()
    np.testing.assert_allclose(loss, losses.mean(), rtol=2e-5)
    assert loss.dtype == np.float32 and norm > 0


def test_the_rate_warms_up_and_stays(tmp_path):
    trainer = Trainer(tiny(tmp_path, lr=1.0, warmup=4))
    assert [trainer.lr(k) for k in (1, 2, 3, 4, 5, 100)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert Trainer(tiny(tmp_path, lr=0.5, warmup=0)).lr(1) == 0.5


def test_it_learns(tmp_path):
    trainer = Trainer(tiny(tmp_path, batch_size=16, lr=3e-2))
    losses = [float(trainer.train_step()[0]) for _ in range(50)]
    assert losses[0] == pytest.approx(1, abs=0.2)
    assert np.mean(losses[-20:]) < 0.75


def test_a_model_without_classes(tmp_path):
    config = tiny(tmp_path)
    values = config.to_dict()
    values["unet"]["num_classes"] = None
    trainer = Trainer(type(config).from_dict(values))
    assert np.isfinite(trainer.train_step()[0])


def test_adamw_decays(tmp_path):
    plain = Trainer(tiny(tmp_path, optimizer="adam"))
    decayed = Trainer(tiny(tmp_path, optimizer="adamw", weight_decay=0.5))
    start = plain.flat.data.copy()
    plain.train_step(), decayed.train_step()
    shrink = plain.lr(1) * 0.5
    np.testing.assert_allclose(decayed.flat.data, plain.flat.data - shrink * start, atol=1e-7)


def test_the_average_does_not_change_the_training(tmp_path):
    a, b = Trainer(tiny(tmp_path, ema_decay=0.9)), Trainer(tiny(tmp_path, ema_decay=0.0))
    for _ in range(3):
        a.train_step(), b.train_step()
        b.state()  # which swaps the average in and out
    np.testing.assert_array_equal(a.flat.data, b.flat.data)
    assert not np.array_equal(a.ema.data, b.ema.data)
    np.testing.assert_array_equal(b.ema.data, b.flat.data)  # decay 0 is no average


def test_metrics_are_means_over_the_window(tmp_path):
    config = tiny(tmp_path, log_every=4, steps=10, checkpoint_every=100)
    run = Run.create(tmp_path / "run", config)
    losses = [float(record.loss) for record in train(Trainer(config), run)]
    records = metrics.read(run.metrics)
    assert [r["step"] for r in records] == [4, 8, 10]
    means = [np.mean(losses[:4]), np.mean(losses[4:8]), np.mean(losses[8:])]
    np.testing.assert_allclose([r["loss"] for r in records], means, rtol=1e-5)
    assert all(r["images_per_s"] > 0 and r["grad_norm"] > 0 for r in records)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1], ids=["loss", "norm"])
def test_divergence_names_the_step_and_saves_nothing(tmp_path, value, where):
    config = tiny(tmp_path, log_every=5)
    run = Run.create(tmp_path / "run", config)
    trainer = Trainer(config)
    real_step = trainer.train_step

    def step():
        result = list(real_step())
        if trainer.step in (8, 9):
            trainer.flat.data[...] = np.nan
            result[where] = np.float32(value)
        return tuple(result)

    trainer.train_step = step
    with pytest.raises(InputError, match=r"diverged at step 8: .*(nan|inf).*smaller lr"):
        finish(trainer, run)
    assert run.last_step() == 5
    assert all(np.isfinite(w).all() for w in checkpoint.load(run.last_checkpoint()).model.values())
    # nor when the caller stops before the losses were read
    run = Run.create(tmp_path / "other", config)
    trainer.load_state(checkpoint.load(tmp_path / "run/checkpoints/step-000005"))
    with pytest.raises(InputError, match="diverged at step 8"):
        stop_after(9, trainer, run)
    assert run.last_step() in (0, 5)


def test_a_run_that_really_diverges_is_told_in_one_line(tmp_path):
    config = tiny(tmp_path, lr=1e30, warmup=0, grad_clip=1e30, steps=50)
    with pytest.raises(InputError, match="diverged at step") as error:
        finish(Trainer(config), Run.create(tmp_path / "run", config))
    assert "\n" not in str(error.value)


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path, full_disk):
    config = tiny(tmp_path)
    run = Run.create(tmp_path / "run", config)
    records = train(Trainer(config), run)
    for record in records:
        if record.step == 6:
            break
    with full_disk(4000), pytest.raises(OSError, match="File too large"):
        for _ in records:
            pass
    assert run.last_step() == 5
    checkpoint.load(run.last_checkpoint())


def test_a_folder_is_trained_in_by_one_at_a_time(tmp_path):
    config = tiny(tmp_path)
    run = Run.create(tmp_path / "run", config)
    with contextlib.closing(train(Trainer(config), run)) as records:
        next(records)
        with pytest.raises(InputError, match="another process is training"):
            next(train(Trainer(config), Run.open(run.folder)))
    finish(Trainer(config), run)


def test_trainer_and_run_must_agree(tmp_path):
    run = Run.create(tmp_path / "run", tiny(tmp_path))
    with pytest.raises(InputError, match="another config"):
        next(train(Trainer(tiny(tmp_path, lr=1.0)), run))


def test_a_checkpoint_of_another_model_is_refused(tmp_path, uninterrupted):
    _, run = uninterrupted
    values = json.loads((run.folder / "config.json").read_text())
    values["unet"]["channels"] = 8
    (run.folder / "config.json").write_text(json.dumps(values))
    other = Run.open(run.folder)
    with pytest.raises(InputError, match=r"step-000012 cannot be used: .*do not fit"):
        next(train(Trainer(other.config), other))


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", 16), ("in_channels", 3), ("num_classes", 9)]
)
def test_a_network_that_does_not_fit_the_images(tmp_path, key, value):
    values = tiny(tmp_path).to_dict()
    values["unet"][key] = value
    with pytest.raises(InputError, match=rf"unet.{key} is {value}, but the data set digits needs"):
        Trainer(type(tiny(tmp_path)).from_dict(values))


def test_folders_that_no_run_is_made_in(tmp_path, uninterrupted):
    trainer, _ = uninterrupted
    (tmp_path / "file").write_text("a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("a")
    for folder, message in [("file", "is a file"), ("full", "not empty"), ("whole", "--resume")]:
        with pytest.raises(InputError, match=message):
            Run.create(tmp_path / folder, trainer.config)
    with pytest.raises(InputError, match="is no run"):
        Run.open(tmp_path / "full")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")  # of whoever
    with pytest.raises(InputError, match="holds a run already"):
        Run.create(tmp_path / "other", trainer.config)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / f".config.json.{os.getpid()}.tmp").write_text("of a killed process")
    Run.create(tmp_path / "new", trainer.config)


def test_a_run_without_a_checkpoint_can_be_started_again(tmp_path):
    """As after a learning rate that was too large: there is nothing in it to go on from."""
    config = tiny(tmp_path, lr=1e30, warmup=0, grad_clip=1e30)
    with pytest.raises(InputError, match="diverged"):
        finish(Trainer(config), Run.create(tmp_path / "run", config))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "metrics.jsonl"]
    (tmp_path / "run" / "thesis.tex").write_text("a")
    with pytest.raises(InputError, match="holds a run already"):
        Run.create(tmp_path / "run", tiny(tmp_path))
    (tmp_path / "run" / "thesis.tex").unlink()

    run = Run.create(tmp_path / "run", tiny(tmp_path))
    with contextlib.closing(train(Trainer(run.config), run)) as records:
        next(records)
        with pytest.raises(InputError, match="another process is training"):
            Run.create(run.folder, config)
    assert Run.open(run.folder).config == tiny(tmp_path)
    assert [r["step"] for r in metrics.read(run.metrics)] == [1]


def test_a_step_runs_on_a_device_without_waiting_for_it(tmp_path, monkeypatch):
    """On the array double: CuPy's rules are kept, nothing is read back, nothing is float64."""
    monkeypatch.setattr(backend, "xp", double.xp)
    monkeypatch.setattr(backend, "name", "cupy")
    monkeypatch.setattr(memory, "available", lambda: None)
    trainer = Trainer(tiny(tmp_path))
    trainer.train_step()
    with double.forbid("synchronization", "float64"):
        loss, norm = trainer.train_step()
    assert isinstance(loss, double.Array) and isinstance(norm, double.Array)
    state = trainer.state()
    assert all(type(a) is np.ndarray for a in state.model.values())
    again = Trainer(tiny(tmp_path))
    again.load_state(state)
    a, b = trainer.train_step()[0], again.train_step()[0]
    assert a.item() == b.item()


def test_the_rate_falls_along_a_cosine_after_the_warm_up(tmp_path):
    rate = Trainer(tiny(tmp_path, lr=2.0, warmup=4, steps=12, lr_decay="cosine")).lr
    assert [rate(k) for k in (1, 2, 3, 4)] == [0.5, 1, 1.5, 2]
    falling = [rate(k) for k in range(4, 13)]
    assert all(a > b > 0 for a, b in pairwise(falling))
    assert rate(8) == pytest.approx(1 + np.cos(np.pi * 4 / 9))
    assert rate(13) == 0  # a run that is told to go on has its own, longer cosine
    assert Trainer(tiny(tmp_path, lr=2.0, warmup=0, steps=10, lr_decay="cosine")).lr(1) == 2
