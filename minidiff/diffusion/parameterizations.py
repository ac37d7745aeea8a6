"""What a network may predict: eps, x0, v, the score, or the mean mu of the reverse step.

Given x_t, each of them determines the others. `convert` goes from any to any by way of the pair
(x0, eps), and takes v straight to both: near t = T one of them is poorly conditioned given the
other (x0 from eps divides by sqrt(abar_t)), but never given v.

Where a schedule keeps no signal at all (abar_T = 0, see `schedules.zero_terminal_snr`), nothing at
t = T can be had from eps or a score by way of x0, and that is refused; v and x0 still give all.
So a sampler that starts at T itself there needs a denoiser that predicts v or x0 and says so
(`denoiser.Predicting`); with one of eps it starts at T - 1, where next to no signal is left.

In all signatures `xt` is an array of shape (N, ...), `t` an int or an int array of shape (N,) with
1 <= t <= T, and the quantity that is converted an array like `xt`; so is the result.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.diffusion.arrays import Array, check_like, per_image
from minidiff.diffusion.names import lookup
from minidiff.diffusion.process import posterior
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError, check_number
from minidiff.ops.checks import check_floats

Clip = tuple[float, float] | Callable[[Array], Array] | None
"""What to do to a predicted x0: nothing, clip it to (low, high), or any function x0 -> x0."""

_START_BELOW = (
    "sample with denoiser.Predicting of a model of v or x0, or start at T - 1: "
    "steps=timesteps.subset(T - 1, S)"
)


def x0_from_eps(schedule: Schedule, xt: Array, t: Any, eps: Array) -> Array:
    """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t) (Ho et al. 2020, eq. 15)."""
    check_like(eps, xt, "eps", "xt")
    _check_signal(schedule, t, f"eps says nothing of x_0 (v does); {_START_BELOW}")
    signal, noise = _scales(schedule, xt, t)
    return (xt - noise * eps) / signal  # eq. (3.7)


def eps_from_x0(schedule: Schedule, xt: Array, t: Any, x0: Array) -> Array:
    """Noise eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t).

    Ho et al. 2020, eq. 4, solved for eps.
    """
    check_like(x0, xt, "x0", "xt")
    signal, noise = _scales(schedule, xt, t)
    eps = -signal * x0  # in place from here on: a sampler has one scratch
    eps += xt
    eps /= noise
    return eps


def x0_from_v(schedule: Schedule, xt: Array, t: Any, v: Array) -> Array:
    """x_0 = sqrt(abar_t) x_t - sqrt(1 - abar_t) v (Salimans & Ho 2022, section 4)."""
    check_like(v, xt, "v", "xt")
    signal, noise = _scales(schedule, xt, t)
    x0 = -noise * v  # v first: it may be a Tensor
    x0 += signal * xt  # eq. (6.6)
    return x0


def eps_from_v(schedule: Schedule, xt: Array, t: Any, v: Array) -> Array:
    """Noise eps = sqrt(1 - abar_t) x_t + sqrt(abar_t) v (Salimans & Ho 2022, appendix D)."""
    check_like(v, xt, "v", "xt")
    signal, noise = _scales(schedule, xt, t)
    eps = signal * v
    eps += noise * xt  # eq. (6.6)
    return eps


def v_from_x0_eps(schedule: Schedule, t: Any, x0: Array, eps: Array) -> Array:
    """Velocity v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022, section 4)."""
    check_like(eps, x0, "eps", "x0")
    signal, noise = _scales(schedule, x0, t)
    return signal * eps - noise * x0  # eq. (6.5)


def score_from_eps(schedule: Schedule, t: Any, eps: Array) -> Array:
    """Score grad log q(x_t) = -eps / sqrt(1 - abar_t), if eps is the optimal prediction."""
    return -eps / _scales(schedule, eps, t)[1]  # eq. (7.3)


def eps_from_score(schedule: Schedule, t: Any, score: Array) -> Array:
    """Noise eps = -sqrt(1 - abar_t) grad log q(x_t)."""
    return -_scales(schedule, score, t)[1] * score


def mu_from_x0(schedule: Schedule, xt: Array, t: Any, x0: Array) -> Array:
    """Mean mu = c_0 x_0 + c_t x_t, the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
    check_like(x0, xt, "x0", "xt")
    c_0, c_t, _ = posterior(schedule, np.subtract(t, 1), t)
    return per_image(c_0, xt) * x0 + per_image(c_t, xt) * xt


def x0_from_mu(schedule: Schedule, xt: Array, t: Any, mu: Array) -> Array:
    """x_0 = (mu - c_t x_t) / c_0 (Ho et al. 2020, eq. 7, solved for x_0)."""
    check_like(mu, xt, "mu", "xt")
    c_0, c_t, _ = posterior(schedule, np.subtract(t, 1), t)
    return (mu - per_image(c_t, xt) * xt) / per_image(c_0, xt)


def mu_from_eps(schedule: Schedule, xt: Array, t: Any, eps: Array) -> Array:
    """Mean mu = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t) (Ho et al. 2020, eq. 11).

    The line of Algorithm 2. It equals `mu_from_x0` of `x0_from_eps`, where x0 could be clipped.
    """
    check_like(eps, xt, "eps", "xt")
    _check_signal(schedule, t, f"eps says nothing of mu (v does); {_START_BELOW}")
    t = check_t(schedule, t)  # eq. (4.10)
    beta, alpha, abar = schedule.beta[t], schedule.alpha[t], schedule.abar[t]
    return (xt - per_image(beta / np.sqrt(1 - abar), xt) * eps) / per_image(np.sqrt(alpha), xt)


def ve_from_vp(schedule: Schedule, xt: Array, t: Any) -> Array:
    """x_t / sqrt(abar_t) = x_0 + sigma_t n: x_t as the variance-exploding process has it.

    sigma_t is ``schedule.sigma[t]`` and n standard normal (Song et al. 2021, eq. 8 with sigma_0 =
    0); `schedules.Schedule.from_sigmas` goes back from the sigmas to the schedule.
    """
    _check_signal(schedule, t, "sigma_t is infinite")
    return xt / _scales(schedule, xt, t)[0]  # eq. (11.1)


def vp_from_ve(schedule: Schedule, x: Array, t: Any) -> Array:
    """x_t = sqrt(abar_t) x, from x = x_0 + sigma_t n: undoes `ve_from_vp`.

    Song et al. 2021, eq. 8.
    """
    _check_signal(schedule, t, "sigma_t is infinite")
    return _scales(schedule, x, t)[0] * x


def _pair_from_eps(schedule: Schedule, xt: Array, t: Any, eps: Array) -> tuple[Array, Array]:
    return x0_from_eps(schedule, xt, t, eps), eps


def _pair_from_x0(schedule: Schedule, xt: Array, t: Any, x0: Array) -> tuple[Array, Array]:
    return x0, eps_from_x0(schedule, xt, t, x0)


# For each quantity: the pair (x0, eps) from it, and it from the pair.
_PAIR_FROM: dict[str, Callable[[Schedule, Array, Any, Array], tuple[Array, Array]]] = {
    "eps": _pair_from_eps,
    "x0": _pair_from_x0,
    "v": lambda s, xt, t, v: (x0_from_v(s, xt, t, v), eps_from_v(s, xt, t, v)),
    "score": lambda s, xt, t, score: _pair_from_eps(s, xt, t, eps_from_score(s, t, score)),
    "mu": lambda s, xt, t, mu: _pair_from_x0(s, xt, t, x0_from_mu(s, xt, t, mu)),
}
_FROM_PAIR: dict[str, Callable[[Schedule, Array, Any, Array, Array], Array]] = {
    "eps": lambda s, xt, t, x0, eps: eps,
    "x0": lambda s, xt, t, x0, eps: x0,
    "v": lambda s, xt, t, x0, eps: v_from_x0_eps(s, t, x0, eps),
    "score": lambda s, xt, t, x0, eps: score_from_eps(s, t, eps),
    "mu": lambda s, xt, t, x0, eps: mu_from_x0(s, xt, t, x0),
}
NAMES = tuple(_PAIR_FROM)


def convert(
    schedule: Schedule, xt: Array, t: Any, value: Array, *, source: str, target: str
) -> Array:
    """`value`, which is the quantity `source`, as the quantity `target` (see `NAMES`)."""
    pair_from = lookup(_PAIR_FROM, source, "parameterization")
    from_pair = lookup(_FROM_PAIR, target, "parameterization")
    return from_pair(schedule, xt, t, *pair_from(schedule, xt, t, value))


def denoised(
    schedule: Schedule, xt: Array, t: Any, eps: Array, clip: Clip = None
) -> tuple[Array, Array]:
    """(x0, eps) as a sampler uses them: x0 predicted from eps, clipped, and the eps that fits it.

    `pair` of eps, see there.
    """
    return pair(schedule, xt, t, eps, source="eps", clip=clip)


def pair(
    schedule: Schedule, xt: Array, t: Any, value: Array, *, source: str, clip: Clip = None
) -> tuple[Array, Array]:
    """(x0, eps) from `value`, which is the quantity `source` (see `NAMES`), with x0 clipped.

    Whenever x0 is changed, eps is computed again from it. Otherwise the two would describe
    different x_t, and a step that mixes them (as DDIM's does) would leave the process.
    """
    x0, eps = lookup(_PAIR_FROM, source, "parameterization")(schedule, xt, t, value)
    if clip is None:
        return x0, eps
    del eps  # so that no array more is alive than is needed
    x0 = clip(x0) if callable(clip) else backend.array_module(x0).clip(x0, *check_clip(clip))
    return x0, eps_from_x0(schedule, xt, t, x0)


def dynamic_threshold(x0: Array, *, quantile: float = 0.995) -> Array:
    """x_0 clipped to [-s, s] and divided by s, with s = max(1, q) for each image by itself.

    q is the `quantile` of the |values| of that image (Saharia et al. 2022, section 2.3, where s is
    the "dynamic threshold"). An image within [-1, 1] stays as it is; one that strong guidance has
    driven out of it comes back with fewer of its values saturated than by clipping.

    Use it as any sampler's ``clip``: ``clip=dynamic_threshold``, or a `functools.partial` of it
    with another quantile; eps is then computed again from the result (see `denoised`).

    Parameters
    ----------
    x0 : array of shape (N, ...)
    quantile : float in (0, 1]
        Between two values it is interpolated linearly. 1 is the largest |value|.
    """
    if not 0 < check_number("quantile", quantile) <= 1:
        raise InputError(f"quantile must lie in (0, 1], got {quantile}")
    check_floats("dynamic_threshold", x0=x0)
    if x0.ndim < 1 or not x0.size:
        raise InputError(f"dynamic_threshold: no images in x0 of shape {x0.shape}")
    xp = backend.array_module(x0)
    flat = x0.reshape(len(x0), -1)
    ordered = xp.abs(flat)
    ordered.sort(axis=1)
    # Not xp.quantile: CuPy's checks its argument on the device, and computes in float64.
    place = quantile * (flat.shape[1] - 1)
    k = int(place)
    q = ordered[:, k]
    if place > k:
        q = q + (place - k) * (ordered[:, k + 1] - q)
    s = xp.maximum(q, 1)[:, None]  # eq. (13.9)
    del q, ordered  # one is a view of the other, which is as large as x0
    clipped = xp.minimum(flat, s)
    xp.maximum(clipped, -s, out=clipped)
    clipped /= s
    return clipped.reshape(x0.shape)


def check_clip(clip: Any) -> Any:
    """`clip`, if it is None, a pair of floats (low, high) with low < high, or a function."""
    if clip is None or callable(clip):
        return clip
    try:
        low, high = (float(bound) for bound in clip)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise InputError(
            f"clip must be None, a pair (low, high) such as (-1, 1), or a function, got {clip!r}"
        )
    return low, high


def _check_signal(schedule: Schedule, t: Any, consequence: str) -> None:
    """Refuse a time at which nothing is left of the signal."""
    if schedule.abar[-1] == 0 and np.any(check_t(schedule, t) == schedule.T):
        raise InputError(
            f"at t = T = {schedule.T} this schedule keeps no signal (abar_T = 0), so {consequence}"
        )


def _scales(schedule: Schedule, x: Array, t: Any) -> tuple[Any, Any]:
    """sqrt(abar_t) and sqrt(1 - abar_t), ready to multiply x."""
    abar = schedule.abar[check_t(schedule, t)]
    return per_image(np.sqrt(abar), x), per_image(np.sqrt(1 - abar), x)
