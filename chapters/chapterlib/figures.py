"""The look of the figures, and drawings that more than one chapter may want."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, PINK, OCHRE, GREY = (
    "#3a86c8", "#e0762f", "#2f9e77", "#b565a7", "#b08d24", "#808080",
)  # fmt: skip
"""The colours of ``chapter.mplstyle``, in the order in which lines take them."""


def use_style() -> None:
    """Draw in the style of the chapters from now on; twice the pixels where a notebook shows it."""
    plt.style.use(Path(__file__).with_name("chapter.mplstyle"))
    if plt.get_backend().endswith("inline"):
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def graph(
    nodes: Mapping[str, tuple[float, float, str, str]],
    edges: Sequence[tuple[str, str, str, float]],
) -> Axes:
    """Draw a computation: values flow along the arrows, gradients against them.

    Parameters
    ----------
    nodes : for each name its place x, y, the text of its value, and the text of its gradient
    edges : from, to, the text of the gradient that flows back along it, and how much it is bent
    """
    places = [node[:2] for node in nodes.values()]
    (left, right), (low, high) = ((min(c), max(c)) for c in zip(*places, strict=True))
    figure = plt.figure(figsize=(7, 7 * (high - low + 0.9) / (right - left + 1.5)), layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(left - 0.75, right + 0.75), ylim=(low - 0.45, high + 0.45))
    ax.axis("off")
    boxes = {}
    for name, (x, y, value, gradient) in nodes.items():
        boxes[name] = FancyBboxPatch(
            (x - 0.65, y - 0.36),
            1.3,
            0.72,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor="none",
            edgecolor=GREY,
            lw=0.8,
        )
        ax.add_patch(boxes[name])
        ax.text(x, y + 0.16, value, ha="center", va="center", color=BLUE, fontsize=12)
        ax.text(x, y - 0.17, gradient, ha="center", va="center", color=ORANGE, fontsize=12)
    for start, end, gradient, bend in edges:
        (x0, y0), (x1, y1) = nodes[start][:2], nodes[end][:2]
        arrow = FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            arrowstyle="-|>",
            mutation_scale=12,
            color=GREY,
            lw=1.3,
            patchA=boxes[start],
            patchB=boxes[end],
            connectionstyle=f"arc3,rad={bend}",
        )
        ax.add_patch(arrow)
        # beside the middle of the arrow; arc3 bends to the right of its direction
        dx, dy = x1 - x0, y1 - y0
        length, away = math.hypot(dx, dy), -0.15 if bend > 0 else 0.15
        x = (x0 + x1) / 2 + bend * dy / 2 - away * dy / length
        y = (y0 + y1) / 2 - bend * dx / 2 + away * dx / length
        ax.text(x, y, gradient, ha="center", va="center", color=ORANGE, fontsize=12)
    return ax
