"""Samplers: from noise to images, one algorithm in a file, all over the same denoiser protocol.

A sampler is called as ``sampler(denoiser, schedule, x_T, *, rng, **options, **cond)`` and returns
a generator of `State`: the caller keeps, draws or drops what it yields, and `final` runs it to its
end. Arguments are checked at the call, not at the first state.

========  ===========================  ================  =====================
name      options                      stochastic        evaluations (NFE)
========  ===========================  ================  =====================
ddpm      steps variance spacing clip  yes               steps (T by default)
ddim      steps eta spacing clip       only if eta > 0   steps (50 by default)
========  ===========================  ================  =====================
"""

from collections.abc import Callable, Generator
from typing import Any

from minidiff.diffusion.names import lookup, with_options
from minidiff.diffusion.samplers.base import State, final
from minidiff.diffusion.samplers.ddim import ddim
from minidiff.diffusion.samplers.ddpm import ddpm

__all__ = ["SAMPLERS", "State", "ddim", "ddpm", "final", "make"]

Sampler = Callable[..., Generator[State, None, None]]

SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim}


def make(name: str, **options: Any) -> Sampler:
    """The sampler called `name` with its options fixed: ``make("ddim", steps=50, eta=0.5)``.

    An unknown name, or an option that this sampler does not have, is an error that lists those
    that there are.
    """
    return with_options(lookup(SAMPLERS, name, "sampler"), f"sampler {name!r}", **options)
