"""Which of the times T, ..., 1 a sampler visits when it takes fewer steps than the process has."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.diffusion.names import lookup
from minidiff.errors import InputError


def trailing(T: int, steps: int) -> NDArray[np.floating]:
    """T, T - T/S, ..., T/S: evenly spaced, from T on, with one more equal jump to 0.

    Lin et al. 2024, table 2.
    """
    return T * np.arange(steps, 0, -1) / steps  # eq. (10.6)


def leading(T: int, steps: int) -> NDArray[np.floating]:
    """1 + (S-1) j, ..., 1 + j, 1 with j = floor(T / S): ends at 1, and starts below T.

    Lin et al. 2024, table 2.

    Started from pure noise it tells the model that some signal is there (time 981 for 50 of 1000).
    Kept since published samples were made so (the default of DDIM's code).
    """
    return 1.0 + np.arange(steps - 1, -1, -1) * (T // steps)


def linspace(T: int, steps: int) -> NDArray[np.floating]:
    """Evenly spaced from T to 1, both included; the last jump, from 1 to 0, is shorter.

    Lin et al. 2024, table 2.
    """
    return np.linspace(T, 1, steps)


def quadratic(T: int, steps: int) -> NDArray[np.floating]:
    """T, T ((S-1)/S)^2, ..., T (1/S)^2: the closer together, the less noise (DDIM, appendix D.2).

    Where that would visit a time twice (the i-th from the end is below i), it is i. DDIM's code
    starts at 0.8 T; here the first time is T.
    """
    i = np.arange(steps, 0, -1)
    return np.maximum(T * i**2 / steps**2, i)


SPACINGS: dict[str, Callable[[int, int], NDArray[np.floating]]] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "quadratic": quadratic,
}


def subset(T: int, steps: int, spacing: str = "trailing") -> NDArray[np.int64]:
    """The times that S steps visit, and then 0: S + 1 strictly decreasing integers.

    Parameters
    ----------
    T : int
        Steps of the forward process.
    steps : int, 1 <= steps <= T
    spacing : "trailing", "leading", "linspace" or "quadratic"
        The first three are in Lin et al. 2024 (arXiv:2305.08891), table 2. All but "leading" start
        at T.

    Returns
    -------
    int64 array of shape (steps + 1,); the i-th step goes from element i to element i + 1.
    """
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool):
        raise InputError(f"steps must be a whole number, got {steps!r}")
    if not 1 <= steps <= T:
        raise InputError(f"steps must lie in 1..{T}, the steps of the schedule, got {steps}")
    times = np.round(lookup(SPACINGS, spacing, "spacing")(T, int(steps)))
    return np.append(times, 0).astype(np.int64)


def resolve(T: int, steps: Any, spacing: str = "trailing") -> NDArray[np.int64]:
    """The times of a sampler from its `steps`: a number, None for all T, or the times themselves.

    Times that are given must be integers that decrease strictly, start at T or below (from a
    latent that was noised to that time only) and end at 0.
    """
    if steps is None:
        steps = T
    if np.ndim(steps) == 0:
        return subset(T, steps, spacing)
    times = np.asarray(steps)
    if times.dtype.kind not in "iu" or times.ndim != 1 or len(times) < 2:
        raise InputError(f"times must be two or more integers, got {steps!r}")
    if times[0] > T or times[-1] != 0 or np.any(times[1:] >= times[:-1]):
        raise InputError(f"times must decrease strictly from {T} or below to 0, got {steps!r}")
    return times.astype(np.int64)
