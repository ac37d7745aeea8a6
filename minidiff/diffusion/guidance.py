"""Trading variety for fidelity to a condition: guided denoisers, made from denoisers.

For values of x_0 that strong guidance drives out of range, give the sampler
``clip=parameterizations.dynamic_threshold``.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff import backend, ops
from minidiff.autograd import Tensor, vjp
from minidiff.diffusion.arrays import Array, per_image
from minidiff.diffusion.denoiser import Denoiser, Predicting, in_eps, predicts
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.diffusion.sigma import sigma_of
from minidiff.errors import InputError, check_count, check_number

LogProb = Callable[..., Tensor]
"""log_prob(x, t, **cond): log p(c | x_t) + anything without x, N numbers from N images.

`x` is a Tensor and so is the result, made of it by `minidiff.ops`; `t` and `cond` are what the
denoiser gets. A row of the result depends on the same row of `x` only.
"""


def classifier_free(
    denoiser: Denoiser,
    *,
    w: float,
    null: int,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """Guided noise (1 + w) eps(x_t, c) - w eps(x_t, null) (Ho & Salimans 2022, eq. 6).

    w = 0 is the conditional model and w = -1 the unconditional one, both exactly and with one
    evaluation of N images; any other w takes one evaluation of 2N. The larger w, the more the
    condition counts. Other texts give a scale: see `to_scale`.

    Parameters
    ----------
    denoiser : Denoiser
        Takes ``labels`` and knows `null` (trained with `objectives.drop_labels`).
    w : float
        Guidance weight.
    null : int
        The class that stands for "no label".
    interval : None or (low, high)
        Guide at times low < t <= high only, and take the conditional model elsewhere, in one
        evaluation of N images. At high noise guidance costs variety, at low noise it changes
        nothing (Kynkäänniemi et al. 2024, who give the ends as noise levels: `sigma.t_of`).
    rescale : float in [0, 1]
        The phi of Lin et al. 2024, section 3.4: how far the standard deviation of each image's
        guided noise, over its elements, is brought back to that of eps(x_t, c); 1 is all the way,
        and 0.7 is what they use. It needs images of two elements or more.

    Returns
    -------
    A denoiser ``guided(xt, t, *, labels)``. If `denoiser` has learned its variance, so has this:
    the conditional one. Of one that is `Predicting` v or x_0 the same is guided, which comes to
    the same since the weights sum to 1; `rescale` then looks at the spread of v or x_0.
    """
    if not math.isfinite(check_number("w", w)):
        raise InputError(f"the guidance weight w must be finite, got {w}")
    if not 0 <= check_number("rescale", rescale) <= 1:
        raise InputError(f"rescale, the phi of its paper, must lie in [0, 1], got {rescale}")
    check_count("null", null, least=0)
    w, rescale = float(w), float(rescale)
    low, high = _check_interval(interval)

    def guided(xt: Array, t: NDArray[np.int64], *, labels: Any) -> Array:
        n = len(xt)
        labels = np.asarray(labels)
        if labels.shape != (n,):
            raise InputError(f"{n} images need {n} labels, got labels of shape {labels.shape}")
        if labels.dtype.kind not in "iu":
            raise InputError(f"labels must be whole numbers, got {labels.dtype}")
        inside = np.broadcast_to((low < np.asarray(t)) & (np.asarray(t) <= high), (n,))
        if w == 0 or not inside.any():
            return denoiser(xt, t, labels=labels)
        nulls = np.full_like(labels, null)
        if w == -1 and rescale == 0 and inside.all():
            return denoiser(xt, t, labels=nulls)
        both = backend.array_module(xt).concatenate([xt, xt])
        prediction = denoiser(both, np.concatenate([t, t]), labels=np.concatenate([labels, nulls]))
        eps, v = prediction if isinstance(prediction, tuple) else (prediction, None)
        weight = w if inside.all() else per_image(np.where(inside, w, 0.0), xt)
        cond = eps[:n]
        guided_eps = (1 + weight) * cond - weight * eps[n:]  # eq. (13.3)
        if rescale > 0:
            spread = _spread(guided_eps)
            # An image without any spread has nothing to bring back; 0 / 0 would be NaN.
            ratio = _spread(cond) / backend.array_module(xt).where(spread > 0, spread, 1)
            guided_eps = guided_eps * (rescale * ratio + (1 - rescale))  # eq. (13.10)
        return guided_eps if v is None else (guided_eps, v[:n])

    source = predicts(denoiser)
    return guided if source == "eps" else Predicting(guided, source)


def classifier(
    denoiser: Denoiser,
    schedule: Schedule,
    log_prob: LogProb,
    *,
    scale: float,
    conditional: bool = False,
) -> Denoiser:
    """Noise eps(x_t) - scale sqrt(1 - abar_t) grad log p(c | x_t) (Dhariwal & Nichol 2021, eq. 14).

    The gradient with respect to x_t is that of `log_prob`, by our own autograd. By Bayes' rule
    scale = 1 turns an unconditional denoiser into the conditional one: grad log p(c | x_t) =
    -(eps(x_t, c) - eps(x_t)) / sqrt(1 - abar_t). So for exact models ``scale=to_scale(w)`` is
    `classifier_free` with weight w; with a conditional denoiser ``scale=w`` is.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
        That of the denoiser, for sqrt(1 - abar_t).
    log_prob : LogProb
        Any differentiable log p(c | x_t); see `label_log_prob` for one from a network's logits.
        It must be one of noisy images: a classifier of clean ones knows nothing of x_t.
    scale : float
        The s of the paper; 0 is the denoiser itself.
    conditional : bool
        Whether the denoiser is given the condition too. By default only `log_prob` is.

    Returns
    -------
    A denoiser ``guided(xt, t, **cond)``. It evaluates `log_prob` once, with its gradient.
    """
    if not math.isfinite(check_number("scale", scale)):
        raise InputError(f"the scale of guidance must be finite, got {scale}")
    denoiser = in_eps(denoiser, schedule)

    def guided(xt: Array, t: NDArray[np.int64], **cond: Any) -> Any:
        prediction = denoiser(xt, t, **cond) if conditional else denoiser(xt, t)
        if scale == 0:
            return prediction
        eps, v = prediction if isinstance(prediction, tuple) else (prediction, None)
        value, pull = vjp(lambda x: log_prob(x, t, **cond), xt)
        if value.shape != (len(xt),):
            raise InputError(
                f"log_prob must give one number for each of {len(xt)} images, "
                f"got shape {value.shape}"
            )
        # One for each row, as no row depends on another: N gradients in one pass.
        gradient = pull(backend.array_module(value).ones_like(value))
        # eq. (7.9), eq. (13.2)
        eps = eps - per_image(scale * _noise(schedule, t), xt) * gradient
        return eps if v is None else (eps, v)

    return guided


def label_log_prob(logits: Callable[[Tensor, Any], Tensor]) -> LogProb:
    """The log p(y | x_t) of a classifier for `classifier`, y being ``labels``.

    Dhariwal & Nichol 2021, section 4.

    `logits` takes (x, t) and gives a Tensor of shape (N, K), of which the softmax is p(y | x_t).
    """

    def log_prob(x: Tensor, t: Any, *, labels: Any) -> Tensor:
        log_p = ops.log_softmax(logits(x, t), axis=1)
        labels = np.asarray(labels)
        n, k = log_p.shape
        if labels.shape != (n,) or labels.dtype.kind not in "iu":
            raise InputError(f"{n} images need {n} whole numbers for labels, got {labels!r}")
        if n and not 0 <= labels.min() <= labels.max() < k:
            raise InputError(
                f"the classifier knows labels 0..{k - 1}, got {labels.min()}..{labels.max()}"
            )
        return log_p[np.arange(n), labels]

    return log_prob


def to_scale(w: float) -> float:
    """The guidance scale s = 1 + w of eps(null) + s (eps(c) - eps(null)); s = 1 is no guidance."""
    return 1 + w  # eq. (13.4)


def from_scale(scale: float) -> float:
    """The weight w = s - 1 of a guidance scale s."""
    return scale - 1


def _check_interval(interval: Any) -> tuple[float, float]:
    if interval is None:
        return -math.inf, math.inf
    try:
        low, high = (float(end) for end in interval)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise InputError(f"interval must be two times (low, high) with low < high, got {interval}")
    return low, high


def _spread(x: Array) -> Array:
    """Standard deviation over the elements of each image, ready to multiply it."""
    if x.size < 2 * len(x):
        raise InputError("rescale needs images of two elements or more")
    flat = x.reshape(len(x), -1)
    return flat.std(axis=1).reshape((len(x),) + (1,) * (x.ndim - 1))


def _noise(schedule: Schedule, t: Any) -> Any:
    """sqrt(1 - abar_t), also between the times of the schedule, where some samplers ask."""
    if np.asarray(t).dtype.kind in "iu":
        return np.sqrt(1 - schedule.abar[check_t(schedule, t)])
    sigma = sigma_of(schedule, t)
    return sigma / np.sqrt(1 + sigma**2)
