"""How to draw the arguments of each kernel, in float64 and contiguous.

Sizes lie on both sides of what a block holds, and include single images and single channels.
"""

import numpy as np
from hypothesis import strategies as st

from minidiff.backend.kernels import reference
from tests import strategies as own
from tests.ops.cases import masks
from tests.strategies import arrays, seeds

batches = st.sampled_from([1, 1, 2, 3, 5, 9])
channels = st.sampled_from([1, 2, 3, 4, 8, 16, 33])


class Arguments(tuple):
    """Prints arrays as their shapes, so that the report of a failure can be read."""

    def _repr_pretty_(self, printer, cycle):  # hypothesis asks for it
        printer.text(str(tuple(getattr(a, "shape", a) for a in self)))


@st.composite
def convolutions(draw):
    """(x, w, g, stride, pads) with g of the shape of the result."""
    n, c, o = draw(batches), draw(channels), draw(channels)
    stride = draw(st.integers(1, 3))
    pads = draw(own.paddings)
    pads = ((pads, pads), (pads, pads)) if isinstance(pads, int) else pads
    space, kernel, out = [], [], []
    for before, after in pads:
        k = draw(st.sampled_from([1, 2, 3, 3, 5]))
        side = draw(st.integers(max(1, k - before - after), 16))
        space.append(side), kernel.append(k)
        out.append((side + before + after - k) // stride + 1)
    x, w, g = ((n, *space, c), (*kernel, c, o), (n, *out, o))
    return (*(draw(arrays(shape)) for shape in (x, w, g)), stride, pads)


@st.composite
def normalizations(draw):
    """(x, gamma, beta, g, groups, eps) with three numbers or more in a group."""
    groups, width = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from([1, 2, 4, 5]))
    space = draw(st.lists(st.integers(1, 9), max_size=3))
    width = max(width, 3) if np.prod(space) < 3 else width
    c = groups * width
    shape = (draw(batches), *space, c)
    fill = draw(st.sampled_from([own.normal, own.distinct]))
    rng = np.random.default_rng(draw(seeds))  # one for all: where g is like x, dx cancels to zero
    x, gamma, beta, g = fill(rng, shape), *(rng.standard_normal(s) for s in ((c,), (c,), shape))
    return x, gamma, beta, g, groups, draw(st.sampled_from([1e-5, 0.1]))


@st.composite
def looks(draw):
    """(q, k, v, mask, g) in the layout (N, heads, positions, d)."""
    lead = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=2)))
    length, s, d = (draw(st.sampled_from([1, 2, 5, 16, 17, 49])) for _ in range(3))
    q, k, v = (draw(arrays((*lead, m, d))) for m in (length, s, s))
    mask = draw(st.none() | st.sampled_from([(*lead, length, s), (s,)]).flatmap(masks))
    return q, k, v, mask, draw(arrays(q.shape))


@st.composite
def factors(draw):
    """(a, b): two matrices, or stacks of them, and either may lie in memory as its transpose."""
    rows, depth, columns = (draw(st.sampled_from([1, 2, 5, 16, 33, 70])) for _ in range(3))
    lead = draw(st.sampled_from([((), ()), ((3,), (3,)), ((2, 3), (2, 3)), ((3,), ()), ((), (2,))]))
    shapes = (*lead[0], rows, depth), (*lead[1], depth, columns)
    pair = []
    for *front, m, n in shapes:
        turned = draw(st.booleans())
        a = draw(arrays((*front, n, m) if turned else (*front, m, n)))
        pair.append(a.swapaxes(-1, -2) if turned else a)
    return tuple(pair)


def _conv2d(drawn):
    (x, w, _, *options), has_bias = drawn
    return (x, w, *options, 3 + w[0, 0, 0] if has_bias else None)


def _group_norm_grad(drawn):
    x, gamma, beta, g, groups, eps = drawn
    _, m, r = reference.group_norm(np, x, gamma, beta, groups, eps)
    return g, x, m, r, gamma


@st.composite
def fused_normalizations(draw):
    """(x, gamma, beta, shift, g, groups, eps): what is for each channel may be for each sample."""
    x, gamma, beta, g, groups, eps = draw(normalizations())
    sizes = st.sampled_from([gamma.shape, (len(x), *gamma.shape)])
    rng = np.random.default_rng(draw(seeds))
    gamma, beta, shift = (rng.standard_normal(draw(sizes)) for _ in range(3))
    return x, gamma, beta, draw(st.none() | st.just(shift)), g, groups, eps


def _group_norm_silu_grad(drawn):
    x, gamma, beta, shift, g, groups, eps = drawn
    y, m, r = reference.group_norm_silu(np, x, gamma, beta, shift, groups, eps)
    return g, x, y, m, r, gamma, beta, shift


def _silu_grad(x):
    y, s = reference.silu(np, x)
    return np.cos(7 * x), y, s  # any numbers serve as cotangent


def _attention_grad(drawn):
    q, k, v, mask, g = drawn
    return g, q, k, v, reference.attention(np, q, k, v, mask)[1]


@st.composite
def looked_up(draw):
    """(g, rows, count): rows that occur often, once and never, of a table of any size."""
    count, n, d = (draw(st.sampled_from(k)) for k in ([1, 2, 40], [0, 1, 2, 9, 300], [1, 3, 16]))
    rows = np.random.default_rng(draw(seeds)).integers(0, count, n)
    return draw(arrays((n, d))), rows, count


@st.composite
def adam(draw):
    n = draw(st.sampled_from([1, 2, 7, 1000, 4097]))
    rng = np.random.default_rng(draw(seeds))
    p, g, m = rng.standard_normal((3, n))
    step = draw(st.sampled_from([1, 2, 10, 100_000]))
    betas = draw(st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.5, 0.0)]))
    return p, g, m, rng.random(n), step, 1e-2, *betas, 1e-8


@st.composite
def updates(draw):
    """What follows a gradient: sizes below and above four numbers, clipped and not."""
    p, g, m, v, step, lr, *options = draw(adam())
    average = draw(st.none() | arrays(p.shape))
    clock = (float(step), lr, draw(st.sampled_from([0.0, 0.1, 0.999])))
    max_norm = draw(st.sampled_from([0.5, 2.0])) * float(np.linalg.norm(g))
    return p, g, m, v, average, clock, max_norm, *options, draw(st.sampled_from([0.0, 0.1]))


@st.composite
def draws(draw):
    """(key, draw, shape, dtype); the type stands for the one that is tested."""
    key = np.array([draw(st.integers(0, 2**32 - 1)) for _ in range(2)], np.uint32)
    number = draw(st.integers(0, 9) | st.just(2**32 - 1))
    return key, number, draw(vectors), np.float32


vectors = st.sampled_from([(1,), (5,), (3, 4, 5, 2), (5000,), (2, 7, 9, 33)])

CASES = {
    "conv2d": st.tuples(convolutions(), st.booleans()).map(_conv2d),
    "conv2d_dx": convolutions().map(lambda d: (d[2], d[1], d[0].shape, *d[3:])),
    "conv2d_dw": convolutions().map(lambda d: (d[0], d[2], d[1].shape, *d[3:])),
    "group_norm": normalizations().map(lambda d: (*d[:3], *d[4:])),
    "group_norm_grad": normalizations().map(_group_norm_grad),
    "group_norm_silu": fused_normalizations().map(lambda d: (*d[:4], *d[5:])),
    "group_norm_silu_grad": fused_normalizations().map(_group_norm_silu_grad),
    "silu": arrays(vectors).map(lambda x: (x,)),
    "silu_grad": arrays(vectors).map(_silu_grad),
    "attention": looks().map(lambda d: d[:4]),
    "attention_grad": looks().map(_attention_grad),
    "matmul": factors(),
    "sum_rows": looked_up(),
    "adam": adam(),
    "clip_norm": adam().flatmap(
        lambda d: st.sampled_from([0.5, 2.0]).map(lambda k: (d[1], k * np.linalg.norm(d[1])))
    ),
    "moving_average": adam().map(lambda d: (d[0], d[1], d[6])),
    "update": updates(),
    "uniform": draws(),
    "normal": draws(),
}
CASES = {name: strategy.map(Arguments) for name, strategy in CASES.items()}

SUMS = {"group_norm_silu_grad": ((3, 0),)}
"""(i, j) where result i is a sum of result j and may cancel: x_bar is 0 in the mean over a group,
so shift_bar is nothing but rounding where a group is one channel.
"""

FLAT = {"adam", "clip_norm", "moving_average", "normal", "uniform", "update"}
"""Kernels of vectors that are always contiguous: the model's, and the key of a generator."""
