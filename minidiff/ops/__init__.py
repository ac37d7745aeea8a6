"""Differentiable functions: each one a value and its vector-Jacobian product, side by side."""

from minidiff.ops.attention import attention
from minidiff.ops.conv import avg_pool, conv2d, max_pool, upsample_nearest
from minidiff.ops.elementwise import (
    abs,
    add,
    clip,
    div,
    exp,
    gelu,
    log,
    maximum,
    mul,
    neg,
    pow,
    relu,
    sigmoid,
    silu,
    sqrt,
    sub,
    tanh,
    where,
)
from minidiff.ops.linalg import einsum, linear, matmul
from minidiff.ops.loss import cross_entropy, huber, l1, mse
from minidiff.ops.norm import dropout, group_norm, group_norm_silu, layer_norm
from minidiff.ops.reduce import log_softmax, logsumexp, max, mean, softmax, sum, var
from minidiff.ops.shape import (
    broadcast_to,
    concat,
    embedding,
    getitem,
    pad,
    reshape,
    split,
    transpose,
)

__all__ = [
    "abs", "add", "attention", "avg_pool", "broadcast_to", "clip", "concat", "conv2d",
    "cross_entropy", "div", "dropout", "einsum", "embedding", "exp", "gelu", "getitem",
    "group_norm", "group_norm_silu", "huber", "l1", "layer_norm", "linear", "log", "log_softmax",
    "logsumexp", "matmul", "max", "max_pool", "maximum", "mean", "mse", "mul", "neg", "pad", "pow",
    "relu", "reshape", "sigmoid", "silu", "softmax", "split", "sqrt", "sub", "sum", "tanh",
    "transpose", "upsample_nearest", "var", "where",
]  # fmt: skip
