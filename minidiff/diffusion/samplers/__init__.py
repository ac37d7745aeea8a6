"""Samplers: from noise to images, one algorithm in a file, all over the same denoiser protocol.

A sampler is called as ``sampler(denoiser, schedule, x_T, *, rng, **options, **cond)`` and returns
a generator of `State`: the caller keeps, draws or drops what it yields, and `final` runs it to its
end. Arguments are checked at the call, not at the first state.

===================  =======================================================  =======  =============
name                 options                                                  noise    NFE
===================  =======================================================  =======  =============
ddpm                 steps variance spacing clip                              yes      S
ddim                 steps eta spacing clip                                   eta      S
pndm                 steps spacing clip                                       no       S + 9
plms                 steps spacing clip                                       no       S + 1
euler                steps sigmas spacing clip                                no       S
euler_ancestral      steps sigmas spacing clip                                yes      S
rk2                  steps alpha sigmas spacing clip                          no       2S - 1, 2S
edm                  steps s_churn s_tmin s_tmax s_noise sigmas spacing clip  s_churn  2S - 1
dpmpp_2m             steps sigmas spacing clip                                no       S
annealed_langevin    steps corrections step clip                              yes      S + (S - 1) K
predictor_corrector  steps corrections snr variance spacing clip              yes      S + (S - 1) K
===================  =======================================================  =======  =============

Noise is drawn by all, by none, or if the option that is named is not 0. NFE is how often the
denoiser is evaluated in S steps with K corrections; `nfe` counts it, and `FACTS` says more. By
default S is T in ddpm and predictor_corrector, 200 in annealed_langevin and else 50.

`ddim_inversion` goes the other way, from an image to its noise. `ode.probability_flow` is a sampler
too, one whose steps SciPy chooses.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from inspect import signature
from typing import Any

from minidiff.diffusion.names import lookup, with_options
from minidiff.diffusion.samplers.base import State, final
from minidiff.diffusion.samplers.ddim import ddim
from minidiff.diffusion.samplers.ddpm import ddpm
from minidiff.diffusion.samplers.dpmpp_2m import dpmpp_2m
from minidiff.diffusion.samplers.edm import edm
from minidiff.diffusion.samplers.euler import euler
from minidiff.diffusion.samplers.euler_ancestral import euler_ancestral
from minidiff.diffusion.samplers.inversion import ddim_inversion
from minidiff.diffusion.samplers.langevin import annealed_langevin, predictor_corrector
from minidiff.diffusion.samplers.plms import MIN_STEPS, plms
from minidiff.diffusion.samplers.pndm import pndm
from minidiff.diffusion.samplers.rk2 import rk2
from minidiff.diffusion.schedules import check_steps
from minidiff.errors import InputError

__all__ = [
    "FACTS",
    "SAMPLERS",
    "Facts",
    "State",
    "annealed_langevin",
    "ddim",
    "ddim_inversion",
    "ddpm",
    "dpmpp_2m",
    "edm",
    "euler",
    "euler_ancestral",
    "final",
    "make",
    "nfe",
    "plms",
    "pndm",
    "predictor_corrector",
    "rk2",
]

Sampler = Callable[..., Generator[State, None, None]]

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "pndm": pndm,
    "plms": plms,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "rk2": rk2,
    "edm": edm,
    "dpmpp_2m": dpmpp_2m,
    "annealed_langevin": annealed_langevin,
    "predictor_corrector": predictor_corrector,
}


@dataclass(frozen=True)
class Facts:
    """What is known of a sampler before it runs."""

    nfe: Callable[..., int]
    """(steps, and those options that it depends on) -> number of evaluations of the denoiser."""
    order: int
    """p, if its error against the process in continuous time falls as S^-p; see the sampler. 0 if
    some of it stays: that of Langevin steps of finite size."""
    noise: bool | str = False
    """Whether it draws noise, or the name of the option that makes it draw if it is not 0."""
    min_steps: int = 1

    def stochastic(self, **options: Any) -> bool:
        """Whether it draws noise (besides x_T) with these options."""
        return bool(options.get(self.noise, 0)) if isinstance(self.noise, str) else self.noise


FACTS: dict[str, Facts] = {
    "ddpm": Facts(lambda S: S, order=1, noise=True),
    "ddim": Facts(lambda S: S, order=1, noise="eta"),
    "pndm": Facts(lambda S: S + 9, order=2, min_steps=MIN_STEPS),
    "plms": Facts(lambda S: S + 1, order=2, min_steps=MIN_STEPS),
    "euler": Facts(lambda S: S, order=1),
    "euler_ancestral": Facts(lambda S: S, order=1, noise=True),
    "rk2": Facts(lambda S, alpha=1.0: 2 * S - 1 if alpha == 1 else 2 * S, order=2),
    "edm": Facts(lambda S: 2 * S - 1, order=2, noise="s_churn"),
    "dpmpp_2m": Facts(lambda S: S, order=2),
    "annealed_langevin": Facts(lambda S, corrections=5: S + (S - 1) * corrections, 0, noise=True),
    "predictor_corrector": Facts(lambda S, corrections=1: S + (S - 1) * corrections, 0, noise=True),
}


def make(name: str, **options: Any) -> Sampler:
    """The sampler called `name` with its options fixed: ``make("ddim", steps=50, eta=0.5)``.

    An unknown name, or an option that this sampler does not have, is an error that lists those
    that there are.
    """
    return with_options(lookup(SAMPLERS, name, "sampler"), f"sampler {name!r}", **options)


def nfe(name: str, steps: int, **options: Any) -> int:
    """How often the sampler called `name` evaluates the denoiser in `steps` steps.

    `options` are those of the sampler that matter: ``nfe("rk2", 20)`` is 39 (Heun), and
    ``nfe("rk2", 20, alpha=0.5)`` is 40.
    """
    facts = lookup(FACTS, name, "sampler")
    steps = check_steps(steps, "steps")
    if steps < facts.min_steps:
        raise InputError(f"{name} needs {facts.min_steps} steps or more, got {steps}")
    known = list(signature(facts.nfe).parameters)[1:]
    for option in options:
        if option not in known:
            matter = ", ".join(known) or "none but steps"
            raise InputError(f"the nfe of {name!r} depends on {matter}, not on {option!r}")
    return facts.nfe(steps, **options)
