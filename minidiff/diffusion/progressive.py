"""Progressive generation: what a sampler takes the image to be, from noise to the end.

Every state of a sampler holds the prediction of x_0 from x_t. In the first it is little more than
the mean of all data; the coarse shape comes first and the detail last (Ho et al. 2020, section
4.3). Under the true process that prediction, E[x_0 | x_t], is a martingale: its mean over all
samples is the mean of the data at every t.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.diffusion import timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.samplers.base import State
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError, check_count


def record(states: Iterable[State], times: Iterable[int]) -> list[State]:
    """Run a sampler to its end and keep the states at `times`, in the order in which they come.

    Ho et al. 2020, section 4.3.

    ``record(ddpm(...), range(0, 1001, 100))`` keeps the 11 from pure noise to the sample. A time
    that is visited more than once (see `inpainting`) is kept each time.

    Raises
    ------
    InputError
        If one of the times is not visited.
    """
    wanted = set(times)
    kept, seen = [], set()
    for state in states:
        seen.add(state.t)
        if state.t in wanted:
            kept.append(state)
    if wanted - seen:
        missed = ", ".join(map(str, sorted(wanted - seen)))
        raise InputError(f"the sampler does not visit t = {missed}; choose among its times")
    return kept


def shared_latent(
    sampler: Callable[..., Generator[State, None, None]],
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Array,
    *,
    t: int,
    n: int,
    rng: Any,
    steps: int | None = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """Sample n images from each x_t: what they share was decided before t, the rest is drawn.

    Ho et al. 2020, figure 7. The sampler must draw noise, or all n are the same.

    Parameters
    ----------
    sampler : a sampler with its options fixed, such as ``samplers.make("ddpm")``
    denoiser : Denoiser
    schedule : Schedule
    xt : array of shape (N, ...)
        The x of a sampler's state at time t.
    t : int, 1 <= t <= T
    n : int, >= 1
    rng : generator with ``standard_normal(shape, dtype=)``
    steps : int or None
        Steps from t to 0; None for all t of them.
    **cond
        Passed on to the denoiser; what has one entry for each of the N is repeated like x_t.

    Returns
    -------
    The states of the sampler for N n images, the n from x_t[0] first.
    """
    n = check_count("n", n)
    t = check_t(schedule, t)
    if np.ndim(t):
        raise InputError(f"all latents are of one time t, got {t}")
    times = timesteps.subset(t, t if steps is None else steps)
    cond = {
        name: np.repeat(value, n, axis=0) if np.shape(value)[:1] == (len(xt),) else value
        for name, value in cond.items()
    }
    many = backend.array_module(xt).repeat(xt, n, axis=0)
    return sampler(denoiser, schedule, many, rng=rng, steps=times, **cond)
