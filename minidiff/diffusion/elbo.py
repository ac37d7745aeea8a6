"""The variational bound of a denoiser, term by term, in nats and in bits.

    -log p(x_0) <= L_T + sum over t = 2..T of L_{t-1} + L_0        (Ho et al. 2020, eq. 5)

    L_T     = KL(q(x_T | x_0) || N(0, I))                          the prior term
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))        at t >= 2
    L_0     = -log p(x_0 | x_1)                                    the reconstruction

L_{t-1} belongs to the step from t to t - 1, so arrays by time have it at index t: L_0 at index 1.
At t = 1 the posterior has variance 0 and no KL is meant; what takes its place is the decoder, whose
variance is positive (`objectives.model_variance`).

Everything here sees arrays. Names tell the unit; "nats" alone are those of a whole image.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import backend
from minidiff.diffusion import decoder, objectives
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.denoiser import Denoiser, in_eps, predict
from minidiff.diffusion.objectives import Variance
from minidiff.diffusion.parameterizations import Clip, check_clip, denoised
from minidiff.diffusion.process import posterior, q_sample
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError, check_count
from minidiff.ops.checks import check_floats


def kl_normal_nats(mean: Any, variance: Any, other_mean: Any, other_variance: Any) -> Any:
    """KL(N(m, v) || N(m', v')) = (r - 1 - log r) / 2 + (m - m')^2 / (2 v'), r = v / v'.

    For each element; the sum over elements is that of Gaussians with diagonal covariances. It is
    0 only if both are equal. r - 1 is taken from v - v', so that near-equal variances keep their
    digits.

    Parameters
    ----------
    mean, variance, other_mean, other_variance : floats or arrays that broadcast
        Variances are > 0. If v is 0 the KL is infinite: of floats that is refused.
    """
    xp = backend.array_module(mean, variance, other_mean, other_variance)
    for v in (variance, other_variance):
        if isinstance(v, float) and not 0 < v < math.inf:
            raise InputError(
                f"a variance must be positive, got {v}; at t = 1 the posterior's is 0, and the "
                "decoder takes the place of a KL"
            )
    r_1 = (variance - other_variance) / other_variance  # eq. (5.5)
    log_r = math.log1p(r_1) if isinstance(r_1, float) else xp.log1p(r_1)
    off = mean - other_mean
    return 0.5 * (r_1 - log_r) + off * off / (2 * other_variance)


def prior_nats(schedule: Schedule, x0: Array) -> Array:
    """L_T = KL(q(x_T | x_0) || N(0, I)) of each image, all elements together: (N,).

    Ho et al. 2020, eq. 5.

    (abar_T x_0^2 - abar_T - log(1 - abar_T)) / 2 for each element: small, but not 0. With linear
    betas, T = 1000 and |x_0| = 1, it is 2.02e-5 nats.
    """
    check_floats("the bound", x0=x0)
    if x0.ndim < 1 or not x0.size:
        raise InputError(f"the bound: no images in x0 of shape {x0.shape}")
    abar = float(schedule.abar[-1])
    flat = x0.reshape(len(x0), -1)
    # eq. (3.16)
    return 0.5 * (abar * (flat * flat).sum(1) - flat.shape[1] * (abar + math.log1p(-abar)))


def decoder_nats(x0: Array, mean: Array, sigma: Any, *, levels: int | None = 256) -> Array:
    """-log p(x_0) for each element under the decoder N(mean, sigma^2): an array like x0.

    Ho et al. 2020, eq. 13.

    With `levels`, the values that a pixel can take, the probability of the bin of x_0 (see
    `decoder.log_probability_nats`); with None the density at x_0.
    """
    if levels is not None:
        return -decoder.log_probability_nats(x0, mean, sigma, levels)[0]
    xp = backend.array_module(x0)
    z = (x0 - mean) / sigma
    log_sigma = math.log(sigma) if np.ndim(sigma) == 0 else xp.log(sigma)
    return 0.5 * (z * z + math.log(2 * math.pi)) + log_sigma


class Step(NamedTuple):
    """What the step from t to t - 1 costs."""

    t: int
    nats: Array
    """L_{t-1} of each image, (N,)."""
    x0_mse: Array
    """Mean of (x_0 - prediction of x_0 from x_t)^2 over the elements of each image, (N,)."""


def steps_nats(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Array,
    *,
    rng: Any,
    variance: Variance = "beta",
    levels: int | None = 256,
    clip: Clip = None,
    **cond: Any,
) -> Generator[Step, None, None]:
    """L_{T-1}, ..., L_1, L_0 one after the other, each with one draw of x_t and one evaluation.

    Ho et al. 2020, eq. 5. Arguments are those of `bound_nats`, which collects them.
    """
    if getattr(x0, "ndim", 0) < 2 or x0.dtype.kind != "f":
        raise InputError("the bound is of an array of floats of shape (N, ...)")
    if rng is None:
        raise InputError("the bound draws noise at every t: pass rng, such as backend.generator(0)")
    if levels is not None:
        decoder.check_on_levels(x0, levels)
    learned = isinstance(variance, str) and variance == "learned"
    objectives.model_variance(schedule, 1, "posterior" if learned else variance)  # refuses it now
    clip, denoiser = check_clip(clip), in_eps(denoiser, schedule)
    dims = math.prod(x0.shape[1:])

    def steps() -> Generator[Step, None, None]:
        for t in range(schedule.T, 0, -1):
            noise = rng.standard_normal(x0.shape, dtype=x0.dtype)
            xt = q_sample(schedule, x0, t, noise)
            eps, v = predict(denoiser, xt, t, cond)
            eps = denoised(schedule, xt, t, eps, clip)[1]
            term = objectives.step_nats_per_dim(
                schedule, x0, xt, t, noise, eps, v, variance=variance, levels=levels
            )
            error = ((eps - noise) ** 2).reshape(len(x0), -1).mean(1)
            yield Step(t, dims * term.data, error * (1 / float(schedule.snr[t])))

    return steps()


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound -log p(x_0) <= L_T + sum of L_{t-1}, for N images of `dims` elements each.

    Float64 on the host. The expectation over x_t is estimated by one draw for each t.
    """

    prior_nats: NDArray[np.float64]
    """L_T, shape (N,)."""
    step_nats: NDArray[np.float64]
    """L_{t-1} at [:, t], shape (N, T + 1); L_0 at [:, 1], and 0 at [:, 0]."""
    x0_mse: NDArray[np.float64]
    """Mean squared error of x_0 predicted from x_t at [:, t], shape (N, T + 1); 0 at [:, 0]."""
    dims: int

    @property
    def total_nats(self) -> NDArray[np.float64]:
        """L_T + ... + L_0, shape (N,)."""
        return self.prior_nats + self.step_nats.sum(1)  # eq. (5.12), a case of eq. (5.10)

    @property
    def prior_bits_per_dim(self) -> NDArray[np.float64]:
        """L_T in bits per dimension, shape (N,)."""
        return bits_per_dim(self.prior_nats, self.dims)

    @property
    def step_bits_per_dim(self) -> NDArray[np.float64]:
        """L_{t-1} at [:, t] in bits per dimension, shape (N, T + 1)."""
        return bits_per_dim(self.step_nats, self.dims)

    @property
    def total_bits_per_dim(self) -> NDArray[np.float64]:
        """L_T + ... + L_0 in bits per dimension, shape (N,)."""
        return bits_per_dim(self.total_nats, self.dims)


def bound_nats(
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Array,
    *,
    rng: Any,
    variance: Variance = "beta",
    levels: int | None = 256,
    clip: Clip = None,
    **cond: Any,
) -> Bound:
    """All terms of the variational bound of `x0`; T evaluations of N images.

    Ho et al. 2020, eq. 5.

    Parameters
    ----------
    denoiser : Denoiser
        Any; one that returns (eps, v) for a learned variance.
    schedule : Schedule
    x0 : array of shape (N, ...)
        Clean data. In float32 a term is right to about 1e-7 nats per dimension, which adds up over
        T terms: for more than three digits of a small bound take float64.
    rng : generator with ``standard_normal(shape, dtype=)``
        Draws one array like x0 for each t.
    variance : "beta", "posterior", "learned" or array of shape (T + 1,)
        sigma_t^2 of p(x_{t-1} | x_t): see `objectives.model_variance`.
    levels : int or None
        How many values a pixel can take, evenly on [-1, 1]: 256 for 8 bits. None: x0 is
        continuous, the bound is one on a density, and bits depend on the unit of x0.
    clip : None, (low, high) or function
        What is done to the predicted x_0; (-1, 1) for images, as in Ho et al. 2020.
    **cond
        Passed on to the denoiser.
    """
    xp = backend.array_module(x0)
    terms = list(
        steps_nats(
            denoiser, schedule, x0, rng=rng, variance=variance, levels=levels, clip=clip, **cond
        )
    )[::-1]
    zero = xp.zeros_like(terms[0].nats)
    nats, mse = (
        backend.to_numpy(xp.stack([zero, *column], axis=1)).astype(np.float64)
        for column in ([term.nats for term in terms], [term.x0_mse for term in terms])
    )
    prior = backend.to_numpy(prior_nats(schedule, x0)).astype(np.float64)
    return Bound(prior, nats, mse, math.prod(x0.shape[1:]))


def bits_per_dim(nats: Any, dims: int) -> Any:
    """nats / (dims log 2): of a whole image of `dims` elements, in bits for each of them."""
    check_count("dims", dims)
    return nats / (dims * math.log(2))


def expected_steps_nats_per_dim(
    schedule: Schedule, loss: ArrayLike, variance: Variance = "beta"
) -> NDArray[np.float64]:
    """E[L_{t-1}] at index t from the mean squared error of eps at t: an exact, affine function.

    Ho et al. 2020, eq. 12, in expectation.

    (r - 1 - log r) / 2 + w_t loss_t with r = beta-tilde_t / sigma_t^2 and w_t of
    `objectives.vlb_weight_nats`; at t = 1, for continuous data, log(2 pi sigma_1^2) / 2 + w_1
    loss_1. So the bound of a model with a fixed variance can be read off its L_simple by time.

    Parameters
    ----------
    schedule : Schedule
    loss : array of shape (T + 1,)
        Mean of (eps - eps_theta)^2 at t; that of t = 0 is not used.
    variance : "beta", "posterior" or array of shape (T + 1,)

    Returns
    -------
    float64 array of shape (T + 1,), 0 at index 0.
    """
    t = np.arange(1, schedule.T + 1)
    loss = _by_time(schedule, loss)
    sigma2 = objectives.model_variance(schedule, t, variance)
    constant = np.append(
        0.5 * math.log(2 * math.pi * sigma2[0]),
        kl_normal_nats(0.0, posterior(schedule, t[1:] - 1, t[1:])[2], 0.0, sigma2[1:]),
    )
    # eq. (6.14)
    terms = constant + objectives.vlb_weight_nats(schedule, t, variance=variance) * loss
    return np.concatenate([[0.0], terms])


def optimal_variance(schedule: Schedule, loss: ArrayLike) -> NDArray[np.float64]:
    """sigma_t^2 = beta-tilde_t + beta_t^2 / (alpha_t (1 - abar_t)) loss_t, the best for a model.

    It minimises each L_{t-1} among variances that depend on t alone (Bao et al. 2022, theorem 1,
    where the model is optimal). For data N(0, I) it is beta_t, for a single point beta-tilde_t.

    Parameters
    ----------
    schedule : Schedule
    loss : array of shape (T + 1,)
        Mean of (eps - eps_theta)^2 at t, as in `expected_steps_nats_per_dim`.

    Returns
    -------
    float64 array of shape (T + 1,), a `variance` for `bound_nats`; 0 at index 0, not used.
    """
    t = np.arange(1, schedule.T + 1)
    gain = 2 * objectives.vlb_weight_nats(schedule, t, variance="beta") * schedule.beta[1:]
    tilde = posterior(schedule, t - 1, t)[2]  # eq. (4.14)
    return np.concatenate([[0.0], tilde + gain * _by_time(schedule, loss)])


def _by_time(schedule: Schedule, loss: ArrayLike) -> NDArray[np.float64]:
    """loss_1, ..., loss_T."""
    loss = check_numbers("loss", loss)
    if loss.shape != (schedule.T + 1,) or not np.all(loss[1:] >= 0):
        raise InputError(
            f"loss must be {schedule.T + 1} numbers >= 0, for t = 0, ..., {schedule.T}, "
            f"got shape {loss.shape}"
        )
    return loss[1:]
