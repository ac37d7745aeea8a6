"""What a data set is, and the two ways between its floats and the bytes of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidiff.errors import InputError


def from_uint8(u: np.ndarray) -> np.ndarray:
    """x = u / 127.5 - 1: bytes 0..255 to float32 in [-1, 1], any shape."""
    if u.dtype.kind not in "ui" or (u.size and not 0 <= u.min() <= u.max() <= 255):
        raise InputError(f"expected integers in 0..255, got {u.dtype}; floats need no from_uint8")
    return (u / np.float32(127.5) - np.float32(1)).astype(np.float32)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """u = round(127.5 (x + 1)): floats to bytes 0..255, any shape.

    Values outside [-1, 1] are clipped, as a sampler may overshoot; those that are no number are
    refused. Undoes `from_uint8` exactly.
    """
    if not np.isfinite(x).all():
        raise InputError("the images hold values that are not finite (nan or inf)")
    return np.rint((np.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels, on the host.

    Parameters
    ----------
    name : how messages call it
    images : float32 (N, H, W, C), in [-1, 1]
    labels : int64 (N,), each in 0..len(class_names) - 1
    class_names : the name of each class, in the order of the labels

    Raises
    ------
    InputError
        If a shape, a type or a range is another: data in [0, 1] or in 0..255 trains a model that
        draws grey fog, and nothing else would tell.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        x, y = self.images, self.labels
        if x.ndim != 4 or x.dtype != np.float32 or not len(x):
            raise InputError(
                f"{self.name}: images are {x.dtype} {x.shape}, expected float32 (N, H, W, C)"
            )
        if not (x.min() >= -1 and x.max() <= 1):  # nan fails too
            raise InputError(
                f"{self.name}: images range over [{x.min():g}, {x.max():g}], expected [-1, 1]; "
                "from_uint8 scales bytes"
            )
        if x.min() >= 0:
            raise InputError(
                f"{self.name}: images range over [{x.min():g}, {x.max():g}], which looks like "
                "[0, 1]; scale them to [-1, 1] by 2 x - 1"
            )
        if y.shape != (len(x),) or y.dtype != np.int64:
            raise InputError(
                f"{self.name}: labels are {y.dtype} {y.shape}, expected int64 ({len(x)},)"
            )
        if y.min() < 0 or y.max() >= self.num_classes:
            raise InputError(
                f"{self.name}: labels range over {y.min()}..{y.max()}, but there are "
                f"{self.num_classes} classes, 0..{self.num_classes - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes there are, whether or not an image is of each."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        _, height, width, channels = self.images.shape
        return height, width, channels
