"""The forward process q, known in closed form between any two times s < t.

Each distribution is a Gaussian, given by the coefficients of its mean and its variance. They are
computed on the host in float64: Python floats for one t, arrays of shape (N,) for N of them.
"""

from typing import Any

import numpy as np

from minidiff.diffusion.arrays import Array, check_like, floats, per_image
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError


def forward(schedule: Schedule, s: Any, t: Any) -> tuple[Any, Any]:
    """q(x_t | x_s) = N(c x_s, variance I) with c = sqrt(a), variance = 1 - a, a = abar_t / abar_s.

    With s = t - 1 it is one step, c = sqrt(alpha_t) and variance beta_t (Ho et al. 2020, eq. 2);
    with s = 0 it is the jump from clean data, c = sqrt(abar_t) and variance 1 - abar_t (eq. 4).

    Parameters
    ----------
    schedule : Schedule
    s, t : int or int array of shape (N,), 0 <= s < t <= T

    Returns
    -------
    (c, variance)
    """
    s, t = _check_pair(schedule, s, t)
    a = schedule.abar[t] / schedule.abar[s]  # eq. (3.6)
    return floats(np.sqrt(a), 1 - a)


def posterior(schedule: Schedule, s: Any, t: Any) -> tuple[Any, Any, Any]:
    """q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, variance I) for any s < t.

    With a = abar_t / abar_s:

        c_0      = sqrt(abar_s) (1 - a) / (1 - abar_t)
        c_t      = sqrt(a) (1 - abar_s) / (1 - abar_t)
        variance = (1 - abar_s) (1 - a) / (1 - abar_t)

    With s = t - 1, a = alpha_t and this is Ho et al. 2020, eq. 6 and 7, where the variance is
    called beta-tilde_t. The posterior of a longer jump, as samplers that skip steps need it, is
    the same formula. At s = 0 it is exact: c_0 = 1, c_t = 0 and variance 0.

    Parameters
    ----------
    schedule : Schedule
    s, t : int or int array of shape (N,), 0 <= s < t <= T

    Returns
    -------
    (c_0, c_t, variance)
    """
    s, t = _check_pair(schedule, s, t)
    # eq. (4.4), eq. (4.5), and eq. (4.6) for longer jumps
    abar_s, abar_t = schedule.abar[s], schedule.abar[t]
    a = abar_t / abar_s
    jump = (1 - a) / (1 - abar_t)  # <= 1 in floating point too, hence variance <= 1 - abar_s
    return floats(
        np.sqrt(abar_s) * jump,
        np.sqrt(a) * (1 - abar_s) / (1 - abar_t),
        (1 - abar_s) * jump,
    )


def q_sample(schedule: Schedule, x0: Array, t: Any, eps: Array) -> Array:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4).

    Parameters
    ----------
    schedule : Schedule
    x0 : array of shape (N, ...)
        Clean data.
    t : int or int array of shape (N,), 1 <= t <= T
    eps : array like x0
        Standard normal noise.

    Returns
    -------
    x_t, an array like x0.
    """
    return forward_sample(schedule, x0, 0, t, eps)  # eq. (3.5)


def forward_sample(schedule: Schedule, xs: Array, s: Any, t: Any, eps: Array) -> Array:
    """A draw of q(x_t | x_s) from standard normal `eps` (see `forward`).

    Ho et al. 2020, eq. 2 and 4.
    """
    check_like(eps, xs, "eps", "x")
    c, variance = forward(schedule, s, t)
    # eq. (3.1) at s = t - 1
    xt = per_image(c, xs) * xs
    xt += per_image(np.sqrt(variance), xs) * eps
    return xt


def posterior_sample(schedule: Schedule, x0: Array, xt: Array, s: Any, t: Any, eps: Array) -> Array:
    """A draw of q(x_s | x_t, x_0) from standard normal `eps` (see `posterior`).

    Ho et al. 2020, eq. 6.
    """
    check_like(x0, xt, "x0", "xt")
    check_like(eps, xt, "eps", "xt")
    c_0, c_t, variance = posterior(schedule, s, t)
    mean = per_image(c_0, xt) * x0 + per_image(c_t, xt) * xt
    return mean + per_image(np.sqrt(variance), xt) * eps


def _check_pair(schedule: Schedule, s: Any, t: Any) -> tuple[Any, Any]:
    s, t = check_t(schedule, s, first=0), check_t(schedule, t)
    if not np.all(s < t):
        raise InputError(f"the earlier time must come first, s < t, got s = {s} and t = {t}")
    return s, t
