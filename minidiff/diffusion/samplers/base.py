"""What all samplers share: the state that they yield, and the checks before the first step."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from minidiff.diffusion.arrays import Array
from minidiff.errors import InputError


class State(NamedTuple):
    """Where a sampler is: `x` at time `t`, and what it takes the clean image to be."""

    t: int
    """T (or the first time) in the first state, 0 in the last."""
    x: Array
    """x_t, shape (N, ...): the noise that was passed in at first, the sample at last."""
    x0: Array
    """The prediction of x_0 from this x_t (clipped, if asked for); in the last state x itself."""


def final(states: Iterable[State]) -> Array:
    """Run a sampler to its end and return the sample, x of its last state."""
    for state in states:  # noqa: B007 (the last one is what is wanted)
        pass
    return state.x


def check_start(x: Any) -> None:
    """Refuse a start that is no batch of floats; integers would make every step round."""
    if getattr(x, "ndim", 0) < 2 or x.dtype.kind != "f":
        raise InputError(
            "a sampler starts from an array of floats of shape (N, ...), x_T ~ N(0, I)"
        )
