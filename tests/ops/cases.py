"""For every operation: how to draw a call of it, and what it computes by a plain definition.

`CASES` maps the name of an operation to a strategy of cases. Inputs keep away from kinks (a zero of
abs, a tie of max); what happens there is a convention, tested by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff import ops
from tests import strategies as own
from tests.ops import plain
from tests.strategies import arrays, axes, broadcastable, seeds, shapes


@dataclass(frozen=True)
class Case:
    """A call ``f(*inputs)``: every input is differentiated; options and labels are bound in f."""

    f: Callable
    inputs: tuple
    plain: Callable
    """The definition, of the same arrays."""
    options: str = ""
    """What was bound in f, to be read in the report of a failure."""
    depends_on_dtype: bool = False
    """Whether float32 computes something else than float64 (random draws)."""

    def _repr_pretty_(self, printer, cycle):  # hypothesis asks for it
        printer.text(f"shapes {[x.shape for x in self.inputs]}, {self.options or 'no options'}")


def unary(f, plain, fill=own.normal):
    return arrays(shapes(), fill).map(lambda x: Case(f, (x,), plain))


@st.composite
def binary(draw, f, plain, fill=own.normal, fill_b=None):
    a, b = draw(broadcastable(2))
    inputs = draw(arrays(a, fill)), draw(arrays(b, fill_b or fill))
    return Case(f, inputs, plain)


@st.composite
def pow(draw):
    if draw(st.booleans()):
        return draw(binary(ops.pow, np.power, own.positive, own.normal))
    p = draw(st.sampled_from([1, 2, 3, -1, 2.0, 0.5, -1.5]))
    x = draw(arrays(shapes(), own.nonzero if isinstance(p, int) else own.positive))
    return Case(lambda x: ops.pow(x, p), (x,), lambda x: x ** float(p), f"{p=}")


@st.composite
def clip(draw):
    low = draw(st.integers(-10, 5)) * 0.1
    high = low + draw(st.integers(0, 10)) * 0.1
    x = draw(arrays(shapes(), own.odd_lattice))
    return Case(
        lambda x: ops.clip(x, low=low, high=high),
        (x,),
        lambda x: np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high)),
        f"{low=}, {high=}",
    )


@st.composite
def where(draw):
    c, a, b = draw(broadcastable(3))
    condition = draw(arrays(c)) > 0
    return Case(
        lambda a, b: ops.where(condition, a, b),
        (draw(arrays(a)), draw(arrays(b))),
        lambda a, b: condition * a + ~condition * b,
        f"{condition=}",
    )


@st.composite
def reduction(draw, f, plain, fill=own.normal):
    x = draw(arrays(shapes(), fill))
    options = {"axis": draw(axes(x.ndim)), "keepdims": draw(st.booleans())}
    return Case(lambda x: f(x, **options), (x,), lambda x: plain(x, **options), str(options))


@st.composite
def var(draw):
    x = draw(arrays(shapes()))
    axis, keepdims = draw(axes(x.ndim)), draw(st.booleans())
    count = x.size // np.sum(x, axis=axis).size
    options = {"axis": axis, "keepdims": keepdims, "ddof": draw(st.integers(0, min(1, count - 1)))}
    return Case(lambda x: ops.var(x, **options), (x,), lambda x: np.var(x, **options), str(options))


@st.composite
def along_axis(draw, f, plain):
    x = draw(arrays(shapes(min_dims=1)))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    return Case(lambda x: f(x, axis=axis), (x,), lambda x: plain(x, axis=axis), f"{axis=}")


@st.composite
def reshape(draw):
    x = draw(arrays(shapes()))
    cuts = draw(st.permutations([n for n in x.shape if n > 1] + [1]))
    at = draw(st.integers(0, len(cuts)))
    new = draw(st.sampled_from([tuple(cuts), (*cuts[:at], -1), (x.size,), (-1,)]))
    f = draw(st.sampled_from([lambda x: ops.reshape(x, new), lambda x: ops.reshape(x, *new)]))
    return Case(f, (x,), lambda x: np.array(list(x.flat), x.dtype).reshape(new), f"{new=}")


@st.composite
def transpose(draw):
    x = draw(arrays(shapes()))
    order = draw(st.permutations(range(x.ndim)))
    order = draw(st.none() | st.just([a - x.ndim if a % 2 else a for a in order]))
    return Case(
        lambda x: ops.transpose(x, order), (x,), lambda x: np.transpose(x, order), f"{order=}"
    )


@st.composite
def concat(draw):
    shape = list(draw(shapes(min_dims=1)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    xs = []
    for n in draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)):
        shape[axis] = n
        xs.append(draw(arrays(tuple(shape))))
    return Case(
        lambda *xs: ops.concat(*xs, axis=axis),
        tuple(xs),
        lambda *xs: np.concatenate(xs, axis=axis),
        f"{axis=}",
    )


@st.composite
def split(draw):
    """The parts, each times another number, side by side again."""
    shape, sections = list(draw(shapes(min_dims=1))), draw(st.integers(1, 3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] *= sections
    weights = [1.0, -2.0, 3.0]
    return Case(
        lambda x: ops.concat(
            *(w * p for w, p in zip(weights, ops.split(x, sections, axis=axis), strict=False)),
            axis=axis,
        ),
        (draw(arrays(tuple(shape))),),
        lambda x: np.concatenate(
            [w * p for w, p in zip(weights, np.split(x, sections, axis), strict=False)], axis
        ),
        f"{sections=}, {axis=}",
    )


@st.composite
def pad(draw):
    x = draw(arrays(shapes(min_dims=1)))
    widths = draw(st.lists(own.sides, min_size=x.ndim, max_size=x.ndim))

    def plain(x):
        y = np.zeros([a + n + b for n, (a, b) in zip(x.shape, widths, strict=True)], x.dtype)
        for i in np.ndindex(x.shape):
            y[tuple(k + a for k, (a, _) in zip(i, widths, strict=True))] = x[i]
        return y

    return Case(lambda x: ops.pad(x, widths=widths), (x,), plain, f"{widths=}")


@st.composite
def getitem(draw):
    x = draw(arrays(shapes(min_dims=1)))
    mask = np.random.default_rng(draw(seeds)).random(x.shape) < 0.5
    first = np.random.default_rng(draw(seeds)).integers(-len(x), len(x), 4)
    index = draw(
        hnp.basic_indices(x.shape, allow_newaxis=True)
        | hnp.integer_array_indices(x.shape)
        | st.sampled_from([mask, first, list(first), (first, Ellipsis), (Ellipsis, None, 0)])
    )
    return Case(lambda x: x[index], (x,), lambda x: x[index], f"{index=}")


@st.composite
def broadcast_to(draw):
    drawn = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4))
    shape = drawn.result_shape
    return Case(
        lambda x: ops.broadcast_to(x, shape=shape),
        (draw(arrays(drawn.input_shapes[0])),),
        lambda x: x * np.ones(shape, x.dtype),
        f"{shape=}",
    )


@st.composite
def matmul(draw):
    drawn = hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, max_side=4)
    a, b = draw(drawn).input_shapes
    return Case(ops.matmul, (draw(arrays(a)), draw(arrays(b))), np.matmul)


@st.composite
def linear(draw):
    *lead, d_in = draw(shapes(min_dims=1, max_dims=4))
    d_out = draw(st.integers(1, 4))
    x, w = draw(arrays((*lead, d_in))), draw(arrays((d_in, d_out)))
    if draw(st.booleans()):
        return Case(ops.linear, (x, w), lambda x, w: np.dot(x, w))
    return Case(ops.linear, (x, w, draw(arrays((d_out,)))), lambda x, w, b: np.dot(x, w) + b)


SUBSCRIPTS = (
    "i->i", "ij->ji", "ij->j", "ij->", "i,i->", "i,j->ij", "ij,jk->ik", "ij, jk -> ki",
    "bij,bjk->bik", "bhld,bhsd->bhls", "ij,ik,il->jkl", "ij,jk->", "ij,kl->jl", "i,ij,j->",
)  # fmt: skip


@st.composite
def einsum(draw):
    subscripts = draw(st.sampled_from(SUBSCRIPTS))
    terms = subscripts.partition("->")[0].replace(" ", "").split(",")
    size = {c: draw(st.integers(1, 4)) for c in sorted(set("".join(terms)))}
    inputs = tuple(draw(arrays(tuple(size[c] for c in t))) for t in terms)
    return Case(
        lambda *xs: ops.einsum(subscripts, *xs),
        inputs,
        lambda *xs: np.einsum(subscripts, *xs),  # without `optimize`: plain nested sums
        f"{subscripts=}",
    )


@st.composite
def images(draw, fill=own.normal, min_side=1, max_side=7):
    n, c = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    h, w = (draw(st.integers(min_side, max_side)) for _ in range(2))
    return draw(arrays((n, h, w, c), fill))


@st.composite
def conv2d(draw):
    x = draw(images())
    stride, padding = draw(st.integers(1, 3)), draw(own.paddings)
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    kernel = tuple(
        draw(st.sampled_from([k for k in (1, 2, 3, 5) if k <= n + sum(p)]))
        for n, p in zip(x.shape[1:3], pads, strict=True)
    )
    w = draw(arrays((*kernel, x.shape[3], draw(st.integers(1, 3)))))
    options = {"stride": stride, "padding": padding}
    inputs = (x, w, draw(arrays(w.shape[3:]))) if draw(st.booleans()) else (x, w)
    return Case(
        lambda *inputs: ops.conv2d(*inputs, **options),
        inputs,
        lambda x, w, b=None: plain.conv2d(x, w, b, **options),
        str(options),
    )


@st.composite
def upsample_nearest(draw):
    factor = draw(st.integers(1, 3))
    return Case(
        lambda x: ops.upsample_nearest(x, factor=factor),
        (draw(images(max_side=4)),),
        lambda x: plain.upsample_nearest(x, factor),
        f"{factor=}",
    )


@st.composite
def pool(draw, f, reduce, fill):
    size, stride = draw(st.integers(1, 3)), draw(st.none() | st.integers(1, 3))
    return Case(
        lambda x: f(x, size=size, stride=stride),
        (draw(images(fill, min_side=size)),),
        lambda x: plain.pool(x, size, stride, reduce),
        f"{size=}, {stride=}",
    )


@st.composite
def group_norm(draw):
    groups, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n, *space = draw(shapes(min_dims=1, max_dims=3, max_side=4))
    if np.prod(space) * width < 3:  # the gradient of one or two numbers vanishes with eps
        width = 3
    c = groups * width
    eps = draw(st.sampled_from([1e-5, 0.1]))
    return Case(
        lambda x, gamma, beta: ops.group_norm(x, gamma, beta, groups=groups, eps=eps),
        (draw(arrays((n, *space, c), own.distinct)), draw(arrays((c,))), draw(arrays((c,)))),
        lambda x, gamma, beta: plain.group_norm(x, gamma, beta, groups, eps),
        f"{groups=}, {eps=}",
    )


@st.composite
def group_norm_silu(draw):
    case = draw(group_norm())
    x, gamma = case.inputs[:2]
    groups = draw(st.sampled_from([k for k in range(1, 4) if x.shape[-1] % k == 0]))
    groups = 1 if np.prod(x.shape[1:]) < 3 * groups else groups
    eps = draw(st.sampled_from([1e-5, 0.1]))
    sizes = [gamma.shape, (len(x), *gamma.shape)]
    others = [draw(arrays(draw(st.sampled_from(sizes)))) for _ in range(draw(st.integers(2, 3)))]
    return Case(
        lambda *a: ops.group_norm_silu(*a, groups=groups, eps=eps),
        (x, *others),
        lambda *a: plain.group_norm_silu(*a, groups=groups, eps=eps),
        f"{groups=}, {eps=}",
    )


@st.composite
def layer_norm(draw):
    *lead, c = draw(shapes(min_dims=1))
    eps, c = draw(st.sampled_from([1e-5, 0.1])), c + 2
    return Case(
        lambda x, gamma, beta: ops.layer_norm(x, gamma, beta, eps=eps),
        (draw(arrays((*lead, c), own.distinct)), draw(arrays((c,))), draw(arrays((c,)))),
        lambda x, gamma, beta: plain.layer_norm(x, gamma, beta, eps),
        f"{eps=}",
    )


@st.composite
def masks(draw, shape):
    """True where a query may look; a random one, with at least one key for each query."""
    rng = np.random.default_rng(draw(seeds))
    mask = rng.random(shape) < 0.6
    np.put_along_axis(mask, rng.integers(0, shape[-1], (*shape[:-1], 1)), True, axis=-1)
    return mask


@st.composite
def attention(draw):
    n, heads, d, length, s = (draw(st.integers(1, 3)) for _ in range(5))
    q, *kv = ((n, m, heads * d) for m in (length, s, s))
    wide = [(n, heads, length, s), (n, 1, 1, s), (length, s), (s,)]
    mask = draw(st.none() | st.sampled_from(wide).flatmap(masks))
    return Case(
        lambda q, k, v: ops.attention(q, k, v, heads=heads, mask=mask),
        tuple(draw(arrays(shape)) for shape in (q, *kv)),
        lambda q, k, v: plain.attention(q, k, v, heads, mask),
        f"{heads=}, {mask=}",
    )


@st.composite
def embedding(draw):
    table = draw(arrays(shapes(min_dims=2, max_dims=2)))
    rng = np.random.default_rng(draw(seeds))
    indices = rng.integers(0, len(table), draw(shapes(max_dims=3)))
    indices = draw(st.sampled_from([indices, indices.tolist()]))
    return Case(
        lambda table: ops.embedding(table, indices),
        (table,),
        lambda table: plain.embedding(table, indices),
        f"{indices=}",
    )


@st.composite
def dropout(draw):
    p, seed = draw(st.sampled_from([0, 0.1, 0.5, 0.9])), draw(seeds)

    def plain(x):
        kept = np.random.default_rng(seed).random(x.shape, dtype=x.dtype) >= p
        return np.where(kept, x / (1 - p), 0)

    return Case(
        lambda x: ops.dropout(x, p=p, rng=np.random.default_rng(seed)),
        (draw(arrays(shapes())),),
        plain,
        f"{p=}",
        depends_on_dtype=True,
    )


@st.composite
def loss(draw, f, plain, **options):
    shape = draw(shapes())
    inputs = draw(arrays(shape, own.odd_lattice)), draw(arrays(shape, own.even_lattice))
    options = {name: draw(strategy) for name, strategy in options.items()}
    return Case(
        lambda *xs: f(*xs, **options), inputs, lambda *xs: plain(*xs, **options), str(options)
    )


@st.composite
def cross_entropy(draw):
    logits = draw(arrays(shapes(min_dims=2, max_dims=2)))
    labels = np.random.default_rng(draw(seeds)).integers(0, logits.shape[1], len(logits))
    labels = draw(st.sampled_from([labels, labels.tolist(), labels.astype(np.uint8)]))
    return Case(
        lambda logits: ops.cross_entropy(logits, labels),
        (logits,),
        lambda logits: plain.cross_entropy(logits, labels),
        f"{labels=}",
    )


CASES = {
    "add": binary(ops.add, np.add),
    "sub": binary(ops.sub, np.subtract),
    "mul": binary(ops.mul, np.multiply),
    "div": binary(ops.div, np.divide, own.normal, own.nonzero),
    "neg": unary(ops.neg, np.negative),
    "pow": pow(),
    "exp": unary(ops.exp, np.exp),
    "log": unary(ops.log, np.log, own.positive),
    "sqrt": unary(ops.sqrt, np.sqrt, own.positive),
    "tanh": unary(ops.tanh, np.tanh),
    "sigmoid": unary(ops.sigmoid, scipy.special.expit),
    "silu": unary(ops.silu, lambda x: x * scipy.special.expit(x)),
    "gelu": unary(ops.gelu, lambda x: x * scipy.special.ndtr(x)),
    "relu": unary(ops.relu, lambda x: x * (x > 0), own.odd_lattice),
    "abs": unary(ops.abs, lambda x: x * np.sign(x), own.odd_lattice),
    "clip": clip(),
    "where": where(),
    "maximum": binary(ops.maximum, np.maximum, own.odd_lattice, own.even_lattice),
    "sum": reduction(ops.sum, np.sum),
    "mean": reduction(ops.mean, np.mean),
    "var": var(),
    "max": reduction(ops.max, np.max, own.distinct),
    "logsumexp": reduction(ops.logsumexp, plain.logsumexp),
    "softmax": along_axis(ops.softmax, scipy.special.softmax),
    "log_softmax": along_axis(ops.log_softmax, scipy.special.log_softmax),
    "reshape": reshape(),
    "transpose": transpose(),
    "concat": concat(),
    "split": split(),
    "pad": pad(),
    "getitem": getitem(),
    "broadcast_to": broadcast_to(),
    "matmul": matmul(),
    "linear": linear(),
    "einsum": einsum(),
    "conv2d": conv2d(),
    "upsample_nearest": upsample_nearest(),
    "avg_pool": pool(ops.avg_pool, np.mean, own.normal),
    "max_pool": pool(ops.max_pool, np.max, own.distinct),
    "group_norm": group_norm(),
    "group_norm_silu": group_norm_silu(),
    "layer_norm": layer_norm(),
    "attention": attention(),
    "embedding": embedding(),
    "dropout": dropout(),
    "mse": loss(ops.mse, lambda a, b: np.mean((a - b) ** 2)),
    "l1": loss(ops.l1, lambda a, b: np.mean(np.abs(a - b))),
    "huber": loss(ops.huber, plain.huber, delta=st.sampled_from([0.2, 1.0, 3.0])),
    "cross_entropy": cross_entropy(),
}  # fmt: skip
