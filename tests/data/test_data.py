"""The bundled digits, the two ways between floats and bytes, and what a data set refuses."""

import zipfile
from importlib import resources

import numpy as np
import pytest

from minidiff import data
from minidiff.data import Dataset
from minidiff.errors import InputError


def test_digits_are_those_of_the_source():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = data.digits()
    np.testing.assert_array_equal((images[..., 0] + 1) * 8, source.images)
    np.testing.assert_array_equal(labels, source.target)


def test_digits_have_the_documented_form():
    images, labels = data.digits()
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.float32
    assert labels.shape == (1797,) and labels.dtype == np.int64
    assert images.min() == -1 and images.max() == 1
    np.testing.assert_array_equal(
        np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )


def test_digits_come_with_licence_and_without_pickle():
    files = resources.files("minidiff.data") / "files"
    text = (files / "digits8.txt").read_text()
    for word in ("Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49"):
        assert word in text
    with zipfile.ZipFile(str(files / "digits8.npz")) as archive:
        assert sorted(archive.namelist()) == ["images.npy", "labels.npy"]
    assert (files / "digits8.npz").stat().st_size < 50_000


def test_each_call_gives_arrays_of_its_own():
    data.digits()[0][...] = 0
    assert data.digits()[0].max() == 1


def test_bytes_survive_the_way_there_and_back():
    u = np.arange(256, dtype=np.uint8)
    x = data.from_uint8(u)
    assert x.dtype == np.float32 and x[0] == -1 and x[255] == 1
    np.testing.assert_array_equal(data.to_uint8(x), u)


def test_to_uint8_clips_and_rounds():
    x = np.array([-3.0, -1.0, 0.0, 1 / 127.5 * 0.6, 1.0, 7.0])
    np.testing.assert_array_equal(data.to_uint8(x), [0, 0, 128, 128, 255, 255])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses_what_is_no_number(value):
    with pytest.raises(InputError, match="finite"):
        data.to_uint8(np.array([0.0, value]))


def test_load_gives_the_named_data_set():
    digits = data.load("digits")
    assert (digits.name, len(digits), digits.shape) == ("digits", 1797, (8, 8, 1))
    assert digits.num_classes == 10 and digits.class_names == tuple("0123456789")


@pytest.mark.parametrize("function", [data.load, data.class_names])
def test_an_unknown_name_lists_the_known(function):
    with pytest.raises(InputError, match=r"'cats'.*digits"):
        function("cats")


def test_nearest_label_reads_digits():
    images, labels = data.digits()
    rng = np.random.default_rng(0)
    blurred = images + 0.2 * rng.standard_normal(images.shape).astype(np.float32)
    assert (data.nearest_label(blurred) == labels).mean() > 0.98
    # the definition, by distances one by one
    x = rng.uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
    distances = ((x[:, None] - images[None]) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_array_equal(data.nearest_label(x), labels[distances.argmin(axis=1)])


GOOD = np.zeros((3, 2, 2, 1), np.float32) - 0.5
LABELS = np.array([0, 1, 0])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD[0], LABELS, r"expected float32 \(N, H, W, C\)"),
        (GOOD[:0], LABELS[:0], "expected float32"),
        (GOOD.astype(np.float64), LABELS, "float64"),
        (GOOD * 255, LABELS, r"expected \[-1, 1\]"),
        (GOOD + np.float32(np.nan), LABELS, r"expected \[-1, 1\]"),
        (GOOD + np.float32(1), LABELS, r"\[0, 1\]"),
        (GOOD, LABELS[:2], r"expected int64 \(3,\)"),
        (GOOD, LABELS.astype(np.int32), "int32"),
        (GOOD, LABELS + 1, "there are 2 classes"),
        (GOOD, LABELS - 1, "there are 2 classes"),
    ],
)
def test_a_data_set_refuses(images, labels, message):
    with pytest.raises(InputError, match=message):
        Dataset("toy", images, labels, ("a", "b"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.from_uint8(np.ones(3)), "expected integers in 0..255, got float64"),
        (lambda: data.from_uint8(np.array([256])), "expected integers in 0..255, got int64"),
        (lambda: data.nearest_label(np.zeros((2, 8, 8))), r"\(N, 8, 8, 1\), got shape \(2, 8, 8\)"),
        (lambda: data.nearest_label(np.full((1, 8, 8, 1), np.nan)), "expected finite images"),
        (lambda: data.load(["digits"]), r"no data set \['digits'\]"),
    ],
)
def test_what_cannot_be_used_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_images_have_no_labels():
    assert data.nearest_label(np.zeros((0, 8, 8, 1))).shape == (0,)
    assert data.from_uint8(np.zeros((0, 3), np.uint8)).shape == (0, 3)


def test_an_error_is_one_line_whatever_it_holds():
    assert str(InputError(f"got {np.eye(2)}\n  of a kind")) == "got [[1. 0.] [0. 1.]] of a kind"
