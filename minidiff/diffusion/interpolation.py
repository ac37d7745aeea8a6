"""Interpolation: two images, noised to the same time, mixed there, and denoised again."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from minidiff.diffusion import process, timesteps
from minidiff.diffusion.arrays import Array, check_like, per_image
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.names import lookup
from minidiff.diffusion.samplers.base import State, check_rng, check_start
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError


def linear(a: Array, b: Array, lam: Any) -> Array:
    """(1 - lambda) a + lambda b, exactly a at 0 and b at 1.

    Ho et al. 2020, section 4.4.

    Of two independent standard normal arrays it has variance lambda^2 + (1 - lambda)^2: one half
    in the middle.
    """
    lam = np.asarray(lam, dtype=np.float64)
    return per_image(1 - lam, a) * a + per_image(lam, a) * b  # eq. (10.10)


def variance_preserving(a: Array, b: Array, lam: Any) -> Array:
    """`linear`, divided by sqrt(lambda^2 + (1 - lambda)^2): standard normal if a and b are.

    Not the linear one of Ho et al. 2020, section 4.4.
    """
    lam = np.asarray(lam, dtype=np.float64)
    scale = np.sqrt(lam**2 + (1 - lam) ** 2)
    return per_image((1 - lam) / scale, a) * a + per_image(lam / scale, a) * b


KINDS = {"linear": linear, "variance_preserving": variance_preserving}


def mix(
    schedule: Schedule,
    x0: tuple[Array, Array],
    eps: tuple[Array, Array],
    t: int,
    lam: Any,
    kind: str = "variance_preserving",
) -> Array:
    """The latent x_t between two images.

    Both are noised to t. With "linear" the two x_t are mixed, (1 - lambda) x_t + lambda x'_t, as in
    Ho et al. 2020, section 4.4; its noise is too small for t, by up to sqrt(1/2), and a denoiser
    takes the image for smoother than it is. With "variance_preserving" the images are mixed in
    that way, but the noises so that they stay standard normal: a draw of q(x_t | the mixed image).

    Parameters
    ----------
    schedule : Schedule
    x0, eps : pairs of arrays of shape (N, ...)
        The images and standard normal noise for each.
    t : int, 1 <= t <= T
    lam : float in [0, 1], or N of them
        At 0 and 1 the result is `process.q_sample` of the first and of the second, to the bit.
    kind : "linear" or "variance_preserving"
    """
    mix_noise = lookup(KINDS, kind, "kind of interpolation")
    each = check_numbers("lambda", lam)
    if not np.all((each >= 0) & (each <= 1)):
        raise InputError(f"lambda must lie in [0, 1], got {lam}")
    first, second = x0
    check_like(second, first, "the second image", "the first")
    for noise in eps:
        check_like(noise, first, "eps", "x0")
    return process.q_sample(schedule, linear(*x0, lam), t, mix_noise(*eps, lam))  # eq. (10.11)


def interpolate(
    sampler: Callable[..., Generator[State, None, None]],
    denoiser: Denoiser,
    schedule: Schedule,
    x0: tuple[Array, Array],
    *,
    t: int,
    lam: Any,
    rng: Any,
    kind: str = "variance_preserving",
    steps: int | None = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """Denoise the mixture of two images from the time t to which they were noised.

    Ho et al. 2020, section 4.4.

    The larger t, the more is left to the sampler to make up; with a deterministic sampler such as
    DDIM, lambda = 0 and 1 give the two images back as it reconstructs them from their x_t.

    Parameters
    ----------
    sampler : a sampler with its options fixed, such as ``samplers.make("ddim")``
    denoiser : Denoiser
    schedule : Schedule
    x0 : pair of arrays of shape (N, ...)
    t : int, 1 <= t <= T
    lam : float in [0, 1], or N of them
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws the noise of the first image, that of the second, then what the sampler needs.
    kind : see `mix`
    steps : int or None
        Steps that the sampler takes from t to 0; None for all t of them.
    **cond
        Passed on to the denoiser.

    Returns
    -------
    The states of the sampler, the first of which holds the mixed x_t at time t.
    """
    for images in x0:
        check_start(images)
    check_like(x0[1], x0[0], "the second image", "the first")
    check_rng(rng, "interpolation draws the noise of both images")
    t = check_t(schedule, t)
    if np.ndim(t):
        raise InputError(f"both images are noised to one time t, got {t}")
    times = timesteps.subset(t, t if steps is None else steps)
    shape, dtype = x0[0].shape, x0[0].dtype
    eps = rng.standard_normal(shape, dtype=dtype), rng.standard_normal(shape, dtype=dtype)
    xt = mix(schedule, x0, eps, t, lam, kind)
    return sampler(denoiser, schedule, xt, rng=rng, steps=times, **cond)
