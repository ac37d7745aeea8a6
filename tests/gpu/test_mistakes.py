"""Mistakes planted in the CUDA sources, each of which the comparison with the definitions sees."""

from unittest import mock

import numpy as np
import pytest

from minidiff import backend
from minidiff.backend.kernels import cupy as fast
from minidiff.backend.kernels import reference
from minidiff.backend.kernels.cupy import launch
from tests.gpu import emulator
from tests.gpu.test_kernels import on_the_double
from tests.kernels.agreement import assert_agrees

rng = np.random.default_rng(0)
X, W = rng.standard_normal((2, 9, 9, 12)), rng.standard_normal((3, 3, 12, 36))
G = rng.standard_normal((2, 9, 9, 36))
PADS = ((1, 1), (1, 1))
Z, H = rng.standard_normal((2, 2, 13, 13, 12))  # a group: 128 threads, of which two are idle
GAMMA, BETA, SHIFT = rng.standard_normal((3, 12))
Y, M, R = reference.group_norm_silu(np, Z, GAMMA, BETA, SHIFT, 4, 1e-5)
CASES = {
    "conv2d": (X, W, 1, PADS, W[0, 0, 0]),
    # integers of few digits, which TF32 does not round
    "conv2d in TF32": (np.round(4 * X), np.round(4 * W), 1, PADS, None),
    "conv2d_dw in TF32": (np.round(4 * X), np.round(4 * G), W.shape, 1, PADS),
    "conv2d_dx": (G, W, X.shape, 1, PADS),
    "conv2d_dw": (X, G, W.shape, 1, PADS),
    "group_norm_silu": (Z, GAMMA, BETA, SHIFT, 4, 1e-5),
    "group_norm_silu_grad": (H, Z, Y, M, R, GAMMA, BETA, SHIFT),
    "attention": (*rng.standard_normal((3, 2, 1, 40, 4)), None),
    "update": (*rng.random((5, 3001)), (3.0, 0.1, 0.8), 0.5, 0.9, 0.999, 0.1, 0.2),
    "silu": (rng.standard_normal(1003),),
    "sum_rows": (rng.standard_normal((40, 300)), rng.integers(0, 5, 40), 5),
    "uniform": (np.array([3, 5], np.uint32), 7, (1003,), np.float32),
    "normal": (np.array([3, 5], np.uint32), 7, (1003,), np.float32),
}
MISTAKES = {  # (file, what stands there, what is put there, the kernel that is wrong then)
    "no barrier before a slice is multiplied": (
        "conv", "__syncthreads();\n        if (from", "if (from", "conv2d"
    ),
    "a slice put down over the one that is multiplied": (
        "conv", "slices[from / DEPTH % BUFFERS]", "slices[0]", "conv2d"
    ),
    "the last slice left out": (
        "conv", "from < depth; from += DEPTH", "from + DEPTH <= depth; from += DEPTH", "conv2d"
    ),
    "no bias": ("conv", "q.v[e] += bias[o + e]", "q.v[e] += 0", "conv2d"),
    "places beyond the last are written": ("conv", "if (m >= places) return;", "", "conv2d"),
    "padding read as the next row": (
        "conv", "(unsigned)column < (unsigned)s.w && ", "", "conv2d_dx"
    ),
    "stretches written over each other": (
        "conv", "(long long)blockIdx.x * depth * s.o", "0", "conv2d_dw"
    ),
    "rows beyond the last": ("conv", "if (at < depth) put", "put", "conv2d_dw"),
    "channels beyond the last": (
        "conv", "if (left > 0) *(Numbers<V>*)to", "*(Numbers<V>*)to", "conv2d_dw"
    ),
    "rows of w in another order than those of A": (
        "conv", "k % 4 * 4 + k / 4", "k", "conv2d in TF32"
    ),
    "columns of a piece in their natural order": (
        "conv", "left + 16 * j + 2 * group,\n                          Numbers",
        "left + 16 * j + group,\n                          Numbers", "conv2d in TF32"
    ),
    "variance not centred": ("norm", "(z.v[e] - mean) * (z.v[e] - mean)", "z.v[e] * z.v[e]",
                             "group_norm_silu"),
    "idle threads add, too": ("norm", "part < parts && row < rows", "part < parts",
                              "group_norm_silu"),
    "half of the rows lost": ("norm", "(n + 1) / 2", "n / 2", "group_norm_silu_grad"),
    "slope of SiLU": ("norm", "s + u * s * (1 - s)", "s + u * (1 - s)", "group_norm_silu_grad"),
    "scratch used again too early": (
        "common", "__syncthreads();  // before the scratch is used again", "", "group_norm_silu"
    ),
    "warps forgotten": ("common", "i < warps; i++) total", "i < 1; i++) total", "update"),
    "no bias correction": ("optimizer", "1 - pow(beta1, step)", "1.0", "update"),
    "weights not shrunk": ("optimizer", "s.keep * p", "p", "update"),
    "clipped for this step alone": (
        "optimizer", "if (clipped) ((Pack*)g)[i] = b;", "", "update"
    ),
    "the average stands still": ("optimizer", "((Pack*)average)[i] = f;", "", "update"),
    "the average of the weights before": (
        "optimizer", "(a.v[e] - f.v[e])", "(a.v[e] + own.rate * c.v[e] - f.v[e])", "update"
    ),
    "the norm without its last numbers": (
        "optimizer", "sum += g[4 * packs + i] * g[4 * packs + i];", ";", "update"
    ),
    "the end that fills no pack": ("elementwise", "EACH(i, n - 4 * packs)", "EACH(i, 0)", "silu"),
    "rows of others added": ("rows", "if (rows[i] == k) ", "", "sum_rows"),
    "only as many columns as threads": (
        "rows", "c < columns; c", "c < columns && c < 256; c", "sum_rows"
    ),
    "a round of Philox too few": ("random", "round < 10", "round < 9", "uniform"),
    "the key stays as it is": ("random", "k1 += 0xBB67AE85u;", "", "uniform"),
    "every draw is the first": ("random", "(at >> 32), draw, 0}", "(at >> 32), 0, 0}", "uniform"),
    "the last numbers not drawn": ("random", "(n + 3) / 4", "n / 4", "normal"),
    "two numbers of one angle": ("random", "radius * sine", "radius * cosine", "normal"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def compiled_anew():
    """What was compiled before a mistake was planted is not used, nor is it afterwards."""
    for cache in (launch._kernel, launch._module):
        cache.cache_clear()
    yield
    for cache in (launch._kernel, launch._module):
        cache.cache_clear()


def compare(name):
    """In all orders of threads: a missing barrier shows in one of them."""
    function, _, precision = name.partition(" in ")
    for order in emulator.ORDERS:
        with (
            mock.patch.object(emulator, "order", order),
            mock.patch.object(backend, "precision", precision.lower() or "float32"),
        ):
            kernel = on_the_double(getattr(fast, function))
            definition = getattr(reference, function)
            assert_agrees(kernel, definition, CASES[name], np.float32)


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_pass(emulated, name):
    compare(name)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(emulated, monkeypatch, mistake):
    file, there, instead, name = MISTAKES[mistake]
    source = launch.source

    def wrong(asked):
        text = source(asked)
        assert file not in (asked, "common") or there in text, "the source has changed"
        return text.replace(there, instead)

    monkeypatch.setattr(launch, "source", wrong)
    with pytest.raises(AssertionError, match=r"differs|wrote|wait|not contiguous"):
        compare(name)
