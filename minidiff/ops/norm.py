"""Normalization and dropout."""

from __future__ import annotations

from typing import Any

from minidiff.autograd import VJP, Array, op
from minidiff.backend import kernels
from minidiff.errors import InputError

Result = tuple[Array, VJP]


def _check_groups(name: str, x: Array, groups: int) -> None:
    if groups < 1 or x.shape[-1] % groups:
        raise InputError(f"{name}: {groups} groups do not divide {x.shape[-1]} channels")


def _check_channels(
    name: str, x: Array, *, per_sample: bool = False, **parameters: Array | None
) -> None:
    """Refuse a scale or shift that is not one number a channel: it might broadcast, unseen."""
    allowed = [(x.shape[-1],)] + [(x.shape[0], x.shape[-1])] * per_sample
    for parameter, p in parameters.items():
        if p is not None and p.shape not in allowed:
            raise InputError(
                f"{name}: {parameter} must be {' or '.join(map(str, allowed))} for x of shape "
                f"{x.shape}, got {p.shape}"
            )


@op
def group_norm(
    xp: Any, x: Array, gamma: Array, beta: Array, *, groups: int, eps: float = 1e-5
) -> Result:
    """y = gamma (x - m) / sqrt(v + eps) + beta, m and v over each group of channels of a sample.

    x is (N, ..., C), gamma and beta (C,), and `groups` divides C. Wu & He (2018), eq. (1)-(2).
    """
    _check_groups("group_norm", x, groups)
    _check_channels("group_norm", x, gamma=gamma, beta=beta)
    k = kernels.of(xp)
    # eq. (2.7), eq. (2.8)
    y, m, r = k.group_norm(xp, x, gamma, beta, groups, eps)
    return y, lambda g: k.group_norm_grad(xp, g, x, m, r, gamma)


@op
def group_norm_silu(
    xp: Any, x: Array, gamma: Array, beta: Array, shift: Array | None = None, *,
    groups: int, eps: float = 1e-5,
) -> Result:  # fmt: skip
    """y = silu(group_norm(x + shift)) in one pass: what a U-Net does before each convolution.

    x is (N, ..., C); gamma, beta and shift are (C,), or (N, C): each sample has its own then, as
    in adaptive group norm (Dhariwal & Nichol 2021, section 3.1). The tape keeps x and y alone.
    """
    _check_groups("group_norm_silu", x, groups)
    _check_channels("group_norm_silu", x, per_sample=True, gamma=gamma, beta=beta, shift=shift)
    k = kernels.of(xp)
    y, m, r = k.group_norm_silu(xp, x, gamma, beta, shift, groups, eps)
    return y, lambda g: k.group_norm_silu_grad(xp, g, x, y, m, r, gamma, beta, shift)


@op
def layer_norm(xp: Any, x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5) -> Result:
    """y = gamma (x - m) / sqrt(v + eps) + beta, m and v over the last axis. Ba et al. (2016)."""
    _check_channels("layer_norm", x, gamma=gamma, beta=beta)
    d = x - x.mean(axis=-1, keepdims=True)
    r = 1 / xp.sqrt((d * d).mean(axis=-1, keepdims=True) + eps)
    x_hat = d * r

    def vjp(g: Array) -> tuple[Any, Any, Any]:
        def dx() -> Array:
            h = gamma * g
            mean_h, mean_hx = (z.mean(axis=-1, keepdims=True) for z in (h, h * x_hat))
            return r * (h - mean_h - x_hat * mean_hx)

        axes = tuple(range(x.ndim - 1))
        return dx, lambda: (g * x_hat).sum(axis=axes), lambda: g.sum(axis=axes)

    return gamma * x_hat + beta, vjp


@op
def dropout(xp: Any, x: Array, *, p: float, rng: Any) -> Result:
    """y = x m / (1 - p), each m being 0 with probability p, else 1. `rng` draws on the device."""
    if not 0 <= p < 1:
        raise InputError(f"dropout: p must lie in [0, 1), got {p}")
    scale = (rng.random(x.shape, dtype=x.dtype) >= p) * x.dtype.type(1 / (1 - p))
    return x * scale, lambda g: (g * scale,)
