"""Exercises of chapter 9: a step of DDPM, what it generates, and five samplers under suspicion."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend
from minidiff.diffusion import exact
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers import ddpm, final
from minidiff.diffusion.samplers.ddpm import coefficients
from minidiff.diffusion.schedules import Schedule

_SCHEDULES = (
    Schedule.from_betas([0.2, 0.5]),
    Schedule.from_betas([0.36, 0.75, 0.19]),
    Schedule.from_betas([0.1, 0.2, 0.4, 0.6, 0.3]),
)

# --- 9.1 one step ------------------------------------------------------------------------------


def _steps() -> list[Case]:
    rng = np.random.default_rng(91)
    draw = rng.choice
    return [
        (
            schedule,
            draw([-3.0, 2.0, 4.0], n),
            t,
            draw([-3.0, -2.0, 2.0], n),
            draw([-2.0, 3.0, 4.0], n),
            variance,
        )
        for n, schedule in enumerate(_SCHEDULES, start=1)
        for t in (2, 1, *range(3, schedule.T + 1))
        for variance in ("posterior", "beta")
    ]


class _Given:
    """A generator that returns the noise that it was given."""

    def __init__(self, z: Any) -> None:
        self.z = z

    def standard_normal(self, shape: Any, dtype: Any = None) -> Any:
        return backend.asarray(self.z.copy())


def _step(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """The second state of minidiff's sampler, which begins at t and is told eps and z."""
    states = ddpm(
        lambda x, t: backend.asarray(eps),
        schedule,
        backend.asarray(xt)[None],
        rng=_Given(z[None]),
        steps=range(t, -1, -1),
        variance=variance,
    )
    return backend.to_numpy(next(islice(states, 1, None)).x)[0]


def _one_step(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    return _step(schedule, xt, t, eps[None], z, variance)


step = Exercise(
    arguments=("schedule", "xt", "t", "eps", "z", "variance"),
    results=("x_before",),
    reference=_one_step,
    cases=_steps,
)


def _sigma2(schedule: Schedule, t: int, variance: str) -> Any:
    """The two variances without the rule for the last step."""
    beta = schedule.beta[t]
    tilde = (1 - schedule.abar[t - 1]) / (1 - schedule.abar[t]) * beta
    return {"posterior": tilde, "beta": beta}[variance]


@step.mistake("adds noise in the last step too")
def _noise_at_the_end(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """From t = 1 the step leads to the image itself, and nothing is added to it, whatever the
    variance is called (9.4). The condition is t > 1; with t > 0 it is always true.
    """
    mean = _one_step(schedule, xt, t, eps, 0 * z, variance)
    return mean + np.sqrt(_sigma2(schedule, t, variance)) * z


@step.mistake("multiplies z by the variance")
def _root_forgotten(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """z has variance 1. To have the variance sigma^2 it is multiplied by sigma, its root. Without
    it there is a tenth of the noise, and all samples end close to the mean of the data.
    """
    mean = _one_step(schedule, xt, t, eps, 0 * z, variance)
    return mean + _sigma2(schedule, t, variance) * z * (t > 1)


@step.mistake("takes each of the two variances for the other")
def _swapped(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """The name "beta" is for beta_t, "posterior" for beta-tilde_t, the smaller one (9.4)."""
    other = {"beta": "posterior", "posterior": "beta"}[variance]
    return _one_step(schedule, xt, t, eps, z, other)


@step.mistake("always uses beta_t")
def _always_beta(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """With "posterior" the variance is beta-tilde_t (9.4)."""
    return _one_step(schedule, xt, t, eps, z, "beta")


@step.mistake("always uses beta-tilde_t")
def _always_tilde(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """With "beta" the variance is beta_t, in all steps but the last (9.4)."""
    return _one_step(schedule, xt, t, eps, z, "posterior")


@step.mistake("adds the predicted noise instead of taking it off")
def _plus(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """The minus sign of (9.3) was lost in more than one printed version. With a plus every step
    leads away from the data.
    """
    return _one_step(schedule, xt, t, -eps, z, variance)


@step.mistake("goes to the predicted x_0 at once")
def _all_the_way(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """x_0 is guessed, and then the step goes a small part of the way to it: c_0 x_0 + c_t x_t
    (9.2). Only at t = 1 is that all of the way.
    """
    x0 = (xt - np.sqrt(1 - schedule.abar[t]) * eps) / np.sqrt(schedule.abar[t])
    return x0 + np.sqrt(_sigma2(schedule, t, variance)) * z * (t > 1)


@step.mistake("has the abar of the level before")
def _level_off(schedule: Schedule, xt: Any, t: int, eps: Any, z: Any, variance: str) -> Any:
    """eps was predicted at t, so it is divided by sqrt(1 - abar_t) in (9.3). With t - 1 you divide
    by 0 in the last step.
    """
    mean = _one_step(schedule, xt, t, 0 * eps, 0 * z, variance)
    before = max(1 - schedule.abar[t - 1], 0.0)
    share = schedule.beta[t] / np.sqrt(before) if before else np.inf
    mean = mean - share * eps / np.sqrt(schedule.alpha[t])
    return mean + coefficients(schedule, t - 1, t, variance)[2] * z


# --- 9.2 what it generates ---------------------------------------------------------------------


def _data() -> list[Case]:
    numbers = ((0.0, 1.0), (2.0, 0.5), (-3.0, 4.0), (1.5, 1e-4))
    return [
        (schedule, m, v, variance)
        for schedule in _SCHEDULES
        for m, v in numbers
        for variance in ("posterior", "beta")
    ]


def _generated(schedule: Schedule, m: float, v: float, variance: str) -> Any:
    denoiser = Gaussian.isotropic([m], v).denoiser(schedule)
    found = exact.propagate(
        lambda x, rng: final(ddpm(denoiser, schedule, x, rng=rng, variance=variance)), (1,)
    )
    return found.mean.item(), found.covariance.item()


def _recursion(
    schedule: Schedule,
    m: float,
    v: float,
    variance: str,
    *,
    V: float = 1.0,
    squared: bool = True,
    late: bool = False,
) -> Any:
    """Equation (9.5), with what can go wrong in it."""
    M = 0.0
    for t in range(schedule.T, 0, -1):
        abar = schedule.abar[t]
        c_0, c_t, sigma = coefficients(schedule, t - 1, t, variance)
        k = np.sqrt(abar) * v / (abar * v + 1 - abar)
        M = c_0 * (m + k * (M - np.sqrt(abar) * m)) + c_t * M
        gain = c_0 * k + c_t
        V = (gain**2 if squared else gain) * V
        V += _sigma2(schedule, t, variance) if late else sigma**2
    return M, V


recursion = Exercise(
    arguments=("schedule", "m", "v", "variance"),
    results=("M_0", "V_0"),
    reference=_generated,
    cases=_data,
)


@recursion.mistake("adds noise in the last step too")
def _recursion_late(schedule: Schedule, m: float, v: float, variance: str) -> Any:
    """Algorithm 2 adds nothing at t = 1: sigma_1 = 0, whatever the variance is called."""
    return _recursion(schedule, m, v, variance, late=True)


@recursion.mistake("does not square the factor of the step")
def _recursion_not_squared(schedule: Schedule, m: float, v: float, variance: str) -> Any:
    """If x is multiplied by a, its variance is multiplied by a^2."""
    return _recursion(schedule, m, v, variance, squared=False)


@recursion.mistake("starts with the variance of the data")
def _recursion_start(schedule: Schedule, m: float, v: float, variance: str) -> Any:
    """The sampler starts from x_T ~ N(0, 1): M = 0 and V = 1. The data come out at the end."""
    return _recursion(schedule, m, v, variance, V=v)


@recursion.mistake("returns what one would wish for")
def _wished(schedule: Schedule, m: float, v: float, variance: str) -> Any:
    """m and v are the data. What the sampler makes of noise is a little different: follow M and V
    through all steps.
    """
    return m, v


@recursion.mistake("takes each of the two variances for the other")
def _recursion_swapped(schedule: Schedule, m: float, v: float, variance: str) -> Any:
    """The name "beta" is for beta_t, "posterior" for beta-tilde_t, the smaller one (9.4)."""
    return _recursion(schedule, m, v, {"beta": "posterior", "posterior": "beta"}[variance])


# --- 9.3 five samplers -------------------------------------------------------------------------

Run = Callable[[Any, Schedule, Any, Any], Any]

_SUSPECTS = {
    "A": "eps-one-level-off",
    "B": None,
    "C": "noise-at-the-last-step",
    "D": "posterior-where-beta-is-asked-for",
    "E": "variance-for-sigma",
}


def suspect(letter: str) -> Run:
    """A sampler ``run(denoiser, schedule, x_T, rng) -> x_0``: minidiff's, maybe with a mistake.

    The mistakes are those of the tests, ``tests/mutants``. Looking there is cheating.
    """

    def run(denoiser: Any, schedule: Schedule, x_T: Any, rng: Any) -> Any:
        return final(ddpm(denoiser, schedule, x_T, rng=rng, variance="beta"))

    name = _SUSPECTS[letter]
    if name is None:
        return run
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    from tests.mutants.collection import BY_ID

    def wrong(denoiser: Any, schedule: Schedule, x_T: Any, rng: Any) -> Any:
        with BY_ID[name].applied():
            return run(denoiser, schedule, x_T, rng)

    return wrong


verdicts = Exercise(
    arguments=(),
    results=("A", "B", "C", "D", "E"),
    reference=lambda: (3, 0, 1, 4, 2),
    cases=lambda: [()],
)


@verdicts.mistake("acquits the one whose variance for N(0, 1) is closest to 1")
def _closest_to_one() -> Any:
    """The right sampler does *not* come out at 1: it loses beta_1 in the last step (9.6). The one
    that does has noise on the finished image, which its last column shows plainly. Compare with
    the first line of the table, not with the data.
    """
    return 3, 1, 0, 4, 2


@verdicts.mistake("takes the level that is off for noise in the last step")
def _level_for_noise() -> Any:
    """Both come out a little too wide on N(0, 1). But noise in the last step adds the same beta_1
    to every variance, and leaves the mean alone: look at the point, and at the mean of N(1.5, .25).
    """
    return 1, 0, 3, 4, 2


@verdicts.mistake("takes the smaller variance for a forgotten root")
def _tilde_for_root() -> Any:
    """Without the root nearly all of the noise is gone, and with it nearly all of the variance.
    With beta-tilde four percent are missing on N(0, 1).
    """
    return 3, 0, 1, 2, 4


@verdicts.mistake("takes the forgotten root for a wrong sign of eps")
def _root_for_sign() -> Any:
    """With a plus before eps every step leads away from the data: variances would explode. Here
    they collapse, since hardly any noise is added.
    """
    return 3, 0, 1, 4, 5


@verdicts.mistake("takes noise in the last step for a loop that stops at x_1")
def _late_for_early() -> Any:
    """Both leave a variance of beta_1 in a point. But x_1 is shrunk by sqrt(abar_1), so a sampler
    that stops there is also off in the mean, by 4e-4 of 1.5 with 200 steps. C is not, compared
    with the first line.
    """
    return 3, 0, 6, 4, 2


EXERCISES = {"9.1": step, "9.2": recursion, "9.3": verdicts}
