"""Every picture that the command line draws: grids of images, the way from noise, the loss.

Images are enlarged by whole factors, so that each pixel stays a crisp square. The same input gives
the same bytes. Matplotlib and Pillow are imported when a picture is drawn, not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff.data import to_uint8
from minidiff.errors import InputError, check_count
from minidiff.training.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

TILE = 48  # pixels that an image shall have about, once it is enlarged
GAP, MARGIN, FONT_SIZE = 4, 12, 16
GROUND, INK, BLUE = "#20242b", "#e3e6ea", "#1f5fa8"


def grid(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    *,
    columns: int | None = None,
) -> Image:
    """The images in rows; with `labels` each class begins a row, and its name stands there.

    Parameters
    ----------
    images : (N, H, W, C), C = 1 or 3, floats in [-1, 1] or bytes
    labels : integers (N,), or None for one block without classes
    class_names : the name of each class; the label itself where there is none
    columns : images in a row; chosen from N when None
    """
    tiles = _tiles(images)
    if columns is not None:
        check_count("columns", columns)
    if labels is None:
        columns = columns or math.ceil(math.sqrt(len(tiles)))
        return _table([tiles[i : i + columns] for i in range(0, len(tiles), columns)])
    labels = np.asarray(labels)
    if labels.shape != (len(tiles),):
        raise InputError(f"there are {len(tiles)} images, but labels of shape {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError("labels must be whole numbers >= 0")
    rows: list[Sequence[np.ndarray]] = []
    names: list[str] = []
    for label in np.unique(labels):
        of_class = [tile for tile, y in zip(tiles, labels, strict=True) if y == label]
        width = columns or min(len(of_class), 20)
        starts = range(0, len(of_class), width)
        rows += [of_class[i : i + width] for i in starts]
        name = class_names[label] if label < len(class_names) else str(label)
        names += [name] + [""] * (len(starts) - 1)
    return _table(rows, left=names)


def selection(n: int, labels: np.ndarray | None = None, *, most: int = 1000) -> np.ndarray:
    """Which of n images a grid should show: all, or the first of each class if they are too many.

    Parameters
    ----------
    n : how many images there are
    labels : integers (n,), or None
    most : how many to show at most (but one of each class)

    Returns
    -------
    int64 indices, increasing
    """
    if labels is None:
        return np.arange(min(n, most))
    each = max(1, most // len(np.unique(labels)))
    return np.sort(np.concatenate([np.flatnonzero(labels == y)[:each] for y in np.unique(labels)]))


def process(
    states: Iterable[tuple[int, np.ndarray]], class_names: Sequence[str] = (), *, columns: int = 11
) -> Image:
    """The reverse process as a strip: a row for each image, from noise at t = T to t = 0.

    Parameters
    ----------
    states : (t, images) in the order of sampling, images (N, H, W, C); the states whose t are
        nearest to evenly spaced ones are shown
    class_names : what stands before each row
    columns : how many states are shown
    """
    states = list(states)
    if not states:
        raise InputError("a strip of the process needs at least one state")
    check_count("columns", columns)
    times = np.array([t for t, _ in states])
    wanted = np.linspace(times[0], times[-1], columns)
    shown = sorted({int(np.abs(times - t).argmin()) for t in wanted})
    columns_of_tiles = [_tiles(states[i][1]) for i in shown]
    top = [f"t = {times[i]}" if i == shown[0] else str(times[i]) for i in shown]
    return _table(list(zip(*columns_of_tiles, strict=True)), left=class_names, top=top)


def process_frames(states: Iterable[tuple[int, np.ndarray, np.ndarray]]) -> list[Image]:
    """The reverse process as the frames of a film: x_t above, the x_0 that is expected below.

    Parameters
    ----------
    states : (t, x_t, expected x_0) in the order of sampling, images (N, H, W, C)
    """
    frames = [
        (_table([_tiles(xt), _tiles(x0)], left=["xt", "x0"], title=f"t = {t}"), xt.shape[3])
        for t, xt, x0 in states
    ]
    # a GIF has 256 colours: all greys, or those that come nearest to the images'
    return [frame.convert("L") if channels == 1 else frame for frame, channels in frames]


def loss_curve(records: Iterable[Mapping[str, Any]], title: str = "") -> Figure:
    """The loss over the steps: each record light, their running mean dark, on a log scale.

    Parameters
    ----------
    records : each with "step" and "loss", as `metrics.read` returns them; at least one
    title : what stands above
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    try:
        points = [(float(r["step"]), float(r["loss"])) for r in records]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"each record of a loss curve has a step and a loss: {error!r}") from None
    if not points:
        raise InputError("a loss curve needs at least one record")
    step, loss = np.array(points).T
    mean = running_mean(loss)
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(step, loss, color=BLUE, alpha=0.25, linewidth=0.8, label="each record")
    axes.plot(step, mean, color=BLUE, linewidth=1.8, label="running mean")
    axes.annotate(
        f"{mean[-1]:.3g}", (step[-1], mean[-1]), (6, 0), textcoords="offset points",
        color=BLUE, va="center", annotation_clip=False,
    )  # fmt: skip
    if loss.max() > 0:  # else there is nothing that has a logarithm
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, step[-1])
    axes.set_xlabel("step")
    axes.set_ylabel("loss: mean of (eps - predicted eps)²")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def running_mean(values: np.ndarray) -> np.ndarray:
    """Each value's mean with its neighbours, as many as an eighth of what came before it on either
    side, but at most a twentieth of all: it follows the steep start and does not lag.
    """
    n = len(values)
    i = np.arange(n)
    half = np.minimum(i // 8, n // 20)
    low, high = i - half, np.minimum(i + half + 1, n)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (sums[high] - sums[low]) / (high - low)


def save(picture: Image | Figure, path: str | Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    with whole_file(path) as temporary:
        if hasattr(picture, "savefig"):
            picture.savefig(temporary, format="png", metadata={"Software": None})
        else:
            picture.save(temporary, format="png")


def save_gif(frames: Sequence[Image], path: str | Path, *, ms: int = 60, hold: int = 2500) -> None:
    """Write an endless film, each frame for `ms` milliseconds and the last for `hold`."""
    if not frames:
        raise InputError("a film needs at least one frame")
    durations = [ms] * (len(frames) - 1) + [hold]
    with whole_file(path) as temporary:
        frames[0].save(
            temporary, format="gif", save_all=True, append_images=frames[1:],
            duration=durations, loop=0,
        )  # fmt: skip


def _tiles(images: np.ndarray) -> list[np.ndarray]:
    """Each image as bytes (h, w, 3), enlarged by a whole factor."""
    shape = np.shape(images)
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise InputError(f"images are {shape}; expected (N, H, W, C) with C = 1 or 3")
    images = np.asarray(images)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"images are {images.dtype}; expected floats in [-1, 1], or uint8")
    u = images if images.dtype == np.uint8 else to_uint8(images)
    scale = max(1, round(TILE / max(u.shape[1:3])))
    u = u.repeat(scale, axis=1).repeat(scale, axis=2)
    return list(np.broadcast_to(u, (*u.shape[:3], 3)))


def _table(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    left: Sequence[str] = (),
    top: Sequence[str] = (),
    title: str = "",
) -> Image:
    """Tiles of one size on a dark ground, with names before the rows and above the columns."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=FONT_SIZE)
    h, w, _ = rows[0][0].shape
    name_width = math.ceil(max((font.getlength(name) for name in left), default=0))
    x0 = MARGIN + (name_width + 10 if name_width else 0)
    y0 = MARGIN + (FONT_SIZE + 6 if top or title else 0)
    width = x0 + max(map(len, rows)) * (w + GAP) - GAP + MARGIN
    height = y0 + len(rows) * (h + GAP) - GAP + MARGIN
    image = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(image)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            image.paste(Image.fromarray(tile), (x0 + j * (w + GAP), y0 + i * (h + GAP)))
    for i, name in enumerate(left):
        draw.text((x0 - 10, y0 + i * (h + GAP) + h / 2), name, INK, font, anchor="rm")
    for j, name in enumerate(top):
        draw.text((x0 + j * (w + GAP) + w / 2, y0 - 8), name, INK, font, anchor="ms")
    draw.text((x0, y0 - 8), title, INK, font, anchor="ls")
    return image
