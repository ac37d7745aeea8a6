"""The same U-Net in plain PyTorch: the reference that minidiff's network is compared with.

Written from the paper (Ho et al. 2020, appendix B) and the conventions of minidiff, with
PyTorch's own layers and functions: images NCHW, 1x1 convolutions for the shortcuts, fused
attention, and a null class that is the padding row of the table. Its modules have the names that
minidiff gives them, so that weights and gradients can be carried over by name.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.layout import hwio


class TimeFeatures(nn.Module):
    """Sines and cosines of t (N,): DDPM's, or random Fourier features of t / 1000."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.kind, half = kind, dim // 2
        ladder = torch.arange(half, dtype=torch.float64) / (half - 1)
        frequencies = 10_000.0**-ladder if kind == "sinusoidal" else torch.zeros(half)
        self.register_buffer("frequencies", frequencies, persistent=kind == "fourier")

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        scale = 1.0 if self.kind == "sinusoidal" else 2 * math.pi / 1000
        angles = torch.outer(t.double(), self.frequencies.double()) * scale
        return torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, width: int, config: Any) -> None:
        super().__init__()
        self.scale_shift = config.time_conditioning == "scale_shift"
        self.norm1 = nn.GroupNorm(config.groups, c_in, eps=config.norm_eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(width, 2 * c_out if self.scale_shift else c_out)
        self.norm2 = nn.GroupNorm(config.groups, c_out, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        e = self.time(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    def __init__(self, channels: int, config: Any) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.GroupNorm(config.groups, channels, eps=config.norm_eps)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        rows = self.norm(x).flatten(2).transpose(1, 2)  # (N, H W, C)

        def heads(layer: nn.Linear) -> Tensor:
            return layer(rows).unflatten(2, (self.heads, -1)).transpose(1, 2)

        o = F.scaled_dot_product_attention(heads(self.query), heads(self.key), heads(self.value))
        o = self.project(o.transpose(1, 2).reshape(n, height * width, c))
        return x + o.transpose(1, 2).reshape(n, c, height, width)


class Level(nn.Module):
    """Blocks at one resolution, each with attention after it or nothing, and a resampling."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        self.resample: nn.Module | None = None

    def append(self, block: nn.Module, attention: nn.Module | None) -> None:
        self.blocks.append(block)
        self.attentions.append(attention or nn.Identity())


class UNet(nn.Module):
    """From a minidiff.unet.UNetConfig; model(x, t, labels) with x (N, C, H, W)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        ch, width = config.channels, 4 * config.channels
        self.time_features = TimeFeatures(ch, config.time_embedding)
        self.time1 = nn.Linear(ch, width)
        self.time2 = nn.Linear(width, width)
        self.classes = None
        if config.num_classes is not None:
            null = config.num_classes
            self.classes = nn.Embedding(null + 1, width, padding_idx=null)

        def attention(channels: int, wanted: bool) -> SelfAttention | None:
            return SelfAttention(channels, config) if wanted else None

        self.conv_in = nn.Conv2d(config.in_channels, ch, 3, padding=1)
        channels, sizes = [ch], []
        self.down, size, c = nn.ModuleList(), config.image_size, ch
        for i, multiplier in enumerate(config.multipliers):
            level, c_out = Level(), ch * multiplier
            for _ in range(config.blocks):
                block = ResidualBlock(c, c_out, width, config)
                level.append(block, attention(c_out, size in config.attention))
                c = c_out
                channels.append(c)
            sizes.append(size)
            if i + 1 < len(config.multipliers):
                level.resample = nn.Conv2d(c, c, 3, stride=2)
                channels.append(c)
                size //= 2
            self.down.append(level)

        self.middle = Level()
        self.middle.append(ResidualBlock(c, c, width, config), attention(c, True))
        self.middle.append(ResidualBlock(c, c, width, config), None)

        self.up = nn.ModuleList()
        for i in range(len(sizes) - 1, -1, -1):
            level, c_out = Level(), ch * config.multipliers[i]
            for _ in range(config.blocks + 1):
                block = ResidualBlock(c + channels.pop(), c_out, width, config)
                level.append(block, attention(c_out, sizes[i] in config.attention))
                c = c_out
            if i > 0:
                level.resample = nn.Conv2d(c, c, 3, padding=1)
            self.up.append(level)

        self.norm_out = nn.GroupNorm(config.groups, c, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(c, config.out_channels or config.in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        e = self.time2(F.silu(self.time1(self.time_features(t, x.dtype))))
        if self.classes is not None and labels is not None:
            e = e + self.classes(labels)
        e = F.silu(e)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = attention(block(h, e))
                skips.append(h)
            if level.resample is not None:
                h = level.resample(F.pad(h, (0, 1, 0, 1)))  # right and bottom only
                skips.append(h)
        for block, attention in zip(self.middle.blocks, self.middle.attentions, strict=True):
            h = attention(block(h, e))
        for level in self.up:
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = attention(block(torch.cat([h, skips.pop()], dim=1), e))
            if level.resample is not None:
                h = level.resample(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


def weights(model: nn.Module, gradients: bool = False) -> Iterator[tuple[str, Tensor]]:
    """(name, view in minidiff's layout) of every weight and saved buffer, or every gradient."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            value = parameter.grad if gradients else parameter.detach()
            if value is None:
                raise ValueError(f"{prefix}.{name} has no gradient")
            if isinstance(module, nn.Conv2d) and name == "weight":
                value = hwio(value)
                value = value[0, 0] if module.kernel_size == (1, 1) else value  # a Linear there
            elif isinstance(module, nn.Linear) and name == "weight":
                value = value.T
            elif isinstance(module, nn.Embedding):
                value = value[:-1]  # without the row of the null class
            yield f"{prefix}.{name}", value
    if not gradients:
        own = {name for name, _ in model.named_parameters()}
        yield from ((n, b) for n, b in model.state_dict().items() if n not in own)


def load(model: nn.Module, state: Mapping[str, np.ndarray]) -> None:
    """Copy a state_dict of minidiff into `model`; every name must be used, and only once."""
    own = dict(weights(model))
    if own.keys() != state.keys():
        raise ValueError(f"names differ: {sorted(own.keys() ^ state.keys())}")
    for name, value in own.items():
        source = torch.from_numpy(np.asarray(state[name]))
        if value.shape != source.shape:
            raise ValueError(f"{name}: shape {tuple(value.shape)} and {tuple(source.shape)}")
        value.copy_(source)


def gradients(model: nn.Module) -> dict[str, np.ndarray]:
    """The gradients by minidiff's names and in its layout."""
    return {name: value.numpy() for name, value in weights(model, gradients=True)}
