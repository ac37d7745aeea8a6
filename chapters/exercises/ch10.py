"""Exercises of chapter 10: the numbers of a DDIM step, the step, and a step up to the noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise, Mistake

from minidiff import backend
from minidiff.diffusion import parameterizations, process
from minidiff.diffusion.samplers import ddim
from minidiff.diffusion.samplers.ddim import coefficients
from minidiff.diffusion.schedules import Schedule
from tests.mutants.collection import BY_ID

_SCHEDULES = (
    Schedule.from_betas([0.2, 0.5]),
    Schedule.from_betas([0.36, 0.75, 0.19]),
)
_JUMPS = [(k, s, t) for k in _SCHEDULES for t in range(k.T, 0, -1) for s in range(t)]


def with_mutant(id: str, f: Callable[..., Any]) -> Mistake:
    """The mistake of calling `f` while the package has the mutant `id`."""
    mutant = BY_ID[id]

    def wrong(*case: Any) -> Any:
        with mutant.applied():
            return f(*case)

    wrong.__doc__ = mutant.misconception
    return Mistake(mutant.name, wrong)


# --- 10.1 the three numbers of a step ----------------------------------------------------------


def _numbers() -> list[Case]:
    return [(k, s, t, eta) for k, s, t in _JUMPS for eta in (0.5, 0.0)]


numbers = Exercise(
    arguments=("schedule", "s", "t", "eta"),
    results=("c_0", "c_eps", "sigma"),
    reference=coefficients,
    cases=_numbers,
    mistakes=[
        with_mutant(id, coefficients)
        for id in (
            "eta-not-squared",
            "eta-times-the-variance",
            "beta-in-a-ddim-jump",
            "every-index-is-t",
            "last-abar-is-abar-1",
        )
    ],
)


@numbers.mistake("leaves no room for the fresh noise")
def _no_room(schedule: Schedule, s: int, t: int, eta: float) -> Any:
    """The old noise and the fresh one together have the variance 1 - abar_s. What z gets, eps must
    give up: sqrt(1 - abar_s - sigma^2) (10.3).
    """
    image, _, sigma = coefficients(schedule, s, t, eta)
    return image, np.sqrt(1 - schedule.abar[s]), sigma


@numbers.mistake("forgets the roots of the signal and of the old noise")
def _no_roots(schedule: Schedule, s: int, t: int, eta: float) -> Any:
    """abar_s and 1 - abar_s - sigma^2 are variances; an image is multiplied by their roots."""
    image, old, sigma = coefficients(schedule, s, t, eta)
    return image**2, old**2, sigma


# --- 10.2 the step -----------------------------------------------------------------------------


class _Draws:
    """A generator that draws z in the first step and zeros afterwards."""

    def __init__(self, z: Any) -> None:
        self.z = z

    def standard_normal(self, shape: Any, dtype: Any = None) -> Any:
        z, self.z = self.z.copy(), 0 * self.z
        return z


def _step_by_minidiff(
    schedule: Schedule, xt: Any, t: int, s: int, eps: Any, eta: float, z: Any
) -> Any:
    xt, eps, z = (backend.asarray(a[:, None]) for a in (xt, eps, z))
    times = [t, s, 0] if s else [t, 0]
    states = ddim(lambda x, t: eps, schedule, xt, rng=_Draws(z), steps=times, eta=eta)
    return backend.to_numpy(list(states)[1].x)[:, 0]


def _from(mix: Callable[..., Any]) -> Callable[..., Any]:
    """A step from its three numbers: mix(schedule, s, t, eta) -> (c_0, c_eps, sigma)."""

    def step(schedule: Schedule, xt: Any, t: int, s: int, eps: Any, eta: float, z: Any) -> Any:
        image, old, sigma = mix(schedule, s, t, eta)
        x0 = backend.to_numpy(
            parameterizations.x0_from_eps(schedule, backend.asarray(xt), t, backend.asarray(eps))
        )
        return image * x0 + old * eps + sigma * z

    return step


def _steps() -> list[Case]:
    rng = np.random.default_rng(102)

    def draw() -> Any:
        return rng.choice([-3.0, -2.0, 2.0, 4.0], 1)

    return [(k, draw(), t, s, draw(), eta, draw()) for k, s, t in _JUMPS for eta in (0.5, 0.0)]


step = Exercise(
    arguments=("schedule", "xt", "t", "s", "eps", "eta", "z"),
    results=("xs",),
    reference=_step_by_minidiff,
    cases=_steps,
    mistakes=[
        with_mutant(id, _step_by_minidiff)
        for id in (
            "minus-the-direction",
            "eta-not-squared",
            "eta-times-the-variance",
            "beta-in-a-ddim-jump",
            "last-abar-is-abar-1",
        )
    ],
)


@step.mistake("forgets to put the noise back")
def _bare_x0(*case: Any) -> Any:
    """The step goes to x_s, not to the end. On the guess of the image belongs the noise of the time
    s: sqrt(1 - abar_s - sigma^2) eps + sigma z (10.3).
    """
    return _from(lambda k, s, t, eta: (k.abar[s] ** 0.5, 0.0, 0.0))(*case)


@step.mistake("leaves no room for the fresh noise")
def _no_room_in_step(*case: Any) -> Any:
    """The old noise and the fresh one together have the variance 1 - abar_s. What z gets, eps must
    give up: sqrt(1 - abar_s - sigma^2) (10.3).
    """
    return _from(_no_room)(*case)


@step.mistake("adds the noise again when it guesses x_0")
def _guess_with_plus(
    schedule: Schedule, xt: Any, t: int, s: int, eps: Any, eta: float, z: Any
) -> Any:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, so x_0 is what remains when the noise is taken
    off: (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t).
    """
    image, old, sigma = coefficients(schedule, s, t, eta)
    abar = schedule.abar[t]
    x0 = (xt + np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    return image * x0 + old * eps + sigma * z


# --- 10.3 one step up --------------------------------------------------------------------------


def _ups() -> list[Case]:
    rng = np.random.default_rng(103)
    return [
        (k, rng.choice([-3.0, -2.0, 2.0, 3.0], n), s, t, rng.choice([-3.0, 2.0, 4.0], n))
        for n in (1, 2)
        for k, s, t in _JUMPS
    ]


def _up_by_minidiff(schedule: Schedule, xs: Any, s: int, t: int, eps: Any) -> Any:
    xs, eps = backend.asarray(xs), backend.asarray(eps)
    x0 = parameterizations.x0_from_eps(schedule, xs, s, eps) if s else xs
    return backend.to_numpy(process.q_sample(schedule, x0, t, eps))


up = Exercise(
    arguments=("schedule", "xs", "s", "t", "eps"),
    results=("xt",),
    reference=_up_by_minidiff,
    cases=_ups,
)


@up.mistake("guesses x_0 with the levels of t")
def _levels_of_t(schedule: Schedule, xs: Any, s: int, t: int, eps: Any) -> Any:
    """What you have in your hands is x_s. Its noise has the size sqrt(1 - abar_s), and so much of
    it is taken off.
    """
    abar = schedule.abar[t]
    x0 = (xs - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    return np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps


@up.mistake("adds fresh noise of a forward step")
def _forward(schedule: Schedule, xs: Any, s: int, t: int, eps: Any) -> Any:
    """sqrt(a) x_s + sqrt(1 - a) eps is the step of chapter 3, which adds a *new* noise to the one
    that is in x_s. Here eps is that old noise. Noises that are the same do not add like variances:
    take it off, and put it back in its new size (10.9).
    """
    a = schedule.abar[t] / schedule.abar[s]
    return np.sqrt(a) * xs + np.sqrt(1 - a) * eps


@up.mistake("puts back the noise of s")
def _noise_of_s(schedule: Schedule, xs: Any, s: int, t: int, eps: Any) -> Any:
    """The step goes up: at t there is more noise than at s, sqrt(1 - abar_t) of it."""
    less = np.sqrt(1 - schedule.abar[s]) - np.sqrt(1 - schedule.abar[t])
    return _up_by_minidiff(schedule, xs, s, t, eps) + less * eps


@up.mistake("does not shrink the image")
def _not_shrunk(schedule: Schedule, xs: Any, s: int, t: int, eps: Any) -> Any:
    """At t less is left of the image than at s: multiply by sqrt(abar_t) (10.9)."""
    more = np.sqrt(1 - schedule.abar[t]) - np.sqrt(1 - schedule.abar[s])
    return xs + more * eps


EXERCISES = {"10.1": numbers, "10.2": step, "10.3": up}
