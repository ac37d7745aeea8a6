"""Every operation against PyTorch: value and all gradients, in float64 and float32."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minidiff import ops
from tests.parity.compare import DTYPES, check
from tests.parity.layout import nchw, nhwc, oihw

pytestmark = pytest.mark.parity


@dataclass
class Case:
    """The same function twice; inputs are arrays, or shapes to be filled with N(0, 1) numbers."""

    ours: Callable
    theirs: Callable
    inputs: tuple
    note: str = ""
    options: dict = field(default_factory=dict)

    def arrays(self):
        rng = np.random.default_rng(0)
        return {
            f"input {i}": rng.standard_normal(x) if isinstance(x, tuple) else np.asarray(x)
            for i, x in enumerate(self.inputs)
        }


def positive(*shape):
    return np.random.default_rng(1).uniform(0.2, 3, shape)


def like(theirs, *inputs, **options):
    """A case whose functions differ in nothing but where they come from."""
    return Case(None, theirs, inputs, options=options)


def images(f):
    """A function of images in PyTorch's layout as one of images in minidiff's."""
    return lambda x, *args: nhwc(f(nchw(x), *args))


TIES = np.array([[-1.0, 0.0, 2.0, 2.0], [0.0, 0.0, -3.0, -3.0]])
MASK = np.random.default_rng(2).random((3, 2, 5, 7)) < 0.6
MASK[..., 0] = True
LABELS = np.array([2, 0, 3, 2, 1])
ROWS = np.array([[0, 3, 3], [1, 3, 0]])


def elementwise():
    """Functions of one or two arrays, broadcast, with the ties where a slope is chosen."""
    pair = ((3, 1, 4), (2, 1))  # broadcast to (3, 2, 4)
    for name, f in [("add", torch.add), ("sub", torch.sub), ("mul", torch.mul)]:
        yield name, like(f, *pair)
    yield "add", Case(lambda x: 2.5 + x, lambda x: 2.5 + x, ((3, 4),), "scalar on the left")
    yield "sub", Case(lambda x: 2.5 - x, lambda x: 2.5 - x, ((3, 4),), "scalar on the left")
    yield "mul", Case(lambda x: x * x, lambda x: x * x, ((3, 4),), "the same tensor twice")
    yield "div", like(torch.div, (3, 1, 4), positive(2, 1))
    yield "div", Case(lambda x: 2.5 / x, lambda x: 2.5 / x, (positive(3, 4),), "scalar on the left")
    yield "pow", like(torch.pow, positive(3, 1, 4), (2, 1))
    for p in (2, 3, -1, 0.5):
        yield "pow", Case(lambda x, p=p: x**p, lambda x, p=p: x**p, (positive(3, 4),), f"p={p}")
    yield "maximum", like(torch.maximum, *pair)
    yield "maximum", Case(ops.maximum, torch.maximum, (TIES, TIES[:1]), "ties")
    for name in ("exp", "tanh", "sigmoid", "neg"):
        yield name, like(getattr(torch, name), (3, 5))
    for name in ("log", "sqrt"):
        yield name, like(getattr(torch, name), positive(3, 5))
    for name, f in [("silu", F.silu), ("gelu", F.gelu), ("relu", F.relu), ("abs", torch.abs)]:
        yield name, like(f, (3, 5))
        yield name, Case(getattr(ops, name), f, (TIES,), "at zero")
        yield name, Case(getattr(ops, name), f, (np.linspace(-30, 30, 13),), "far out")
    yield "sigmoid", Case(ops.sigmoid, torch.sigmoid, (np.linspace(-30, 30, 13),), "far out")
    for x in ((4, 5), TIES):
        yield (
            "clip",
            Case(lambda x: ops.clip(x, low=-1.0, high=2.0), lambda x: x.clamp(-1, 2), (x,)),
        )
    condition = np.random.default_rng(3).random((3, 2, 4)) < 0.5
    yield (
        "where",
        Case(
            lambda a, b: ops.where(condition, a, b),
            lambda a, b: torch.where(torch.from_numpy(condition), a, b),
            pair,
        ),
    )


def reductions():
    """Sums, means and extremes over one axis, several, or all; with ties for max."""
    for axis in (None, 0, -1, (0, 2)):
        dim = (0, 1, 2) if axis is None else axis
        for keep in (False, True):
            note = f"axis={axis}, keepdims={keep}"
            for name, f in [
                ("sum", torch.sum),
                ("mean", torch.mean),
                ("max", torch.amax),
                ("logsumexp", torch.logsumexp),
            ]:
                yield (
                    name,
                    Case(
                        lambda x, name=name, axis=axis, keep=keep: getattr(ops, name)(
                            x, axis=axis, keepdims=keep
                        ),
                        lambda x, f=f, dim=dim, keep=keep: f(x, dim, keep),
                        ((3, 4, 2),),
                        note,
                    ),
                )
            for ddof in (0, 1):
                yield (
                    "var",
                    Case(
                        lambda x, axis=axis, keep=keep, ddof=ddof: ops.var(
                            x, axis=axis, ddof=ddof, keepdims=keep
                        ),
                        lambda x, dim=dim, keep=keep, ddof=ddof: x.var(
                            dim, correction=ddof, keepdim=keep
                        ),
                        ((3, 4, 2),),
                        f"{note}, ddof={ddof}",
                    ),
                )
    yield "max", Case(lambda x: ops.max(x, axis=1), lambda x: x.amax(1), (TIES,), "ties")
    yield "logsumexp", like(lambda x: x.logsumexp((0, 1)), 100 * TIES)
    for axis in (0, 1, -1):
        for name, f in [("softmax", F.softmax), ("log_softmax", F.log_softmax)]:
            yield (
                name,
                Case(
                    lambda x, name=name, axis=axis: getattr(ops, name)(x, axis=axis),
                    lambda x, f=f, axis=axis: f(x, axis),
                    ((3, 4, 2),),
                    f"axis={axis}",
                ),
            )


def shapes():
    """Functions that move elements, and the look-ups that gather rows."""
    x = ((3, 4, 2),)
    yield "reshape", Case(lambda x: ops.reshape(x, 2, -1), lambda x: x.reshape(2, -1), x)
    yield "reshape", Case(lambda x: ops.reshape(x, (6, 4)), lambda x: x.reshape(6, 4), x, "tuple")
    yield "transpose", Case(ops.transpose, lambda x: x.permute(2, 1, 0), x)
    yield (
        "transpose",
        Case(lambda x: ops.transpose(x, (1, -1, 0)), lambda x: x.permute(1, 2, 0), x, "axes"),
    )
    for axis in (0, 1, -1):
        parts = [[3, 4, 2] for _ in range(3)]
        parts[1][axis], parts[2][axis] = 1, 5
        yield (
            "concat",
            Case(
                lambda *xs, axis=axis: ops.concat(*xs, axis=axis),
                lambda *xs, axis=axis: torch.cat(xs, axis),
                tuple(map(tuple, parts)),
                f"axis={axis}",
            ),
        )
        yield (
            "split",
            Case(
                lambda x, axis=axis: weighted(ops.split(x, 2, axis=axis)),
                lambda x, axis=axis: weighted(x.chunk(2, axis)),
                ((4, 6, 2),),
                f"axis={axis}",
            ),
        )
    yield (
        "pad",
        Case(
            lambda x: ops.pad(x, widths=((1, 0), (0, 0), (2, 3))),
            lambda x: F.pad(x, (2, 3, 0, 0, 1, 0)),
            x,
        ),
    )
    for note, index in {
        "integer": 1,
        "slices": (slice(None), slice(1, 4, 2)),
        "new axis": (None, Ellipsis, slice(0, 1)),
        "integer and slice": (-1, slice(1, None)),
        "rows, repeated": (np.array([2, 0, 2, 2]),),
        "pairs, repeated": (np.array([0, 1, 1]), np.array([3, 0, 0])),
        "matrix of rows": (slice(None), ROWS),
    }.items():
        tensors = torch_index(index)
        yield "getitem", Case(lambda x, i=index: x[i], lambda x, i=tensors: x[i], x, note)
    yield (
        "broadcast_to",
        Case(
            lambda x: ops.broadcast_to(x, shape=(5, 3, 4)), lambda x: x.expand(5, 3, 4), ((3, 1),)
        ),
    )
    yield (
        "embedding",
        Case(
            lambda table: ops.embedding(table, ROWS),
            lambda table: F.embedding(torch.from_numpy(ROWS), table),
            ((4, 6),),
        ),
    )


def weighted(parts):
    """One value of the parts, in which none can stand for another."""
    first, second = parts
    return first * 2 + second * second


def torch_index(index):
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.from_numpy(p) if isinstance(p, np.ndarray) else p for p in parts)


def products():
    """matmul with every kind of broadcasting, einsum, linear."""
    for a, b in [
        ((3, 4), (4, 2)),
        ((5, 3, 4), (5, 4, 2)),
        ((5, 3, 4), (4, 2)),
        ((3, 4), (5, 4, 2)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (4,)),
        ((4,), (4, 2)),
        ((3, 4), (4,)),
        ((5, 3, 4), (4,)),
        ((4,), (5, 4, 2)),
    ]:
        yield "matmul", Case(ops.matmul, torch.matmul, (a, b), f"{a} @ {b}")
    for subscripts, *inputs in [
        ("ij,jk->ik", (3, 4), (4, 2)),
        ("bhld,bhsd->bhls", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("ij->j", (3, 4)),
        ("ij->ji", (3, 4)),
        ("i,j,k->kij", (3,), (4,), (2,)),
        ("ijk,jl,k->il", (3, 4, 2), (4, 5), (2,)),
        ("ij,kl->ik", (3, 4), (2, 5)),
    ]:
        yield (
            "einsum",
            Case(
                lambda *xs, s=subscripts: ops.einsum(s, *xs),
                lambda *xs, s=subscripts: torch.einsum(s, *xs),
                tuple(inputs),
                subscripts,
            ),
        )
    yield "linear", Case(ops.linear, lambda x, w, b: F.linear(x, w.T, b), ((2, 3, 4), (4, 5), (5,)))
    yield "linear", Case(ops.linear, lambda x, w: F.linear(x, w.T), ((3, 4), (4, 5)), "no bias")


def convolutions():
    """Kernels of any shape, strides, padding on any side; upsampling and pooling."""
    for note, x, w, stride, padding in [
        ("3x3 same", (2, 8, 8, 3), (3, 3, 3, 5), 1, 1),
        ("3x3 same, odd size", (3, 7, 5, 4), (3, 3, 4, 4), 1, 1),
        ("3x3 valid", (2, 6, 7, 3), (3, 3, 3, 2), 1, 0),
        ("1x1", (2, 5, 4, 3), (1, 1, 3, 6), 1, 0),
        ("1x1, stride 2", (2, 5, 4, 3), (1, 1, 3, 6), 2, 0),
        ("DDPM's half", (2, 8, 6, 3), (3, 3, 3, 4), 2, ((0, 1), (0, 1))),
        ("stride 2, same", (2, 7, 8, 3), (3, 3, 3, 4), 2, 1),
        ("stride 3, rows left over", (2, 9, 10, 2), (2, 3, 2, 3), 3, ((1, 0), (0, 2))),
        ("5x4 kernel, four widths", (2, 6, 7, 2), (5, 4, 2, 3), 1, ((2, 1), (0, 3))),
        ("kernel as large as the image", (2, 4, 4, 3), (4, 4, 3, 2), 1, 0),
        ("one pixel, one channel", (1, 1, 1, 1), (3, 3, 1, 1), 1, 1),
        ("as wide as a network's", (2, 14, 14, 32), (3, 3, 32, 16), 1, 1),
    ]:
        (top, bottom), (left, right) = (
            ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
        )

        def ours(x, w, *b, stride=stride, padding=padding):
            return ops.conv2d(x, w, *b, stride=stride, padding=padding)

        def theirs(x, w, *b, stride=stride, sides=(left, right, top, bottom)):
            return nhwc(F.conv2d(F.pad(nchw(x), sides), oihw(w), *b, stride=stride))

        yield "conv2d", Case(ours, theirs, (x, w, w[3:]), note)
        yield "conv2d", Case(ours, theirs, (x, w), f"{note}, no bias")
    for factor in (1, 2, 3):
        yield (
            "upsample_nearest",
            Case(
                lambda x, f=factor: ops.upsample_nearest(x, factor=f),
                images(lambda x, f=factor: F.interpolate(x, scale_factor=f, mode="nearest")),
                ((2, 3, 4, 5),),
                f"factor={factor}",
            ),
        )
    for name, f in [("avg_pool", F.avg_pool2d), ("max_pool", F.max_pool2d)]:
        for size, stride in [(2, None), (3, None), (3, 2), (2, 1), (2, 3)]:
            yield (
                name,
                Case(
                    lambda x, n=name, k=size, s=stride: getattr(ops, n)(x, size=k, stride=s),
                    images(lambda x, f=f, k=size, s=stride: f(x, k, s)),
                    ((2, 7, 6, 3),),
                    f"size={size}, stride={stride}",
                ),
            )
    ties = np.round(np.random.default_rng(4).standard_normal((2, 6, 6, 3)))
    yield "max_pool", Case(ops.max_pool, images(lambda x: F.max_pool2d(x, 2)), (ties,), "ties")


def normalizations():
    """Normalization, attention and dropout (with PyTorch's own mask)."""
    for x, groups in [((2, 5, 4, 6), 3), ((3, 4, 4, 8), 1), ((3, 4, 4, 8), 8), ((4, 6), 2)]:
        yield (
            "group_norm",
            Case(
                lambda x, w, b, g=groups: ops.group_norm(x, w, b, groups=g, eps=1e-4),
                lambda x, w, b, g=groups: F.group_norm(x.movedim(-1, 1), g, w, b, 1e-4).movedim(
                    1, -1
                ),
                (x, x[-1:], x[-1:]),
                f"{x}, groups={groups}",
            ),
        )


    def fused(x, w, b, shift, groups):
        """In PyTorch: each channel's gamma, beta and shift for all samples, or for each its own."""
        w, b, shift = (a if a.ndim == 2 else a[None] for a in (w, b, shift))
        h = F.group_norm(nchw(x + shift[:, None, None]), groups, eps=1e-4)
        return nhwc(F.silu(w[:, :, None, None] * h + b[:, :, None, None]))

    # no group of one channel: there the shift has no effect, and its gradient is rounding alone
    for x, groups in [((2, 5, 4, 6), 3), ((3, 4, 4, 8), 1), ((3, 4, 4, 8), 4)]:
        for rows in ((x[-1],), (x[0], x[-1])):
            yield (
                "group_norm_silu",
                Case(
                    lambda *args, g=groups: ops.group_norm_silu(*args, groups=g, eps=1e-4),
                    lambda *args, g=groups: fused(*args, g),
                    (x, rows, rows, rows),
                    f"{x}, groups={groups}, channels {rows}",
                ),
            )
    far = 30 + np.random.default_rng(5).standard_normal((2, 5, 4, 6))
    yield (
        "group_norm",
        Case(
            lambda x, w, b: ops.group_norm(x, w, b, groups=3),
            lambda x, w, b: nhwc(F.group_norm(nchw(x), 3, w, b)),
            (far, (6,), (6,)),
            "mean far from 0",
        ),
    )
    for x in ((2, 3, 6), (5, 4)):
        yield (
            "layer_norm",
            Case(
                lambda x, w, b: ops.layer_norm(x, w, b, eps=1e-4),
                lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-4),
                (x, x[-1:], x[-1:]),
                f"{x}",
            ),
        )
    for heads, mask in [
        (1, None),
        (2, None),
        (4, None),
        (2, MASK),
        (2, MASK[:1, :1]),
        (1, MASK[:, :1]),
    ]:
        yield (
            "attention",
            Case(
                lambda q, k, v, heads=heads, mask=mask: ops.attention(
                    q, k, v, heads=heads, mask=mask
                ),
                lambda q, k, v, heads=heads, mask=mask: torch_attention(q, k, v, heads, mask),
                ((3, 5, 8), (3, 7, 8), (3, 7, 8)),
                f"heads={heads}, mask {None if mask is None else mask.shape}",
            ),
        )
    for p in (0.0, 0.3):
        yield (
            "dropout",
            Case(
                lambda x, p=p: ops.dropout(x, p=p, rng=TorchMask(p)),
                lambda x, p=p: torch_dropout(x, p)[0],
                ((20, 30),),
                f"p={p}",
            ),
        )


def torch_attention(q, k, v, heads, mask):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mask = None if mask is None else torch.from_numpy(mask)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return o.transpose(1, 2).flatten(-2)


def torch_dropout(x, p):
    """PyTorch's dropout and the mask that it draws, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return torch.native_dropout(x, p, True)


class TorchMask:
    """A generator whose uniform numbers make minidiff draw PyTorch's mask."""

    def __init__(self, p):
        self.p = p

    def random(self, shape, dtype):
        _, mask = torch_dropout(torch.ones(shape, dtype=torch.float64), self.p)
        return np.where(mask.numpy(), 1 - 1e-6, 0).astype(dtype)


def losses():
    """Losses, near and far from where their slope changes."""
    pair = ((3, 4, 2), (3, 4, 2))
    yield "mse", like(F.mse_loss, *pair)
    yield "l1", like(F.l1_loss, *pair)
    yield "l1", Case(ops.l1, F.l1_loss, (TIES, np.zeros_like(TIES)), "at zero")
    for delta in (0.5, 1.0, 2.0):
        yield (
            "huber",
            Case(
                lambda a, b, d=delta: ops.huber(a, b, delta=d),
                lambda a, b, d=delta: F.huber_loss(a, b, delta=d),
                pair,
                f"delta={delta}",
            ),
        )
    for scale in (1, 100):
        logits = scale * np.random.default_rng(6).standard_normal((5, 4))
        yield (
            "cross_entropy",
            Case(
                lambda x: ops.cross_entropy(x, LABELS),
                lambda x: F.cross_entropy(x, torch.from_numpy(LABELS)),
                (logits,),
                f"logits of {scale}",
            ),
        )


GROUPS = (elementwise, reductions, shapes, products, convolutions, normalizations, losses)
CASES = [(name, case) for group in GROUPS for name, case in group()]


def test_no_operation_is_forgotten():
    assert {name for name, _ in CASES} == set(ops.__all__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(n, c, id=f"{n} {c.note}".strip()) for n, c in CASES]
)
def test_value_and_gradients(name, case, dtype):
    check(case.ours or getattr(ops, name), case.theirs, case.arrays(), dtype)
