"""The discretized Gaussian decoder: how likely a pixel's value is, when it has only so many."""

import math
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.diffusion.arrays import Array
from minidiff.errors import InputError
from minidiff.ops.checks import check_floats


def log_probability_nats(
    x0: Array, mean: Array, sigma: Any, levels: int = 256
) -> tuple[Array, Array, Array]:
    """log p of N(mean, sigma^2) on the bin around x_0 (Ho et al. 2020, eq. 13), and its slopes.

    The `levels` values lie evenly on [-1, 1], h = 1 / (levels - 1) is half of a bin, and the first
    and the last bin go on to infinity, so that all bins together have probability 1:

        p = Phi((x_0 + h - mean) / sigma) - Phi((x_0 - h - mean) / sigma)

    Nothing is clamped: log p is right however far `mean` is from the bin (by the scaled
    complementary error function), where the difference of two Phi would be 0.

    Parameters
    ----------
    x0 : array of shape (N, ...)
        Each element is one of the levels.
    mean : array like x0
    sigma : float or array that broadcasts to x0, > 0
    levels : int, >= 2

    Returns
    -------
    (log p, its derivative by mean, its derivative by sigma): arrays like x0, for each element.
    """
    check_floats("the decoder", x0=x0, mean=mean)
    if isinstance(sigma, int | float) and not sigma > 0:
        raise InputError(f"the decoder: sigma must be positive, got {sigma}")
    xp, special = backend.array_module(x0), backend.special(backend.array_module(x0))
    h = 1 / (check_levels(levels) - 1)  # eq. (6.11)
    lower, upper = (x0 - h - mean) / sigma, (x0 + h - mean) / sigma
    bottom, top = x0 < h - 1, x0 > 1 - h
    open_ended = bottom | top
    # By symmetry the bin is [a, b] with |a| >= |b|, a < 0; where it is open, a is the open end.
    flip = top | ((lower + upper > 0) & ~bottom)
    a, b = xp.where(flip, -upper, lower), xp.where(flip, -lower, upper)
    # phi(a) / phi(b), 0 at an open end.
    density_ratio = xp.exp(xp.where(open_ended, -math.inf, 0.5 * (b - a) * (b + a)))

    # Both edges on one side of the mean: Phi(z) = exp(-z^2 / 2) erfcx(-z / sqrt 2) / 2.
    spans = b > 0
    tail = xp.minimum(b, 0)
    scaled = special.erfcx(-math.sqrt(0.5) * tail)
    share = density_ratio * special.erfcx(-math.sqrt(0.5) * xp.minimum(a, 0)) / scaled
    kept = 1 - xp.where(spans, 0, share)  # 1 - Phi(a) / Phi(b)
    # One on each side: a sum of two positive numbers.
    beyond = xp.where(open_ended, 1, special.erf(-math.sqrt(0.5) * a))
    p = xp.where(spans, 0.5 * (beyond + special.erf(math.sqrt(0.5) * b)), 1)

    log_p = xp.where(spans, xp.log(p), xp.log(0.5 * scaled * kept) - 0.5 * tail * tail)
    at_b = math.sqrt(2 / math.pi) * xp.where(
        spans, 0.5 * xp.exp(-0.5 * b * b) / p, 1 / (scaled * kept)
    )  # phi(b) / p
    at_a = at_b * density_ratio
    slope = (at_b - at_a) / sigma
    return log_p, xp.where(flip, slope, -slope), (a * at_a - b * at_b) / sigma


def check_levels(levels: Any) -> int:
    """`levels`, if it is a whole number of at least 2."""
    if not isinstance(levels, int | np.integer) or isinstance(levels, bool) or levels < 2:
        raise InputError(
            "levels is how many values a pixel can take (256 for 8 bits), a whole number >= 2, "
            f"or None for continuous data; got {levels!r}"
        )
    return int(levels)


def check_on_levels(x0: Array, levels: int) -> None:
    """Refuse data that are not on the levels; their bits would mean nothing. Waits for a device."""
    xp = backend.array_module(x0)
    steps = (x0 + 1) * (0.5 * (check_levels(levels) - 1))
    off = xp.abs(steps - xp.rint(steps))
    if x0.size and not (float(off.max()) < 0.01 and float(xp.abs(x0).max()) < 1 + 1e-4):
        raise InputError(
            f"x0 must hold the {levels} evenly spaced values from -1 to 1; for other data pass "
            "their number as levels, or levels=None for continuous data"
        )
