"""Exercises of chapter 11: the adapter to sigma, a Runge-Kutta step, the history of slopes."""

from __future__ import annotations

from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise
from exercises.ch10 import with_mutant

from minidiff import backend
from minidiff.diffusion.samplers.plms import WEIGHTS, multistep
from minidiff.diffusion.samplers.rk2 import step as rk2_step
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sigma import sigma_denoiser

# --- 11.1 the adapter ----------------------------------------------------------------------------


class _Network:
    """Some function of x_t and t that is no multiple of x_t."""

    def __call__(self, xt: Any, t: Any) -> Any:
        return xt * xt / 4 + int(np.ravel(t)[0])

    def __str__(self) -> str:
        return "eps(xt, t) = xt**2 / 4 + t"


_LEVELS = Schedule.from_sigmas([0.75, 4 / 3, 2.4])  # sqrt(1 + sigma^2) is 5/4, 5/3, 13/5


def _adapter_by_minidiff(eps: Any, x: Any, sigma: float, t: int) -> Any:
    D = sigma_denoiser(eps, _LEVELS)
    return backend.to_numpy(D(backend.asarray(x), sigma))


adapter = Exercise(
    arguments=("eps", "x", "sigma", "t"),
    results=("D",),
    reference=_adapter_by_minidiff,
    cases=lambda: [
        (_Network(), np.array(x), float(_LEVELS.sigma[t]), t)
        for x in ([3.0], [-2.0, 5.0])
        for t in (1, 2, 3)
    ],
    mistakes=[with_mutant("network-sees-the-unscaled-image", _adapter_by_minidiff)],
)


@adapter.mistake("multiplies by sqrt(1 + sigma^2) before it asks")
def _times(eps: Any, x: Any, sigma: float, t: int) -> Any:
    """x is the image with noise of size sigma on it, too bright for the network. It is *divided*:
    sqrt(abar_t) = 1 / sqrt(1 + sigma^2).
    """
    return x - sigma * eps(x * np.sqrt(1 + sigma**2), t)


@adapter.mistake("forgets the root")
def _no_root(eps: Any, x: Any, sigma: float, t: int) -> Any:
    """1 + sigma^2 = 1 / abar_t is a variance; x_t = sqrt(abar_t) x."""
    return x - sigma * eps(x / (1 + sigma**2), t)


@adapter.mistake("takes the noise off the scaled image")
def _scaled_too_long(eps: Any, x: Any, sigma: float, t: int) -> Any:
    """The scaled image is for the eyes of the network only. D = x - sigma eps, with the x in which
    the image stands still.
    """
    xt = x / np.sqrt(1 + sigma**2)
    return xt - sigma * eps(xt, t)


@adapter.mistake("adds the noise")
def _plus(eps: Any, x: Any, sigma: float, t: int) -> Any:
    """x = x_0 + sigma n, so x_0 = x - sigma n."""
    return 2 * x - _adapter_by_minidiff(eps, x, sigma, t)


@adapter.mistake("takes off noise of size 1")
def _no_sigma(eps: Any, x: Any, sigma: float, t: int) -> Any:
    """eps is standard normal. The noise in x is sigma times as large."""
    return x - (x - _adapter_by_minidiff(eps, x, sigma, t)) / sigma


# --- 11.2 a step of Runge-Kutta ------------------------------------------------------------------


class _Guess:
    """A D that is not linear in sigma, and that refuses the level 0."""

    def __call__(self, x: Any, sigma: float) -> Any:
        if not sigma > 0:
            raise ValueError("D was asked at sigma = 0, where there is no noise")
        return (x + sigma**2) / (1 + sigma**2)

    def __str__(self) -> str:
        return "D(x, sigma) = (x + sigma**2) / (1 + sigma**2), for sigma > 0"


def _steps() -> list[Case]:
    places = ((2.0, 1.0), (3.0, 2.0), (2.0, 0.0), (1.0, 0.0))
    return [
        (_Guess(), np.array([x]), sigma, lower, alpha)
        for alpha in (2 / 3, 0.5, 1.0, 0.8)
        for sigma, lower in places
        for x in (3.0, -2.0)
    ]


def _step_by_minidiff(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    return backend.to_numpy(rk2_step(D, backend.asarray(x), sigma, lower, alpha)[0])


def _slopes(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> tuple[Any, Any, float]:
    """(d, d', h); d' is d where it cannot be had."""
    h = lower - sigma
    between = lower if alpha == 1 else sigma + alpha * h
    d = (x - D(x, sigma)) / sigma
    if between == 0:
        return d, d, h
    ahead = x + (between - sigma) * d
    return d, (ahead - D(ahead, between)) / between, h


step = Exercise(
    arguments=("D", "x", "sigma", "lower", "alpha"),
    results=("x_new",),
    reference=_step_by_minidiff,
    cases=_steps,
    mistakes=[with_mutant("weights-of-heun-for-all", _step_by_minidiff)],
)


@step.mistake("exchanges the weights of the two slopes")
def _exchanged(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    """The second slope is the one that knows the curvature: its weight is 1 / (2 alpha), and the
    first has the rest (11.6).
    """
    d, there, h = _slopes(D, x, sigma, lower, alpha)
    w = 1 / (2 * alpha)
    return x + h * (w * d + (1 - w) * there)


@step.mistake("asks at the level in between, but for the old x")
def _did_not_move(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    """d' is the slope at the place to which the first slope leads, x + alpha h d. Both arguments of
    f move, else the term f_x f of the curvature is missing.
    """
    d, _, h = _slopes(D, x, sigma, lower, alpha)
    between = lower if alpha == 1 else sigma + alpha * h
    there = d if between == 0 else (x - D(x, between)) / between
    w = 1 / (2 * alpha)
    return x + h * ((1 - w) * d + w * there)


@step.mistake("has no exception at sigma = 0")
def _no_fallback(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    """For alpha = 1 and lower = 0 the second slope would be asked at the level 0, where it is
    (x - D) / sigma = 0 / 0. This one step is Euler's: its result is D(x, sigma).
    """
    if alpha == 1 and lower == 0:
        D(x, 0.0)
    return _step_by_minidiff(D, x, sigma, lower, alpha)


@step.mistake("goes in the wrong direction")
def _upwards(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    """h = lower - sigma is negative: the noise shrinks."""
    d, there, h = _slopes(D, x, sigma, lower, alpha)
    w = 1 / (2 * alpha)
    return x - h * ((1 - w) * d + w * there)


@step.mistake("is Euler's method")
def _euler(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    """One slope, and first order. Ask a second time, a share alpha of the way on."""
    d, _, h = _slopes(D, x, sigma, lower, alpha)
    return x + h * d


@step.mistake("makes its final step from the place in between")
def _from_between(D: Any, x: Any, sigma: float, lower: float, alpha: float) -> Any:
    """The place in between was only visited to look. The step starts again at x."""
    d, there, h = _slopes(D, x, sigma, lower, alpha)
    between = lower if alpha == 1 else sigma + alpha * h
    w = 1 / (2 * alpha)
    start = x if between == 0 else x + alpha * h * d
    return start + h * ((1 - w) * d + w * there)


# --- 11.3 the history ----------------------------------------------------------------------------


class _History(list):  # type: ignore[type-arg]
    """Arrays, the newest last."""

    def __str__(self) -> str:
        return str([np.asarray(a).tolist() for a in self])


def _histories() -> list[Case]:
    values = [3.0, 5.0, -2.0, 7.0, 4.0, -6.0]
    return [(_History(np.array([v]) for v in values[:k]),) for k in (4, 2, 3, 1, 5, 6)]


def _multistep_by_minidiff(history: Any) -> Any:
    return backend.to_numpy(multistep([backend.asarray(a) for a in history]))


def _mixed(weights: Any, slopes: Any) -> Any:
    return sum(w * a for w, a in zip(weights, slopes, strict=False))


history = Exercise(
    arguments=("history",),
    results=("slope",),
    reference=_multistep_by_minidiff,
    cases=_histories,
    mistakes=[with_mutant("history-from-the-wrong-end", _multistep_by_minidiff)],
)


@history.mistake("averages the last four")
def _average(history: Any) -> Any:
    """An average describes the middle of the past. The step ahead lies beyond the newest slope: the
    polynomial has to be extended, and so some of the weights are negative (11.7).
    """
    last = history[-4:]
    return sum(last) / len(last)


@history.mistake("uses the newest slope alone")
def _newest(history: Any) -> Any:
    """That is Euler's method (with one slope it is all that one can do)."""
    return history[-1]


@history.mistake("stops at two slopes")
def _two(history: Any) -> Any:
    """With three and four slopes there are formulas of higher order (11.7)."""
    last = history[-2:]
    return _mixed(WEIGHTS[len(last) - 1], last[::-1])


@history.mistake("uses the first four of the history, not the last four")
def _first_four(history: Any) -> Any:
    """A list grows at its end: history[-4:] are the newest. history[:4] never change again."""
    first = history[:4]
    return _mixed(WEIGHTS[len(first) - 1], first[::-1])


@history.mistake("waits for four slopes, and takes Euler steps until then")
def _waits(history: Any) -> Any:
    """The first steps are then of first order, and their errors stay. With two and three slopes
    there are formulas too: (3, -1) / 2 and (23, -16, 5) / 12.
    """
    return history[-1] if len(history) < 4 else _multistep_by_minidiff(history)


EXERCISES = {"11.1": adapter, "11.2": step, "11.3": history}
