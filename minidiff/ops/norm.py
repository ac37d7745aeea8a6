"""Normalization and dropout."""

from __future__ import annotations

from typing import Any

from minidiff.autograd import VJP, Array, op
from minidiff.backend import kernels
from minidiff.errors import InputError, check_count, check_number
from minidiff.ops.checks import check_floats

Result = tuple[Array, VJP]


def _check_groups(name: str, x: Array, groups: int) -> None:
    if x.ndim < 2:
        raise InputError(f"{name} wants x (N, ..., C), got shape {x.shape}")
    if x.shape[-1] % check_count(f"{name}: groups", groups):
        raise InputError(f"{name}: {groups} groups do not divide {x.shape[-1]} channels")


def _check_arrays(
    name: str, x: Array, eps: float, *, per_sample: bool = False, **parameters: Array
) -> None:
    """Refuse a scale or shift that is not one number a channel: it might broadcast, unseen."""
    check_floats(name, x=x, **parameters)
    if not check_number(f"{name}: eps", eps) > 0:
        raise InputError(f"{name}: eps must be positive, got {eps}")
    if x.shape[-1:] in ((), (0,)):
        raise InputError(f"{name}: x of shape {x.shape} has no channels")
    allowed = [(x.shape[-1],)] + [(x.shape[0], x.shape[-1])] * per_sample
    for parameter, p in parameters.items():
        if p.shape not in allowed:
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
    _check_arrays("group_norm", x, eps, gamma=gamma, beta=beta)
    _check_groups("group_norm", x, groups)
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
    parameters = {"gamma": gamma, "beta": beta} | ({} if shift is None else {"shift": shift})
    _check_arrays("group_norm_silu", x, eps, per_sample=True, **parameters)
    _check_groups("group_norm_silu", x, groups)
    k = kernels.of(xp)
    y, m, r = k.group_norm_silu(xp, x, gamma, beta, shift, groups, eps)
    return y, lambda g: k.group_norm_silu_grad(xp, g, x, y, m, r, gamma, beta, shift)


@op
def layer_norm(xp: Any, x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5) -> Result:
    """y = gamma (x - m) / sqrt(v + eps) + beta, m and v over the last axis. Ba et al. (2016)."""
    _check_arrays("layer_norm", x, eps, gamma=gamma, beta=beta)
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
    check_floats("dropout", x=x)
    if not 0 <= check_number("dropout: p", p) < 1:
        raise InputError(f"dropout: p must lie in [0, 1), got {p}")
    if not hasattr(rng, "random"):
        raise InputError(f"dropout draws: pass rng, such as backend.generator(seed), got {rng!r}")
    scale = (rng.random(x.shape, dtype=x.dtype) >= p) * x.dtype.type(1 / (1 - p))
    return x * scale, lambda g: (g * scale,)
