"""When a fast kernel counts as equal to its definition."""

import numpy as np

TOLERANCE = {np.float64: 1e-11, np.float32: 2e-5}
"""Of the largest number of each result."""
ROUNDING = {dtype: 16 * float(np.finfo(dtype).eps) for dtype in TOLERANCE}
"""Of the absolute values of the terms of a sum, added up."""


def run(kernel, args):
    """What a kernel returns, and its array arguments afterwards."""
    returned = kernel(np, *args)
    results = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
    return results, [a for a in args if isinstance(a, np.ndarray)]


def assert_agrees(kernel, definition, args, dtype, lay_out=lambda a: a.copy(), sums=()):
    """`kernel` on `args` in `dtype` gives what `definition` gives in float64.

    It returns arrays of that dtype, and leaves its arguments as the definition leaves them:
    untouched, but for those that it is there to update. Each (i, j) in `sums` says that result i
    is the sum of result j over all axes but the last (and, if i has it, the first): where it
    cancels, it keeps the rounding of its terms. A type among the arguments becomes `dtype`, for the
    definition too: the bits that are drawn for a number depend on it.
    """

    def convert(a, dtype):
        is_float = isinstance(a, np.ndarray) and a.dtype.kind == "f"
        return a.astype(dtype) if is_float else a

    args = [dtype if isinstance(a, type) else convert(a, dtype) for a in args]
    before = [a.copy() for a in args if isinstance(a, np.ndarray)]
    exact, exact_after = run(definition, [convert(a, np.float64) for a in args])
    results, after = run(kernel, [lay_out(a) if isinstance(a, np.ndarray) else a for a in args])

    assert len(results) == len(exact)
    terms = dict(sums)
    for i, (got, expected) in enumerate(zip(results, exact, strict=True)):
        if expected is None:
            assert got is None, f"result {i} is nothing by definition"
            continue
        rounding = 0.0
        if i in terms:
            each = np.abs(exact[terms[i]])
            added = each.sum(axis=tuple(range(expected.ndim - 1, each.ndim - 1)))
            rounding = ROUNDING[dtype] * added.max(initial=0)
        _assert_close(f"result {i}", got, expected, dtype, rounding)
    for i, (got, expected, start) in enumerate(zip(after, exact_after, before, strict=True)):
        if np.array_equal(expected, start):
            np.testing.assert_array_equal(got, start, f"array argument {i} was written to")
        else:
            _assert_close(f"array argument {i}, updated,", got, expected, dtype)


def _assert_close(what, got, expected, dtype, rounding=0.0):
    assert got.shape == expected.shape, f"{what} is {got.shape}, by definition {expected.shape}"
    assert got.dtype == dtype, f"{what} is {got.dtype} where the arguments are {dtype.__name__}"
    error, scale = np.abs(got - expected), np.abs(expected).max(initial=0)
    worst = error.max(initial=0)
    allowed = max(TOLERANCE[dtype] * max(scale, 1e-3), rounding)
    assert worst <= allowed, f"{what} differs by {worst:.3g} at most; {allowed:.3g} is allowed"
