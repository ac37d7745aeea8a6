"""Langevin dynamics: samples of a density from its score, alone or as part of a sampler."""

import math
from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff import backend
from minidiff.diffusion import timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, evaluate
from minidiff.diffusion.names import lookup
from minidiff.diffusion.parameterizations import Clip, check_clip, score_from_eps
from minidiff.diffusion.samplers.base import State, affine_step, check_rng, check_start
from minidiff.diffusion.samplers.ddpm import coefficients
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError, check_count, check_number


def langevin_step(x: Array, score: Array, alpha: Any, *, rng: Any) -> Array:
    """x + alpha / 2 grad log q(x) + sqrt(alpha) z (Song & Ermon 2019, eq. 4).

    `alpha` is the size of the step, a float or an array that broadcasts against x. As it shrinks,
    q is left unchanged; at a finite size N(m, v) becomes N(m, v / (1 - alpha / (4 v))).
    """
    # eq. (7.13), which settles at eq. (7.14)
    moved = alpha / 2 * score
    moved += x
    z = rng.standard_normal(x.shape, dtype=x.dtype)
    z *= alpha**0.5
    moved += z
    return moved


def langevin(
    score: Callable[[Array], Array], x: Array, *, alpha: float, steps: int, rng: Any
) -> Generator[Array, None, None]:
    """`steps` steps of Langevin dynamics from `x`, which is the first array that is yielded.

    Song & Ermon 2019, eq. 4.

    Where the density has modes far apart, the time to go from one to the other grows
    exponentially with the height of the barrier: see `annealed_langevin`.

    Parameters
    ----------
    score : callable x -> grad log q(x)
        Such as ``mixture.at(1, sigma).score``.
    x : array of shape (N, ...)
        Any start.
    alpha : float, > 0
        Size of a step; below 4 times the smallest variance it does not diverge.
    steps : int
    rng : generator with ``standard_normal(shape, dtype=)``
    """
    _check_positive("alpha", alpha)
    steps = check_count("steps", steps, least=0)
    check_rng(rng, "Langevin dynamics draws noise in every step")

    def states() -> Generator[Array, None, None]:
        xs = x
        yield xs
        for _ in range(steps):
            xs = langevin_step(xs, score(xs), float(alpha), rng=rng)
            yield xs

    return states()


def geometric(schedule: Schedule, steps: int) -> NDArray[np.int64]:
    """S times from T to 1 at which sigma = sqrt((1 - abar) / abar) falls by equal factors, then 0.

    Song & Ermon 2019, section 4.1.

    The noise levels of NCSN. Times are whole numbers: where levels lie closer than those of the
    schedule do, near t = 1, neighbouring times are taken.
    """
    timesteps.subset(schedule.T, steps)  # refuses what is no number of steps
    if schedule.abar[-1] == 0:
        raise InputError(
            "abar_T = 0 is of infinite sigma, which no factor divides; give the times themselves, "
            "from T - 1 down"
        )
    log_sigma = -0.5 * schedule.log_snr[1:]
    wanted = np.linspace(log_sigma[0], log_sigma[-1], steps) if steps > 1 else log_sigma[-1:]
    t = np.round(np.interp(wanted, log_sigma, np.arange(1, schedule.T + 1))).astype(np.int64)
    i = np.arange(steps)
    t = np.maximum.accumulate(t - i) + i  # one apart at least
    t = np.minimum(t, schedule.T - steps + 1 + i)
    return np.append(t[::-1], 0)


def annealed_langevin(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any,
    steps: Any = 200,
    corrections: int = 5,
    step: float = 0.5,
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """Langevin steps of size alpha_t = step (1 - abar_t) at each of some times, from T down.

    Algorithm 1 of Song & Ermon 2019 (NCSN). There the signal has scale 1 and the noise sigma =
    sqrt((1 - abar_t) / abar_t), and the step is proportional to sigma^2. In x_t = sqrt(abar_t) x
    the step is the one above, with the score of q(x_t), and between two times x_t is multiplied by
    sqrt(abar_s / abar_t): x itself stays. They take 10 times with 100 corrections of step 0.2 (2e-5
    / 0.01^2); many times with few corrections are better for the same work (Song & Ermon 2020,
    with 232 and 5). At T, where x_T is noise already, there is nothing to correct.

    The last state is the prediction of x_0 from the last x_t, which takes the noise off that is
    left in it (Jolicoeur-Martineau et al. 2021). NFE: S + corrections (S - 1).

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise; float32 or float64, and so is everything that follows.
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws one array like x_T for each Langevin step.
    steps : int, None or int array
        Number S of times, which are then `geometric`; None for all T, or the times themselves.
    corrections : int, >= 1
        Langevin steps at each time.
    step : float in (0, 4)
        Size of a step in units of the variance of the noise. With 4 and more it diverges.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images. eps is computed again to fit it.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        x_T itself, then x_t after the corrections at each later time, then the sample: S + 1.
    """
    check_start(x_T)
    check_rng(rng, "Langevin dynamics draws noise in every step")
    whole = steps is not None and np.ndim(steps) == 0
    times = geometric(schedule, steps) if whole else timesteps.resolve(schedule.T, steps)
    check_count("corrections", corrections, least=1)
    if not 0 < check_number("step", step) < 4:
        raise InputError(f"step must lie in (0, 4), got {step}; from 4 on the dynamics diverges")
    clip = check_clip(clip)

    def score(x: Array, s: int) -> Array:
        return score_from_eps(schedule, s, evaluate(denoiser, schedule, x, s, clip, cond)[1])

    def states() -> Generator[State, None, None]:
        x = x_T
        for t, s in pairwise(times.tolist()):
            x0 = evaluate(denoiser, schedule, x, t, clip, cond)[0]
            yield State(t, x, x0)
            if s == 0:
                yield State(0, x0, x0)
                return
            x = math.sqrt(schedule.abar[s] / schedule.abar[t]) * x
            alpha = float(step * (1 - schedule.abar[s]))
            for _ in range(corrections):
                x = langevin_step(x, score(x, s), alpha, rng=rng)

    return states()


def predictor_corrector(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any,
    steps: Any = None,
    corrections: int = 1,
    snr: float = 0.16,
    variance: str = "posterior",
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """A step of DDPM to s, then Langevin steps at s that correct its distribution.

    Algorithms 1 and 5 of Song et al. 2021 (score SDE), with ancestral sampling for a predictor. A
    correction is x + delta g + sqrt(2 delta) z, where g is the score and delta = 2 alpha_s (snr
    |z| / |g|)^2. As in the authors' code, |z| and |g| are means over the batch: so an image
    depends a little on those that it is drawn with. The norms of one image are in few dimensions
    now and then close to 0, and its step huge. NFE: S + corrections (S - 1).

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise; float32 or float64, and so is everything that follows.
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws one array like x_T for each predictor step but the last, and for each correction.
    steps : int, None or int array
        Number S of steps, None for all T, or the times themselves (see `timesteps.resolve`).
    corrections : int, >= 0
        Langevin steps after each predictor step but the last; with 0 it is `ddpm`.
    snr : float, > 0
        Ratio of the lengths of the move along the score and of the noise in a correction, the
        paper's r.
    variance : "posterior" or "beta"
        Of the predictor, see `ddpm`.
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images. eps is computed again to fit it.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        x_T itself, then x_t after the corrections at each later time, then the sample: S + 1.
    """
    check_start(x_T)
    check_rng(rng, "a predictor-corrector draws noise in every step")
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()
    check_count("corrections", corrections, least=0)
    _check_positive("snr", snr)
    lookup(dict.fromkeys(("posterior", "beta")), variance, "variance")
    clip = check_clip(clip)

    def correct(x: Array, s: int) -> Array:
        score = score_from_eps(schedule, s, evaluate(denoiser, schedule, x, s, clip, cond)[1])
        z = rng.standard_normal(x.shape, dtype=x.dtype)
        length = _mean_norm(score)
        # A score of 0, as of a network before its first step of training: nowhere to go.
        length = backend.array_module(x).where(length > 0, length, math.inf)
        ratio = float(snr) * _mean_norm(z) / length
        delta = 2 * float(schedule.alpha[s]) * ratio * ratio
        # langevin_step with alpha = 2 delta, whose noise is drawn already: delta depends on it.
        moved = delta * score
        moved += x
        z *= (2 * delta) ** 0.5
        moved += z
        return moved

    def states() -> Generator[State, None, None]:
        x = x_T
        for t, s in pairwise(times):
            x0 = evaluate(denoiser, schedule, x, t, clip, cond)[0]
            yield State(t, x, x0)
            c_0, c_t, sigma = coefficients(schedule, s, t, variance)
            x = affine_step(c_0, x0, c_t, x, sigma, rng)
            for _ in range(corrections if s > 0 else 0):
                x = correct(x, s)
        yield State(0, x, x)

    return states()


def _mean_norm(x: Array) -> Array:
    """Length of an image, on average over the batch."""
    xp = backend.array_module(x)
    flat = x.reshape(len(x), -1)
    return xp.sqrt((flat * flat).sum(1)).mean()


def _check_positive(name: str, value: float) -> None:
    if not 0 < check_number(name, value) < math.inf:
        raise InputError(f"{name} must be a number > 0, got {value}")
