"""The one interface between a model and everything that samples from it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff.autograd import Tensor
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.names import lookup
from minidiff.diffusion.parameterizations import Clip, convert, pair
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError

Denoiser = Callable[..., Any]
"""eps = f(xt, t, **cond): the noise in x_t, as far as f can tell.

`xt` is an array of shape (N, ...), `t` a host array of N times, and what the prediction is
conditioned on comes by name (``labels``, a host array of N integers). Returns an array like `xt`.
A U-Net's ``denoise``, a guided model and the closed forms of `oracle` are denoisers.

Times are integers, 1 <= t <= T. Only samplers that ask between the levels of a schedule (see
`sigma`) give real numbers, and only for those questions.

A denoiser that has learned its variance returns a pair (eps, v), both like `xt`; `samplers.ddpm`
says what v is. Any other sampler takes eps and lets v go.

One that predicts the velocity or x_0 in place of eps is a `Predicting`.
"""

PREDICTIONS = ("eps", "x0", "v")


class Predicting:
    """A denoiser that returns v or x_0 where others return eps, and says so by its ``predicts``.

    Every sampler takes it. Where nothing is left of the signal (abar_T = 0, see
    `schedules.zero_terminal_snr`) it is the only kind that a sampler can begin with at T: there
    v = -x_0, while eps = x_T, which says nothing of x_0 (Lin et al. 2024, section 3.2).

    Parameters
    ----------
    model : callable (xt, t, **cond) -> array, or pair (array, learned variance)
        As a `Denoiser`, but for what it predicts. The ``denoise`` of a network that was trained on
        that target, or, without a network, ``lambda xt, t: mixture.at_time(schedule, t).x0(xt)``.
    predicts : "v", "x0" or "eps"
    """

    def __init__(self, model: Denoiser, predicts: str) -> None:
        self.predicts = lookup({name: name for name in PREDICTIONS}, predicts, "prediction")
        self.model = model

    def __call__(self, xt: Array, t: Any, **cond: Any) -> Any:
        """The prediction of the model, as it is."""
        return self.model(xt, t, **cond)


def predicts(denoiser: Denoiser) -> str:
    """What a denoiser returns: "eps", unless it is `Predicting` something else.

    Lin et al. 2024, section 3.2: where no signal is left it cannot be eps.
    """
    return denoiser.predicts if isinstance(denoiser, Predicting) else "eps"


def in_eps(denoiser: Denoiser, schedule: Schedule) -> Denoiser:
    """The denoiser as one that returns eps: itself, or its prediction converted.

    Salimans & Ho 2022, section 4.
    """
    source = predicts(denoiser)
    if source == "eps":
        return denoiser

    def converted(xt: Array, t: Any, **cond: Any) -> Any:
        prediction = denoiser(xt, t, **cond)
        value, v = prediction if isinstance(prediction, tuple) else (prediction, None)
        eps = convert(schedule, xt, t, value, source=source, target="eps")
        return eps if v is None else (eps, v)

    return converted


def predict(denoiser: Denoiser, xt: Array, t: float, cond: dict[str, Any]) -> tuple[Array, Any]:
    """(eps, v) at one time `t` for all images: one evaluation; v is None where it is not learned.

    Of a `Predicting` the first is what it predicts: see `evaluate` and `in_eps`.

    Raises
    ------
    InputError
        If the denoiser returns a Tensor, or an array of another shape than `xt`; by broadcasting,
        either could pass unseen. Or one of another dtype.
    """
    kind = np.int64 if isinstance(t, int) else np.float64
    prediction = denoiser(xt, np.full(len(xt), t, dtype=kind), **cond)
    both = prediction if isinstance(prediction, tuple) else (prediction, None)
    if len(both) != 2:
        raise InputError(f"the denoiser returned {len(both)} things; it returns eps or (eps, v)")
    for array in both if both[1] is not None else both[:1]:
        if isinstance(array, Tensor):
            raise InputError(
                "the denoiser returned a Tensor; pass model.denoise instead of the model"
            )
        if not hasattr(array, "dtype"):
            raise InputError(
                f"the denoiser returned {type(array).__name__}; it is to return an array like xt"
            )
        if array.shape != xt.shape:
            raise InputError(
                f"the denoiser returned shape {array.shape} for images of shape {xt.shape}"
            )
        if array.dtype != xt.dtype:
            raise InputError(
                f"the denoiser returned {array.dtype} for images of {xt.dtype}; "
                f"it is to return what it is given, so start from x_T of type {array.dtype}"
            )
    return both


def evaluate(
    denoiser: Denoiser, schedule: Schedule, xt: Array, t: int, clip: Clip, cond: dict[str, Any]
) -> tuple[Array, Array]:
    """(x0, eps) at one time `t` for all images: one evaluation, clipped as `clip` says."""
    value = predict(denoiser, xt, t, cond)[0]
    return pair(schedule, xt, t, value, source=predicts(denoiser), clip=clip)
