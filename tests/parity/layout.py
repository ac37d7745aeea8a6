"""Where an axis stands in minidiff and where in PyTorch: the only place that knows.

minidiff has images NHWC, kernels HWIO and weights (in, out); PyTorch NCHW, OIHW and (out, in).
Tensors are returned as views, so that copying into one fills the original.
"""

import numpy as np
import torch


def nchw(images: np.ndarray) -> torch.Tensor:
    """Images (N, H, W, C) of minidiff as a tensor (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def nhwc(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) as a view (N, H, W, C)."""
    return images.permute(0, 2, 3, 1)


def oihw(kernel: np.ndarray) -> torch.Tensor:
    """A kernel (H, W, I, O) of minidiff as a tensor (O, I, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(kernel)).permute(3, 2, 0, 1)


def hwio(kernel: torch.Tensor) -> torch.Tensor:
    """A kernel (O, I, H, W) as a view (H, W, I, O)."""
    return kernel.permute(2, 3, 1, 0)
