"""The same training step: with minidiff, with PyTorch, and as it is written at first.

A step is forward, MSE, backward, clipping of the gradient norm, Adam and the moving average of
the weights, in float32. Each contestant takes the same batches and starts from the same weights.
`MiniDiffBlock` and `HIPSBlock` are one residual block, forward and backward.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from benchmarks.configs import Batch, model
from minidiff.backend.kernels import definitions_only
from minidiff.unet import UNetConfig

LR, MAX_NORM, DECAY = 1e-3, 1.0, 0.999
PARTS = ("forward", "backward", "optimizer")


class Contestant(Protocol):
    """What the benchmark asks of an implementation."""

    def put(self, batch: Batch) -> Any:
        """The batch as this implementation wants it; not timed."""

    def step(self, batch: Any) -> tuple[float, list[float]]:
        """Train one step: the loss, and the seconds of each of PARTS."""

    def sample(self, batch: Any) -> None:
        """Evaluate the network without recording, as a sampler does."""


class MiniDiff:
    """minidiff on the backend that MINIDIFF_BACKEND chooses."""

    def __init__(self, config: UNetConfig) -> None:
        from minidiff.optim import EMA, Adam

        self.model = model(config).train()
        self.flat = self.model.flatten()
        self.adam, self.ema = Adam(self.flat, LR), EMA(self.flat, DECAY, warmup=False)

    def put(self, batch: Batch) -> Batch:
        return batch

    def step(self, batch: Batch) -> tuple[float, list[float]]:
        from minidiff import ops
        from minidiff.optim import clip_grad_norm

        times = [time.perf_counter()]
        self.model.zero_grad()
        loss = ops.mse(self.model(batch.x, batch.t, batch.labels), batch.target)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        clip_grad_norm(self.flat, MAX_NORM)
        self.adam.step()
        self.ema.update()
        times.append(time.perf_counter())
        return loss.item(), _differences(times)

    def sample(self, batch: Batch) -> None:
        self.model.denoise(batch.x, batch.t, batch.labels)


class Im2col(MiniDiff):
    """The same network on the kernels' definitions, ordinary NumPy with ordinary temporaries.

    A convolution gathers the windows of the whole batch into one matrix (`tensordot` copies them)
    and multiplies it with the kernel; its gradient adds the taps back one by one.
    """

    def step(self, batch: Batch) -> tuple[float, list[float]]:
        with definitions_only():
            return super().step(batch)

    def sample(self, batch: Batch) -> None:
        with definitions_only():
            super().sample(batch)


class PyTorch:
    """Eager PyTorch, with its fused Adam and multi-tensor clipping and averaging."""

    def __init__(self, config: UNetConfig, layout: str) -> None:
        import torch

        from tests.parity.torch_unet import UNet, load

        self.format = getattr(torch, layout)
        self.model = UNet(config).train()
        load(self.model, model(config).state_dict())
        self.model.to(memory_format=self.format)
        self.parameters: list[Any] = list(self.model.parameters())
        self.adam = torch.optim.Adam(self.parameters, LR, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]

    def put(self, batch: Batch) -> tuple[Any, ...]:
        import torch

        from tests.parity.layout import nchw

        images = (
            nchw(torch.from_numpy(a)).contiguous(memory_format=self.format)
            for a in (batch.x, batch.target)
        )
        labels = None if batch.labels is None else torch.from_numpy(batch.labels)
        return *images, torch.from_numpy(batch.t), labels

    def step(self, batch: tuple[Any, ...]) -> tuple[float, list[float]]:
        import torch

        x, target, t, labels = batch
        times = [time.perf_counter()]
        self.adam.zero_grad()
        loss = torch.nn.functional.mse_loss(self.model(x, t, labels), target)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM, foreach=True)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - DECAY)
        times.append(time.perf_counter())
        return loss.item(), _differences(times)

    def sample(self, batch: tuple[Any, ...]) -> None:
        import torch

        x, _, t, labels = batch
        with torch.inference_mode():
            self.model(x, t, labels)


class MiniDiffBlock:
    """Forward and backward of a residual block without time, 32 channels: no optimizer."""

    def __init__(self, config: UNetConfig) -> None:
        rng = np.random.default_rng(0)
        self.groups, c = config.groups, config.channels
        self.weights = [0.1 * rng.standard_normal((3, 3, c, c), dtype=np.float32) for _ in "12"]
        self.gammas = [1 + 0.1 * rng.standard_normal(c, dtype=np.float32) for _ in "12"]

    def put(self, batch: Batch) -> np.ndarray:
        c = self.weights[0].shape[2]
        return np.repeat(batch.x[..., :1], c, axis=3) * np.linspace(1, 2, c, dtype=np.float32)

    def step(self, batch: np.ndarray) -> tuple[float, list[float]]:
        from minidiff import ops
        from minidiff.autograd import Tensor

        times = [time.perf_counter()]
        leaves = [Tensor(a, requires_grad=True) for a in (batch, *self.weights, *self.gammas)]
        x, w1, w2, gamma1, gamma2 = leaves
        beta = np.zeros(len(self.gammas[0]), np.float32)
        h = x
        for w, gamma in ((w1, gamma1), (w2, gamma2)):
            h = ops.conv2d(ops.group_norm_silu(h, gamma, beta, groups=self.groups), w, padding=1)
        loss = ((x + h) * (x + h)).mean()
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        return loss.item(), [*_differences(times), 0.0]

    def sample(self, batch: np.ndarray) -> None:
        """A block alone draws nothing."""


class HIPSBlock(MiniDiffBlock):
    """The same with HIPS autograd: NHWC, im2col by nine shifted slices, one product."""

    def step(self, batch: np.ndarray) -> tuple[float, list[float]]:
        import autograd
        import autograd.numpy as anp

        def norm(x: Any, gamma: Any) -> Any:
            z = anp.reshape(x, (x.shape[0], -1, self.groups, x.shape[3] // self.groups))
            d = z - anp.mean(z, axis=(1, 3), keepdims=True)
            v = anp.mean(d * d, axis=(1, 3), keepdims=True)
            return anp.reshape(d / anp.sqrt(v + 1e-5), x.shape) * gamma

        def conv(x: Any, w: Any) -> Any:
            _, height, width, c = x.shape
            padded = anp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "constant")
            taps = [padded[:, a : a + height, b : b + width] for a in range(3) for b in range(3)]
            columns = anp.reshape(anp.concatenate(taps, axis=3), (-1, 9 * c))
            return anp.reshape(anp.dot(columns, anp.reshape(w, (9 * c, -1))), x.shape)

        def loss(x: Any, weights: Any, gammas: Any) -> Any:
            h = x
            for w, gamma in zip(weights, gammas, strict=True):
                u = norm(h, gamma)
                h = conv(u * (0.5 * (1 + anp.tanh(0.5 * u))), w)
            return anp.mean((x + h) ** 2)

        times = [time.perf_counter()]
        pull, value = autograd.make_vjp(lambda leaves: loss(*leaves))(
            (batch, tuple(self.weights), tuple(self.gammas))
        )
        times.append(time.perf_counter())
        pull(np.float32(1))
        times.append(time.perf_counter())
        return float(value), [*_differences(times), 0.0]


MAKERS: dict[str, Callable[[UNetConfig], Contestant]] = {
    "minidiff": MiniDiff,
    "torch NCHW": lambda config: PyTorch(config, "contiguous_format"),
    "torch channels_last": lambda config: PyTorch(config, "channels_last"),
}
OTHERS: dict[str, Callable[[UNetConfig], Contestant]] = {
    "im2col": Im2col,
    "minidiff, a block": MiniDiffBlock,
    "autograd, a block": HIPSBlock,
}


def _differences(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]
