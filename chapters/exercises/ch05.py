"""Exercises of chapter 5: the KL of two Gaussians, a bound of many draws, two terms of the ELBO."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend
from minidiff.diffusion import elbo, objectives
from minidiff.diffusion.process import posterior
from minidiff.diffusion.schedules import Schedule

# --- 5.1 the KL of two Gaussians -----------------------------------------------------------------

kl = Exercise(
    arguments=("mean", "variance", "other_mean", "other_variance"),
    results=("KL",),
    reference=elbo.kl_normal_nats,
    cases=lambda: [
        (0.0, 1.0, 0.0, 4.0),
        (2.0, 1.0, 0.0, 1.0),
        (3.0, 2.0, -1.0, 0.5),
        (-2.0, 0.25, 1.0, 3.0),
    ],
)


@kl.mistake("swaps the two distributions")
def _reversed(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """KL(q || p) is the mean of log q - log p under q, the first. Under p it is another number:
    the ratio of variances is turned round, and the means are measured in units of the wrong width.
    """
    return elbo.kl_normal_nats(other_mean, other_variance, mean, variance)


@kl.mistake("inverts the ratio in the logarithm")
def _log_inverted(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """It is r - 1 - log r with the same r = v / v' in both places (5.5). With log r added it would
    be negative for a small r, and a KL never is.
    """
    r = variance / other_variance
    return (r - 1 + np.log(r)) / 2 + (mean - other_mean) ** 2 / (2 * other_variance)


@kl.mistake("measures the means in units of the first width")
def _first_width(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """(z - m')^2 / (2 v') comes from log p, the second distribution, and keeps its v'."""
    off = (mean - other_mean) ** 2
    widths = elbo.kl_normal_nats(0.0, variance, 0.0, other_variance)
    return widths + off / (2 * variance)


@kl.mistake("leaves out the term with the variances")
def _means_only(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """Two bells at the same place but of different width are not the same distribution."""
    return (mean - other_mean) ** 2 / (2 * other_variance)


@kl.mistake("takes the variances for standard deviations")
def _squared_again(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """The arguments are v, not sigma: they are not squared again. (With sigma the logarithm has no
    factor 1/2, and the ratio a square; here it is the other way round.)
    """
    return elbo.kl_normal_nats(mean, variance**2, other_mean, other_variance**2)


@kl.mistake("forgets the factor 1/2")
def _no_half(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """The exponent of a Gaussian is -(z - m)^2 / (2 v), and its factor a square root: each brings
    a 1/2.
    """
    return 2 * elbo.kl_normal_nats(mean, variance, other_mean, other_variance)


# --- 5.2 the bound of many draws -----------------------------------------------------------------


def _log_mean_exp(log_w: Any) -> Any:
    top = log_w.max(axis=1)
    return top + np.log(np.exp(log_w - top[:, None]).mean(axis=1))


many = Exercise(
    arguments=("log_w",),
    results=("bound",),
    reference=_log_mean_exp,
    cases=lambda: [
        (np.array([[2.0, 4.0]]),),
        (np.array([[3.0, -2.0, 5.0], [2.0, 2.0, -7.0]]),),
        (np.array([[1000.0, 1002.0], [-1000.0, -1003.0]]),),
    ],
)


@many.mistake("averages the logarithms")
def _mean_of_logs(log_w: Any) -> Any:
    """That is K times one draw: the mean of L_1, whatever K is. The weights are averaged *before*
    the logarithm (5.6); that is what makes the bound better.
    """
    return log_w.mean(axis=1)


@many.mistake("adds the weights and does not divide by K")
def _sum(log_w: Any) -> Any:
    """Then the bound grows by log K for nothing, beyond log p(x): it is no bound any more."""
    return _log_mean_exp(log_w) + math.log(log_w.shape[1])


@many.mistake("overflows")
def _naive(log_w: Any) -> Any:
    """exp(1000) is infinite, and exp(-1000) is 0, so its logarithm is infinite too. Subtract the
    largest log weight of each row before exp, and add it again after log. The formula is right.
    """
    with np.errstate(all="ignore"):
        return np.log(np.exp(log_w).mean(axis=1))


@many.mistake("takes one mean over the whole batch")
def _batch(log_w: Any) -> Any:
    """Each row belongs to an image of its own, and has a bound of its own."""
    top = log_w.max()
    with np.errstate(divide="ignore"):
        return np.full(len(log_w), top + np.log(np.exp(log_w - top).mean()))


# --- 5.3 the prior term of a data set ------------------------------------------------------------


def _prior_by_minidiff(abar_T: float, m: float, v: float) -> Any:
    schedule = Schedule.from_betas([1 - abar_T])
    pair = backend.asarray(np.array([[m - math.sqrt(v)], [m + math.sqrt(v)]]))
    return backend.to_numpy(elbo.prior_nats(schedule, pair)).mean()


prior = Exercise(
    arguments=("abar_T", "m", "v"),
    results=("L_T",),
    reference=_prior_by_minidiff,
    cases=lambda: [(0.5, 0.0, 1.0), (0.25, 2.0, 3.0), (0.36, -3.0, 0.5), (0.1, 0.5, 4.0)],
)


@prior.mistake("compares the distribution of all x_T with N(0, 1)")
def _of_the_marginal(abar_T: float, m: float, v: float) -> Any:
    """Mixed over the data, x_T has variance abar v + 1 - abar, and for N(0, 1) data its KL is 0.
    But L_T is the mean of the KLs for each x_0, and that is larger: it also counts what x_T still
    tells about which x_0 it came from.
    """
    return elbo.kl_normal_nats(math.sqrt(abar_T) * m, abar_T * v + 1 - abar_T, 0.0, 1.0)


@prior.mistake("puts the mean of the data in the place of x_0")
def _at_the_mean(abar_T: float, m: float, v: float) -> Any:
    """The KL holds x_0 squared, and the mean of x_0^2 is m^2 + v, not m^2."""
    return (abar_T * (m**2 - 1) - math.log(1 - abar_T)) / 2


@prior.mistake("takes L_T for 0")
def _zero(abar_T: float, m: float, v: float) -> Any:
    """It is small for the usual schedules, because abar_T is; it is never 0 while abar_T > 0."""
    return 0.0


@prior.mistake("has log abar_T in place of log(1 - abar_T)")
def _log_of_the_signal(abar_T: float, m: float, v: float) -> Any:
    """The variance of q(x_T | x_0) is 1 - abar_T: what is noise in it."""
    return (abar_T * (m**2 + v - 1) - math.log(abar_T)) / 2


@prior.mistake("swaps the two distributions")
def _prior_reversed(abar_T: float, m: float, v: float) -> Any:
    """The mean is taken under q(x_T | x_0), the first, and p(x_T) = N(0, 1) is the second."""
    r = 1 / (1 - abar_T)
    return (r - 1 - math.log(r)) / 2 + abar_T * (m**2 + v) * r / 2


# --- 5.4 one term of the bound -------------------------------------------------------------------

_SCHEDULE = Schedule.from_betas([0.2, 0.36, 0.5, 0.75])


def _term_cases() -> list[Case]:
    one = (np.array([2.0]), np.array([-3.0]), np.array([3.0]))
    three = (
        np.array([2.0, -3.0, 0.5]), np.array([4.0, 2.0, -2.0]), np.array([-2.0, -2.0, 3.0]),
    )  # fmt: skip
    return [(_SCHEDULE, t, *arrays) for arrays in (one, three) for t in (2, 3, 4, 1)]


def _term_by_minidiff(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> Any:
    x0, xt, x0_hat = (backend.asarray(a[None]) for a in (x0, xt, x0_hat))
    eps = xt * 0  # a target of "x0" does not look at it
    term = objectives.step_nats_per_dim(schedule, x0, xt, t, eps, x0_hat, target="x0", levels=None)
    return float(term.data[0]) * x0.size


term = Exercise(
    arguments=("schedule", "t", "x0", "xt", "x0_hat"),
    results=("nats",),
    reference=_term_by_minidiff,
    cases=_term_cases,
)


def _means(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> tuple[Any, Any, float]:
    c_0, c_t, variance = posterior(schedule, t - 1, t)
    return c_0 * x0 + c_t * xt, c_0 * x0_hat + c_t * xt, variance


def _kl(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    with np.errstate(divide="ignore"):
        r = np.float64(variance) / other_variance
        return np.sum((r - 1 - np.log(r)) / 2 + (mean - other_mean) ** 2 / (2 * other_variance))


@term.mistake("treats t = 1 like every other t")
def _no_decoder(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> Any:
    """q(x_0 | x_1, x_0) is a point, its variance is 0, and the KL from a point is infinite. At
    t = 1 the bound has -log p(x_0 | x_1) in its place, the reconstruction L_0.
    """
    mean, mu, variance = _means(schedule, t, x0, xt, x0_hat)
    return _kl(mean, variance, mu, schedule.beta[t])


@term.mistake("compares x_0 with its prediction, and not the means of the step")
def _without_c_0(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> Any:
    """The two means differ by c_0 (x_0 - x0_hat), so the square has a factor c_0^2, which is small:
    one step goes only a little of the way to x_0.
    """
    if t == 1:
        return _term_by_minidiff(schedule, t, x0, xt, x0_hat)
    return _kl(x0, posterior(schedule, t - 1, t)[2], x0_hat, schedule.beta[t])


@term.mistake("leaves out what the variances cost")
def _means_of_the_step_only(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> Any:
    """The posterior has variance beta-tilde_t and the model beta_t: even with the right mean they
    differ by (r - 1 - log r) / 2 for each pixel. It does not depend on the network, but it is a
    part of the bound.
    """
    if t == 1:
        return _term_by_minidiff(schedule, t, x0, xt, x0_hat)
    mean, mu, _variance = _means(schedule, t, x0, xt, x0_hat)
    return np.sum((mean - mu) ** 2) / (2 * schedule.beta[t])


@term.mistake("swaps posterior and model")
def _term_reversed(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> Any:
    """The mean is taken under q, the posterior; it comes first in the KL, and p second."""
    if t == 1:
        return _term_by_minidiff(schedule, t, x0, xt, x0_hat)
    mean, mu, variance = _means(schedule, t, x0, xt, x0_hat)
    return _kl(mu, schedule.beta[t], mean, variance)


@term.mistake("takes the mean over the pixels")
def _per_dim(schedule: Schedule, t: int, x0: Any, xt: Any, x0_hat: Any) -> Any:
    """Nats of a whole image are asked for: log probabilities of independent pixels add up. Per
    dimension is another unit; a program should say in the name which it means.
    """
    return _term_by_minidiff(schedule, t, x0, xt, x0_hat) / x0.size


EXERCISES = {"5.1": kl, "5.2": many, "5.3": prior, "5.4": term}
