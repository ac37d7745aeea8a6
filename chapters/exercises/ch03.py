"""Exercises of chapter 3: the jump, from s to t, the cosine schedule, the prior term."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend
from minidiff.diffusion import process, schedules
from minidiff.diffusion.elbo import prior_nats
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import PriorWarning

# --- 3.1 the jump --------------------------------------------------------------------------------


def _jump_by_minidiff(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    drawn = process.q_sample(schedule, backend.asarray(x0), t, backend.asarray(eps))
    return backend.to_numpy(drawn)


def _jump_cases() -> list[Case]:
    one = Schedule.from_betas([0.36])
    three = Schedule.from_betas([0.1, 0.2, 0.3])
    cases: list[Case] = [(one, np.array([2.0]), 1, np.array([3.0]))]
    cases += [(three, np.array([2.0]), t, np.array([3.0])) for t in (1, 2, 3)]
    cases += [(three, np.array([2.0, -3.0]), 2, np.array([-2.0, 5.0]))]
    return cases


jump = Exercise(
    arguments=("schedule", "x0", "t", "eps"),
    results=("x_t",),
    reference=_jump_by_minidiff,
    cases=_jump_cases,
)


def _abar(schedule: Schedule, t: int) -> float:
    return float(np.prod(1 - schedule.beta[: t + 1]))


@jump.mistake("forgets the square roots")
def _no_roots(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """abar and 1 - abar are variances. What multiplies an image is a standard deviation, the root
    of a variance (3.5). Without the roots x_t has too little of both.
    """
    a = _abar(schedule, t)
    return a * x0 + (1 - a) * eps


@jump.mistake("takes the variance of the noise for its standard deviation")
def _noise_without_root(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """eps has variance 1, and c * eps has variance c**2. For the variance 1 - abar multiply by
    its root (3.5).
    """
    a = _abar(schedule, t)
    return math.sqrt(a) * x0 + (1 - a) * eps


@jump.mistake("takes abar for the factor of x0, and not its root")
def _abar_for_its_root(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """The variances add up to 1, so it looks right. But a single step has sqrt(alpha) in front of
    x, and a product of roots is the root of the product: the factor is sqrt(abar) (3.5).
    """
    a = _abar(schedule, t)
    return a * x0 + math.sqrt(1 - a**2) * eps


@jump.mistake("makes the last step only")
def _last_step(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """That is (3.1), which leads from t - 1 to t. From 0 to t all steps have a say: beta_t
    has to give way to 1 - abar_t.
    """
    b = float(schedule.beta[t])
    return math.sqrt(1 - b) * x0 + math.sqrt(b) * eps


@jump.mistake("leaves out the last step")
def _one_step_short(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """schedule.beta begins with beta_0 = 0, so beta[:t] ends with beta_(t-1). The product for t
    is that over beta[: t + 1].
    """
    a = _abar(schedule, t - 1)
    return math.sqrt(a) * x0 + math.sqrt(1 - a) * eps


@jump.mistake("adds the betas up")
def _sum_of_betas(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """Each step takes its share of what is *left*, and shares of what is left multiply. 1 minus
    the sum comes near only while the sum is small.
    """
    a = 1 - float(schedule.beta[: t + 1].sum())
    return math.sqrt(a) * x0 + math.sqrt(1 - a) * eps


@jump.mistake("multiplies the betas in place of the alphas")
def _product_of_betas(schedule: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """beta_t is the share that step t replaces by noise. What is left is alpha_t = 1 - beta_t,
    and what is left after t steps is the product of the alphas (3.4).
    """
    a = float(np.prod(schedule.beta[1 : t + 1]))
    return math.sqrt(a) * x0 + math.sqrt(1 - a) * eps


# --- 3.2 from s to t -----------------------------------------------------------------------------


def _between_cases() -> list[Case]:
    three = Schedule.from_betas([0.1, 0.2, 0.3])
    linear = schedules.linear()
    pairs = [(three, 0, 1), (three, 1, 2), (three, 1, 3), (three, 0, 3)]
    return [*pairs, (linear, 100, 300), (linear, 0, 500), (linear, 299, 300)]


between = Exercise(
    arguments=("schedule", "s", "t"),
    results=("c", "variance"),
    reference=process.forward,
    cases=_between_cases,
)


@between.mistake("starts at 0 wherever s is")
def _from_zero(schedule: Schedule, s: int, t: int) -> Any:
    """These are the coefficients from clean data to t. x_s has gone a part of the way
    already: divide out what the first s steps did (3.6).
    """
    a = schedule.abar[t]
    return math.sqrt(a), 1 - a


@between.mistake("makes the last step only")
def _one_step(schedule: Schedule, s: int, t: int) -> Any:
    """alpha_t belongs to the step from t - 1 to t. From s to t it is the product of all
    alphas in between, abar_t / abar_s (3.6).
    """
    a = schedule.alpha[t]
    return math.sqrt(a), 1 - a


@between.mistake("takes the difference of the two noise variances")
def _difference(schedule: Schedule, s: int, t: int) -> Any:
    """(1 - abar_t) - (1 - abar_s) would be right if the noise of x_s stayed as it is. But it
    shrinks on the way, by abar_t / abar_s, so more has to be added (3.6).
    """
    abar = schedule.abar
    return math.sqrt(abar[t] / abar[s]), abar[s] - abar[t]


@between.mistake("forgets the square root")
def _ratio(schedule: Schedule, s: int, t: int) -> Any:
    """abar_t / abar_s is the ratio of two variances. x_s itself is multiplied by its root."""
    a = schedule.abar[t] / schedule.abar[s]
    return a, 1 - a


@between.mistake("divides the wrong way round")
def _upside_down(schedule: Schedule, s: int, t: int) -> Any:
    """The signal gets smaller, so the ratio is below 1: the later time goes on top. A negative
    variance is the sign of this mistake.
    """
    a = schedule.abar[s] / schedule.abar[t]
    return math.sqrt(a), 1 - a


# --- 3.3 the cosine schedule ---------------------------------------------------------------------


def _cosine_by_minidiff(T: int, s: float, beta_max: float) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorWarning)  # so few steps keep some signal
        schedule = schedules.cosine(T, s, beta_max)
    return schedule.beta, schedule.abar


cosine = Exercise(
    arguments=("T", "s", "beta_max"),
    results=("beta", "abar"),
    reference=_cosine_by_minidiff,
    cases=lambda: [(T, 0.008, 0.999) for T in (2, 3, 4, 10)] + [(5, 0.1, 0.99)],
)


def _f(T: int, s: float, power: int = 2) -> Any:
    t = np.arange(T + 1)
    return np.cos((t / T + s) / (1 + s) * np.pi / 2) ** power


def _betas(abar: Any, beta_max: float) -> Any:
    return np.append(0.0, np.minimum(1 - abar[1:] / abar[:-1], beta_max))


@cosine.mistake("does not compute abar anew after the clip")
def _stale(T: int, s: float, beta_max: float) -> Any:
    """The betas say one thing and abar another. A sampler that uses both divides by a root of
    abar_T that is 0 up to rounding, where the clipped betas leave a small but honest number.
    """
    abar = _f(T, s) / _f(T, s)[0]
    return _betas(abar, beta_max), abar


@cosine.mistake("does not clip")
def _unclipped(T: int, s: float, beta_max: float) -> Any:
    """f(T) = 0, so beta_T = 1 and abar_T = 0: the last step throws everything away, and nobody can
    divide by sqrt(alpha_T). Clip the betas at beta_max (3.14).
    """
    beta = _betas(_f(T, s), np.inf)
    return beta, np.cumprod(1 - beta)


@cosine.mistake("clips abar in place of beta")
def _clips_abar(T: int, s: float, beta_max: float) -> Any:
    """1 - beta_max is the least that a single *step* leaves, not the least that is left in the end.
    A floor under abar makes the last betas 0 (or lifts the last abar) and ends far from noise.
    """
    abar = np.maximum(_f(T, s) / _f(T, s)[0], 1 - beta_max)
    beta = np.append(0.0, 1 - abar[1:] / abar[:-1])
    return beta, np.cumprod(1 - beta)


@cosine.mistake("does not divide by f(0)")
def _not_normalized(T: int, s: float, beta_max: float) -> Any:
    """f(0) is a little below 1, since the offset s shifts the cosine. Clean data need abar_0 = 1;
    without the division all the difference ends up in beta_1 (3.13).
    """
    beta = _betas(np.append(1.0, _f(T, s)[1:]), beta_max)
    return beta, np.cumprod(1 - beta)


@cosine.mistake("does not square the cosine")
def _not_squared(T: int, s: float, beta_max: float) -> Any:
    """The cosine itself is sqrt(abar), what multiplies the image; abar is its square (3.13)."""
    beta = _betas(_f(T, s, power=1), beta_max)
    return beta, np.cumprod(1 - beta)


@cosine.mistake("leaves out the offset s")
def _no_offset(T: int, s: float, beta_max: float) -> Any:
    """Near t = 0 a cosine is flat, and the first betas would be tiny. The offset starts a little
    further along, and 1 + s in the denominator brings the end back to pi/2 (3.13).
    """
    beta = _betas(_f(T, 0.0), beta_max)
    return beta, np.cumprod(1 - beta)


@cosine.mistake("takes T times in place of T + 1")
def _too_few(T: int, s: float, beta_max: float) -> Any:
    """T betas are ratios of neighbours, and T ratios need T + 1 numbers: t = 0, 1, ..., T. With
    np.linspace(0, T, T) the times are no whole numbers and one beta is missing.
    """
    t = np.linspace(0, T, T)
    beta = _betas(np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2, beta_max)
    return beta, np.cumprod(1 - beta)


# --- 3.4 the prior term --------------------------------------------------------------------------


def _prior_by_minidiff(abar_T: float, x0: Any) -> Any:
    schedule = Schedule.from_betas([1 - abar_T])
    nats = prior_nats(schedule, backend.asarray(x0)[None])
    return backend.to_numpy(nats)[0] / math.log(2)


prior = Exercise(
    arguments=("abar_T", "x0"),
    results=("bits",),
    reference=_prior_by_minidiff,
    cases=lambda: [
        (0.5, np.array([2.0])),
        (0.2, np.array([2.0, -3.0])),
        (0.1, np.array([0.5, -0.5, 0.25])),
    ],
)


def _nats(abar_T: float, x0: Any) -> Any:
    return (abar_T * (x0**2 - 1) - math.log(1 - abar_T)) / 2


@prior.mistake("answers in nats")
def _in_nats(abar_T: float, x0: Any) -> Any:
    """With the natural logarithm a KL comes in nats. One bit is log 2 = 0.693 nats: divide."""
    return _nats(abar_T, x0).sum()


@prior.mistake("averages over the pixels")
def _mean(abar_T: float, x0: Any) -> Any:
    """Independent pixels: their KLs add up. The mean is the number *per dimension*."""
    return _nats(abar_T, x0).mean() / math.log(2)


@prior.mistake("takes the KL in the other direction")
def _reversed(abar_T: float, x0: Any) -> Any:
    """KL(q || p) is the expectation under q of log q - log p. q is where the image went, and
    the prior p is the guess. Exchanged, q is in the denominator: KL(p || q).
    """
    v = 1 - abar_T
    return ((1 + abar_T * x0**2) / v - 1 + math.log(v)).sum() / 2 / math.log(2)


@prior.mistake("leaves out the -1")
def _without_one(abar_T: float, x0: Any) -> Any:
    """If q is the prior itself the KL has to be 0: at m = 0, v = 1 see what is left."""
    return (_nats(abar_T, x0) + 0.5).sum() / math.log(2)


@prior.mistake("takes x0 for the mean of x_T")
def _unscaled_mean(abar_T: float, x0: Any) -> Any:
    """The mean of x_T is sqrt(abar_T) x0, so its square is abar_T x0**2 (3.5)."""
    return (x0**2 - abar_T - math.log(1 - abar_T)).sum() / 2 / math.log(2)


@prior.mistake("takes the standard deviation for the variance")
def _std(abar_T: float, x0: Any) -> Any:
    """In the formula of the KL, v is the variance 1 - abar_T, without a root."""
    v = math.sqrt(1 - abar_T)
    return (abar_T * x0**2 + v - 1 - math.log(v)).sum() / 2 / math.log(2)


EXERCISES = {"3.1": jump, "3.2": between, "3.3": cosine, "3.4": prior}
