"""Exercises of chapter 8: a noisy batch, milestones, the average of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend, nn, optim
from minidiff.diffusion import process
from minidiff.diffusion.schedules import Schedule

# --- 8.1 a noisy batch -------------------------------------------------------------------------

_SCHEDULES = (
    Schedule.from_betas([0.2, 0.5]),
    Schedule.from_betas([0.36, 0.75, 0.19]),
    Schedule.from_betas([0.1, 0.2, 0.4, 0.6, 0.3]),
)


def _batches() -> list[Case]:
    rng = np.random.default_rng(81)
    draws = ([0.9], [0.95, 0.1], [0.05, 0.5, 0.97, 0.9])
    return [
        (
            schedule,
            rng.choice([-3.0, -2.0, 2.0], (len(u), d)),
            np.array(u),
            rng.choice([-2.0, 3.0, 4.0], (len(u), d)),
        )
        for schedule in _SCHEDULES
        for u, d in zip(draws, (1, 2, 3), strict=True)
    ]


def _noisy(schedule: Schedule, x0: Any, t: Any, eps: Any) -> Any:
    x0, eps = backend.asarray(x0), backend.asarray(eps)
    return t, backend.to_numpy(process.q_sample(schedule, x0, t, eps))


def _times(schedule: Schedule, u: Any) -> Any:
    return 1 + np.floor(schedule.T * u).astype(np.int64)


batch = Exercise(
    arguments=("schedule", "x0", "u", "eps"),
    results=("t", "xt"),
    reference=lambda schedule, x0, u, eps: _noisy(schedule, x0, _times(schedule, u), eps),
    cases=_batches,
)


@batch.mistake("uses one time for the whole batch")
def _one_time(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """Right on average, but each batch then learns about a single t. Every image has a t of its
    own: one for each element of u.
    """
    return _noisy(schedule, x0, np.full(len(u), _times(schedule, u)[0]), eps)


@batch.mistake("draws times from 0 to T - 1")
def _from_zero(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """At t = 0 there is no noise to predict, and T, where every sample begins, is never seen. The
    times are 1, ..., T.
    """
    t = _times(schedule, u) - 1
    signal, noise = np.sqrt(schedule.abar[t]), np.sqrt(1 - schedule.abar[t])
    return t, signal[:, None] * x0 + noise[:, None] * eps


@batch.mistake("never draws the last time")
def _without_last(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """The upper end was left out: with T - 1 times instead of T the network never sees t = T, and
    there every sample begins.
    """
    return _noisy(schedule, x0, 1 + np.floor((schedule.T - 1) * u).astype(np.int64), eps)


@batch.mistake("rounds, so that the times are not equally likely")
def _rounded(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """Rounding 1 + (T - 1) u gives the times 1 and T half of the share of the others. Cut [0, 1)
    into T equal pieces: 1 + floor(T u).
    """
    return _noisy(schedule, x0, 1 + np.round((schedule.T - 1) * u).astype(np.int64), eps)


@batch.mistake("gives the same noise to all images")
def _one_noise(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """Then the images of a batch are not independent, and a network can tell the noise from what
    they have in common. eps has a row for each image.
    """
    return _noisy(schedule, x0, _times(schedule, u), np.repeat(eps[:1], len(x0), axis=0))


@batch.mistake("multiplies by abar and 1 - abar, without the roots")
def _no_roots(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """abar_t and 1 - abar_t are shares of the variance. What multiplies x_0 and eps are their
    roots.
    """
    t = _times(schedule, u)
    abar = schedule.abar[t][:, None]
    return t, abar * x0 + (1 - abar) * eps


@batch.mistake("uses alpha_t for abar_t")
def _alpha(schedule: Schedule, x0: Any, u: Any, eps: Any) -> Any:
    """alpha_t is what one step keeps. The jump from 0 to t keeps the product of all of them."""
    t = _times(schedule, u)
    alpha = schedule.alpha[t][:, None]
    return t, np.sqrt(alpha) * x0 + np.sqrt(1 - alpha) * eps


# --- 8.2 milestones ----------------------------------------------------------------------------


def _epochs() -> list[Case]:
    return [
        (epoch, lr, milestones, gamma)
        for lr, milestones, gamma in (
            (4.0, (), 0.5),
            (4.0, (2,), 0.5),
            (2e5, (20, 40), 0.5),
            (3.0, (3, 5, 6), 0.1),
        )
        for epoch in (0, 1, 2, 3, 4, 5, 6, 19, 20, 39, 40, 59)
    ]


def _multi_step(epoch: int, lr: float, milestones: Any, gamma: float) -> float:
    return lr * gamma ** int(np.searchsorted(np.array(milestones), epoch, side="right"))


milestones = Exercise(
    arguments=("epoch", "lr", "milestones", "gamma"),
    results=("learning_rate",),
    reference=_multi_step,
    cases=_epochs,
)


@milestones.mistake("changes one epoch late")
def _late(epoch: int, lr: float, milestones: Any, gamma: float) -> float:
    """At the milestone itself the new rate holds already: e_i <= e in (8.5)."""
    return lr * gamma ** sum(m < epoch for m in milestones)


@milestones.mistake("changes once and for all, whatever number of milestones has passed")
def _once(epoch: int, lr: float, milestones: Any, gamma: float) -> float:
    """Every milestone multiplies by gamma once more."""
    return lr * gamma if any(m <= epoch for m in milestones) else lr


@milestones.mistake("multiplies at the milestones only, and goes back afterwards")
def _only_there(epoch: int, lr: float, milestones: Any, gamma: float) -> float:
    """A milestone changes the rate from there on, not in one epoch."""
    return lr * gamma if epoch in milestones else lr


@milestones.mistake("multiplies in every epoch")
def _always(epoch: int, lr: float, milestones: Any, gamma: float) -> float:
    """The rate stays as it is between milestones: the exponent counts milestones, not epochs."""
    return lr * gamma**epoch


@milestones.mistake("divides by the number of milestones that have passed")
def _divided(epoch: int, lr: float, milestones: Any, gamma: float) -> float:
    """With gamma = 1/2 that is right for the first and wrong from the second on: after two of
    them gamma^2 = 1/4, not 1/3.
    """
    return lr / (1 + sum(m <= epoch for m in milestones))


# --- 8.3 the average of the weights ------------------------------------------------------------


def _histories() -> list[Case]:
    rng = np.random.default_rng(83)
    return [
        (rng.choice([-3.0, 2.0, 5.0], (n + 1, p)), decay)
        for n, p, decay in ((1, 1, 0.9), (2, 1, 0.05), (3, 2, 0.2), (12, 2, 0.99), (15, 1, 0.5))
    ]


class _Weights(nn.Module):
    def __init__(self, values: Any) -> None:
        self.theta = nn.Parameter(values)


def _ema(weights: Any, decay: float, *, warmup: bool = True) -> Any:
    flat = _Weights(weights[0]).flatten()
    ema = optim.EMA(flat, decay, warmup=warmup)
    for w in weights[1:]:
        flat.data[...] = backend.asarray(w)
        ema.update()
    return backend.to_numpy(ema.data)


average = Exercise(
    arguments=("weights", "decay"), results=("average",), reference=_ema, cases=_histories
)


def _with_decays(weights: Any, decays: Any, start: Any) -> Any:
    for w, d in zip(weights[1:], decays, strict=True):
        start = d * start + (1 - d) * w
    return start


def _warm(weights: Any, decay: float, shift: int = 0) -> Any:
    k = np.arange(len(weights) - 1) + shift
    return np.minimum(decay, (1 + k) / (10 + k))


@average.mistake("has no warm-up")
def _cold(weights: Any, decay: float) -> Any:
    """With a decay of 0.9999 nine tenths of the average are the random start, even after 1000
    updates. Update k uses min(decay, (1 + k) / (10 + k)).
    """
    return _ema(weights, decay, warmup=False)


@average.mistake("counts the updates from 1")
def _from_one(weights: Any, decay: float) -> Any:
    """The first update is k = 0, with the decay 1 / 10."""
    return _with_decays(weights, _warm(weights, decay, shift=1), weights[0])


@average.mistake("takes the larger of the two decays")
def _larger(weights: Any, decay: float) -> Any:
    """The warm-up makes early averages *shorter*: the smaller decay counts."""
    k = np.arange(len(weights) - 1)
    return _with_decays(weights, np.maximum(decay, (1 + k) / (10 + k)), weights[0])


@average.mistake("gives the decay to the new weights")
def _swapped(weights: Any, decay: float) -> Any:
    """d is the share that the old average keeps; the new weights get 1 - d."""
    return _with_decays(weights, 1 - _warm(weights, decay), weights[0])


@average.mistake("starts from zero")
def _from_zeros(weights: Any, decay: float) -> Any:
    """Adam's averages start at zero, and are corrected for it. This one starts from the first
    weights.
    """
    return _with_decays(weights, _warm(weights, decay), 0 * weights[0])


@average.mistake("takes the plain mean")
def _mean(weights: Any, decay: float) -> Any:
    """Old weights are worse than new ones: their share has to fall, by the factor d at each
    update (8.6).
    """
    return weights.mean(axis=0)


EXERCISES = {"8.1": batch, "8.2": milestones, "8.3": average}
