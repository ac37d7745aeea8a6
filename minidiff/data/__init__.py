"""Data sets as arrays: images in [-1, 1], NHWC, with integer labels, and the batches of a run."""

from minidiff.data.batches import batch_indices
from minidiff.data.dataset import Dataset, from_uint8, to_uint8
from minidiff.data.digits import digits
from minidiff.data.registry import load, names

__all__ = [
    "Dataset",
    "batch_indices",
    "digits",
    "from_uint8",
    "load",
    "names",
    "to_uint8",
]
