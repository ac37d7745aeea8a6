"""The probability flow: the ordinary differential equation with the marginals of the process.

Written in sigma (see `sigma`): x = x_t / sqrt(abar_t) = x_0 + sigma n follows dx/dsigma =
(x - D(x; sigma)) / sigma, where D is E[x_0 | x]. It is integrated in u = log sigma, where

    dx/du = x - D(x; e^u),        d log q(x)/du = -(d - tr dD/dx),

the second since a density thins out as the flow spreads (Song et al. 2021, score SDE, eq. 13 and
39). So the flow gives samples, the latent of an image, and the likelihood. For the trace there is a
closed form (`mixture_trace`), the whole Jacobian where d is small (`exact_trace`), or an unbiased
estimate from some random directions (`hutchinson_trace`).

SciPy integrates, on the host, in float64, with steps of its own choice for all images of a batch
together: its tolerances bound the error of a step, on average over them.
"""

import math
from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minidiff import backend
from minidiff.autograd import Tensor, vjp
from minidiff.diffusion import timesteps
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.diffusion.oracle import GaussianMixture
from minidiff.diffusion.parameterizations import Clip
from minidiff.diffusion.samplers.base import State, check_start
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.diffusion.sigma import SigmaDenoiser, sigma_denoiser, sigma_of, t_of
from minidiff.errors import InputError, check_count, check_number

Traced = Callable[[Array, float], tuple[Array, Array]]
"""(D, trace) = f(x, sigma): E[x_0 | x], like x, and the trace of its Jacobian, shape (N,)."""


class Likelihood(NamedTuple):
    """What `log_likelihood` returns."""

    log_density: Array
    """log q(x) in nats, all elements together, shape (N,)."""
    latent: Array
    """Where the flow carries x to: like x, at the largest sigma."""
    nfe: int
    """How often the denoiser was evaluated (for the whole batch)."""


def flow(
    D: SigmaDenoiser,
    x: Array,
    sigma: float,
    to: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
) -> Array:
    """Carry x from the noise level `sigma` along the probability flow to the level `to`.

    Song et al. 2021 (score SDE), eq. 13, in sigma.

    From high to low it samples, from low to high it encodes, and one undoes the other.

    Parameters
    ----------
    D : callable (x, sigma) -> x0
        Such as ``lambda x, sigma: mixture.at(1, sigma).x0(x)``, or `sigma.sigma_denoiser`.
    x : array of shape (N, ...)
        x_0 + sigma n, the signal unscaled.
    sigma, to : float, > 0
    rtol, atol, method : as in ``scipy.integrate.solve_ivp``

    Returns
    -------
    array like x
    """
    check_start(x)

    def slope(x: Array, sigma: float) -> Array:
        return x - D(x, sigma)  # eq. (11.3), times sigma

    return _integrate(slope, x, None, sigma, to, rtol, atol, method)[0]


def log_likelihood(
    traced: Traced,
    x: Array,
    sigma: float,
    sigma_max: float,
    *,
    prior: Callable[[Array], Array] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
) -> Likelihood:
    """log q(x) = log prior(x at sigma_max) + integral of (d - tr dD/dx) over log sigma.

    Song et al. 2021 (score SDE), eq. 39. It is the density of data with noise of size `sigma`; of
    clean data the smallest levels say nothing (images in whole numbers have no density at all).

    Parameters
    ----------
    traced : callable (x, sigma) -> (D, trace)
        See `mixture_trace`, `exact_trace` and `hutchinson_trace`.
    x : array of shape (N, ...)
        x_0 + sigma n, the signal unscaled; of x_t it is x_t / sqrt(abar_t), for which see
        `log_likelihood_at`.
    sigma, sigma_max : float, 0 < sigma < sigma_max
    prior : None or callable x -> log density of shape (N,)
        At sigma_max. None is N(0, (1 + sigma_max^2) I): standard normal x_t.
    rtol, atol, method : as in ``scipy.integrate.solve_ivp``
    """
    check_start(x)
    if not sigma < sigma_max:
        raise InputError(f"sigma must be less than sigma_max, got {sigma} and {sigma_max}")
    d = x[0].size if len(x) else 0

    def slope(x: Array, sigma: float) -> tuple[Array, Array]:
        x0, trace = traced(x, sigma)
        return x - x0, d - trace  # eq. (7.18), eq. (11.13)

    latent, gain, nfe = _integrate(slope, x, len(x), sigma, sigma_max, rtol, atol, method)
    log_prior = (prior or _normal(1 + float(sigma_max) ** 2))(latent)
    return Likelihood(log_prior + gain, latent, nfe)


def log_likelihood_at(
    traced: Traced, schedule: Schedule, xt: Array, t: int = 1, **options: Any
) -> Likelihood:
    """log q(x_t) for x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with x_T ~ N(0, I).

    Song et al. 2021 (score SDE), eq. 39.

    `log_likelihood` of x_t / sqrt(abar_t), whose density is abar_t^(d/2) times that of x_t. The
    latent is x_T. `options` are rtol, atol and method.
    """
    t = check_t(schedule, t)
    signal, last = (math.sqrt(schedule.abar[i]) for i in (t, schedule.T))
    sigma, sigma_T = sigma_of(schedule, np.array([t, schedule.T])).tolist()
    check_start(xt)
    got = log_likelihood(traced, xt / signal, sigma, sigma_T, **options)
    d = xt[0].size if len(xt) else 0
    return Likelihood(got.log_density - d * math.log(signal), last * got.latent, got.nfe)


def mixture_trace(mixture: GaussianMixture, labels: Any = None) -> Traced:
    """D and its trace in closed form: d + sigma^2 times the divergence of the score, d in all.

    The trace of Song et al. 2021 (score SDE), eq. 39.
    """

    def traced(x: Array, sigma: float) -> tuple[Array, Array]:
        noised = mixture.at(1.0, sigma)
        d = math.prod(mixture.shape)
        return noised.x0(x, labels), d + sigma**2 * noised.score_divergence(x, labels)

    return traced


def exact_trace(model: Callable[..., Tensor], schedule: Schedule, **cond: Any) -> Traced:
    """D of a network that predicts eps, and the trace of its Jacobian from all d directions.

    Song et al. 2021 (score SDE), appendix D.2, with the trace itself.

    Each evaluation runs the network on N d images, forward and backward: for small d only.

    Parameters
    ----------
    model : callable (xt, t, **cond) -> Tensor, differentiable; asked at real times t
        A network in evaluation mode (not its ``denoise``, through which no gradient passes).
    schedule : Schedule
    **cond
        Passed on; what has one entry for each image is repeated with them.
    """

    def traced(x: Array, sigma: float) -> tuple[Array, Array]:
        xp = backend.array_module(x)
        d = x[0].size
        basis = xp.eye(d, dtype=x.dtype).reshape(d, 1, *x.shape[1:])
        probes = xp.broadcast_to(basis, (d, *x.shape))
        eps, products = _products(model, schedule, x, sigma, probes, cond)
        return _traced(x, sigma, eps, products.sum(0))

    return traced


def hutchinson_trace(
    model: Callable[..., Tensor],
    schedule: Schedule,
    *,
    shape: tuple[int, ...],
    rng: Any,
    probes: int = 1,
    **cond: Any,
) -> Traced:
    """D of a network that predicts eps, and an unbiased estimate of the trace of its Jacobian.

    Song et al. 2021 (score SDE), appendix D.2.

    The mean of <u, J u> over random signs u (Hutchinson 1990), <u, J u> being u times the
    vector-Jacobian product of u. The directions are drawn once, so that the integrand stays smooth;
    more of them for less variance, which is twice the squared off-diagonal of the symmetric part
    of J, summed, over their number.

    Parameters
    ----------
    model, schedule, **cond : see `exact_trace`
    shape : tuple of int
        That of x, (N, ...).
    rng : generator with ``standard_normal(shape, dtype=)``
    probes : int, >= 1
        Directions; the network runs on that many times N images.
    """
    probes = check_count("probes", probes)
    z = rng.standard_normal((probes, *shape), dtype=np.float32)
    signs = 1 - 2 * (z < 0).astype(z.dtype)

    def traced(x: Array, sigma: float) -> tuple[Array, Array]:
        if x.shape != signs.shape[1:]:
            raise InputError(f"the probes are for x of shape {signs.shape[1:]}, got {x.shape}")
        eps, products = _products(model, schedule, x, sigma, signs.astype(x.dtype), cond)
        return _traced(x, sigma, eps, products.mean(0))

    return traced


def probability_flow(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Array,
    *,
    rng: Any = None,
    steps: Any = 2,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    spacing: str = "linspace",
    clip: Clip = None,
    **cond: Any,
) -> Generator[State, None, None]:
    """A sampler that follows the probability flow from each time to the next, to a tolerance.

    Song et al. 2021 (score SDE), eq. 13.

    What DDIM with eta = 0 tends to with ever more steps. NFE: as many as SciPy takes; the denoiser
    is asked at real times t. The last step, to t = 0, is the prediction of x_0.

    Parameters
    ----------
    denoiser : Denoiser
    schedule : Schedule
    x_T : array of shape (N, ...)
        Standard normal noise.
    rng : ignored; the flow draws nothing
    steps : int, None or int array
        The times whose states are yielded, see `timesteps.resolve`: T, 1 and 0 by default.
    rtol, atol, method : as in ``scipy.integrate.solve_ivp``
    spacing : str
        See `timesteps.subset`.
    clip : None, (low, high) or function
        What is done to the predicted x_0. It makes the slope less smooth, and SciPy's steps small.
    **cond
        Passed on to the denoiser.
    """
    check_start(x_T)
    times = timesteps.resolve(schedule.T, steps, spacing)
    sigmas = sigma_of(schedule, times).tolist()
    D = sigma_denoiser(denoiser, schedule, clip=clip, **cond)

    def states() -> Generator[State, None, None]:
        xt = x_T
        x = x_T * math.sqrt(1 + sigmas[0] ** 2)
        for t, (sigma, lower) in zip(times.tolist(), pairwise(sigmas), strict=False):
            x0 = D(x, sigma)
            yield State(t, xt, x0)
            if lower > 0:
                x = flow(D, x, sigma, lower, rtol=rtol, atol=atol, method=method)
                xt = x * (1 / math.sqrt(1 + lower**2))
        yield State(0, x0, x0)

    return states()


def _integrate(
    slope: Callable[[Array, float], Any],
    x: Array,
    extra: int | None,
    sigma: float,
    to: float,
    rtol: float,
    atol: float,
    method: str,
) -> tuple[Array, Array, int]:
    """(x, gain, nfe) after dx/du = slope, which with `extra` gives the integrand of N gains too."""
    from scipy.integrate import solve_ivp  # slow to import, and this is all that needs it

    for name, value in (("sigma", sigma), ("the other sigma", to)):
        if not 0 < check_number(name, value) < math.inf:
            raise InputError(f"{name} must be a number > 0, got {value}: the flow is in log sigma")
    xp = backend.array_module(x)

    def pack(x: Array, gain: Array) -> np.ndarray:
        return np.concatenate(
            [backend.to_numpy(a).reshape(-1) for a in (x, gain)], dtype=np.float64
        )

    def unpack(y: np.ndarray) -> tuple[Array, Array]:
        return xp.asarray(y[: x.size].reshape(x.shape), dtype=x.dtype), y[x.size :]

    def slopes(u: float, y: np.ndarray) -> np.ndarray:
        change = slope(unpack(y)[0], math.exp(u))
        dy = pack(*change) if extra is not None else pack(change, np.zeros(0))
        if not np.isfinite(dy).all():  # SciPy would look for a step small enough for ever
            raise InputError(f"the denoiser gave a value that is not finite at sigma {math.exp(u)}")
        return dy

    first, last = math.log(sigma), math.log(to)
    solution = solve_ivp(
        slopes,
        (first, last),
        pack(x, np.zeros(extra or 0)),
        method=method,
        rtol=rtol,
        atol=atol,
        t_eval=[last],
    )
    if not solution.success:
        raise InputError(f"the probability flow could not be integrated: {solution.message}")
    end, gain = unpack(solution.y[:, -1])
    return end, xp.asarray(gain, dtype=x.dtype), solution.nfev


def _products(
    model: Callable[..., Tensor],
    schedule: Schedule,
    x: Array,
    sigma: float,
    probes: Array,
    cond: dict[str, Any],
) -> tuple[Array, Array]:
    """(eps, <u, J u> for each probe u and image), J the Jacobian of eps in x_t; (K, N) of them."""
    xp = backend.array_module(x)
    k, n = probes.shape[:2]
    t = np.full(k * n, float(t_of(schedule, sigma)))
    cond = {
        name: np.concatenate([value] * k) if np.shape(value)[:1] == (n,) else value
        for name, value in cond.items()
    }
    xt = xp.concatenate([x * (1 / math.sqrt(1 + sigma**2))] * k)
    eps, pull = vjp(lambda xt: model(xt, t, **cond), xt)
    u = probes.reshape(xt.shape)
    return eps[:n], (u * pull(u)).reshape(k, n, -1).sum(2)


def _traced(x: Array, sigma: float, eps: Array, trace: Array) -> tuple[Array, Array]:
    """D = x - sigma eps(x / sqrt(1 + sigma^2)) and the trace of its Jacobian, from that of eps."""
    scale = sigma / math.sqrt(1 + sigma**2)
    return x - sigma * eps, x[0].size - scale * trace


def _normal(variance: float) -> Callable[[Array], Array]:
    """Log density of N(0, variance I)."""

    def log_density(x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        squares = (flat * flat).sum(1) / variance
        return -0.5 * (squares + flat.shape[1] * math.log(2 * math.pi * variance))

    return log_density
