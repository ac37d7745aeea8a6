"""Fast kernels for NumPy; each overrides the definition of the same name in `reference`.

One idea serves all: work on a few images (or a stretch of a vector) at a time, so that what is
read and written between two passes is still in the processor's cache, and reuse the scratch.
"""

from minidiff.backend.kernels.numpy import memory
from minidiff.backend.kernels.numpy.conv import conv2d, conv2d_dw, conv2d_dx
from minidiff.backend.kernels.numpy.elementwise import silu, silu_grad
from minidiff.backend.kernels.numpy.norm import (
    group_norm,
    group_norm_grad,
    group_norm_silu,
    group_norm_silu_grad,
)
from minidiff.backend.kernels.numpy.optimizer import adam, clip_norm, moving_average, update
from minidiff.backend.kernels.numpy.rows import sum_rows

memory.keep_freed_memory()

__all__ = [
    "adam",
    "clip_norm",
    "conv2d",
    "conv2d_dw",
    "conv2d_dx",
    "group_norm",
    "group_norm_grad",
    "group_norm_silu",
    "group_norm_silu_grad",
    "moving_average",
    "silu",
    "silu_grad",
    "sum_rows",
    "update",
]
