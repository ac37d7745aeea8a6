"""The same training step as NumPy is written at first, and the same with HIPS autograd.

Nothing of minidiff's kernels is here. A convolution gathers the windows of the whole batch into
one matrix of columns, which the tape keeps for the gradient of the weights; group norm, SiLU and
attention are made of elementary operations, each with an array for its result; clipping, Adam and
the average make new arrays; memory comes from the C library as it is set up by default.

`unet` is written once, for any library of functions that has what `Columns` and `HIPS` have:
`Columns` computes with minidiff's tape and its elementary operations, `HIPS` with autograd.numpy.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np

from benchmarks.configs import Batch, model
from benchmarks.contestants import DECAY, LR, MAX_NORM, differences
from minidiff import ops
from minidiff.autograd import OPS, Tensor, no_grad, op
from minidiff.unet import UNetConfig

SAME, FAR = ((1, 1), (1, 1)), ((0, 1), (0, 1))


def unet(f: Any, config: UNetConfig, p: dict[str, Any], x: Any, time: Any, labels: Any) -> Any:
    """`minidiff.unet.UNet` with time added, from its parameters by name.

    `time` holds the features of the time steps, `labels` None or those of the classes.
    """

    def linear(name: str, h: Any) -> Any:
        rows = h.reshape((-1, h.shape[-1])) @ p[f"{name}.weight"] + p[f"{name}.bias"]
        return rows.reshape((*h.shape[:-1], rows.shape[-1]))

    def conv(name: str, h: Any, stride: int = 1, pads: Any = SAME) -> Any:
        return f.conv(h, p[f"{name}.weight"], stride, pads) + p[f"{name}.bias"]

    def silu(h: Any) -> Any:
        return h * (1 / (1 + f.exp(-h)))

    def norm(name: str, h: Any) -> Any:
        z = h.reshape((h.shape[0], -1, config.groups, h.shape[-1] // config.groups))
        share = 1 / (z.shape[1] * z.shape[3])
        d = z - z.sum(axis=(1, 3), keepdims=True) * share
        v = (d * d).sum(axis=(1, 3), keepdims=True) * share
        h_hat = (d / f.sqrt(v + config.norm_eps)).reshape(h.shape)
        return h_hat * p[f"{name}.weight"] + p[f"{name}.bias"]

    def block(name: str, h: Any, e: Any) -> Any:
        z = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", h)))
        z = z + linear(f"{name}.time", e).reshape((len(x), 1, 1, -1))
        z = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", z)))
        return (linear(f"{name}.shortcut", h) if f"{name}.shortcut.weight" in p else h) + z

    def attention(name: str, h: Any) -> Any:
        if f"{name}.norm.weight" not in p:
            return h
        z = norm(f"{name}.norm", h).reshape((len(x), -1, h.shape[-1]))
        d = h.shape[-1] // config.heads

        def heads(part: str) -> Any:
            y = linear(f"{name}.{part}", z)
            return f.transpose(y.reshape((len(x), -1, config.heads, d)), (0, 2, 1, 3))

        q, k, v = heads("query"), heads("key"), heads("value")
        scores = (q @ f.transpose(k, (0, 1, 3, 2))) * (1 / math.sqrt(d))
        weights = f.exp(scores - f.constant(scores).max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
        o = f.transpose(weights @ v, (0, 2, 1, 3)).reshape(z.shape)
        return h + linear(f"{name}.project", o).reshape(h.shape)

    def both(level: str, i: int, h: Any, e: Any) -> Any:
        return attention(f"{level}.attentions.{i}", block(f"{level}.blocks.{i}", h, e))

    e = linear("time2", silu(linear("time1", time)))
    if labels is not None:
        e = e + labels @ p["classes.weight"]
    e = silu(e)
    levels = len(config.multipliers)
    skips = [h := conv("conv_in", x)]
    for i in range(levels):
        for j in range(config.blocks):
            skips.append(h := both(f"down.{i}", j, h, e))
        if i < levels - 1:
            skips.append(h := conv(f"down.{i}.resample", h, 2, FAR))
    for j in range(2):
        h = both("middle", j, h, e)
    for i in range(levels):
        for j in range(config.blocks + 1):
            h = both(f"up.{i}", j, f.concat(h, skips.pop()), e)
        if i < levels - 1:
            h = conv(f"up.{i}.resample", f.upsample(h))
    return conv("conv_out", silu(norm("norm_out", h)))


class Columns:
    """Functions for `unet` on minidiff's tape: im2col over the whole batch."""

    exp, sqrt, transpose, concat = ops.exp, ops.sqrt, ops.transpose, ops.concat
    upsample = ops.upsample_nearest

    @staticmethod
    def constant(x: Tensor) -> np.ndarray:
        return x.data

    @staticmethod
    def conv(x: Any, w: Tensor, stride: int, pads: Any) -> Tensor:
        return convolve_columns(x, w, stride=stride, pads=pads)


@op
def convolve_columns(xp: Any, x: Any, w: Any, *, stride: int, pads: Any) -> Any:
    """One product with the columns of all images; x_bar adds the columns' gradient back."""
    kh, kw, c, o = w.shape
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))
    view = view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    n, height, width = view.shape[:3]
    columns, matrix = view.reshape(-1, kh * kw * c), w.reshape(-1, o)

    def vjp(g: np.ndarray) -> tuple[Any, Any]:
        g = g.reshape(-1, o)

        def dx() -> np.ndarray:
            taps = (g @ matrix.T).reshape(n, height, width, kh, kw, c)
            out = np.zeros_like(padded)
            for a in range(kh):
                for b in range(kw):
                    rows, cols = slice(a, a + stride * height), slice(b, b + stride * width)
                    out[:, rows, cols][:, ::stride, ::stride] += taps[:, :, :, a, b]
            (top, _), (left, _) = pads
            return out[:, top : top + x.shape[1], left : left + x.shape[2]]

        return dx, lambda: (columns.T @ g).reshape(w.shape)

    return (columns @ matrix).reshape(n, height, width, o), vjp


del OPS["convolve_columns"]  # an operation of this benchmark, not of the package


class HIPS:
    """Functions for `unet` in autograd.numpy: nine shifted slices side by side, one product."""

    def __init__(self) -> None:
        import autograd.numpy as anp
        from autograd.tracer import getval

        self.np, self.constant = anp, getval
        self.exp, self.sqrt, self.transpose = anp.exp, anp.sqrt, anp.transpose

    def concat(self, *xs: Any) -> Any:
        return self.np.concatenate(xs, axis=-1)

    def upsample(self, x: Any) -> Any:
        return self.np.repeat(self.np.repeat(x, 2, axis=1), 2, axis=2)

    def conv(self, x: Any, w: Any, stride: int, pads: Any) -> Any:
        kh, kw, c, o = w.shape
        padded = self.np.pad(x, ((0, 0), *pads, (0, 0)), "constant")
        height, width = ((n - 3) // stride + 1 for n in padded.shape[1:3])
        taps = [
            padded[:, a : a + stride * height : stride, b : b + stride * width : stride]
            for a in range(kh)
            for b in range(kw)
        ]
        columns = self.np.concatenate(taps, axis=3).reshape((-1, kh * kw * c))
        return (columns @ w.reshape((-1, o))).reshape((x.shape[0], height, width, o))


class Im2col:
    """im2col over the whole batch, with ordinary temporaries."""

    def __init__(self, config: UNetConfig) -> None:
        if config.time_conditioning != "add" or config.dropout:
            raise ValueError("the naive network adds time and drops nothing")
        net = model(config)
        self.config, self.features, self.steps = config, net.time_features, 0
        self.p: dict[str, Any] = {name: p.data for name, p in net.named_parameters()}
        self.m = {name: np.zeros_like(a) for name, a in self.p.items()}
        self.v, self.average = dict(self.m), dict(self.p)

    def put(self, batch: Batch) -> tuple[Any, ...]:
        labels = None
        if batch.labels is not None:  # a row of zeros for the null class
            labels = np.eye(self.config.num_classes or 0, dtype=np.float32)
            labels = np.vstack([labels, np.zeros_like(labels[:1])])[batch.labels]
        return batch.x, self.features(batch.t), labels, batch.target

    def step(self, batch: tuple[Any, ...]) -> tuple[float, list[float]]:
        if "minidiff.backend.kernels.numpy" in sys.modules:
            raise RuntimeError("the fast kernels are loaded: they change how memory is allocated")
        times = [time.perf_counter()]
        loss, gradients = self.loss(batch, times)
        times.append(time.perf_counter())
        self.update(gradients)
        times.append(time.perf_counter())
        return loss, differences(times)

    def loss(self, batch: tuple[Any, ...], times: list[float]) -> tuple[float, dict[str, Any]]:
        """The loss, and its gradient by name; the time between the two goes to `times`."""
        x, time_features, labels, target = batch
        p = {name: Tensor(a, requires_grad=True) for name, a in self.p.items()}
        d = unet(Columns, self.config, p, x, time_features, labels) - target
        loss = (d * d).mean()
        times.append(time.perf_counter())
        loss.backward()
        return loss.item(), {name: a.grad for name, a in p.items()}

    def update(self, gradients: dict[str, Any]) -> None:
        """Clip, Adam and the average of the weights, parameter by parameter."""
        self.steps += 1
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        for name, g in gradients.items():
            g = g * min(1.0, MAX_NORM / norm)
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g * g
            m_hat = self.m[name] / (1 - 0.9**self.steps)
            v_hat = self.v[name] / (1 - 0.999**self.steps)
            self.p[name] = self.p[name] - LR * m_hat / (np.sqrt(v_hat) + 1e-8)
            self.average[name] = DECAY * self.average[name] + (1 - DECAY) * self.p[name]

    def sample(self, batch: tuple[Any, ...]) -> None:
        x, time_features, labels, _ = batch
        p = {name: Tensor(a) for name, a in self.p.items()}
        with no_grad():
            unet(Columns, self.config, p, x, time_features, labels)


class Autograd(Im2col):
    """The whole network with HIPS autograd."""

    def loss(self, batch: tuple[Any, ...], times: list[float]) -> tuple[float, dict[str, Any]]:
        import autograd

        x, time_features, labels, target = batch
        f = HIPS()

        def loss(p: dict[str, Any]) -> Any:
            d = unet(f, self.config, p, x, time_features, labels) - target
            return (d * d).sum() * (1 / d.size)

        pull, value = autograd.make_vjp(loss)(self.p)
        times.append(time.perf_counter())
        return float(value), pull(np.float32(1))

    def sample(self, batch: tuple[Any, ...]) -> None:
        x, time_features, labels, _ = batch
        unet(HIPS(), self.config, self.p, x, time_features, labels)
