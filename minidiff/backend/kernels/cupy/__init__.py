"""Fast kernels for CuPy; each overrides the definition of the same name in `reference`.

The CUDA sources beside these files are compiled for the device when they are first used. Sums are
taken in an order that depends on shapes alone, never on the device or on which thread came first,
so that a run repeats itself to the bit.
"""

from minidiff.backend.kernels.cupy.attention import attention, attention_grad
from minidiff.backend.kernels.cupy.conv import conv2d, conv2d_dw, conv2d_dx
from minidiff.backend.kernels.cupy.elementwise import silu, silu_grad
from minidiff.backend.kernels.cupy.norm import (
    group_norm,
    group_norm_grad,
    group_norm_silu,
    group_norm_silu_grad,
)
from minidiff.backend.kernels.cupy.optimizer import update
from minidiff.backend.kernels.cupy.products import matmul
from minidiff.backend.kernels.cupy.random import normal, uniform
from minidiff.backend.kernels.cupy.rows import sum_rows

__all__ = [
    "attention",
    "attention_grad",
    "conv2d",
    "conv2d_dw",
    "conv2d_dx",
    "group_norm",
    "group_norm_grad",
    "group_norm_silu",
    "group_norm_silu_grad",
    "matmul",
    "normal",
    "silu",
    "silu_grad",
    "sum_rows",
    "uniform",
    "update",
]
