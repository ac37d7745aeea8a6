"""Data whose optimal denoiser is known in closed form: a model without a network, and no error.

`GaussianMixture` is the general one, with labels; `Gaussian` has a single component, `Empirical` is
a finite data set (a mixture of points), and `template_images` are pictures. What is known of them
with noise added, at any level, is in `Noised`: density, score, E[x_0 | x], E[eps | x], and the
posterior of components and labels. They are denoisers by ``model.denoiser(schedule)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import backend
from minidiff.autograd import Tensor
from minidiff.diffusion.arrays import Array, per_image
from minidiff.diffusion.denoiser import Denoiser, in_eps
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.diffusion.sigma import sigma_of
from minidiff.diffusion.templates import templates
from minidiff.errors import InputError, check_count, check_number
from minidiff.ops.checks import check_floats

_BLOCK = 2**22
"""Elements that a table of differences between images and points may hold at a time."""


class GaussianMixture:
    """Data x_0 ~ sum_k w_k N(m_k, C_k), each component with a label, if wanted.

    Parameters
    ----------
    weights : K positive numbers that sum to 1
    means : array of shape (K, ...)
        One mean for each component, of the shape of an image; d is the number of its elements.
    covariances : array of shape (K, d, d), or (K,) for C_k = c_k I
        Of the elements in C order; symmetric, no negative eigenvalue. Singular ones are allowed,
        and 0 makes a component a point.
    labels : None or K integers
        Class of each component, 0, ..., C - 1, none of them left out. Several components may share
        one. Without labels, any condition is ignored.

    Attributes
    ----------
    num_classes : int
        C; 0 without labels.
    null : int
        The class that stands for "no label": C.
    """

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        labels: ArrayLike | None = None,
    ) -> None:
        self.weights = _check_weights(np.array(weights, dtype=np.float64))
        self.means = np.array(means, dtype=np.float64)
        self.covariances = np.array(covariances, dtype=np.float64)
        k, self.shape = len(self.weights), self.means.shape[1:]
        if self.means.ndim < 1 or len(self.means) != k:
            raise InputError(f"{k} weights need {k} means, got means of shape {self.means.shape}")
        if not np.isfinite(self.means).all():
            raise InputError("a mean must be finite")
        self.labels = None if labels is None else _check_labels(labels, k)
        self.num_classes = 0 if self.labels is None else int(self.labels.max()) + 1
        self.null = self.num_classes
        d = math.prod(self.shape)
        if self.covariances.shape not in ((k,), (k, d, d)):
            raise InputError(
                f"a mean of {d} elements needs a covariance of shape {(d, d)}, so {k} of them "
                f"need {(k, d, d)}, or {(k,)} for c_k I; got {self.covariances.shape}"
            )
        self._axes, self._variances = _principal(self.covariances)
        self._lowest = float(self._variances.min())
        self._log_weights = self._conditional_log_weights()
        self._copies: dict[Any, _Components] = {}

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of x_0, of the shape of an image."""
        return np.tensordot(self.weights, self.means, axes=1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of x_0, shape (d, d): the mean of the C_k plus the covariance of the m_k."""
        centred = (self.means - self.mean).reshape(len(self.weights), -1)
        return np.tensordot(self.weights, self._full_covariances(), axes=1) + np.einsum(
            "k,ki,kj->ij", self.weights, centred, centred
        )

    def at(self, signal: Any, sigma: Any) -> Noised:
        """The distribution of x = signal x_0 + sigma eps, where eps ~ N(0, I).

        Parameters
        ----------
        signal, sigma : float or host array of shape (N,), >= 0
            One level for all images, or one for each. ``at(1, sigma)`` is the variance-exploding
            process of NCSN and EDM; ``at(1, 0)`` is the data.
        """
        return Noised(self, signal, sigma)

    def at_time(self, schedule: Schedule, t: Any) -> Noised:
        """q(x_t): `at` with signal sqrt(abar_t) and sigma sqrt(1 - abar_t), 0 <= t <= T.

        A real number t, or N of them, is a time between the levels of the schedule (see `sigma`).
        """
        if np.asarray(t).dtype.kind == "f":
            level = sigma_of(schedule, t)
            return self.at(1 / np.sqrt(1 + level**2), level / np.sqrt(1 + level**2))
        abar = schedule.abar[check_t(schedule, t, first=0)]
        return self.at(np.sqrt(abar), np.sqrt(1 - abar))

    def marginal(
        self, schedule: Schedule, t: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and covariance of x_t: sqrt(abar_t) m and abar_t C + (1 - abar_t) I, 0 <= t <= T."""
        abar = float(schedule.abar[check_t(schedule, t, first=0)])
        eye = np.eye(math.prod(self.shape))  # eq. (4.9)
        return np.sqrt(abar) * self.mean, abar * self.covariance + (1 - abar) * eye

    def eps(self, schedule: Schedule, xt: Array, t: Any, labels: Any = None) -> Array:
        """E[eps | x_t], the noise that the best possible model predicts (see `Noised.eps`).

        Parameters
        ----------
        schedule : Schedule
        xt : array of shape (N, ...)
        t : int or int array of shape (N,), 1 <= t <= T; or real numbers > 0, see `at_time`
        labels : None or N integers
            Classes, given which the expectation is taken; `null` for none.

        Returns
        -------
        array like xt
        """
        if np.asarray(t).dtype.kind != "f":
            t = check_t(schedule, t)
        elif not np.all(np.asarray(t) > 0):
            raise InputError("t = 0 is clean data: there is no noise to predict")
        return self.at_time(schedule, t).eps(xt, labels)

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The optimal denoiser of this data, conditional on ``labels`` where they are given.

        Guide it with ``guidance.classifier_free(denoiser, w=w, null=mixture.null)``.
        """

        def denoise(xt: Array, t: Any, *, labels: Any = None, **cond: Any) -> Array:
            return self.eps(schedule, xt, t, labels)

        return denoise

    def reverse(self, schedule: Schedule, xt: ArrayLike, s: int, t: int) -> GaussianMixture:
        """q(x_s | x_t) for one x_t, 0 <= s < t: again a mixture, its weights p(component | x_t).

        What the reverse process is to learn. It is not Gaussian, and it takes all of the data to
        know it; as t - s shrinks, it comes close to a Gaussian.

        Parameters
        ----------
        schedule : Schedule
        xt : array of the shape of one image, on the host
        s, t : int, 0 <= s < t <= T
        """
        s, t = check_t(schedule, s, first=0), check_t(schedule, t)
        if not s < t:
            raise InputError(f"the earlier time must come first, s < t, got s = {s} and t = {t}")
        xt = np.asarray(xt, dtype=np.float64)
        weights = self.at_time(schedule, t).responsibilities(xt[None])[0]  # eq. (7.11)
        weights = np.maximum(weights, np.finfo(np.float64).tiny)  # a mixture has no empty component
        abar_s, abar_t = float(schedule.abar[s]), float(schedule.abar[t])
        a = abar_t / abar_s
        # Along each axis: the variances of x_s and x_t, whose covariance is sqrt(a) before.
        # eq. (4.11)
        before = abar_s * self._variances + (1 - abar_s)
        after = abar_t * self._variances + (1 - abar_t)
        gain, left = math.sqrt(a) * before / after, before * (1 - a) / after
        off = xt.reshape(-1) - math.sqrt(abar_t) * self.means.reshape(len(weights), -1)
        if self._axes is None:
            change, covariances = gain * off, left[:, 0]
        else:
            change = np.einsum("kij,kj,klj,kl->ki", self._axes, gain, self._axes, off)
            covariances = np.einsum("kij,kj,klj->kil", self._axes, left, self._axes)
        means = math.sqrt(abar_s) * self.means + change.reshape(self.means.shape)
        return GaussianMixture(weights / weights.sum(), means, covariances, self.labels)

    def draw_labels(self, n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw n classes from p(y), the weights of their components together."""
        if self.labels is None:
            raise InputError("this mixture has no labels to draw")
        return self.labels[rng.choice(len(self.weights), size=n, p=self.weights)]

    def sample(
        self, n: int, *, rng: np.random.Generator, labels: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Draw n images x_0: an array of shape (n, ...) on the host, the i-th of class labels[i].

        Without labels from the whole mixture.
        """
        check_count("n", n, least=0)
        weights = np.exp(self._rows_of_log_weights(labels, n))
        steps = np.cumsum(weights, axis=1)
        # Which step of the cumulated weights a uniform number falls on.
        u = rng.random((n, 1)) * steps[:, -1:]
        k = np.minimum((u >= steps).sum(axis=1), len(self.weights) - 1)
        z = rng.standard_normal((n, math.prod(self.shape))) * np.sqrt(self._variances[k])
        if self._axes is not None:
            z = np.einsum("nij,nj->ni", self._axes[k], z)
        return self.means[k] + z.reshape(n, *self.shape)

    def _full_covariances(self) -> NDArray[np.float64]:
        if self.covariances.ndim == 3:
            return self.covariances
        return self.covariances[:, None, None] * np.eye(math.prod(self.shape))

    def _conditional_log_weights(self) -> NDArray[np.float64]:
        """log p(component | class), shape (C + 1, K); the last row is for no class."""
        log_w = np.log(self.weights)
        if self.labels is None:
            return log_w[None]
        own = self.labels == np.arange(self.num_classes)[:, None]
        p_class = own @ self.weights
        rows = np.where(own, log_w - np.log(p_class)[:, None], -np.inf)
        return np.concatenate([rows, log_w[None]])

    def _rows_of_log_weights(self, labels: Any, n: int) -> NDArray[np.float64]:
        """log p(component | labels[i]), shape (n, K), or (1, K) if it is the same for all."""
        if labels is None or self.labels is None:
            return self._log_weights[-1:]
        labels = np.asarray(labels)
        if labels.shape != (n,) or labels.dtype.kind not in "iu":
            raise InputError(
                f"{n} images need {n} whole numbers for labels, "
                f"got shape {labels.shape} of type {labels.dtype}"
            )
        if n and not 0 <= labels.min() <= labels.max() <= self.null:
            raise InputError(
                f"labels must lie in 0..{self.null - 1}, or be {self.null} for none, "
                f"got {labels.min()}..{labels.max()}"
            )
        return self._log_weights[labels]

    def _on(self, x: Array) -> _Components:
        """The components in the library and dtype of `x`; copied to a device only once."""
        check_floats("a mixture", x=x)
        xp = backend.array_module(x)
        key = xp.__name__, str(x.dtype)
        if key not in self._copies:
            means = self.means.reshape(len(self.weights), -1)
            arrays = (means, self._axes, self._variances)
            self._copies[key] = _Components(
                *(None if a is None else xp.asarray(a, dtype=x.dtype) for a in arrays)
            )
        return self._copies[key]


class Gaussian(GaussianMixture):
    """Data x_0 ~ N(mean, covariance), the mixture of one component; it ignores any condition.

    Parameters
    ----------
    mean : array of any shape
        The shape of one image; d is the number of its elements.
    covariance : array of shape (d, d)
        Of the elements in C order; symmetric, no negative eigenvalue. A singular one is allowed.
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike) -> None:
        mean, covariance = np.asarray(mean), np.asarray(covariance)
        if covariance.shape != (mean.size, mean.size):
            raise InputError(
                f"a mean of {mean.size} elements needs a covariance of shape "
                f"{(mean.size, mean.size)}, got {covariance.shape}"
            )
        super().__init__([1.0], mean[None], covariance[None])

    @classmethod
    def isotropic(cls, mean: ArrayLike, variance: float) -> Gaussian:
        """N(mean, variance I)."""
        return cls(mean, variance * np.eye(np.size(mean)))


class Empirical(GaussianMixture):
    """The distribution of a finite data set: each of its K images with probability 1 / K.

    Its optimal denoiser is what a network with no limits would learn from the set, and what a
    sampler makes with it are the images of the set: it has memorised them.

    Parameters
    ----------
    x0 : array of shape (K, ...)
    labels : None or K integers, 0, ..., C - 1
    """

    def __init__(self, x0: ArrayLike, labels: ArrayLike | None = None) -> None:
        x0 = np.asarray(x0)
        k = len(x0) if x0.ndim else 0
        super().__init__(np.full(k, 1 / max(k, 1)), x0, np.zeros(k), labels)


class _Components(NamedTuple):
    """Means (K, d), principal axes (K, d, d) or None, variances along them (K, d) or (K, 1)."""

    means: Array
    axes: Array | None
    variances: Array


class Noised:
    """The distribution of x = signal x_0 + sigma eps for x_0 from a mixture, eps ~ N(0, I).

    Again a mixture, with means signal m_k and covariances signal^2 C_k + sigma^2 I. Made by
    `GaussianMixture.at` and `GaussianMixture.at_time`.

    In all methods `x` is an array of shape (N, ...) and `labels` None or N integers on the host:
    the classes given which a quantity is meant (``mixture.null`` for none).
    """

    def __init__(self, mixture: GaussianMixture, signal: Any, sigma: Any) -> None:
        self.mixture = mixture
        self.signal, self.sigma = _level("signal", signal), _level("sigma", sigma)
        sizes = {a.size for a in (self.signal, self.sigma) if a.ndim}
        if len(sizes) > 1:
            raise InputError(
                f"{self.signal.size} values of signal do not fit {self.sigma.size} of sigma"
            )
        self._n = sizes.pop() if sizes else None
        if np.min(self.signal**2 * mixture._lowest + self.sigma**2, initial=np.inf) <= 0:
            raise InputError(
                "without noise a singular covariance has no density: sigma must be > 0 (t >= 1)"
            )
        # A sampler gives the same level to all images: one number is less to move and to multiply.
        self._signal, self._sigma = _if_all_alike(self.signal), _if_all_alike(self.sigma)

    def sample(
        self, n: int, *, rng: np.random.Generator, labels: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Draw n images x: an array of shape (n, ...) on the host, the i-th of class labels[i]."""
        x0 = self.mixture.sample(n, rng=rng, labels=labels)
        noise = rng.standard_normal(x0.shape)
        return per_image(self.signal, x0) * x0 + per_image(self.sigma, x0) * noise

    def log_density(self, x: Array, labels: Any = None) -> Array:
        """log q(x) in nats, all elements together, shape (N,)."""
        return _logsumexp(self._log_joint(x, labels))

    def responsibilities(self, x: Array, labels: Any = None) -> Array:
        """p(component | x), shape (N, K)."""
        xp = backend.array_module(x)
        if len(self.mixture.weights) == 1:
            return xp.ones((len(x), 1), dtype=x.dtype)
        joint = self._log_joint(x, labels)
        return xp.exp(joint - _logsumexp(joint)[:, None])

    def log_labels(self, x: Array) -> Array:
        """log p(y | x) for each class y, in nats, shape (N, C): the Bayes classifier."""
        if self.mixture.labels is None:
            raise InputError("this mixture has no labels, so there is no p(y | x)")
        xp = backend.array_module(x)
        joint = self._log_joint(x, None)
        classes = [np.flatnonzero(self.mixture.labels == y) for y in range(self.mixture.null)]
        each = [_logsumexp(joint[:, xp.asarray(k)]) for k in classes]
        return xp.stack(each, axis=1) - _logsumexp(joint)[:, None]

    def label_score(self, x: Array, labels: Any) -> Array:
        """Gradient of log p(y | x), which is grad log q(x | y) - grad log q(x); an array like x."""
        return self.score(x, labels) - self.score(x)  # eq. (7.9), eq. (13.1)

    def score(self, x: Array, labels: Any = None) -> Array:
        """Gradient of log q(x): -sum_k r_k (signal^2 C_k + sigma^2 I)^{-1} (x - signal m_k)."""
        return -self._average(x, labels, lambda lam, s, v: 1 / v)  # eq. (7.6)

    def eps(self, x: Array, labels: Any = None) -> Array:
        """E[eps | x] = -sigma grad log q(x)."""
        # eq. (7.3)
        return per_image(self._sigma, x) * self._average(x, labels, lambda lam, s, v: 1 / v)

    def x0(self, x: Array, labels: Any = None) -> Array:
        """E[x_0 | x], the D(x; sigma) of Karras et al. 2022, from the E[x_0 | x, k].

        It is (x + sigma^2 grad log q(x)) / signal (Tweedie's formula), without the division.
        """
        means = self.responsibilities(x, labels) @ self.mixture._on(x).means  # eq. (7.4)
        return means.reshape(x.shape) + self._average(x, labels, lambda lam, s, v: s * lam / v)

    def score_divergence(self, x: Array, labels: Any = None) -> Array:
        """Trace of the Hessian of log q(x), shape (N,).

        With g_k the score of component k: sum_k r_k (|g_k|^2 - tr(signal^2 C_k + sigma^2 I)^{-1})
        - |score|^2.
        """
        _, v, squares, times = self._table(x)
        each = (squares / (v * v)).sum(2).T - times * (1 / v).sum(2).T
        score = self.score(x, labels).reshape(len(x), -1)
        return (self.responsibilities(x, labels) * each).sum(1) - (score * score).sum(1)

    def eps_variance(self, x: Array, labels: Any = None) -> Array:
        """E[|eps - E[eps | x]|^2 | x], shape (N,): what no model can know of the noise, d at most.

        It is d + sigma^2 times the divergence of the score (Tweedie's formula of second order).
        """
        divergence = self.score_divergence(x, labels)  # eq. (7.5)
        sigma = per_image(self._sigma, divergence)
        return math.prod(self.mixture.shape) + sigma * sigma * divergence

    def _log_joint(self, x: Array, labels: Any) -> Array:
        """log p(component | label) + log q(x | component), shape (N, K)."""
        _, v, squares, times = self._table(x)
        xp = backend.array_module(x)
        log_normal = -0.5 * ((squares / v).sum(2) + times * xp.log(2 * math.pi * v).sum(2)).T
        rows = self.mixture._rows_of_log_weights(labels, len(x))
        return xp.asarray(rows, dtype=x.dtype) + log_normal

    def _table(self, x: Array) -> tuple[Any, Array, Array, int]:
        """(signal, v, squares, times) of x - signal m_k along the principal axes of C_k.

        The variances `v` have shape (K, 1 or N, D) and the squared lengths (K, N, D). D is d, or 1
        if all axes of a component are alike; each entry then stands for d of them, `times`.
        """
        c, flat = self.mixture._on(x), self._flat(x)
        s, s2 = per_image(self._signal, flat), per_image(self._sigma**2, flat)
        v = s * s * c.variances[:, None, :] + s2
        if c.axes is None:
            return s, v, _squared_distances(flat, s, c.means), flat.shape[1]
        z = self._along(c, s, flat)
        return s, v, z * z, 1

    def _average(self, x: Array, labels: Any, gain: Callable[..., Array]) -> Array:
        """sum_k r_k G_k (x - signal m_k), with G_k along the axes of C_k.

        `gain` makes it of the variances of x_0 along them, the signal, and the variances of x.
        """
        c, flat = self.mixture._on(x), self._flat(x)
        s, s2 = per_image(self._signal, flat), per_image(self._sigma**2, flat)
        variances = c.variances[:, None, :]
        g = gain(variances, s, s * s * variances + s2)  # (K, 1 or N, D)
        r = self.responsibilities(x, labels)
        if c.axes is None:
            rg = r * g[:, :, 0].T
            total = rg.sum(1)[:, None] * flat - s * (rg @ c.means)
        else:
            along = r.T[:, :, None] * g * self._along(c, s, flat)
            total = (along @ c.axes.transpose(0, 2, 1)).sum(0)
        return total.reshape(x.shape)

    def _along(self, c: _Components, s: Any, flat: Array) -> Array:
        """x - signal m_k along the principal axes of C_k, shape (K, N, d)."""
        return (flat - s * c.means[:, None, :]) @ c.axes

    def _flat(self, x: Array) -> Array:
        """`x` as (N, d), if it has the shape of the data."""
        if isinstance(x, Tensor):
            raise InputError("the analytic models take arrays, not Tensors: no gradient runs here")
        if x.shape[1:] != self.mixture.shape or not x.ndim:
            shape = ", ".join(["N", *map(str, self.mixture.shape)])
            name = type(self.mixture).__name__
            raise InputError(f"x must have shape ({shape}) for this {name}, got {x.shape}")
        if self._n not in (None, len(x)):
            raise InputError(f"{self._n} noise levels do not fit {len(x)} images")
        return x.reshape(len(x), -1)


def optimal_loss(
    mixture: GaussianMixture, schedule: Schedule, t: int, n: int, *, rng: np.random.Generator
) -> tuple[float, float]:
    """The smallest L_simple that any model can reach at time `t`, and its standard error.

    The mean of Var(eps | x_t) over n draws of x_t, which scatters far less than the squared errors
    do; of a single Gaussian it is a constant, and exact.

    Returns
    -------
    (loss, standard error), per element as in `objectives.simple`.
    """
    noised = mixture.at_time(schedule, check_t(schedule, t))
    # eq. (6.12): the floor
    each = noised.eps_variance(noised.sample(n, rng=rng)) / math.prod(mixture.shape)
    return float(each.mean()), float(each.std() / math.sqrt(n))


def excess_loss(
    denoiser: Denoiser,
    mixture: GaussianMixture,
    schedule: Schedule,
    xt: Array,
    t: Any,
    labels: Any = None,
) -> Array:
    """Mean of (eps_theta - E[eps | x_t])^2 over the elements of each image, shape (N,).

    Over draws of x_t its mean is L_simple of the model minus the smallest possible: the error of
    E[eps | x_t] is orthogonal to every function of x_t. Unlike the two losses themselves it is 0
    for a perfect model, on any draw.
    """
    cond = {} if labels is None else {"labels": labels}
    n = len(xt)
    error = in_eps(denoiser, schedule)(xt, np.full(n, t) if np.ndim(t) == 0 else t, **cond)
    error = (error - mixture.eps(schedule, xt, t, labels)).reshape(n, -1)
    return (error * error).mean(1)  # eq. (8.3)


def template_images(noise: float = 0.1) -> GaussianMixture:
    """Ten pictures of digits, equally likely, with independent noise of that size on each pixel.

    Images of shape (8, 8, 1) with labels 0, ..., 9 whose optimal denoiser is known, so that the
    loss of a network that was trained on them can be read as its excess over `optimal_loss`.

    Parameters
    ----------
    noise : float, >= 0
        Standard deviation of a pixel.
    """
    if not check_number("noise", noise) >= 0:
        raise InputError(f"noise is a standard deviation, >= 0, got {noise}")
    return GaussianMixture(np.full(10, 0.1), templates(), np.full(10, noise**2), np.arange(10))


def _level(name: str, values: Any) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim > 1 or not ((values >= 0) & (values < np.inf)).all():
        raise InputError(f"{name} must be a number >= 0, or one for each image, got {values}")
    return values


def _if_all_alike(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one value that all have, or the values."""
    alike = values.ndim and values.size and (values == values[0]).all()
    return values[0] if alike else values


def _principal(
    covariances: NDArray[np.float64],
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Axes (K, d, d), or None if all are alike, and the variances along them, (K, d) or (K, 1)."""
    flipped = covariances.T if covariances.ndim == 1 else covariances.transpose(0, 2, 1)
    finite = np.isfinite(covariances).all()
    rounding = 1e-12 * np.max(np.abs(covariances), initial=0)
    if not (finite and np.allclose(covariances, flipped, rtol=1e-10, atol=rounding)):
        raise InputError("a covariance must be symmetric and finite")
    if covariances.ndim == 1:
        axes, variances = None, covariances[:, None]
    else:
        variances, axes = np.linalg.eigh(covariances)
    lowest = variances.min(1)
    if np.any(lowest < -1e-10 * np.abs(variances[:, -1])):
        raise InputError(f"a covariance has a negative eigenvalue, {lowest.min():.3g}")
    return axes, np.maximum(variances, 0)


def _squared_distances(x: Array, s: Any, means: Array) -> Array:
    """|x - s m_k|^2, shape (K, N, 1).

    From the differences, some rows of x at a time: |x|^2 - 2 s x.m + s^2 |m|^2 would cancel where
    it matters most, close to a mean.
    """
    xp = backend.array_module(x)
    rows = max(1, _BLOCK // max(1, means.size))
    blocks = []
    for i in range(0, len(x), rows):
        scale = s[i : i + rows, None] if hasattr(s, "shape") else s
        off = x[i : i + rows, None, :] - scale * means
        blocks.append((off * off).sum(2).T)
    return xp.concatenate(blocks, axis=1)[:, :, None]


def _logsumexp(a: Array) -> Array:
    """log sum exp over the last axis, which must hold a number above -infinity."""
    xp = backend.array_module(a)
    highest = a.max(-1)
    return highest + xp.log(xp.exp(a - highest[..., None]).sum(-1))


def _check_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    if weights.ndim != 1 or not np.all(weights > 0) or not abs(weights.sum() - 1) < 1e-8:
        raise InputError(f"weights must be positive numbers that sum to 1, got {weights}")
    return weights


def _check_labels(labels: ArrayLike, k: int) -> NDArray[np.int64]:
    labels = np.asarray(labels)
    if labels.shape != (k,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{k} components need {k} whole numbers for labels, "
            f"got shape {labels.shape} of type {labels.dtype}"
        )
    if labels.min() < 0 or len(np.unique(labels)) != labels.max() + 1:
        raise InputError(
            "labels must be 0, ..., C - 1 with each class used at least once, "
            f"got {np.unique(labels)}"
        )
    return labels.astype(np.int64)
