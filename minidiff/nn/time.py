"""Embeddings of the time step t."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.autograd import Array
from minidiff.errors import InputError
from minidiff.nn.module import Module

ORDERS = ("sin_cos", "cos_sin")


def _times(t: Any) -> np.ndarray:
    """`t` in float64, if it is N times: integers, or real numbers between them."""
    try:
        times = np.asarray(t)
    except ValueError:
        times = np.asarray(None)
    if times.ndim != 1 or times.dtype.kind not in "iuf" or not (abs(times) < math.inf).all():
        raise InputError(f"t must be an array of N finite times on the host, got {t!r}")
    return times.astype(np.float64)


class SinusoidalEmbedding(Module):
    """(sin(t f_i), cos(t f_i)) with f_i = max_period^(-i / (dim/2 - shift)), i = 0 .. dim/2 - 1.

    Vaswani et al. (2017), section 3.5. DDPM's own code has shift 1 and sines first; other code
    bases differ in both, which matters only when weights are carried from one to another.
    The angles are computed in float64 on the host: t is a host array (N,), the result (N, dim).
    """

    def __init__(
        self, dim: int, *, max_period: float = 10_000.0, shift: int = 1, order: str = "sin_cos"
    ) -> None:
        if dim < 4 or dim % 2:
            raise InputError(f"SinusoidalEmbedding: dim must be even and at least 4, got {dim}")
        if order not in ORDERS:
            raise InputError(f"SinusoidalEmbedding: order {order!r}, choose one of {ORDERS}")
        half = dim // 2
        if not 0 <= shift < half or not max_period > 0:
            raise InputError(
                f"SinusoidalEmbedding: wants 0 <= shift < dim/2 and max_period > 0, got shift "
                f"{shift}, dim {dim} and max_period {max_period}"
            )
        self.order = order
        self.frequencies = np.exp(-math.log(max_period) * np.arange(half) / (half - shift))

    def __call__(self, t: np.ndarray, dtype: str = "float32") -> Array:
        """Time steps (N,) on the host to features (N, dim)."""
        angles = _times(t)[:, None] * self.frequencies
        parts = (np.sin(angles), np.cos(angles))
        both = np.concatenate(parts if self.order == "sin_cos" else parts[::-1], axis=1)
        return backend.asarray(both.astype(dtype))


class FourierEmbedding(Module):
    """(sin(2 pi f_i u), cos(2 pi f_i u)) of u = t / period, f_i ~ N(0, scale^2) drawn once.

    Random Fourier features: E cos(2 pi f (u - u')) = exp(-2 pi^2 scale^2 (u - u')^2). Tancik et
    al. (2020); Song et al. (2021) use them for time. The frequencies are a buffer: saved with the
    weights, never trained.
    """

    buffer_names = ("frequencies",)

    def __init__(
        self, dim: int, *, rng: np.random.Generator, scale: float = 16.0, period: float = 1000.0
    ) -> None:
        if dim < 2 or dim % 2:
            raise InputError(f"FourierEmbedding: dim must be even and at least 2, got {dim}")
        self.period = period
        self.frequencies = backend.asarray(
            (scale * rng.standard_normal(dim // 2)).astype(np.float32)
        )

    def __call__(self, t: np.ndarray, dtype: str = "float32") -> Array:
        """Time steps (N,) on the host to features (N, dim)."""
        u = backend.asarray(_times(t)[:, None] / self.period)
        # in float64, but where the frequencies are: to bring them here would wait for the device
        angles = 2 * math.pi * u * self.frequencies.astype(np.float64)
        xp = backend.array_module(angles)
        return xp.concatenate([xp.sin(angles), xp.cos(angles)], axis=1).astype(dtype)
