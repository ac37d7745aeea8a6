"""Inpainting: fill in the part of an image that is not known, without a model made for it."""

from collections.abc import Generator
from itertools import pairwise
from typing import Any

from minidiff import backend
from minidiff.diffusion import process, timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser, evaluate
from minidiff.diffusion.names import lookup
from minidiff.diffusion.parameterizations import Clip, check_clip
from minidiff.diffusion.samplers.base import State, affine_step, check_rng, check_start
from minidiff.diffusion.samplers.ddpm import coefficients
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError, check_count


def walk(times: list[int], jump: int = 10, resamples: int = 10) -> list[int]:
    """The times that RePaint visits: down, and again and again some steps up and down once more.

    From T it goes down `times`. Each time that it has come to a place whose number, counted from
    the end, is a multiple of `jump`, it goes `jump` places up and down again, until it has come
    there `resamples` times. Algorithm 1 of Lugmayr et al. 2022 has jump = 1, their appendix longer
    ones.
    """
    last = len(times) - 1  # the place of T; the place of 0 is 0
    left = {i: resamples - 1 for i in range(jump, last - jump + 1, jump)}
    places = [last]
    while places[-1] > 0:
        i = places[-1] - 1
        places.append(i)
        if left.get(i, 0):
            left[i] -= 1
            places += range(i + 1, i + jump + 1)
    return [times[last - i] for i in places]


def inpaint(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    known: Array,
    mask: Array,
    rng: Any,
    steps: Any = 250,
    jump: int = 10,
    resamples: int = 10,
    variance: str = "posterior",
    spacing: str = "trailing",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """DDPM with the known part put back, noised to the time it is at, after every step (RePaint).

    Lugmayr et al. 2022, Algorithm 1. One pass leaves the filled part ill fitted to the known one:
    each step puts in fresh noise of the known part that the filled one has not seen. So the
    sampler goes some steps back up by the forward process, and down again, `resamples` times, see
    `walk`; the more often, the closer it comes to the conditional distribution.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise.
    known : array like x_T
        The images; what they hold where `mask` is False is not used.
    mask : bool array, of the shape of x_T or one that broadcasts to it
        True where the image is known. There the sample is `known`, to the bit.
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws two arrays like x_T for each step down but the last, and one for each step up.
    steps : int, None or int array
        Number S of steps, None for all T, or the times themselves (see `timesteps.resolve`).
    jump, resamples : int, >= 1
        How far it goes back up, and how often it comes down; resamples = 1 is one plain pass.
    variance : "posterior" or "beta"
        See `samplers.ddpm`.
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images.
    **cond
        Passed on to the denoiser.

    Yields
    ------
    State
        Before each step down: x_t and the prediction of x_0 from it. Their times go up and down;
        the last state is the sample at t = 0. NFE: one a state but the last, about S resamples.
    """
    check_start(x_T)
    check_rng(rng, "inpainting draws noise in every step")
    for name, value in (("jump", jump), ("resamples", resamples)):
        check_count(name, value)
    lookup(dict.fromkeys(("posterior", "beta")), variance, "variance")
    times = timesteps.resolve(schedule.T, steps, spacing).tolist()
    clip = check_clip(clip)
    xp = backend.array_module(x_T)
    _check_known(x_T, known, mask)

    def noise() -> Array:
        return rng.standard_normal(x_T.shape, dtype=x_T.dtype)

    def states() -> Generator[State, None, None]:
        x = x_T
        for t, s in pairwise(walk(times, jump, resamples)):
            if s > t:
                x = process.forward_sample(schedule, x, t, s, noise())
                continue
            x0 = evaluate(denoiser, schedule, x, t, clip, cond)[0]
            yield State(t, x, x0)
            c_0, c_t, sigma = coefficients(schedule, s, t, variance)
            x = affine_step(c_0, x0, c_t, x, sigma, rng)
            # eq. (10.12)
            there = process.q_sample(schedule, known, s, noise()) if s > 0 else known
            x = xp.where(mask, there, x)
            del there  # one array less while the next is made
        yield State(0, x, x)

    return states()


def _check_known(x_T: Array, known: Array, mask: Array) -> None:
    for name, given in (("known images", known), ("mask", mask)):
        if not hasattr(given, "dtype"):
            raise InputError(f"the {name} must be an array, got {type(given).__name__}")
    if known.shape != x_T.shape or known.dtype != x_T.dtype:
        raise InputError(
            f"the known images must be like x_T, {x_T.dtype} of shape {x_T.shape}, "
            f"got {known.dtype} of shape {known.shape}"
        )
    fits = mask.ndim <= x_T.ndim and all(
        m in (1, n) for m, n in zip(mask.shape[::-1], x_T.shape[::-1], strict=False)
    )
    if mask.dtype.kind != "b" or not fits:
        raise InputError(
            f"the mask must be of type bool, of a shape that broadcasts to {x_T.shape}, "
            f"got {mask.dtype} of shape {mask.shape}"
        )
