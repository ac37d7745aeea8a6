"""Pictures: the right pixels in the right places, and the same bytes each time."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minidiff import plot
from minidiff.errors import InputError

RNG = np.random.default_rng(0)
GROUND = (0x20, 0x24, 0x2B)


def pictures(n, size=8, channels=1):
    return RNG.uniform(-1, 1, (n, size, size, channels)).astype(np.float32)


def tile(image, row, column, *, left, top, size=48):
    """The part of a picture where the tile (row, column) is."""
    y, x = top + row * (size + plot.GAP), left + column * (size + plot.GAP)
    return np.asarray(image)[y : y + size, x : x + size]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_pixel_becomes_a_crisp_square(channels):
    images = np.rint((pictures(6, channels=channels) + 1) * 127.5).astype(np.uint8)
    image = plot.grid(images, columns=3)
    assert image.size == (
        2 * plot.MARGIN + 3 * 48 + 2 * plot.GAP,
        2 * plot.MARGIN + 2 * 48 + plot.GAP,
    )
    for i, u in enumerate(images):
        expected = np.broadcast_to(u.repeat(6, axis=0).repeat(6, axis=1), (48, 48, 3))
        got = tile(image, i // 3, i % 3, left=plot.MARGIN, top=plot.MARGIN)
        np.testing.assert_array_equal(got, expected)
    assert image.getpixel((0, 0)) == GROUND


@pytest.mark.parametrize(
    ("size", "shown"), [(4, 48), (8, 48), (28, 56), (32, 64), (64, 64), (300, 300)]
)
def test_images_are_enlarged_by_whole_factors(size, shown):
    assert plot.grid(pictures(1, size)).size == (shown + 2 * plot.MARGIN,) * 2


def test_floats_and_their_bytes_look_the_same():
    x = np.array([-1, 0, 1, 5], np.float32).reshape(1, 2, 2, 1)
    u = np.array([0, 128, 255, 255], np.uint8).reshape(1, 2, 2, 1)
    assert plot.grid(x).tobytes() == plot.grid(u).tobytes()


def test_a_loss_of_zero_is_drawn_without_a_logarithm(tmp_path):
    plot.save(plot.loss_curve([{"step": 1, "loss": 0.0}]), tmp_path / "a.png")  # no warning


def test_a_class_is_a_row_with_its_name():
    images, labels = pictures(5), np.array([1, 0, 1, 1, 4])
    image = plot.grid(images, labels, ["zero", "one"])
    left = image.size[0] - plot.MARGIN - 3 * 48 - 2 * plot.GAP
    assert left > plot.MARGIN + 30  # the names
    rows = (image.size[1] - 2 * plot.MARGIN + plot.GAP) / (48 + plot.GAP)
    assert rows == 3
    u = plot.to_uint8(images)
    for i, (row, column) in enumerate([(1, 0), (0, 0), (1, 1), (1, 2), (2, 0)]):
        expected = np.broadcast_to(u[i].repeat(6, axis=0).repeat(6, axis=1), (48, 48, 3))
        got = tile(image, row, column, left=left, top=plot.MARGIN)
        np.testing.assert_array_equal(got, expected)
    empty = tile(image, 0, 1, left=left, top=plot.MARGIN)
    assert np.all(empty == GROUND)
    for row in range(3):
        name = np.asarray(image)[plot.MARGIN + row * 52 :][:48, : left - 4]
        assert np.any(name != GROUND)


def test_many_of_a_class_go_on_in_the_next_row():
    image = plot.grid(pictures(45), np.zeros(45, int), ["a"])
    assert image.size[1] == 2 * plot.MARGIN + 3 * 48 + 2 * plot.GAP


def test_a_grid_shows_the_first_of_each_class_when_there_are_too_many():
    labels = np.array([2, 0, 0, 2, 1, 0, 2])
    assert plot.selection(7, labels).tolist() == list(range(7))
    assert plot.selection(7, labels, most=6).tolist() == [0, 1, 2, 3, 4]
    assert plot.selection(7, labels, most=1).tolist() == [0, 1, 4]
    assert plot.selection(7, most=3).tolist() == [0, 1, 2]
    assert len(plot.selection(5000, np.repeat(np.arange(10), 500))) == 1000


def test_the_strip_shows_evenly_spaced_times():
    states = [(t, np.full((2, 8, 8, 1), t / 500 - 1, np.float32)) for t in range(1000, -1, -20)]
    image = plot.process(states, ["a", "b"])
    width = 11 * 48 + 10 * plot.GAP
    left, top = image.size[0] - plot.MARGIN - width, image.size[1] - plot.MARGIN - 2 * 48 - plot.GAP
    values = [tile(image, 1, j, left=left, top=top)[0, 0, 0] for j in range(11)]
    expected = [plot.to_uint8(np.array(t / 500 - 1)) for t in range(1000, -1, -100)]
    np.testing.assert_array_equal(values, expected)


def test_a_short_strip_shows_each_state_once():
    states = [(t, pictures(1)) for t in (20, 10, 0)]
    assert plot.process(states).size[0] == 2 * plot.MARGIN + 3 * 48 + 2 * plot.GAP


def test_the_film_runs_for_ever_and_stays_on_the_last_frame(tmp_path):
    x = pictures(3)
    frames = plot.process_frames([(10 - i, x * i / 5 - 0.1, x) for i in range(5)])
    plot.save_gif(frames, tmp_path / "a.gif", ms=50, hold=2000)
    film = Image.open(tmp_path / "a.gif")
    durations = []
    for i in range(film.n_frames):
        film.seek(i)
        durations.append(film.info["duration"])
        np.testing.assert_array_equal(np.asarray(film.convert("L")), np.asarray(frames[i]))
    assert durations == [50, 50, 50, 50, 2000] and film.info["loop"] == 0
    film.close()


def test_a_film_in_colour(tmp_path):
    frames = plot.process_frames([(1, pictures(2, channels=3), pictures(2, channels=3))])
    assert frames[0].mode == "RGB"
    plot.save_gif(frames, tmp_path / "a.gif")


def test_the_running_mean_follows_a_start_and_does_not_lag():
    line = np.linspace(3, 1, 200)
    mean = plot.running_mean(line)
    np.testing.assert_allclose(mean[:180], line[:180], atol=1e-12)  # symmetric: exact on a line
    np.testing.assert_allclose(plot.running_mean(np.full(7, 2.0)), 2)
    noisy = plot.running_mean(1 + RNG.standard_normal(4000))
    assert noisy[1000:].std() < 0.1


def records(n=50):
    return [{"step": k, "loss": 1 / k} for k in range(1, n + 1)]


def test_the_loss_curve_draws_what_it_is_given():
    figure = plot.loss_curve(records(), "a title")
    (axes,) = figure.axes
    raw, mean = axes.get_lines()
    np.testing.assert_array_equal(raw.get_xydata(), [(r["step"], r["loss"]) for r in records()])
    np.testing.assert_array_equal(mean.get_ydata(), plot.running_mean(raw.get_ydata()))
    assert axes.get_yscale() == "log" and axes.get_title("left") == "a title"
    assert axes.get_xlabel() and axes.get_ylabel()


def test_a_curve_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one record"):
        plot.loss_curve([])


@pytest.mark.parametrize("n", [1, 2])
def test_a_curve_of_few_records(tmp_path, n):
    plot.save(plot.loss_curve(records(n)), tmp_path / "loss.png")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    x, y = pictures(6), np.arange(6)

    def draw(folder):
        folder.mkdir()
        plot.save(plot.grid(x, y), folder / "grid.png")
        plot.save(plot.process([(5, x), (0, x)]), folder / "process.png")
        plot.save_gif(plot.process_frames([(5, x, x), (0, -x, x)]), folder / "process.gif")
        plot.save(plot.loss_curve(records()), folder / "loss.png")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw(tmp_path / "a")
    assert first == draw(tmp_path / "b")
    assert all(first[n].startswith(b"\x89PNG") for n in first if n.endswith("png"))
    assert first["process.gif"].startswith(b"GIF89a")


@pytest.mark.parametrize("shape", [(8, 8, 1), (0, 8, 8, 1), (2, 8, 8, 2)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(InputError, match="expected"):
        plot.grid(np.zeros(shape, np.float32))


def test_labels_must_be_as_many_as_images():
    with pytest.raises(InputError, match=r"2 images, but labels of shape \(3,\)"):
        plot.grid(pictures(2), np.zeros(3, int))


def test_drawing_libraries_are_loaded_when_a_picture_is_drawn():
    code = "import minidiff.plot, sys; print({'matplotlib', 'PIL'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.grid(None), "expected"),
        (lambda: plot.grid(pictures(2).astype(int)), "images are int64; expected floats"),
        (lambda: plot.grid(pictures(2) + 1j), "images are complex"),
        (lambda: plot.grid(pictures(2), columns=0), "columns must be a whole number >= 1"),
        (lambda: plot.grid(pictures(2), [0, -1], ["a", "b"]), "whole numbers >= 0"),
        (lambda: plot.grid(pictures(2), [0.0, 1.0]), "whole numbers >= 0"),
        (lambda: plot.process([]), "at least one state"),
        (lambda: plot.process([(0, pictures(2))], columns=0), "columns must be a whole number"),
        (lambda: plot.loss_curve([{"step": 1}]), "has a step and a loss: KeyError"),
        (lambda: plot.loss_curve([{"step": 1, "loss": None}]), "has a step and a loss: TypeError"),
        (lambda: plot.save_gif([], "film.gif"), "at least one frame"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
