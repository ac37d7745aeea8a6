"""Blocks of a batch of images inside a frame of zeros."""

from __future__ import annotations

import numpy as np

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.reference import Array, Pads


class Padded:
    """The images of one block after another, in the same scratch, with zeros around them."""

    def __init__(self, name: str, x: Array, pads: Pads, blocks: list[slice]) -> None:
        (_, h, w, c), ((top, bottom), (left, right)) = x.shape, pads
        self.x, self.inside = x, (slice(top, top + h), slice(left, left + w))
        self.frame: Array | None = None
        if any((top, bottom, left, right)) and blocks:
            shape = blocks[0].stop, top + h + bottom, left + w + right, c
            self.frame = memory.scratch(name, shape, x.dtype)
            self.frame[...] = 0

    def of(self, block: slice) -> Array:
        """The padded images of the block, contiguous; overwritten by the next call."""
        if self.frame is None:
            return np.ascontiguousarray(self.x[block])
        images = self.frame[: block.stop - block.start]
        images[:, self.inside[0], self.inside[1]] = self.x[block]
        return images
