"""Exercises of chapter 4: the posterior of a step and of a jump, and its mean from the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend
from minidiff.diffusion import parameterizations, process
from minidiff.diffusion.schedules import Schedule

_SCHEDULES = (
    Schedule.from_betas([0.2, 0.5]),
    Schedule.from_betas([0.36, 0.75, 0.19]),
    Schedule.from_betas([0.1, 0.2, 0.4, 0.6, 0.3]),
)

# --- 4.1 the posterior -------------------------------------------------------------------------


def _steps() -> list[Case]:
    return [(s, t) for s in _SCHEDULES for t in (2, 1, *range(3, s.T + 1))]


posterior = Exercise(
    arguments=("schedule", "t"),
    results=("c_0", "c_t", "variance"),
    reference=lambda schedule, t: process.posterior(schedule, t - 1, t),
    cases=_steps,
)


@posterior.mistake("takes beta_t for the variance of the posterior")
def _beta_for_tilde(schedule: Schedule, t: int) -> Any:
    """Who knows x_0 knows more: q(x_{t-1} | x_t, x_0) is narrower than a step forwards, and at
    t = 1 it has no variance at all. The paper has beta with a tilde here (4.4), which a printed
    review of it lost.
    """
    c_0, c_t, _ = process.posterior(schedule, t - 1, t)
    return c_0, c_t, schedule.beta[t]


@posterior.mistake("gives the coefficient of x_t to x_0, and that of x_0 to x_t")
def _swapped(schedule: Schedule, t: int) -> Any:
    """Think of t = 1: the step before is x_0 itself, so x_0 has the factor 1 and x_t has 0."""
    c_0, c_t, variance = process.posterior(schedule, t - 1, t)
    return c_t, c_0, variance


@posterior.mistake("has abar_t where abar_{t-1} belongs")
def _same_index(schedule: Schedule, t: int) -> Any:
    """The first witness speaks of x_{t-1}, so it is sqrt(abar_{t-1}) that multiplies x_0 (4.5).
    With the index t the mean describes where the step comes from, not where it goes to.
    """
    _, c_t, variance = process.posterior(schedule, t - 1, t)
    beta, abar = schedule.beta[t], schedule.abar[t]
    return np.sqrt(abar) * beta / (1 - abar), c_t, variance


@posterior.mistake("forgets the roots in the mean")
def _no_roots(schedule: Schedule, t: int) -> Any:
    """abar and alpha are shares of the *variance*. A mean is multiplied by their roots."""
    c_0, c_t, variance = process.posterior(schedule, t - 1, t)
    return np.sqrt(schedule.abar[t - 1]) * c_0, np.sqrt(schedule.alpha[t]) * c_t, variance


@posterior.mistake("returns the standard deviation in place of the variance")
def _standard_deviation(schedule: Schedule, t: int) -> Any:
    """The last result is beta-tilde itself (4.4). Its root is what noise is multiplied by."""
    c_0, c_t, variance = process.posterior(schedule, t - 1, t)
    return c_0, c_t, np.sqrt(variance)


@posterior.mistake("weighs each witness by his variance, not by his precision")
def _by_variance(schedule: Schedule, t: int) -> Any:
    """The one who is more certain counts for more: the weights are 1/v_1 and 1/v_2, each divided
    by their sum (4.2).
    """
    first, second = 1 - schedule.abar[t - 1], schedule.beta[t] / schedule.alpha[t]
    total = first + second
    variance = first * second / total
    root_0, root_t = np.sqrt(schedule.abar[t - 1]), np.sqrt(schedule.alpha[t])
    return first / total * root_0, second / total / root_t, variance


# --- 4.2 the jump ------------------------------------------------------------------------------


def _jumps() -> list[Case]:
    return [(k, s, t) for k in _SCHEDULES for t in range(k.T, 0, -1) for s in range(t)]


def _posterior_with(schedule: Schedule, s: int, t: int, a: Any, added: Any = None) -> Any:
    """Equation (4.6) with another share `a`, and another variance `added` than 1 - a."""
    added = 1 - a if added is None else added
    abar_s, abar_t = schedule.abar[s], schedule.abar[t]
    return (
        np.sqrt(abar_s) * added / (1 - abar_t),
        np.sqrt(a) * (1 - abar_s) / (1 - abar_t),
        (1 - abar_s) * added / (1 - abar_t),
    )


jump = Exercise(
    arguments=("schedule", "s", "t"),
    results=("c_0", "c_t", "variance"),
    reference=process.posterior,
    cases=_jumps,
)


@jump.mistake("uses alpha_t for a jump over many steps")
def _one_step_for_a_jump(schedule: Schedule, s: int, t: int) -> Any:
    """Between t and s lie all the steps from s + 1 to t. The share of the signal that they keep
    together is a = abar_t / abar_s (4.6); alpha_t is that of the last of them alone.
    """
    return _posterior_with(schedule, s, t, schedule.alpha[t])


@jump.mistake("adds up the betas of the steps in between")
def _sum_of_betas(schedule: Schedule, s: int, t: int) -> Any:
    """Each step also shrinks what the earlier ones added, so the variance that a jump adds is
    1 - a, which is less than the sum of the betas.
    """
    a = schedule.abar[t] / schedule.abar[s]
    return _posterior_with(schedule, s, t, a, schedule.beta[s + 1 : t + 1].sum())


@jump.mistake("has beta_t in place of the variance that the jump adds")
def _last_beta(schedule: Schedule, s: int, t: int) -> Any:
    """The root of a is right, but the variance that is added from s to t is 1 - a. beta_t is
    what the last step adds. For s = t - 1 alone they are the same.
    """
    a = schedule.abar[t] / schedule.abar[s]
    return _posterior_with(schedule, s, t, a, schedule.beta[t])


@jump.mistake("goes one step back, whatever s is")
def _ignores_s(schedule: Schedule, s: int, t: int) -> Any:
    """Every abar_{t-1} of (4.4) and (4.5) becomes abar_s."""
    return process.posterior(schedule, t - 1, t)


# --- 4.3 the mean from the noise ---------------------------------------------------------------


def _noisy() -> list[Case]:
    rng = np.random.default_rng(43)
    return [
        (s, rng.choice([-3.0, -2.0, 2.0, 3.0], n), t, rng.choice([-3.0, -2.0, 2.0, 4.0], n))
        for n, s in enumerate(_SCHEDULES, start=1)
        for t in (2, 1, *range(3, s.T + 1))
    ]


def _mean_by_minidiff(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    xt, eps = backend.asarray(xt), backend.asarray(eps)
    return backend.to_numpy(parameterizations.mu_from_eps(schedule, xt, t, eps))


mean = Exercise(
    arguments=("schedule", "xt", "t", "eps"),
    results=("mean",),
    reference=_mean_by_minidiff,
    cases=_noisy,
)


@mean.mistake("adds the noise instead of taking it off")
def _eps_added(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps: on the way back noise is subtracted. The minus
    sign is easily lost, and a sampler without it draws nothing but noise.
    """
    return _mean_by_minidiff(schedule, xt, t, -eps)


@mean.mistake("divides by 1 - abar_t instead of its root")
def _root_forgotten(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """eps has variance 1 and stands in x_t with the factor sqrt(1 - abar_t), a standard deviation.
    One such root cancels against 1 - abar_t in (4.5), and one is left (4.10).
    """
    beta, alpha, abar = schedule.beta[t], schedule.alpha[t], schedule.abar[t]
    return (xt - beta / (1 - abar) * eps) / np.sqrt(alpha)


@mean.mistake("takes off sqrt(beta_t) eps, all that the last step added")
def _last_step_undone(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """eps is the noise of the whole jump from x_0 to x_t, not that of the last step. Given x_t, the
    best guess of the latter is only sqrt(beta_t / (1 - abar_t)) eps, and so (4.10) takes off
    beta_t / sqrt(1 - abar_t) eps.
    """
    return (xt - np.sqrt(schedule.beta[t]) * eps) / np.sqrt(schedule.alpha[t])


@mean.mistake("does not undo the shrinking")
def _not_stretched(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """A step forwards multiplies by sqrt(alpha_t), so a step backwards divides by it."""
    return np.sqrt(schedule.alpha[t]) * _mean_by_minidiff(schedule, xt, t, eps)


@mean.mistake("divides by sqrt(abar_t) instead of sqrt(alpha_t)")
def _all_the_way(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """abar_t is the shrinking of all the steps since x_0. One step is undone here (4.10)."""
    root = np.sqrt(schedule.alpha[t] / schedule.abar[t])
    return root * _mean_by_minidiff(schedule, xt, t, eps)


@mean.mistake("returns the predicted x_0")
def _x0_instead(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """That is the way back to the beginning at once. The mean of a step is c_0 times this plus
    c_t x_t (4.5).
    """
    abar = schedule.abar[t]
    return (xt - np.sqrt(1 - abar) * eps) / np.sqrt(abar)


@mean.mistake("uses one sqrt(1 - abar) for all t")
def _no_index(schedule: Schedule, xt: Any, t: int, eps: Any) -> Any:
    """Every step has an abar_t of its own; some printed versions lost the index."""
    beta, alpha, abar = schedule.beta[t], schedule.alpha[t], schedule.abar[-1]
    return (xt - beta / np.sqrt(1 - abar) * eps) / np.sqrt(alpha)


EXERCISES = {"4.1": posterior, "4.2": jump, "4.3": mean}
