"""Hypothesis strategies that several test modules share."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff.diffusion.schedules import Schedule

seeds = st.integers(0, 2**32 - 1)


@st.composite
def schedules(draw, max_T=4000, min_abar_T=1e-16):
    """Random schedules of any length: abar_T and the shares of its steps are drawn."""
    T = draw(st.integers(1, max_T))
    # Betas of 1e-6 and more: 1 - abar_t / abar_s has 10 digits left then.
    nats = draw(st.floats(1e-5 * T, -np.log(min_abar_T)))
    shares = np.random.default_rng(draw(seeds)).uniform(0.1, 1, T)
    return Schedule.from_betas(-np.expm1(-nats * shares / shares.sum()))


@st.composite
def jumps(draw, **options):
    """(schedule, s, t) with 0 <= s < t <= T."""
    schedule = draw(schedules(**options))
    t = draw(st.integers(1, schedule.T))
    return schedule, draw(st.integers(0, t - 1)), t


@st.composite
def subsequences(draw, T):
    """Times from T to 0 with a random choice of those between."""
    keep = np.random.default_rng(draw(seeds)).random(T - 1) < draw(st.floats(0, 1))
    return np.array([T, *np.flatnonzero(keep)[::-1] + 1, 0])


def examples(share):
    """Settings with a share of the profile's number of examples, for tests whose each is slow."""
    return settings(max_examples=max(1, round(share * settings.default.max_examples)))


# Fillings of an array: functions of (generator, shape). Each example is drawn as a shape and a
# seed, so that a failing one shrinks to small shapes; the values matter less.


def normal(rng, shape):
    return rng.standard_normal(shape)


def positive(rng, shape):
    """From 0.5 to 2, so that logarithms, roots and quotients are tame."""
    return rng.uniform(0.5, 2, shape)


def nonzero(rng, shape):
    """From 0.5 to 2, of either sign."""
    return rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)


def odd_lattice(rng, shape):
    """Odd multiples of 0.05: at least 0.05 away from zero and from every even multiple."""
    return (2 * rng.integers(-20, 20, shape) + 1) * 0.05


def even_lattice(rng, shape):
    return rng.integers(-20, 21, shape) * 0.1


def distinct(rng, shape):
    """Numbers that are 0.1 apart from each other, in random order, around zero."""
    size = int(np.prod(shape))
    return (rng.permutation(size).reshape(shape) - size / 2) * 0.1


@st.composite
def arrays(draw, shape, fill=normal):
    """A float64 array; `shape` is a tuple or a strategy of tuples."""
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    return np.asarray(fill(np.random.default_rng(draw(seeds)), shape))


def shapes(min_dims=0, max_dims=4, max_side=5):
    """Shapes with axes of length 1 and of odd length among them."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=1, max_side=max_side)


@st.composite
def broadcastable(draw, n):
    """Shapes of `n` arrays that broadcast together."""
    drawn = hnp.mutually_broadcastable_shapes(num_shapes=n, max_dims=4, max_side=4)
    return draw(drawn).input_shapes


@st.composite
def axes(draw, ndim):
    """None, one axis or a tuple of axes, some counted from the end."""
    if ndim == 0:
        return None
    one = st.integers(-ndim, ndim - 1)
    several = st.lists(one, max_size=ndim, unique_by=lambda a: a % ndim).map(tuple)
    return draw(st.none() | one | several)


sides = st.tuples(st.integers(0, 3), st.integers(0, 3))
paddings = st.integers(0, 3) | st.tuples(sides, sides)


LAYOUTS = ("contiguous", "transposed", "strided", "reversed")
layouts = st.sampled_from(LAYOUTS)


def lay_out(a, layout):
    """The same numbers in another order of memory; NaN stands in the gaps of a strided view."""
    if layout == "transposed":
        return a.T.copy(order="C").T
    if layout == "strided":
        wide = np.full([2 * n + 1 for n in a.shape], np.nan if a.dtype.kind == "f" else 0, a.dtype)
        view = wide[(..., *[slice(1, None, 2)] * a.ndim)]
        view[...] = a
        return view
    if layout == "reversed":
        back = (..., *[slice(None, None, -1)] * a.ndim)
        return a[back].copy(order="C")[back]
    return a.copy(order="C")
