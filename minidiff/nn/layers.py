"""The plain layers. Each draws its initial weights from the `rng` it is given (on the host)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidiff import ops
from minidiff.autograd import Array, Tensor
from minidiff.errors import InputError, check_count
from minidiff.nn.module import Module, Parameter
from minidiff.ops.conv import Padding

Generator = np.random.Generator


def fan_average_uniform(
    rng: Generator, shape: tuple[int, ...], fan_in: int, fan_out: int, scale: float = 1.0
) -> np.ndarray:
    """U(-a, a) with variance `scale` / mean(fan_in, fan_out): Glorot & Bengio (2010), as in DDPM.

    A `scale` of 0 gives zeros (DDPM's last convolutions).
    """
    for n in shape:
        check_count("each size of a layer", n)
    if not hasattr(rng, "uniform"):
        raise InputError(f"initial weights are drawn: pass rng, a generator, got {rng!r}")
    a = math.sqrt(3 * scale / ((fan_in + fan_out) / 2))  # eq. (2.2)
    return rng.uniform(-a, a, shape).astype(np.float32)


def _zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.float32)


class Linear(Module):
    """y = x W + b over the last axis; W is (d_in, d_out). `zero` starts it at zero."""

    def __init__(
        self, d_in: int, d_out: int, *, rng: Generator, bias: bool = True, zero: bool = False
    ) -> None:
        scale = 0.0 if zero else 1.0
        self.weight = Parameter(fan_average_uniform(rng, (d_in, d_out), d_in, d_out, scale))
        self.bias = Parameter(_zeros(d_out)) if bias else None

    def __call__(self, x: Tensor | Array) -> Tensor:
        """Shape (..., d_in) to (..., d_out)."""
        if x.shape[-1] != self.weight.shape[0]:
            raise InputError(f"Linear expects {self.weight.shape[0]} features, got shape {x.shape}")
        return ops.linear(x, self.weight, *([self.bias] if self.bias is not None else []))


class Conv2d(Module):
    """A convolution of (N, H, W, C_in) images to C_out channels, kernel (size, size).

    `padding` None keeps H and W at stride 1 (size must be odd); see `ops.conv2d` for the rest.
    """

    def __init__(
        self, c_in: int, c_out: int, size: int = 3, *, rng: Generator, stride: int = 1,
        padding: Padding | None = None, zero: bool = False,
    ) -> None:  # fmt: skip
        if padding is None and check_count("Conv2d: size", size) % 2 == 0:
            raise InputError(f"Conv2d: a kernel of even size {size} needs an explicit padding")
        self.stride, self.padding = stride, size // 2 if padding is None else padding
        fans = (size * size * c_in, size * size * c_out)
        scale = 0.0 if zero else 1.0
        self.weight = Parameter(fan_average_uniform(rng, (size, size, c_in, c_out), *fans, scale))
        self.bias = Parameter(_zeros(c_out))

    def __call__(self, x: Tensor | Array, *, bias: bool = True) -> Tensor:
        """Shape (N, H, W, C_in) to (N, H', W', C_out); the bias may be left to what comes next."""
        b = [self.bias] if bias else []
        return ops.conv2d(x, self.weight, *b, stride=self.stride, padding=self.padding)


class GroupNorm(Module):
    """Group normalization with a learned scale and shift for each channel."""

    def __init__(self, channels: int, groups: int = 32, *, eps: float = 1e-5) -> None:
        if check_count("GroupNorm: channels", channels) % check_count("GroupNorm: groups", groups):
            raise InputError(f"GroupNorm: {groups} groups do not divide {channels} channels")
        self.groups, self.eps = groups, eps
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(_zeros(channels))

    def __call__(self, x: Tensor | Array) -> Tensor:
        """Shape (N, ..., C) in and out."""
        return ops.group_norm(x, self.weight, self.bias, groups=self.groups, eps=self.eps)


class GroupNormSilu(GroupNorm):
    """silu(GroupNorm(x)) in one pass, with what a block of a U-Net does around it."""

    def __call__(
        self,
        x: Tensor | Array,
        *,
        before: Tensor | None = None,
        after: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """silu((1 + s) norm(x + before) + b), (s, b) being `after`; x is (N, ..., C).

        `before` is (C,) or (N, C), s and b are (N, C): a number for each channel of a sample.
        """
        gamma: Tensor = self.weight
        beta: Tensor = self.bias
        if after is not None:
            # eq. (2.13)
            gamma, beta = gamma * (1 + after[0]), beta * (1 + after[0]) + after[1]
        return ops.group_norm_silu(x, gamma, beta, before, groups=self.groups, eps=self.eps)


class LayerNorm(Module):
    """Layer normalization over the last axis, with a learned scale and shift."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(_zeros(channels))

    def __call__(self, x: Tensor | Array) -> Tensor:
        """Shape (..., C) in and out."""
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class Embedding(Module):
    """A table of `n` vectors of length `d`, drawn from N(0, 1); indices (...) give (..., d)."""

    def __init__(self, n: int, d: int, *, rng: Generator) -> None:
        check_count("Embedding: n", n)
        check_count("Embedding: d", d)
        if not hasattr(rng, "standard_normal"):
            raise InputError(f"Embedding: the table is drawn: pass rng, a generator, got {rng!r}")
        self.weight = Parameter(rng.standard_normal((n, d)).astype(np.float32))

    def __call__(self, indices: Any) -> Tensor:
        """Integers of shape (...) to vectors (..., d)."""
        return ops.embedding(self.weight, indices)
