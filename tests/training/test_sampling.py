"""Drawing from a model: balanced classes, batches that fit together, the same bits each time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import backend
from minidiff.diffusion import objectives, samplers, schedules
from minidiff.errors import InputError
from minidiff.training import Run, Trainer, captured, draw, label_plan, load_model, train
from minidiff.training.sampling import sample, total_steps
from minidiff.unet import UNet, UNetConfig
from tests.training.tiny import tiny

SCHEDULE = schedules.make("cosine", 20)


def network(num_classes=10):
    config = UNetConfig(
        image_size=4, channels=4, multipliers=(1,), blocks=1, groups=2, num_classes=num_classes
    )
    model = UNet(config, rng=np.random.default_rng(0))
    flat = model.flatten()
    flat.data[...] += 0.1 * np.random.default_rng(1).standard_normal(flat.data.shape).astype("f4")
    return model


@given(n=st.integers(1, 60), classes=st.lists(st.integers(0, 99), min_size=1, unique=True))
def test_the_plan_is_balanced_and_sorted(n, classes):
    labels = label_plan(n, classes)
    assert labels.shape == (n,) and labels.dtype == np.int64
    assert np.all(np.diff(labels) >= 0) and set(labels) <= set(classes)
    counts = [(labels == c).sum() for c in classes]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("n", "classes"), [(0, [1]), (-3, [1]), (4, [])])
def test_a_plan_for_nothing_is_refused(n, classes):
    with pytest.raises(InputError, match="at least one"):
        label_plan(n, classes)


# Langevin dynamics has times of its own.
@pytest.mark.parametrize("sampler", sorted(set(samplers.SAMPLERS) - {"annealed_langevin"}))
def test_batches_make_up_the_whole(sampler):
    labels = label_plan(7, range(10))
    seen = []
    images = draw(
        network(), SCHEDULE, 7, labels, sampler=sampler, steps=4, w=0.5, batch=3, seed=2,
        watch=lambda rows, state: seen.append((rows.start, state.t)),
    )  # fmt: skip
    assert images.shape == (7, 4, 4, 1) and images.dtype == np.float32
    assert np.abs(images).max() <= 1 and len(np.unique(images, axis=0)) == 7
    assert seen == [(start, t) for start in (0, 3, 6) for t in (20, 15, 10, 5, 0)]
    assert total_steps(7, steps=4, batch=3) == sum(t > 0 for _, t in seen)


def test_the_same_arguments_give_the_same_bits():
    labels = label_plan(5, [3])
    options = {"sampler": "ddpm", "steps": 5, "w": 1.0}
    a, b = (draw(network(), SCHEDULE, 5, labels, seed=1, **options) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    c = draw(network(), SCHEDULE, 5, labels, seed=2, **options)
    assert not np.array_equal(a, c)


def test_classes_and_guidance_reach_the_network():
    model, n = network(), 3
    options = {"steps": 3, "seed": 1}
    plain = draw(model, SCHEDULE, n, label_plan(n, [1]), w=0.0, **options)
    assert not np.array_equal(plain, draw(model, SCHEDULE, n, label_plan(n, [2]), **options))
    guided = draw(model, SCHEDULE, n, label_plan(n, [1]), w=2.0, **options)
    assert not np.array_equal(plain, guided)
    # w = -1 is the unconditional model, so the class is without effect
    no, none = (draw(model, SCHEDULE, n, label_plan(n, [c]), w=-1.0, **options) for c in (1, 2))
    np.testing.assert_array_equal(no, none)


def test_a_model_without_classes():
    images = draw(network(None), SCHEDULE, 2, steps=3)
    assert images.shape == (2, 4, 4, 1)
    for bad in ({"labels": label_plan(2, [0])}, {"w": 1.0}):
        with pytest.raises(InputError, match="without classes"):
            draw(network(None), SCHEDULE, 2, steps=3, **bad)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_it_samples_what_the_network_predicts(target):
    model = network(None)
    images = draw(model, SCHEDULE, 2, target=target, steps=4, seed=3)
    denoiser = objectives.as_denoiser(model.denoise, SCHEDULE, target=target)
    x_T = backend.generator(3).standard_normal((2, 4, 4, 1), dtype=np.float32)
    states = samplers.ddim(denoiser, SCHEDULE, x_T, steps=4, clip=(-1.0, 1.0))
    np.testing.assert_allclose(images, samplers.final(states), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"labels": None}, "say which"),
        ({"labels": np.array([11, 0])}, "labels"),
        ({"target": "magic"}, "unknown prediction 'magic'"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"sampler": "ddpm", "eta": 0.5}, "has no option 'eta'"),
        ({"steps": 0}, "steps"),
        ({"steps": 21}, "steps"),
        ({"eta": -1.0}, "eta"),
        ({"w": float("nan")}, "w must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"n": 2, "labels": np.array([0, 1]), "steps": 3} | change
    with pytest.raises(InputError, match=message):
        list(sample(network(), SCHEDULE, **arguments))


def test_the_average_is_what_is_loaded(tmp_path):
    config = tiny(tmp_path, steps=3)
    run = Run.create(tmp_path / "run", config)
    with pytest.raises(InputError, match="no checkpoint yet"):
        load_model(run)
    trainer = Trainer(config)
    for _ in train(trainer, run):
        pass
    np.testing.assert_array_equal(load_model(run).flatten().data, trainer.ema.data)
    np.testing.assert_array_equal(load_model(run, "model").flatten().data, trainer.flat.data)
    assert not load_model(run).training  # so that dropout is off


def test_of_a_batch_that_is_drawn_as_a_whole_the_last_state_is_seen(monkeypatch):
    """A GPU draws full batches so; what is left over, and what somebody watches, is by steps."""
    asked = []

    def sampler(model, states, shape, batches):
        assert (shape, batches) == ((3, 4, 4, 1), 2)
        return lambda key, labels: asked.append((key, labels)) or np.ones(shape, np.float32)

    monkeypatch.setattr(captured, "sampler", sampler)
    seen, options = [], {"steps": 4, "batch": 3, "seed": 2}
    images = draw(
        network(), SCHEDULE, 7, np.arange(7), only_last=True,
        watch=lambda rows, state: seen.append((rows.start, state.t)), **options,
    )  # fmt: skip
    assert seen == [(0, 0), (3, 0), (6, 20), (6, 15), (6, 10), (6, 5), (6, 0)]
    assert np.all(images[:6] == 1) and np.any(images[6] != 1)
    for i, (key, labels) in enumerate(asked):
        np.testing.assert_array_equal(key, backend.key(2, step=i))
        np.testing.assert_array_equal(labels, np.arange(3 * i, 3 * i + 3))
    by_steps = draw(network(), SCHEDULE, 7, np.arange(7), watch=lambda *_: None, **options)
    assert len(asked) == 2 and not np.any(np.all(by_steps == 1, axis=(1, 2, 3)))


@pytest.mark.parametrize("labels", [[1, 2], [0, 11], [-1, 0], [0.5, 1.0]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(InputError, match="labels"):
        draw(network(), SCHEDULE, 2 + (labels == [1, 2]), np.array(labels))
