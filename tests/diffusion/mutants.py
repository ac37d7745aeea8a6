"""Samplers with one mistake each: mistakes that people really made, and that pictures do not show.

Each is a complete sampler with the package's calling convention, written from the textbook formulas
(not from the package's code) so that it differs from the right one in a single place. `MUTANTS`
says which correct sampler each of them imitates and what the mistake is; the tests show that every
one of them is rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from minidiff.diffusion import timesteps


@dataclass(frozen=True)
class Mutant:
    """A wrong sampler ``run(denoiser, schedule, x_T, rng) -> x_0``."""

    imitates: tuple[str, dict]
    """Name and options of the correct sampler."""
    mistake: str
    run: Callable


def ancestral(
    denoiser,
    schedule,
    x,
    rng,
    *,
    variance="beta",
    eval_at=lambda t: t,
    noise_at_last=False,
    sigma_of=np.sqrt,
    sign=-1,
):
    """Algorithm 2 of the DDPM paper, with switches for its mistakes."""
    for t in range(schedule.T, 0, -1):
        beta, abar, before = schedule.beta[t], schedule.abar[t], schedule.abar[t - 1]
        eps = denoiser(x, np.full(len(x), eval_at(t)))
        x = (x + sign * beta / np.sqrt(1 - abar) * eps) / np.sqrt(1 - beta)
        sigma2 = beta if variance == "beta" else (1 - before) / (1 - abar) * beta
        if t > 1 or noise_at_last:
            x = x + sigma_of(sigma2) * rng.standard_normal(x.shape)
    return x


def strided(
    denoiser,
    schedule,
    x,
    rng,
    *,
    steps=None,
    times=None,
    eta=0.0,
    last_abar=1.0,
    sign=1,
    sigma2_of=lambda eta, variance, beta: eta**2 * variance,
):
    """DDIM, eq. 12 of its paper, with switches for its mistakes."""
    if times is None:
        times = timesteps.resolve(schedule.T, steps)
    for t, s in pairwise(times):
        abar_t, abar_s = schedule.abar[t], schedule.abar[s] if s else last_abar
        eps = denoiser(x, np.full(len(x), t))
        x0 = (x - np.sqrt(1 - abar_t) * eps) / np.sqrt(abar_t)
        variance = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
        sigma2 = sigma2_of(eta, variance, schedule.beta[t])
        # A clamp, as the code that has these mistakes needs it.
        direction = np.sqrt(np.maximum(1 - abar_s - sigma2, 0))
        x = np.sqrt(abar_s) * x0 + sign * direction * eps
        if s > 0 and eta > 0:
            x = x + np.sqrt(sigma2) * rng.standard_normal(x.shape)
    return x


def _ancestral(**switches):
    return lambda *args: ancestral(*args, **switches)


def _strided(**switches):
    return lambda *args: strided(*args, **switches)


_beta = ("ddpm", {"variance": "beta"})
_posterior = ("ddpm", {"variance": "posterior"})
_ddim = ("ddim", {"steps": None})

MUTANTS = {
    "noise in the last step": Mutant(
        _beta, "adds noise to the finished image", _ancestral(noise_at_last=True)
    ),
    "square root forgotten": Mutant(
        _beta, "uses the variance as standard deviation", _ancestral(sigma_of=lambda v: v)
    ),
    "eps one level off": Mutant(
        _beta,
        "gives the network t - 1, where it was trained with t",
        _ancestral(eval_at=lambda t: max(t - 1, 1)),
    ),
    "eps added": Mutant(_beta, "adds the predicted noise", _ancestral(sign=1)),
    "beta for beta-tilde": Mutant(
        _posterior, "takes beta for the posterior variance", _ancestral(variance="beta")
    ),
    "beta-tilde for beta": Mutant(
        _beta, "takes the posterior variance for beta", _ancestral(variance="posterior")
    ),
    "last abar is abar_1": Mutant(
        ("ddim", {"steps": 50}),
        "aims at t = 1 in the last step",
        lambda d, schedule, x, rng: strided(
            d, schedule, x, rng, steps=50, last_abar=schedule.abar[1]
        ),
    ),
    "stops at x_1": Mutant(
        _ddim,
        "returns x_1",
        lambda d, schedule, x, rng: strided(
            d, schedule, x, rng, times=np.arange(schedule.T, 0, -1)
        ),
    ),
    "minus the direction": Mutant(
        ("ddim", {"steps": None, "eta": 1.0}),
        "subtracts the direction that points to x_t",
        _strided(eta=1.0, sign=-1),
    ),
    "first 100 times only": Mutant(
        ("ddim", {"steps": 100, "eta": 1.0}),
        "visits 100, ..., 1 in place of a subset of all times, and stops there",
        _strided(times=np.arange(100, 0, -1), eta=1.0),
    ),
    "sigma^2 = eta beta-tilde": Mutant(
        ("ddim", {"steps": 50, "eta": 0.5}),
        "does not square eta",
        _strided(steps=50, eta=0.5, sigma2_of=lambda eta, variance, beta: eta * variance),
    ),
    "beta of one step for a jump": Mutant(
        ("ddim", {"steps": 50, "eta": 1.0}),
        "uses beta_t where the jump covers twenty steps",
        _strided(steps=50, eta=1.0, sigma2_of=lambda eta, variance, beta: eta**2 * beta),
    ),
}
