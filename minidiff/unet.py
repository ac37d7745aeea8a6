"""The U-Net of DDPM: Ho et al. (2020), appendix B, from one frozen config.

Down: at each resolution residual blocks (and attention where asked), each output kept as a skip;
a strided convolution halves the image. Middle: block, attention, block. Up: blocks that read the
skips in reverse order; nearest upsampling and a convolution double the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minidiff import backend, ops
from minidiff.autograd import Array, Tensor, no_grad
from minidiff.errors import InputError
from minidiff.nn import (
    Conv2d,
    Embedding,
    FourierEmbedding,
    GroupNormSilu,
    Linear,
    Module,
    SelfAttention,
    SinusoidalEmbedding,
)

MAX_PARAMETERS = 10**9
"""Weights, gradients, Adam's moments and the average of so many take 20 GB in float32."""

TIME_EMBEDDINGS = ("sinusoidal", "fourier")
TIME_CONDITIONINGS = ("add", "scale_shift")


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net looks like. An impossible one is refused when it is made, with the reason.

    Parameters
    ----------
    image_size : height and width of the images; divisible by 2 for each level after the first
    in_channels, out_channels : of the images; out_channels None means in_channels
    channels : width of the first level; level i has channels * multipliers[i]
    multipliers : one for each level
    blocks : residual blocks at each level (one more on the way up)
    attention : the resolutions (in pixels) at which blocks are followed by self-attention
    heads : heads of each attention; 1 in DDPM
    groups : groups of every group norm; must divide every width
    dropout : probability, before the second convolution of a block
    time_embedding : "sinusoidal" (DDPM) or "fourier" (random Fourier features)
    time_conditioning : "add" to the features (DDPM), or "scale_shift" of the second norm (AdaGN)
    num_classes : None, or K for class conditioning with labels 0..K-1 and the null class K
    norm_eps : epsilon of every group norm
    """

    image_size: int
    in_channels: int = 1
    out_channels: int | None = None
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 1
    groups: int = 32
    dropout: float = 0.0
    time_embedding: str = "sinusoidal"
    time_conditioning: str = "add"
    num_classes: int | None = None
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not all(type(v) is int for v in values):
                raise InputError(f"U-Net config: {name} must list integers, got {values!r}")
            # a list (from a file) becomes a tuple, so that configs compare and hash
            object.__setattr__(self, name, tuple(values))
        for problem in self._problems():
            raise InputError(f"U-Net config: {problem}")

    def _problems(self) -> Any:
        counts = ("image_size", "in_channels", "channels", "blocks", "heads", "groups")
        optional = ("out_channels", "num_classes")
        for name in (*counts, *(n for n in optional if getattr(self, n) is not None)):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                yield f"{name} must be a positive integer, got {getattr(self, name)!r}"
        for name in ("dropout", "norm_eps"):
            if type(getattr(self, name)) not in (int, float):
                yield f"{name} must be a number, got {getattr(self, name)!r}"
        if not self.multipliers or min(self.multipliers) < 1:
            yield f"multipliers must be positive integers, one a level, got {self.multipliers}"
        shrink = 2 ** (len(self.multipliers) - 1)
        if self.image_size % shrink:
            yield (
                f"image_size {self.image_size} is not divisible by {shrink}, which "
                f"{len(self.multipliers)} levels need; pad the images or use fewer multipliers"
            )
        if self.channels % 2 or self.channels < 4:
            yield f"channels must be even and at least 4 (time embedding), got {self.channels}"
        for width in self.widths:
            if width % self.groups:
                yield f"groups {self.groups} do not divide the width {width}"
            if width % self.heads:
                yield f"heads {self.heads} do not divide the width {width}"
        for size in self.attention:
            if size not in self.resolutions:
                yield f"attention at {size}, but the resolutions are {self.resolutions}"
        if not 0 <= self.dropout < 1:
            yield f"dropout must lie in [0, 1), got {self.dropout}"
        if self.time_embedding not in TIME_EMBEDDINGS:
            yield f"time_embedding {self.time_embedding!r}, choose one of {TIME_EMBEDDINGS}"
        if self.time_conditioning not in TIME_CONDITIONINGS:
            yield f"time_conditioning {self.time_conditioning!r}, choose of {TIME_CONDITIONINGS}"
        if not self.norm_eps > 0:
            yield f"norm_eps must be positive, got {self.norm_eps}"
        if self.least_parameters > MAX_PARAMETERS:
            yield (
                f"a network of too many parameters, of which {MAX_PARAMETERS:.0e} are allowed; "
                "use fewer channels, multipliers or blocks"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height and width at each level."""
        return tuple(self.image_size >> i for i in range(len(self.multipliers)))

    @property
    def least_parameters(self) -> int:
        """How many parameters there are at least: the last 3x3 kernels of all blocks.

        Known before anything is built, so that a slip of the pen is told at once.
        """
        return sum((2 * self.blocks + 1) * 9 * c * c for c in self.widths)

    @property
    def time_width(self) -> int:
        """Width of the vector that carries time and class to every block."""
        return 4 * self.channels


class Conditions(NamedTuple):
    """What the network reads beside the images, on the device: `UNet.conditions` makes it.

    `time` holds the features (N, channels) of t, `rows` the rows (N,) of the table of classes and
    `known` is 0 for the null class, else 1, (N, 1); both are None where there are no labels.
    """

    time: Array
    rows: Array | None = None
    known: Array | None = None


class ResidualBlock(Module):
    """shortcut(x) + conv(dropout(silu(norm(h)))), h = conv(silu(norm(x))), time let in between.

    "add": the projected embedding is added to h. "scale_shift" (AdaGN, Dhariwal & Nichol 2021,
    section 3.1): the second norm is scaled by 1 + s and shifted by b, the two
    halves of the projection.
    """

    def __init__(self, c_in: int, c_out: int, config: UNetConfig, *, rng: Any) -> None:
        self.scale_shift = config.time_conditioning == "scale_shift"
        self.dropout = config.dropout
        norm: dict[str, Any] = {"groups": config.groups, "eps": config.norm_eps}
        self.norm1 = GroupNormSilu(c_in, **norm)
        self.conv1 = Conv2d(c_in, c_out, rng=rng)
        self.time = Linear(config.time_width, c_out * (2 if self.scale_shift else 1), rng=rng)
        self.norm2 = GroupNormSilu(c_out, **norm)
        self.conv2 = Conv2d(c_out, c_out, rng=rng, zero=True)
        self.shortcut = Linear(c_in, c_out, rng=rng) if c_in != c_out else None

    def __call__(self, x: Tensor, time: Tensor, *, rng: Any = None) -> Tensor:
        """x (N, H, W, C_in) and time (N, 4 channels), silu already applied to it."""
        h = self.conv1(self.norm1(x), bias=False)
        # what is added to each channel of h, the bias too, is added where the norm reads h
        e = self.time(time)
        if self.scale_shift:
            scale, shift = ops.split(e, 2)
            h = self.norm2(h, before=self.conv1.bias, after=(scale, shift))
        else:
            h = self.norm2(h, before=e + self.conv1.bias)
        if self.training and self.dropout:
            if rng is None:
                raise InputError("a U-Net with dropout needs rng= in training mode")
            h = ops.dropout(h, p=self.dropout, rng=rng)
        return (x if self.shortcut is None else self.shortcut(x)) + self.conv2(h)


class UNet(Module):
    """eps_theta(x_t, t, label), the network of DDPM.

    The output starts at zero (its last convolution does), so the first loss of noise prediction
    is E eps^2 = 1.
    """

    def __init__(self, config: UNetConfig, *, rng: np.random.Generator) -> None:
        self.config = config
        ch, width, widths = config.channels, config.time_width, config.widths
        norm: dict[str, Any] = {"groups": config.groups, "eps": config.norm_eps}

        if config.time_embedding == "sinusoidal":
            self.time_features: Module = SinusoidalEmbedding(ch)
        else:
            self.time_features = FourierEmbedding(ch, rng=rng)
        self.time1 = Linear(ch, width, rng=rng)
        self.time2 = Linear(width, width, rng=rng)
        self.classes = None
        if config.num_classes is not None:
            self.classes = Embedding(config.num_classes, width, rng=rng)

        def block(c_in: int, c_out: int) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, config, rng=rng)

        def attention(channels: int, size: int | None = None) -> SelfAttention | None:
            if size is not None and size not in config.attention:
                return None
            return SelfAttention(channels, config.heads, rng=rng, **norm)

        self.conv_in = Conv2d(config.in_channels, ch, rng=rng)
        skips, c = [ch], ch
        self.down = []
        for i, (c_out, size) in enumerate(zip(widths, config.resolutions, strict=True)):
            last = i == len(widths) - 1
            level = Level()
            for _ in range(config.blocks):
                level.append(block(c, c_out), attention(c_out, size))
                skips.append(c := c_out)
            if not last:
                # padded at the far sides only, as in DDPM's own code
                level.resample = Conv2d(c, c, rng=rng, stride=2, padding=((0, 1), (0, 1)))
                skips.append(c)
            self.down.append(level)

        self.middle = Level()
        self.middle.append(block(c, c), attention(c))
        self.middle.append(block(c, c), None)

        self.up = []
        for i in reversed(range(len(widths))):
            level = Level()
            for _ in range(config.blocks + 1):
                level.append(
                    block(c + skips.pop(), widths[i]), attention(widths[i], config.resolutions[i])
                )
                c = widths[i]
            if i:
                level.resample = Conv2d(c, c, rng=rng)
            self.up.append(level)

        self.norm_out = GroupNormSilu(c, **norm)
        self.conv_out = Conv2d(c, config.out_channels or config.in_channels, rng=rng, zero=True)

    def __call__(
        self, x: Tensor | Array, t: np.ndarray | Conditions, labels: np.ndarray | None = None, *,
        rng: Any = None,
    ) -> Tensor:  # fmt: skip
        """Predict from x (N, H, W, C) at time steps t (N,) and class labels (N,), on the host.

        The label K, or no labels at all, is the null class: nothing is added for it. `rng` draws
        dropout in training mode. A captured graph passes `conditions` in place of t and labels.
        """
        if not isinstance(t, Conditions):
            self._check(x, t, labels)
            t = self.conditions(t, labels, x.dtype)
        e = ops.silu(self._embed(t))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for block, attention in level.pairs():
                h = block(h, e, rng=rng)
                h = h if attention is None else attention(h)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h)
                skips.append(h)
        for block, attention in self.middle.pairs():
            h = block(h, e, rng=rng)
            h = h if attention is None else attention(h)
        for level in self.up:
            for block, attention in level.pairs():
                h = block(ops.concat(h, skips.pop()), e, rng=rng)
                h = h if attention is None else attention(h)
            if level.resample is not None:
                h = level.resample(ops.upsample_nearest(h))
        return self.conv_out(self.norm_out(h))

    def summary(self) -> str:
        """A table of the parts as they run: name, shape of the output, number of parameters."""
        rows = [
            (name, f"(N, {', '.join(map(str, shape))})", f"{part.num_parameters:,}")
            for name, part, shape in self._parts()
        ]
        rows.append(("total", "", f"{self.num_parameters:,}"))
        a, b, c = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(f"{name:<{a}}  {shape:<{b}}  {n:>{c}}" for name, shape, n in rows)

    def _parts(self) -> Iterator[tuple[str, Module, tuple[int, ...]]]:
        """(name, part, shape of its output without N) of all parts, in the order of a call."""
        c, size = self.config, self.config.image_size
        yield "time1", self.time1, (c.time_width,)
        yield "time2", self.time2, (c.time_width,)
        if self.classes is not None:
            yield "classes", self.classes, (c.time_width,)
        yield "conv_in", self.conv_in, (size, size, c.channels)
        levels = [(f"down.{i}", level, c.widths[i]) for i, level in enumerate(self.down)]
        levels += [("middle", self.middle, c.widths[-1])]
        levels += [(f"up.{i}", level, c.widths[-1 - i]) for i, level in enumerate(self.up)]
        for name, level, width in levels:
            for i, (block, attention) in enumerate(level.pairs()):
                yield f"{name}.blocks.{i}", block, (size, size, width)
                if attention is not None:
                    yield f"{name}.attentions.{i}", attention, (size, size, width)
            if level.resample is not None:
                size = size // 2 if name.startswith("down") else size * 2
                yield f"{name}.resample", level.resample, (size, size, width)
        yield "norm_out", self.norm_out, (size, size, c.channels * c.multipliers[0])
        yield "conv_out", self.conv_out, (size, size, c.out_channels or c.in_channels)

    def denoise(
        self, x: Array, t: np.ndarray | Conditions, labels: np.ndarray | None = None
    ) -> Array:
        """The network as a denoiser for samplers: arrays in, array out, nothing recorded."""
        if self.training:  # each change of the mode goes through all parts
            self.eval()
            try:
                return self.denoise(x, t, labels)
            finally:
                self.train()
        with no_grad():
            return self(x, t, labels).data

    def conditions(
        self, t: np.ndarray, labels: np.ndarray | None = None, dtype: Any = "float32"
    ) -> Conditions:
        """Time steps and labels (N,) of the host as what the network reads on the device."""
        time = self.time_features(t, dtype)
        if self.classes is None or labels is None:
            return Conditions(time)
        return Conditions(time, *self.label_rows(labels, dtype))

    def label_rows(self, labels: np.ndarray, dtype: Any = "float32") -> tuple[Array, Array]:
        """The `rows` and `known` of `Conditions` for labels (N,) of the host."""
        known = np.asarray(labels) < self.config.num_classes
        rows = np.where(known, labels, 0)
        return backend.asarray(rows), backend.asarray(known[:, None].astype(dtype))

    def _embed(self, conditions: Conditions) -> Tensor:
        """The vector (N, 4 channels) of time, plus that of the class unless it is the null one."""
        time, rows, known = conditions
        e = self.time2(ops.silu(self.time1(time)))
        if self.classes is None or rows is None:
            return e
        return e + self.classes(rows) * known

    def _check(self, x: Any, t: Any, labels: Any) -> None:
        c = self.config
        if not hasattr(x, "dtype"):
            raise InputError(f"U-Net: expected an array of images, got {type(x).__name__}")
        if tuple(x.shape[1:]) != (c.image_size, c.image_size, c.in_channels) or x.ndim != 4:
            raise InputError(
                f"U-Net: expected images (N, {c.image_size}, {c.image_size}, {c.in_channels}), "
                f"got {tuple(x.shape)}"
            )
        if not len(x):
            raise InputError("U-Net: a batch of no images; pass at least one")
        if x.dtype.char not in ("f", "d"):
            raise InputError(f"U-Net: expected floating-point images, 32 or 64 bits, got {x.dtype}")
        if np.shape(t) != (x.shape[0],):
            raise InputError(f"U-Net: expected {x.shape[0]} time steps, got shape {np.shape(t)}")
        times = np.asarray(t)
        if times.dtype.kind not in "iuf" or not (times >= 0).all():
            raise InputError(f"U-Net: times must be numbers >= 0 on the host, got {t!r}")
        if labels is None:
            return
        if c.num_classes is None:
            raise InputError("U-Net: labels given, but the config has num_classes=None")
        if np.shape(labels) != (x.shape[0],):
            raise InputError(f"U-Net: expected {x.shape[0]} labels, got shape {np.shape(labels)}")
        if np.asarray(labels).dtype.kind not in "iu":
            raise InputError(f"U-Net: labels must be integers, got {np.asarray(labels).dtype}")
        if np.min(labels) < 0 or np.max(labels) > c.num_classes:
            raise InputError(
                f"U-Net: labels must lie in 0..{c.num_classes} ({c.num_classes} = no class), "
                f"got {np.min(labels)}..{np.max(labels)}"
            )


class Level(Module):
    """The blocks at one resolution, each with the attention after it or None, and a resampling."""

    def __init__(self) -> None:
        self.blocks: list[ResidualBlock] = []
        self.attentions: list[SelfAttention | None] = []
        self.resample: Conv2d | None = None

    def append(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        """Put a block, and the attention after it, at the end."""
        self.blocks.append(block)
        self.attentions.append(attention)

    def pairs(self) -> zip[tuple[ResidualBlock, SelfAttention | None]]:
        """(block, attention or None) in order."""
        return zip(self.blocks, self.attentions, strict=True)
