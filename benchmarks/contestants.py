"""The same training step: with minidiff, in one process or more, and with PyTorch.

A step is forward, MSE, backward, clipping of the gradient norm, Adam and the moving average of
the weights, in float32. Each contestant takes the same batches and starts from the same weights.
How it is written at first in NumPy stands in `benchmarks.naive`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.configs import Batch, model
from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.training.parallel import ALONE, Communicator
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

    ranks: Communicator = ALONE

    def __init__(self, config: UNetConfig) -> None:
        from minidiff.optim import EMA, Adam

        self.model = model(config).eval()  # as samplers have it; without dropout a step is the same
        self.flat = self.model.flatten()
        self.adam = Adam(self.flat, LR)
        self.ema = EMA(self.flat, DECAY, warmup=False) if self.ranks.first else None

    def put(self, batch: Batch) -> Batch:
        return batch

    def step(self, batch: Batch) -> tuple[float, list[float]]:
        from minidiff.optim import update

        times = [time.perf_counter()]
        self.model.zero_grad()
        loss = self.loss(batch)
        times.append(time.perf_counter())
        self.backward(loss)
        times.append(time.perf_counter())
        update(self.adam, self.ema, max_norm=MAX_NORM)
        times.append(time.perf_counter())
        return loss.item(), differences(times)

    def loss(self, batch: Batch) -> Tensor:
        return ops.mse(self.model(batch.x, batch.t, batch.labels), batch.target)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def sample(self, batch: Batch) -> None:
        self.model.denoise(batch.x, batch.t, batch.labels)


class InRanks(MiniDiff):
    """The same in processes under MPI, each with its rows of the batch, as the trainer does it."""

    def __init__(self, config: UNetConfig) -> None:
        from minidiff.training.parallel import world

        self.ranks = world()
        super().__init__(config)

    def put(self, batch: Batch) -> Batch:
        self.n = len(batch.x)
        rows = self.ranks.rows(self.n)
        labels = None if batch.labels is None else batch.labels[rows]
        return Batch(batch.x[rows], batch.target[rows], batch.t[rows], labels)

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * (len(batch.x) / self.n)  # its share of the mean

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        self.ranks.allreduce(self.flat.grad)
        loss.data = loss.data.reshape(1)
        self.ranks.allreduce(loss.data)


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
        return loss.item(), differences(times)

    def sample(self, batch: tuple[Any, ...]) -> None:
        import torch

        x, _, t, labels = batch
        with torch.inference_mode():
            self.model(x, t, labels)


MAKERS: dict[str, Callable[[UNetConfig], Contestant]] = {
    "minidiff": MiniDiff,
    "torch NCHW": lambda config: PyTorch(config, "contiguous_format"),
    "torch channels_last": lambda config: PyTorch(config, "channels_last"),
}
OTHERS: dict[str, Callable[[UNetConfig], Contestant]] = {
    "minidiff, 2 ranks": InRanks,
    "im2col": lambda config: _naive().Im2col(config),
    "autograd": lambda config: _naive().Autograd(config),
}


def _naive() -> Any:
    from benchmarks import naive

    return naive


def differences(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]
