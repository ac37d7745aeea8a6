"""What all samplers share: the state that they yield, and the checks before the first step."""

import math
from collections.abc import Callable, Generator, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import SigmaDenoiser, levels, sigma_denoiser
from minidiff.errors import InputError


class State(NamedTuple):
    """Where a sampler is: `x` at time `t`, and what it takes the clean image to be.

    A caller may keep the arrays: no sampler writes into one that it has yielded, or into x_T. But
    it goes on from them, so they are not to be changed before it is done.
    """

    t: float
    """T (or the first time) in the first state, 0 in the last. Real if levels were given as sigma,
    else an integer."""
    x: Array
    """x_t, shape (N, ...): the noise that was passed in at first, the sample at last."""
    x0: Array
    """The prediction of x_0 from this x_t (clipped, if asked for); in the last state x itself."""


Step = Callable[[SigmaDenoiser, Array, float, float], tuple[Array, Array]]
"""(x at the next level, x0) = step(D, x, sigma, next): one step from `sigma` down to `next`."""


def affine_step(c_0: float, x0: Array, c: float, x: Array, sigma: Any, rng: Any) -> Array:
    """x_s = c_0 x_0 + c x + sigma z, with z drawn if sigma is not 0.

    The step of every sampler that draws from, or takes the mean of, a Gaussian of x_s (DDPM,
    Algorithm 2; DDIM, eq. 12): `x` is x_t or eps, and sigma a float or an array like x_0. A new
    array and one for scratch; none of the given ones is written into.
    """
    xs = c_0 * x0
    xs += c * x
    if isinstance(sigma, float) and sigma == 0:
        return xs
    z = rng.standard_normal(xs.shape, dtype=xs.dtype)
    z *= sigma
    xs += z
    return xs


def final(states: Iterable[State]) -> Array:
    """Run a sampler to its end and return the sample, x of its last state."""
    for state in states:  # noqa: B007 (the last one is what is wanted)
        pass
    return state.x


def descend(
    step: Step,
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    steps: Any,
    sigmas: ArrayLike | None,
    spacing: str,
    clip: Clip,
    cond: dict[str, Any],
) -> Generator[State, None, None]:
    """The states of a sampler that is written in sigma, from its `step`.

    Within steps an image is x = x_t / sqrt(abar_t) = x_t sqrt(1 + sigma^2) (see `sigma`); in the
    states it is x_t, as everywhere. So `x_T` is standard normal at any first level.
    """
    check_start(x_T)
    times, values = levels(schedule, steps, spacing, sigmas)
    D = sigma_denoiser(denoiser, schedule, clip=clip, **cond)

    def states() -> Generator[State, None, None]:
        xt = x_T
        x = x_T * math.sqrt(1 + values[0] ** 2)
        for t, (sigma, lower) in zip(times, pairwise(values), strict=False):
            x, x0 = step(D, x, sigma, lower)
            yield State(t, xt, x0)
            xt = x * (1 / math.sqrt(1 + lower**2)) if lower > 0 else x
        yield State(0, xt, xt)

    return states()


def check_start(x: Any) -> None:
    """Refuse a start that is no batch of floats; integers would make every step round."""
    if getattr(x, "ndim", 0) < 2 or x.dtype.char not in ("f", "d") or not len(x):
        raise InputError(
            "a sampler starts from an array of floats of shape (N, ...), x_T ~ N(0, I), float32 "
            f"or float64, N >= 1; got {getattr(x, 'dtype', type(x).__name__)} of shape "
            f"{getattr(x, 'shape', ())}"
        )


def check_rng(rng: Any, why: str) -> None:
    """Refuse to draw noise without a generator; `why` begins the message."""
    if not hasattr(rng, "standard_normal"):
        raise InputError(f"{why}: pass rng, such as backend.generator(seed)")
