"""What a model is trained to minimise.

- `simple`: L_simple, a scalar; what the trainer uses
- `squared_error`, `vlb_nats_per_dim`, `hybrid`: the other losses, one number for each image, and
  `mean`, which makes a scalar of them: plain, or with weights
- `vlb_weight_nats`, `min_snr_weight`: weights by time, of the error of any of the `TARGETS`
- `model_variance`, `log_variance_ratio`: the variance of the model's reverse step
- `as_denoiser`, `split_channels`: between what a network returns and what a denoiser does
- `draw_t`, `drop_labels`: the draws of a training step (other ways to draw t: `time_draws`)

A model is ``prediction = model(xt, t, **cond)`` or, if it has learned its variance,
``prediction, v = model(xt, t, **cond)``, all of the shape of xt, Tensors or arrays.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.diffusion import decoder, parameterizations, process
from minidiff.diffusion.arrays import Array, floats, per_image
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.names import lookup
from minidiff.diffusion.process import q_sample
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError, check_count, check_number

Model = Callable[..., Any]
Variance = str | ArrayLike
"""Of p(x_{t-1} | x_t): "beta", "posterior", "learned", or sigma_t^2 for t = 0, ..., T."""

TARGETS: dict[str, Callable[[Schedule, Array, Any, Array, Array], Array]] = {
    "eps": lambda schedule, xt, t, x0, eps: eps,
    "x0": lambda schedule, xt, t, x0, eps: x0,
    "v": lambda schedule, xt, t, x0, eps: parameterizations.v_from_x0_eps(schedule, t, x0, eps),
    # eq. (7.8)
    "score": lambda schedule, xt, t, x0, eps: parameterizations.score_from_eps(schedule, t, eps),
    "mu": lambda schedule, xt, t, x0, eps: parameterizations.mu_from_x0(schedule, xt, t, x0),
}
"""What a model may be trained to predict. For "score" it is that of q(x_t | x_0)."""

# How much of eps, and of x0, an error of the target is: |d eps / d target|, |d x0 / d target| at
# fixed x_t, from beta_t, alpha_t, abar_t and abar_{t-1}.
_EPS_PER_TARGET: dict[str, Callable[..., Any]] = {
    "eps": lambda beta, alpha, abar, before: np.ones_like(abar),
    "x0": lambda beta, alpha, abar, before: np.sqrt(abar / (1 - abar)),
    "v": lambda beta, alpha, abar, before: np.sqrt(abar),
    "score": lambda beta, alpha, abar, before: np.sqrt(1 - abar),
    "mu": lambda beta, alpha, abar, before: np.sqrt(alpha * (1 - abar)) / beta,
}
_X0_PER_TARGET: dict[str, Callable[..., Any]] = {
    "eps": lambda beta, alpha, abar, before: np.sqrt((1 - abar) / abar),
    "x0": lambda beta, alpha, abar, before: np.ones_like(abar),
    "v": lambda beta, alpha, abar, before: np.sqrt(1 - abar),
    "score": lambda beta, alpha, abar, before: (1 - abar) / np.sqrt(abar),
    "mu": lambda beta, alpha, abar, before: (1 - abar) / (np.sqrt(before) * beta),
}


def simple(model: Model, schedule: Schedule, x0: Array, t: Any, eps: Array, **cond: Any) -> Tensor:
    """L_simple = mean of (eps - eps_theta(x_t, t))^2 (Ho et al. 2020, eq. 14).

    Its minimum is not 0: no model can know eps from x_t. With data N(0, 1) the best one reaches
    abar_t at time t. It is no bound on a likelihood: every t counts alike, t = 1 too, where the
    bound has a decoder (see `vlb_nats_per_dim`).

    Parameters
    ----------
    model : callable (xt, t, **cond) -> Tensor (or array) of the shape of xt
    schedule : Schedule
    x0 : array of shape (N, ...)
        Clean data.
    t : int array of shape (N,), 1 <= t <= T
        See `draw_t`.
    eps : array like x0
        Standard normal noise.
    **cond
        Passed on to the model: ``labels``, and ``rng`` for a model with dropout.

    Returns
    -------
    Scalar Tensor: the mean over images and their elements.
    """
    prediction = model(q_sample(schedule, x0, t, eps), t, **cond)  # eq. (8.1)
    _check_shape(prediction, eps)
    return ops.mse(prediction, eps)  # eq. (6.8)


def squared_error(
    model: Model,
    schedule: Schedule,
    x0: Array,
    t: Any,
    eps: Array,
    *,
    target: str = "eps",
    **cond: Any,
) -> Tensor:
    """Mean of (target - model(x_t, t))^2 over the elements of each image: a Tensor (N,).

    Parameters
    ----------
    target : one of `TARGETS`
        What the model predicts. Of "v" the error is that of Salimans & Ho 2022, section 4.

    The others are those of `simple`. A model that returns (prediction, v) is asked for the first.
    """
    xt = q_sample(schedule, x0, t, eps)
    prediction, _ = _predict(model, xt, t, cond)
    return _per_image_mean(_square(_target(schedule, xt, t, x0, eps, target), prediction))


def vlb_nats_per_dim(
    model: Model,
    schedule: Schedule,
    x0: Array,
    t: Any,
    eps: Array,
    *,
    variance: Variance = "beta",
    target: str = "eps",
    levels: int | None = 256,
    **cond: Any,
) -> Tensor:
    """L_{t-1}, a term of the variational bound (Ho et al. 2020, eq. 5), for each image: (N,).

    For t >= 2 it is KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), for t = 1 it is
    L_0 = -log p(x_0 | x_1). T times its mean over uniform t is the bound without L_T, which has
    nothing to learn. To train on the exact bound, minimise ``mean(vlb_nats_per_dim(...))``.

    Parameters
    ----------
    variance : "beta", "posterior", "learned" or array of shape (T + 1,)
        sigma_t^2 of p(x_{t-1} | x_t), see `model_variance`. "learned" is for a model that returns
        (prediction, v), see `log_variance_ratio`.
    target : one of `TARGETS`
        What the model predicts.
    levels : int or None
        How many values a pixel can take, evenly on [-1, 1]; L_0 is then that of the discretized
        decoder. None: data are continuous, p(x_0 | x_1) is a density and L_0 may be negative.

    The others are those of `simple`.
    """
    xt = q_sample(schedule, x0, t, eps)
    prediction, v = _predict(model, xt, t, cond)
    return step_nats_per_dim(
        schedule, x0, xt, t, eps, prediction, v, variance=variance, target=target, levels=levels
    )


def hybrid(
    model: Model,
    schedule: Schedule,
    x0: Array,
    t: Any,
    eps: Array,
    *,
    lam: float = 0.001,
    target: str = "eps",
    levels: int | None = 256,
    **cond: Any,
) -> Tensor:
    """L_simple + lam L_vlb with a learned variance, for each image: (N,).

    Nichol & Dhariwal 2021, eq. 16. The gradient of L_vlb is stopped at the mean: it reaches v
    alone, and the prediction learns from L_simple alone. L_vlb is estimated by T L_{t-1} in bits
    per dimension, the unit in which their code takes lam = 0.001.

    Parameters
    ----------
    model : callable (xt, t, **cond) -> (prediction, v)
        See `split_channels`.
    lam : float, >= 0

    The others are those of `vlb_nats_per_dim`.
    """
    if not 0 <= check_number("lam", lam) < math.inf:
        raise InputError(f"lam, the weight of L_vlb, must be a number >= 0, got {lam}")
    xt = q_sample(schedule, x0, t, eps)
    prediction, v = _predict(model, xt, t, cond)
    error = _per_image_mean(_square(_target(schedule, xt, t, x0, eps, target), prediction))
    fixed = prediction.detach() if isinstance(prediction, Tensor) else prediction
    vlb = step_nats_per_dim(
        schedule, x0, xt, t, eps, fixed, v, variance="learned", target=target, levels=levels
    )
    return error + (lam * schedule.T / math.log(2)) * vlb  # eq. (6.16)


def mean(losses: Tensor, weight: Any = None) -> Tensor:
    """The mean of w_n L_n over the images of a batch: a scalar to call ``backward`` on.

    Ho et al. 2020, Algorithm 1, with weights as in Salimans & Ho 2022, section 4.

    `weight` is None, a number or a host array (N,): a weight by time (`min_snr_weight`), one that
    undoes an uneven choice of t (`time_draws.LossHistory`), or the product of both.
    """
    if weight is None:
        return ops.mean(losses)
    weight = check_numbers("weight", weight)
    if not np.all(np.isfinite(weight)):
        raise InputError("a weight of the losses is not finite")
    return ops.mean(losses * per_image(weight, losses.data))


def step_nats_per_dim(
    schedule: Schedule,
    x0: Array,
    xt: Array,
    t: Any,
    eps: Array,
    prediction: Any,
    v: Any = None,
    *,
    variance: Variance = "beta",
    target: str = "eps",
    levels: int | None = 256,
) -> Tensor:
    """L_{t-1} of each image, as in `vlb_nats_per_dim`, from what a model has predicted: (N,).

    Ho et al. 2020, eq. 12 and 13. With r = beta-tilde_t / sigma_t^2 and w of `vlb_weight_nats`,

        L_{t-1} = (r - 1 - log r) / 2 + w (target - prediction)^2      for t >= 2
        L_0     = log(2 pi sigma_1^2) / 2 + w (target - prediction)^2  for continuous data

    so the error is taken where it was made, and no difference of two near-equal means is needed.
    """
    t = check_t(schedule, t)
    first = np.equal(t, 1)
    learned = isinstance(variance, str) and variance == "learned"
    if learned and v is None:
        raise InputError(
            'variance="learned" needs a model that returns (prediction, v); '
            "this one returns the prediction alone"
        )
    # With u = log(sigma^2 / s2): of a fixed variance u is 0, of a learned one s2 is beta-tilde.
    s2 = np.asarray(model_variance(schedule, t, "posterior" if learned else variance))
    u: Any = log_variance_ratio(schedule, t, v) if learned else 0.0
    gain = vlb_weight_nats(schedule, t, target=target, variance="beta") * schedule.beta[t] / s2
    error = _square(_target(schedule, xt, t, x0, eps, target), prediction)
    if learned:  # u / 2 + (1/2 + w error) exp(-u) - 1/2 for t >= 2
        half = per_image(np.where(first, 0.0, 0.5), xt)
        losses = _per_image_mean(0.5 * u + (half + per_image(gain, xt) * error) * ops.exp(-u))
        rest = np.asarray(-0.5)
    else:
        losses = _per_image_mean(error)
        losses = losses * per_image(gain, losses.data)
        r_1 = np.where(first, 0.0, (_posterior_variance(schedule, t) - s2) / s2)  # r - 1
        rest = 0.5 * (r_1 - np.log1p(r_1))  # eq. (6.1)
    losses = losses + per_image(np.where(first, 0.5 * np.log(2 * np.pi * s2), rest), losses.data)
    if levels is None or not first.any():
        return losses

    mu = parameterizations.convert(schedule, xt, t, prediction, source=target, target="x0")
    sigma = per_image(np.sqrt(s2), xt)
    if learned:
        sigma = ops.exp(0.5 * u) * sigma
    if first.all():
        return -_per_image_mean(_log_probability(x0, mu, sigma, levels))
    asked = per_image(first.astype(np.float64), xt) > 0
    mu = ops.where(asked, mu, x0)  # harmless where it is not asked
    decoded = -_per_image_mean(_log_probability(x0, mu, sigma, levels))
    return ops.where(asked.reshape(len(x0)), decoded, losses)


def vlb_weight_nats(
    schedule: Schedule, t: Any, *, target: str = "eps", variance: Variance = "beta"
) -> Any:
    """Weight w_t with which a squared error counts in L_{t-1}, in nats.

    1 / (2 sigma^2) for mu (Ho et al. 2020, eq. 8), and for what mu depends on linearly:

        eps    beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t))          (eq. 12)
        x0     abar_{t-1} beta_t^2 / (2 sigma_t^2 (1 - abar_t)^2)
        v      abar_t times that of eps
        score  (1 - abar_t) times that of eps

    That of x0 is (SNR(t-1) - SNR(t)) / 2 if sigma_t^2 is beta-tilde_t. L_simple takes 1 for eps.
    Where abar_T = 0 those of eps and score are infinite at T, and refused.

    Parameters
    ----------
    schedule : Schedule
    t : int or int array of shape (N,), 1 <= t <= T
    target : one of `TARGETS`
    variance : see `model_variance`

    Returns
    -------
    float, or float64 array of shape (N,).
    """
    t = check_t(schedule, t)
    slope_of = lookup(_X0_PER_TARGET, target, "target")
    if target in ("eps", "score") and np.any(schedule.abar[t] == 0):
        raise InputError(
            f"at t = T = {schedule.T} this schedule keeps no signal (abar_T = 0), so an error of "
            f"{target} would count without bound; predict v or x0"
        )
    c_0 = process.posterior(schedule, np.subtract(t, 1), t)[0]
    sigma2 = model_variance(schedule, t, variance)
    # eq. (6.2), eq. (6.4) and, for the others, eq. (6.7)
    return floats((c_0 * slope_of(*_coefficients(schedule, t))) ** 2 / (2 * sigma2))[0]


def min_snr_weight(schedule: Schedule, t: Any, *, gamma: float = 5.0, target: str = "eps") -> Any:
    """Weight min(SNR(t), gamma) of the error of x0, and what it is for other targets.

    min(1, gamma / SNR) for eps, min(SNR, gamma) / (SNR + 1) for v: Hang et al. 2023.
    Times with little noise, where x0 is easy, do not outweigh the others.

    Parameters
    ----------
    schedule : Schedule
    t : int or int array of shape (N,), 1 <= t <= T
    gamma : float, > 0
    target : one of `TARGETS`

    Returns
    -------
    float, or float64 array of shape (N,); see `mean`.
    """
    if not 0 < check_number("gamma", gamma) < math.inf:
        raise InputError(
            f"gamma, the SNR at which the weight is cut, must be a number > 0, got {gamma}"
        )
    t = check_t(schedule, t)
    slope = lookup(_EPS_PER_TARGET, target, "target")(*_coefficients(schedule, t))
    return floats(slope**2 * gamma / np.maximum(schedule.snr[t], gamma))[0]  # eq. (6.10)


def model_variance(schedule: Schedule, t: Any, variance: Variance = "beta") -> Any:
    """sigma_t^2 of the model's step p(x_{t-1} | x_t), always > 0.

    Parameters
    ----------
    schedule : Schedule
    t : int or int array of shape (N,), 1 <= t <= T
    variance : "beta", "posterior" or array of shape (T + 1,)
        beta_t, or beta-tilde_t, the variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, section
        3.2); or the numbers themselves, of which the one for t = 0 is not used. beta-tilde_1 is 0,
        with which p(x_0 | x_1) would have no density: "posterior" takes beta-tilde_2 in its place.

    Returns
    -------
    float, or float64 array of shape (N,).
    """
    t = check_t(schedule, t)
    if not isinstance(variance, str):
        table = np.asarray(variance, dtype=np.float64)
        if table.shape != (schedule.T + 1,) or not np.all((table[1:] > 0) & (table[1:] < np.inf)):
            raise InputError(
                f"variance must be a name or {schedule.T + 1} positive numbers, for "
                f"t = 0, ..., {schedule.T}; got shape {table.shape}"
            )
        return floats(table[t])[0]
    if variance == "learned":
        raise InputError(
            'the variance "learned" comes from a model that returns (prediction, v); here it must '
            'be "beta", "posterior" or an array'
        )
    if lookup({"beta": False, "posterior": True}, variance, "variance"):
        if schedule.T == 1:
            raise InputError('with T = 1 the posterior variance is 0; take variance="beta"')
        return floats(_posterior_variance(schedule, np.maximum(t, 2)))[0]
    return floats(schedule.beta[t])[0]


def log_variance_ratio(schedule: Schedule, t: Any, v: Any) -> Any:
    """u = v log(beta_t / beta-tilde_t), for a learned variance sigma^2 = beta-tilde_t e^u.

    So log sigma^2 = v log beta_t + (1 - v) log beta-tilde_t, for each element of v (Nichol &
    Dhariwal 2021, eq. 15): v = 0 is "posterior" and v = 1 is "beta" of `model_variance`, with
    beta-tilde_2 for beta-tilde_1. v is not confined to [0, 1]. (Their code has networks predict
    2 v - 1.) `v` is a Tensor or an array of shape (N, ...); so is u.
    """
    t = check_t(schedule, t)
    # eq. (6.15)
    u_max = np.log(schedule.beta[t] / model_variance(schedule, t, "posterior"))
    return v * per_image(u_max, v.data if isinstance(v, Tensor) else v)


def as_denoiser(model: Model, schedule: Schedule, *, target: str) -> Denoiser:
    """A denoiser, which returns eps, from a model that was trained on another target.

    Parameters
    ----------
    model : callable (xt, t, **cond) -> array, or pair of arrays (prediction, v)
    schedule : Schedule
        The one that the model was trained with.
    target : one of `TARGETS`
        What it predicts.
    """
    lookup(TARGETS, target, "target")

    def denoiser(xt: Array, t: Any, **cond: Any) -> Any:
        prediction, v = _predict(model, xt, t, cond)
        eps = parameterizations.convert(schedule, xt, t, prediction, source=target, target="eps")
        return eps if v is None else (eps, v)

    return denoiser


def split_channels(model: Model) -> Model:
    """A model that returns (prediction, v) from one that returns both side by side.

    `model` returns twice as many channels as its images have (the last axis), the first half for
    the prediction, the second for v. It serves training and, around ``unet.denoise``, sampling.
    """

    def pair(xt: Array, t: Any, **cond: Any) -> tuple[Any, Any]:
        both, channels = model(xt, t, **cond), xt.shape[-1]
        if both.shape != (*xt.shape[:-1], 2 * channels):
            raise InputError(
                f"a learned variance needs {2 * channels} channels for images of {channels}; "
                f"the model returned shape {both.shape}"
            )
        return both[..., :channels], both[..., channels:]

    return pair


def draw_t(schedule: Schedule, n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n independent times, uniform on 1, ..., T (Ho et al. 2020, Algorithm 1).

    `rng` is a generator on the host.
    """
    check_count("n", n, least=0)
    if not hasattr(rng, "integers"):
        raise InputError(f"times are drawn: pass rng, a numpy.random.Generator, got {rng!r}")
    return rng.integers(1, schedule.T, size=n, endpoint=True)  # eq. (8.2)


def drop_labels(
    labels: ArrayLike, *, p_uncond: float = 0.2, null: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The labels, each replaced by `null` with probability `p_uncond`, row by row.

    So one network learns the conditional and the unconditional model that classifier-free guidance
    combines (Ho & Salimans 2022, Algorithm 1).

    Parameters
    ----------
    labels : integers of shape (N,)
    p_uncond : float in [0, 1]
    null : int
        The class that stands for "no label"; none of `labels` may be it.
    rng : numpy.random.Generator
        Gives N numbers whatever `p_uncond` is.

    Returns
    -------
    int64 array of shape (N,), a copy.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels must be N integers, got shape {labels.shape} of type {labels.dtype}"
        )
    if not 0 <= check_number("p_uncond", p_uncond) <= 1:
        raise InputError(f"p_uncond is a probability, in [0, 1], got {p_uncond}")
    check_count("null", null, least=0)
    if not hasattr(rng, "random"):
        raise InputError(f"labels are dropped by chance: pass rng, a generator, got {rng!r}")
    drop = rng.random(len(labels)) < p_uncond  # never true at 0, always at 1: random() < 1
    return np.where(drop, null, labels).astype(np.int64)  # eq. (13.5)


def _coefficients(schedule: Schedule, t: Any) -> tuple[Any, Any, Any, Any]:
    """beta_t, alpha_t, abar_t, abar_{t-1}."""
    return schedule.beta[t], schedule.alpha[t], schedule.abar[t], schedule.abar[np.subtract(t, 1)]


def _posterior_variance(schedule: Schedule, t: Any) -> Any:
    """beta-tilde_t, which is 0 at t = 1."""
    return process.posterior(schedule, np.subtract(t, 1), t)[2]


def _target(schedule: Schedule, xt: Array, t: Any, x0: Array, eps: Array, target: str) -> Array:
    return lookup(TARGETS, target, "target")(schedule, xt, t, x0, eps)


def _predict(model: Model, xt: Array, t: Any, cond: dict[str, Any]) -> tuple[Any, Any]:
    """(prediction, v) of a model, v being None where it is not learned; shapes are checked."""
    prediction = model(xt, t, **cond)
    both = prediction if isinstance(prediction, tuple) else (prediction, None)
    if len(both) != 2:
        raise InputError(f"the model returned {len(both)} things; it returns one, or a pair with v")
    for part in both if both[1] is not None else both[:1]:
        _check_shape(part, xt)
    return both


def _check_shape(prediction: Any, x: Array) -> None:
    if prediction.shape != x.shape:
        raise InputError(
            f"the model returned shape {prediction.shape} for images of shape {x.shape}"
        )


def _square(target: Array, prediction: Any) -> Tensor:
    error = ops.sub(prediction, target)
    return error * error


def _per_image_mean(x: Tensor) -> Tensor:
    return ops.mean(x, axis=tuple(range(1, x.ndim)))


def _log_probability(x0: Array, mean: Any, sigma: Any, levels: int) -> Tensor:
    """`decoder.log_probability_nats` as a Tensor: its value, with its slopes as gradient."""
    at_mean, at_sigma = (a.data if isinstance(a, Tensor) else a for a in (mean, sigma))
    value, *slopes = decoder.log_probability_nats(x0, at_mean, at_sigma, levels)
    out = Tensor(value)
    for x, at, slope in zip((mean, sigma), (at_mean, at_sigma), slopes, strict=True):
        if isinstance(x, Tensor):  # adds 0, whose gradient is the slope
            out = out + slope * (x - at)
    return out
