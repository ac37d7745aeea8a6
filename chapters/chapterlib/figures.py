"""The look of the figures, and drawings that more than one chapter may want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

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
    _, ax = plt.subplots()
    ax.axis("off")
    ax.set_aspect("equal")
    for x, y, value, gradient in nodes.values():
        ax.text(x, y + 0.02, value, ha="center", va="bottom", color=BLUE, fontsize=13)
        ax.text(x, y - 0.05, gradient, ha="center", va="top", color=ORANGE, fontsize=13)
    for start, end, gradient, bend in edges:
        (x0, y0), (x1, y1) = nodes[start][:2], nodes[end][:2]
        ax.add_patch(
            FancyArrowPatch(
                (x0, y0),
                (x1, y1),
                arrowstyle="-|>",
                mutation_scale=14,
                color=GREY,
                lw=1.3,
                shrinkA=34,
                shrinkB=34,
                connectionstyle=f"arc3,rad={bend}",
            )
        )
        # the middle of the bent arrow: half of `bend` to the right of the straight line
        middle = (x0 + x1) / 2 + bend * (y1 - y0) / 2, (y0 + y1) / 2 - bend * (x1 - x0) / 2
        ax.text(*middle, gradient, ha="center", va="center", color=ORANGE, fontsize=11)
    return ax
