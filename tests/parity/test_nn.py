"""The layers against PyTorch's: value, and the gradient of every input and parameter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from minidiff import nn
from tests.parity.compare import DTYPES, check
from tests.parity.layout import nchw, nhwc, oihw

pytestmark = [pytest.mark.parity, pytest.mark.parametrize("dtype", DTYPES)]


def made(kind, *args, dtype, **options):
    """A layer whose parameters are all random: none is zero or one, as many are at first."""
    rng = np.random.default_rng(0)
    try:
        module = kind(*args, **options, rng=rng)
    except TypeError:  # the norms draw nothing
        module = kind(*args, **options)
    for p in module.parameters():
        p.data += (0.5 * rng.standard_normal(p.shape)).astype(p.dtype)
    return module.astype(dtype)


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)])
def test_linear(shape, bias, dtype):
    module = made(nn.Linear, 4, 6, bias=bias, dtype=dtype)
    check(
        module,
        lambda x, p: F.linear(x, p["weight"].T, p.get("bias")),
        {"x": normal(*shape)},
        dtype,
        module=module,
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "padding", "sides"),  # sides: left, right, top, bottom
    [
        (3, None, (1, 1, 1, 1)),
        (5, None, (2, 2, 2, 2)),
        (1, None, (0, 0, 0, 0)),
        (3, ((0, 1), (0, 1)), (0, 1, 0, 1)),
        (2, ((1, 2), (3, 0)), (3, 0, 1, 2)),
        (4, 1, (1, 1, 1, 1)),
    ],
)
def test_conv2d(size, padding, sides, stride, dtype):
    module = made(nn.Conv2d, 3, 4, size, stride=stride, padding=padding, dtype=dtype)

    def theirs(x, p):
        return nhwc(F.conv2d(F.pad(nchw(x), sides), oihw(p["weight"]), p["bias"], stride=stride))

    check(module, theirs, {"x": normal(2, 8, 7, 3)}, dtype, module=module)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_norm(groups, dtype):
    module = made(nn.GroupNorm, 8, groups, eps=1e-3, dtype=dtype)
    check(
        module,
        lambda x, p: nhwc(F.group_norm(nchw(x), groups, p["weight"], p["bias"], 1e-3)),
        {"x": 2 + normal(3, 5, 4, 8)},
        dtype,
        module=module,
    )


def test_layer_norm(dtype):
    module = made(nn.LayerNorm, 8, eps=1e-3, dtype=dtype)
    check(
        module,
        lambda x, p: F.layer_norm(x, (8,), p["weight"], p["bias"], 1e-3),
        {"x": 2 + normal(3, 5, 8)},
        dtype,
        module=module,
    )


def test_embedding(dtype):
    module = made(nn.Embedding, 5, 6, dtype=dtype)
    rows = np.array([[0, 4, 4], [2, 4, 0]])
    check(
        lambda: module(rows),
        lambda p: F.embedding(torch.from_numpy(rows), p["weight"]),
        {},
        dtype,
        module=module,
    )


def torch_attention(x, context, p, *, heads, groups, mask=None):
    """x + torch.nn.MultiheadAttention of the normalized x, looking at the context or at itself."""
    shape, channels = x.shape, x.shape[-1]
    h = F.group_norm(x.movedim(-1, 1), groups, p["norm.weight"], p["norm.bias"]).movedim(1, -1)
    h = h.reshape(shape[0], -1, channels)
    width = channels if context is None else context.shape[-1]
    attention = torch.nn.MultiheadAttention(
        channels, heads, kdim=width, vdim=width, batch_first=True, dtype=x.dtype
    )
    parts = ("query", "key", "value")
    matrices = [p[f"{part}.weight"].T for part in parts]
    weights = {
        "in_proj_bias": torch.cat([p[f"{part}.bias"] for part in parts]),
        "out_proj.weight": p["project.weight"].T,
        "out_proj.bias": p["project.bias"],
    }
    if width == channels:
        weights["in_proj_weight"] = torch.cat(matrices)
    else:
        weights |= dict(zip([f"{s}_proj_weight" for s in "qkv"], matrices, strict=True))
    seen = h if context is None else context
    hidden = None if mask is None else torch.from_numpy(~mask)
    options = {"key_padding_mask": hidden, "need_weights": False}
    o, _ = functional_call(attention, weights, (h, seen, seen), options)
    return x + o.reshape(shape)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 4, 8), (3, 5, 8)])
def test_self_attention(shape, heads, dtype):
    module = made(nn.SelfAttention, 8, heads, groups=2, dtype=dtype)
    check(
        module,
        lambda x, p: torch_attention(x, None, p, heads=heads, groups=2),
        {"x": normal(*shape)},
        dtype,
        module=module,
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("width", [5, 8])
def test_cross_attention(width, heads, masked, dtype):
    module = made(nn.CrossAttention, 8, width, heads, groups=4, dtype=dtype)
    mask = None
    if masked:  # sequences of 7, 3 and 1 tokens
        mask = np.arange(7) < np.array([[7], [3], [1]])
    check(
        lambda x, context: module(x, context, mask),
        lambda x, context, p: torch_attention(x, context, p, heads=heads, groups=4, mask=mask),
        {"x": normal(3, 2, 4, 8), "context": normal(3, 7, width)},
        dtype,
        module=module,
    )
