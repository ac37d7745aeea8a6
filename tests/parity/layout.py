"""Where an axis stands in minidiff and where in PyTorch: the only place that knows.

minidiff has images NHWC and kernels HWIO, PyTorch NCHW and OIHW. All of these are views.
"""

from torch import Tensor


def nchw(images: Tensor) -> Tensor:
    """Images (N, H, W, C) as (N, C, H, W)."""
    return images.permute(0, 3, 1, 2)


def nhwc(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as (N, H, W, C)."""
    return images.permute(0, 2, 3, 1)


def oihw(kernel: Tensor) -> Tensor:
    """A kernel (H, W, I, O) as (O, I, H, W)."""
    return kernel.permute(3, 2, 0, 1)


def hwio(kernel: Tensor) -> Tensor:
    """A kernel (O, I, H, W) as (H, W, I, O)."""
    return kernel.permute(2, 3, 1, 0)
