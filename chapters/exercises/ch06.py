"""Exercises of chapter 6: the weight of an error, from v to the others, the loss, its floor."""

from __future__ import annotations

from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend
from minidiff.diffusion import objectives, oracle, parameterizations
from minidiff.diffusion.schedules import Schedule

# --- 6.1 the weight of an error of x_0 -----------------------------------------------------------


def _weight_by_minidiff(beta: float, abar: float, before: float, sigma2: float) -> Any:
    schedule = Schedule.from_betas([1 - before, beta])
    variance = np.array([1.0, 1.0, sigma2])
    return objectives.vlb_weight_nats(schedule, 2, target="x0", variance=variance)


def _weight_cases() -> list[Case]:
    some = [(0.5, 0.6, 0.5), (0.2, 0.5, 0.2), (0.36, 0.8, 0.25), (0.75, 0.9, 0.7)]
    return [(beta, (1 - beta) * before, before, sigma2) for beta, before, sigma2 in some]


weight = Exercise(
    arguments=("beta", "abar", "abar_before", "sigma2"),
    results=("weight",),
    reference=_weight_by_minidiff,
    cases=_weight_cases,
)


@weight.mistake("divides by 2 sigma in place of 2 sigma^2")
def _sigma_for_its_square(beta: float, abar: float, before: float, sigma2: float) -> Any:
    """The exponent of a Gaussian has the variance below the line (6.1). The argument is already a
    square: no root is taken of it.
    """
    return _weight_by_minidiff(beta, abar, before, sigma2) * np.sqrt(sigma2)


@weight.mistake("forgets the factor 1/2")
def _no_half(beta: float, abar: float, before: float, sigma2: float) -> Any:
    """It is the 2 of 2 sigma^2 in the exponent of the Gaussian."""
    return 2 * _weight_by_minidiff(beta, abar, before, sigma2)


@weight.mistake("has abar_t where abar_{t-1} belongs")
def _same_index(beta: float, abar: float, before: float, sigma2: float) -> Any:
    """c_0 holds sqrt(abar_{t-1}): the posterior is about x_{t-1}, and it is this time at which x_0
    counts (4.5).
    """
    return _weight_by_minidiff(beta, abar, before, sigma2) * abar / before


@weight.mistake("does not square the coefficient of x_0")
def _not_squared(beta: float, abar: float, before: float, sigma2: float) -> Any:
    """The means differ by c_0 (x_0 - x0_hat), and it is the *square* of that which counts."""
    return np.sqrt(before) * beta / (1 - abar) / (2 * sigma2)


@weight.mistake("gives the weight of an error of eps")
def _of_eps(beta: float, abar: float, before: float, sigma2: float) -> Any:
    """That is (6.4). An error of x_0 is larger by sqrt((1 - abar) / abar), so it counts for less:
    the weights differ by the factor SNR(t).
    """
    return _weight_by_minidiff(beta, abar, before, sigma2) * (1 - abar) / abar


@weight.mistake("always has sigma^2 = beta-tilde")
def _snr_difference(beta: float, abar: float, before: float, sigma2: float) -> Any:
    """(SNR(t-1) - SNR(t)) / 2 is right for that variance only (6.3)."""
    return (before / (1 - before) - abar / (1 - abar)) / 2


# --- 6.2 from v to the others --------------------------------------------------------------------


def _from_v_by_minidiff(abar: float, xt: Any, v: Any) -> Any:
    schedule = Schedule.from_betas([1 - abar])
    xt, v = backend.asarray(xt), backend.asarray(v)
    return tuple(
        backend.to_numpy(f(schedule, xt, 1, v))
        for f in (parameterizations.x0_from_v, parameterizations.eps_from_v)
    )


def _v_cases() -> list[Case]:
    return [
        (0.36, np.array([2.0]), np.array([3.0])),
        (0.64, np.array([-2.0, 3.0]), np.array([4.0, 2.0])),
        (0.1, np.array([3.0, 5.0, -2.0]), np.array([-3.0, 2.0, 4.0])),
    ]


from_v = Exercise(
    arguments=("abar", "xt", "v"),
    results=("x0", "eps"),
    reference=_from_v_by_minidiff,
    cases=_v_cases,
)


@from_v.mistake("turns the wrong way")
def _forwards(abar: float, xt: Any, v: Any) -> Any:
    """v points from the image to the noise, so noise is reached by *adding* it and the image by
    subtracting it: x_0 = sqrt(abar) x_t - sqrt(1 - abar) v (6.6).
    """
    return _from_v_by_minidiff(abar, xt, -v)


@from_v.mistake("swaps x_0 and eps")
def _swapped(abar: float, xt: Any, v: Any) -> Any:
    """Think of a time with hardly any noise, abar = 1: there x_t is x_0, and v is eps."""
    return _from_v_by_minidiff(abar, xt, v)[::-1]


@from_v.mistake("forgets the roots")
def _no_roots(abar: float, xt: Any, v: Any) -> Any:
    """abar and 1 - abar are shares of the variance; cosine and sine are their roots."""
    return abar * xt - (1 - abar) * v, (1 - abar) * xt + abar * v


@from_v.mistake("takes v for eps")
def _v_is_eps(abar: float, xt: Any, v: Any) -> Any:
    """x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar) is right for eps. v is another quantity: it is
    eps only where there is no noise at all.
    """
    return (xt - np.sqrt(1 - abar) * v) / np.sqrt(abar), v


@from_v.mistake("has v = sqrt(abar) x_0 - sqrt(1 - abar) eps")
def _other_v(abar: float, xt: Any, v: Any) -> Any:
    """Then (x_t, v) would not be a rotation of (x_0, eps): both would have x_0 with the same sign.
    The definition is sqrt(abar) eps - sqrt(1 - abar) x_0 (6.5).
    """
    # from x_t = c x0 + s eps and v = c x0 - s eps
    return (xt + v) / (2 * np.sqrt(abar)), (xt - v) / (2 * np.sqrt(1 - abar))


# --- 6.3 the loss --------------------------------------------------------------------------------


class _Model:
    """A model that can be printed."""

    def __init__(self, slope: float, per_step: float) -> None:
        self.slope, self.per_step = slope, per_step

    def __str__(self) -> str:
        return f"model(xt, t) = {self.slope:g} xt + {self.per_step:g} t"

    def __call__(self, xt: Any, t: Any) -> Any:
        return self.slope * xt + self.per_step * np.asarray(t)[:, None]


def _loss_by_minidiff(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    def on_device(xt: Any, t: Any) -> Any:
        return backend.asarray(model(backend.to_numpy(xt), t))

    x0, eps = backend.asarray(x0), backend.asarray(eps)
    return objectives.simple(on_device, schedule, x0, t, eps).item()


def _loss_cases() -> list[Case]:
    schedule = Schedule.from_betas([0.2, 0.36, 0.5])
    two = (
        np.array([[2.0, -3.0], [3.0, 4.0]]),
        np.array([2, 3]),
        np.array([[-2.0, 2.0], [3.0, -2.0]]),
    )
    one = tuple(a[:1] for a in two)
    return [
        (schedule, _Model(*numbers), *batch)
        for numbers in ((0, 0), (0.5, 2))
        for batch in (one, two)
    ]


loss = Exercise(
    arguments=("schedule", "model", "x0", "t", "eps"),
    results=("loss",),
    reference=_loss_by_minidiff,
    cases=_loss_cases,
)


def _loss_with(
    schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any, *, signal: Any, noise: Any
) -> Any:
    return np.mean((eps - model(signal[:, None] * x0 + noise[:, None] * eps, t)) ** 2)


@loss.mistake("uses alpha_t where abar_t is meant")
def _alpha(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """That makes one step from x_0, whatever t is. The jump to t has the product of all alphas up
    to t, abar_t (3.5).
    """
    signal, noise = np.sqrt(schedule.alpha[t]), np.sqrt(schedule.beta[t])
    return _loss_with(schedule, model, x0, t, eps, signal=signal, noise=noise)


@loss.mistake("forgets the roots in the jump")
def _no_roots_in_the_jump(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """abar_t is a share of the variance. Numbers are multiplied by roots of variances."""
    abar = schedule.abar[t]
    return _loss_with(schedule, model, x0, t, eps, signal=abar, noise=1 - abar)


@loss.mistake("uses the first time for the whole batch")
def _one_time(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """Each image is noised to a time of its own, and the network is told which. With one t for all,
    a batch says nothing about the other times, and the gradient jumps from batch to batch.
    """
    return _loss_by_minidiff(schedule, model, x0, np.full_like(t, t[0]), eps)


@loss.mistake("compares the prediction with x_0")
def _target_x0(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """The network of (6.8) predicts the noise. One that predicts x_0 is possible too, but that
    is another loss: the errors differ by a factor that depends on t.
    """
    signal, noise = np.sqrt(schedule.abar[t]), np.sqrt(1 - schedule.abar[t])
    xt = signal[:, None] * x0 + noise[:, None] * eps
    return np.mean((x0 - model(xt, t)) ** 2)


@loss.mistake("shows the network the clean image")
def _clean(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """The network sees x_t only. From x_0 nobody can tell which noise will be added."""
    return np.mean((eps - model(x0, t)) ** 2)


@loss.mistake("asks the network at t - 1")
def _one_off(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """x_t has the noise of time t, and t is what the network is told, in training and in sampling.
    Programs that count from 0 in one place and from 1 in the other do this; the pictures hide it.
    """
    abar = schedule.abar[t]
    xt = np.sqrt(abar)[:, None] * x0 + np.sqrt(1 - abar)[:, None] * eps
    return np.mean((eps - model(xt, t - 1)) ** 2)


@loss.mistake("adds the squares and does not average")
def _sum(schedule: Schedule, model: Any, x0: Any, t: Any, eps: Any) -> Any:
    """Then the size of the gradient depends on the batch and on the number of pixels, and no
    learning rate can be taken over from elsewhere.
    """
    return _loss_by_minidiff(schedule, model, x0, t, eps) * x0.size


# --- 6.4 the floor -------------------------------------------------------------------------------


def _floor_by_minidiff(abar: float, m: float, v: float) -> Any:
    data, schedule = oracle.Gaussian([m], [[v]]), Schedule.from_betas([1 - abar])
    return oracle.optimal_loss(data, schedule, 1, 2, rng=np.random.default_rng(0))[0]


floor = Exercise(
    arguments=("abar", "m", "v"),
    results=("floor",),
    reference=_floor_by_minidiff,
    cases=lambda: [(0.5, 0.0, 1.0), (0.25, 0.0, 4.0), (0.36, 2.0, 0.5), (0.9, -3.0, 0.01)],
)


@floor.mistake("believes that a perfect model reaches 0")
def _zero(abar: float, m: float, v: float) -> Any:
    """Different pairs of image and noise give the same x_t, and nobody can tell them apart. Only
    if the data are a single point, v = 0, the noise can be known.
    """
    return 0.0


@floor.mistake("gives what is known of eps, not what is left open")
def _known(abar: float, m: float, v: float) -> Any:
    """E[eps*^2], the variance of the best prediction, is the part that can be told from x_t. The
    floor is 1 minus that (6.12). Think of abar near 0: x_t is noise, so eps is known, and the
    floor is 0.
    """
    return (1 - abar) / (abar * v + 1 - abar)


@floor.mistake("gives the error of x_0")
def _of_x0(abar: float, m: float, v: float) -> Any:
    """Var(x_0 | x_t) is v (1 - abar) / Var(x_t). An error of eps is sqrt(abar / (1 - abar)) times
    as large as that of x_0.
    """
    return v * (1 - abar) / (abar * v + 1 - abar)


@floor.mistake("has abar, whatever the variance of the data")
def _unit_variance(abar: float, m: float, v: float) -> Any:
    """That is right for v = 1. Data that are narrower let the noise show through more clearly."""
    return abar


@floor.mistake("counts the mean of the data as uncertainty")
def _with_the_mean(abar: float, m: float, v: float) -> Any:
    """The mean is known, and the best model takes it off before it looks. Only the spread v hides
    the noise.
    """
    square = m**2 + v
    return abar * square / (abar * square + 1 - abar)


EXERCISES = {"6.1": weight, "6.2": from_v, "6.3": loss, "6.4": floor}
