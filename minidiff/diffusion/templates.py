"""Ten digits in seven segments: the pictures of `oracle.template_images`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Which of seven segments make a digit: top, upper right, lower right, bottom, lower left, upper
# left, middle. As (row, column) slices of an 8 x 8 image, strokes of one pixel.
_SEGMENTS: dict[str, Any] = {
    "a": np.s_[0, 2:6],
    "b": np.s_[1:4, 6],
    "c": np.s_[4:7, 6],
    "d": np.s_[7, 2:6],
    "e": np.s_[4:7, 1],
    "f": np.s_[1:4, 1],
    "g": np.s_[4, 2:6],
}
_DIGITS = (
    "abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg",
)  # fmt: skip


def templates() -> NDArray[np.float64]:
    """The digits 0, ..., 9 in seven segments: -1 and 1, shape (10, 8, 8, 1)."""
    images = np.full((10, 8, 8), -1.0)
    for image, digit in zip(images, _DIGITS, strict=True):
        for segment in digit:
            image[_SEGMENTS[segment]] = 1.0
    return images[..., None]
