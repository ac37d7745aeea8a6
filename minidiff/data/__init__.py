"""Data sets as arrays: images in [-1, 1], NHWC, with integer labels, and the batches of a run."""

from minidiff.data.batches import batch_indices
from minidiff.data.dataset import Dataset, from_uint8, to_uint8
from minidiff.data.digits import digits, nearest_label
from minidiff.data.registry import class_names, load, names

__all__ = [
    "Dataset",
    "batch_indices",
    "class_names",
    "digits",
    "from_uint8",
    "load",
    "names",
    "nearest_label",
    "to_uint8",
]
