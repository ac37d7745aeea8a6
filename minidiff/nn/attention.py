"""Attention blocks: normalize, look, project, add to the input."""

from __future__ import annotations

from minidiff import ops
from minidiff.autograd import Array, Tensor
from minidiff.errors import InputError, check_count
from minidiff.nn.layers import Generator, GroupNorm, Linear
from minidiff.nn.module import Module


def _check_heads(channels: int, heads: int) -> None:
    if check_count("attention: channels", channels) % check_count("attention: heads", heads):
        raise InputError(f"attention: {heads} heads do not divide {channels} channels")


class SelfAttention(Module):
    """x + project(attention(q, k, v)) with q, k, v linear in GroupNorm(x); x is (N, ..., C).

    All positions but the first and last axis are one sequence. The projection starts at zero, so
    the block starts as the identity (Ho et al. 2020, appendix B, single-head when heads = 1).
    """

    def __init__(
        self, channels: int, heads: int = 1, *, groups: int, rng: Generator, eps: float = 1e-5
    ) -> None:
        _check_heads(channels, heads)
        self.heads = heads
        self.norm = GroupNorm(channels, groups, eps=eps)
        self.query = Linear(channels, channels, rng=rng)
        self.key = Linear(channels, channels, rng=rng)
        self.value = Linear(channels, channels, rng=rng)
        self.project = Linear(channels, channels, rng=rng, zero=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (N, ..., C) in and out."""
        h = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        h = ops.attention(self.query(h), self.key(h), self.value(h), heads=self.heads)
        return x + self.project(h).reshape(x.shape)


class CrossAttention(Module):
    """x + project(attention(q, k, v)) with q from GroupNorm(x) and k, v from a context (N, S, D).

    `mask` (N, S) is True where the context holds a token.
    """

    def __init__(
        self, channels: int, d_context: int, heads: int = 1, *, groups: int, rng: Generator,
        eps: float = 1e-5,
    ) -> None:  # fmt: skip
        _check_heads(channels, heads)
        self.heads = heads
        self.norm = GroupNorm(channels, groups, eps=eps)
        self.query = Linear(channels, channels, rng=rng)
        self.key = Linear(d_context, channels, rng=rng)
        self.value = Linear(d_context, channels, rng=rng)
        self.project = Linear(channels, channels, rng=rng, zero=True)

    def __call__(self, x: Tensor, context: Tensor | Array, mask: Array | None = None) -> Tensor:
        """Shape (N, ..., C) in and out; the context is (N, S, D), the mask (N, S) of bool."""
        h = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        k, v = self.key(context), self.value(context)
        wide = None if mask is None else mask[:, None, None, :]
        h = ops.attention(self.query(h), k, v, heads=self.heads, mask=wide)
        return x + self.project(h).reshape(x.shape)
