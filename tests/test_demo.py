"""The main job from end to end: what ``make demo`` trains draws digits that a stranger can read."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.svm import SVC

from minidiff.cli import main
from minidiff.data import digits


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of one demo, whole, as the command line leaves it."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def reader():
    """A classifier that knows nothing of diffusion, trained on half of the real digits."""
    images, labels = digits()
    flat = images.reshape(len(images), -1)
    order = np.random.default_rng(0).permutation(len(flat))
    train, rest = np.array_split(order, 2)
    svc = SVC(gamma="scale").fit(flat[train], labels[train])
    assert svc.score(flat[rest], labels[rest]) >= 0.98  # else it could not judge
    return svc.fit(flat, labels)


@pytest.mark.slow
def test_the_demo_leaves_its_pictures(demo):
    for name in ("samples.png", "process.png", "loss.png"):
        with Image.open(demo / name) as picture:
            assert min(picture.size) >= 300
            assert len(set(picture.convert("L").tobytes())) > 10  # something is drawn
    with Image.open(demo / "process.gif") as film:
        assert film.n_frames == 51  # T and the 50 times that follow


@pytest.mark.slow
def test_it_learned_by_the_measure_that_it_reports(demo):
    records = [json.loads(line) for line in (demo / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records]
    assert 0.8 < np.mean(losses[:3]) < 1.2  # E eps^2 = 1: the network starts at zero
    assert np.mean(losses[-50:]) < 0.19


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_stranger_reads_the_digits_that_were_asked_for(demo, reader, tmp_path, sampler):
    file = tmp_path / "drawn.npz"
    command = f"sample {demo} --n 500 --w 1 --sampler {sampler} --steps 50 --seed 7 --npz {file}"
    assert main([*command.split(), "--out", str(tmp_path / "grid.png")]) == 0
    with np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (500, 8, 8, 1)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [50] * 10
    drawn = images.reshape(500, -1) / 127.5 - 1
    assert np.mean(reader.predict(drawn) == labels) >= 0.975
    # no class is one picture fifty times
    assert min(images[labels == c].std(axis=0).mean() for c in range(10)) > 15
    # neither copies nor noise: a real digit is at 2.05 from the next one, in the mean
    real = digits()[0].reshape(-1, 64)
    assert 1.8 < cdist(drawn, real).min(axis=1).mean() < 2.8
