"""Exercises of chapter 7: Tweedie, the oracle of a mixture, a Langevin step, two ways back."""

from __future__ import annotations

from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise

from minidiff import backend
from minidiff.diffusion.oracle import GaussianMixture
from minidiff.diffusion.samplers.langevin import langevin_step
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.sde import VP

# --- 7.1 Tweedie -------------------------------------------------------------------------------


def _scores() -> list[Case]:
    rng = np.random.default_rng(71)
    return [
        (rng.choice([-3.0, 2.0, 4.0], n), rng.choice([-4.0, -2.0, 3.0], n), abar)
        for n, abar in ((1, 0.64), (1, 0.19), (2, 0.36), (3, 0.51))
    ]


def _tweedie(xt: Any, score: Any, abar: float) -> Any:
    """For a single Gaussian N(m, 0), the mean that has this score at x_t: what minidiff returns."""
    signal, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    mean = (xt + sigma**2 * score) / signal
    point = GaussianMixture([1.0], mean[None], [0.0]).at(signal, sigma)
    assert np.allclose(point.score(xt[None])[0], score)
    return point.x0(xt[None])[0]


tweedie = Exercise(
    arguments=("xt", "score", "abar"), results=("x0",), reference=_tweedie, cases=_scores
)


@tweedie.mistake("does not undo the shrinking")
def _not_stretched(xt: Any, score: Any, abar: float) -> Any:
    """x_t + (1 - abar_t) score is the mean of sqrt(abar_t) x_0. Divide by the root (7.4)."""
    return xt + (1 - abar) * score


@tweedie.mistake("goes downhill")
def _downhill(xt: Any, score: Any, abar: float) -> Any:
    """The score points to where data are more likely, and so does the way to x_0: a plus. It is
    eps that has the minus sign.
    """
    return (xt - (1 - abar) * score) / np.sqrt(abar)


@tweedie.mistake("takes the score for the noise")
def _score_as_eps(xt: Any, score: Any, abar: float) -> Any:
    """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t) is right with eps. The score is
    -eps / sqrt(1 - abar_t) (7.3).
    """
    return (xt - np.sqrt(1 - abar) * score) / np.sqrt(abar)


@tweedie.mistake("steps by the standard deviation of the noise, not by its variance")
def _root_of_variance(xt: Any, score: Any, abar: float) -> Any:
    """eps is the score times -sqrt(1 - abar_t), and stands in x_t with the same factor again.
    Together that is 1 - abar_t.
    """
    return (xt + np.sqrt(1 - abar) * score) / np.sqrt(abar)


@tweedie.mistake("divides by abar_t instead of its root")
def _no_root(xt: Any, score: Any, abar: float) -> Any:
    """abar_t is the share of the variance that is left. The image shrinks by its root."""
    return (xt + (1 - abar) * score) / abar


# --- 7.2 the oracle of a mixture ---------------------------------------------------------------


def _mixtures() -> list[Case]:
    return [
        (np.array([2.0]), np.array([1.0]), np.array([3.0]), np.array([4.0]), 0.36),
        (np.array([1.5]), np.array([0.25, 0.75]), np.array([-2.0, 2.0]), np.array([3.0, 0.5]), 0.4),
        (
            np.array([-3.0, 0.2, 2.0]),
            np.array([0.5, 0.2, 0.3]),
            np.array([-2.0, 0.5, 3.0]),
            np.array([0.2, 2.0, 0.7]),
            0.7,
        ),
        (
            np.array([-1.0, 0.4]),
            np.array([0.9, 0.1]),
            np.array([-1.0, 2.0]),
            np.array([2.0, 3.0]),
            0.2,
        ),
    ]


def _schedule(abar: float) -> Schedule:
    return Schedule.from_betas([1 - abar])


def _eps_by_minidiff(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    data = GaussianMixture(weights, means[:, None], variances)
    return backend.to_numpy(data.eps(_schedule(abar), backend.asarray(xt[:, None]), 1))[:, 0]


def _parts(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """Responsibilities, and pulls times -sqrt(1 - abar), both of shape (N, K)."""
    V = abar * variances + 1 - abar
    off = xt[:, None] - np.sqrt(abar) * means
    p = weights * np.exp(-(off**2) / (2 * V)) / np.sqrt(V)
    return p / p.sum(1, keepdims=True), np.sqrt(1 - abar) * off / V


mixture = Exercise(
    arguments=("xt", "weights", "means", "variances", "abar"),
    results=("eps",),
    reference=_eps_by_minidiff,
    cases=_mixtures,
)


@mixture.mistake("forgets abar in the variance of a hill")
def _variance_not_shrunk(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """The data shrink by sqrt(abar_t), so their variance shrinks by abar_t: x_t from hill k has
    the variance abar_t v_k + 1 - abar_t. At small t nobody notices.
    """
    return _eps_by_minidiff(xt, weights, means, variances / abar, abar)


@mixture.mistake("forgets to shrink the means")
def _means_not_shrunk(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """A hill at m_k stands at sqrt(abar_t) m_k by the time t."""
    return _eps_by_minidiff(xt, weights, means / np.sqrt(abar), variances, abar)


@mixture.mistake("averages with the weights of the hills, not with their responsibilities")
def _weights_for_r(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """w_k is how probable hill k is before x_t is seen. Once it is seen, near hills count for
    more: r_k of (7.6).
    """
    return _parts(xt, weights, means, variances, abar)[1] @ weights


@mixture.mistake("leaves out the factors 1 / sqrt(V_k) of the bells")
def _bells_of_one_height(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """A wide bell is a low one. The factor cancels only if all hills are equally wide."""
    V = abar * variances + 1 - abar
    return _eps_by_minidiff(
        xt, weights * np.sqrt(V) / (weights @ np.sqrt(V)), means, variances, abar
    )


@mixture.mistake("goes to the most probable hill alone")
def _winner(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """E[eps | x_t] is an average over all hills that x_t may have come from."""
    r, pulls = _parts(xt, weights, means, variances, abar)
    return pulls[np.arange(len(xt)), r.argmax(1)]


@mixture.mistake("returns the score")
def _score_returned(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """The noise is -sqrt(1 - abar_t) times that (7.3)."""
    return -_eps_by_minidiff(xt, weights, means, variances, abar) / np.sqrt(1 - abar)


@mixture.mistake("has the sign of the score")
def _sign(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """The score leads to the data; noise leads away from them: x_t - mu_k, not mu_k - x_t."""
    return -_eps_by_minidiff(xt, weights, means, variances, abar)


@mixture.mistake("returns the clean image")
def _clean(xt: Any, weights: Any, means: Any, variances: Any, abar: float) -> Any:
    """That is E[x_0 | x_t]. The noise is (x_t - sqrt(abar_t) E[x_0 | x_t]) / sqrt(1 - abar_t)."""
    eps = _eps_by_minidiff(xt, weights, means, variances, abar)
    return (xt - np.sqrt(1 - abar) * eps) / np.sqrt(abar)


# --- 7.3 a Langevin step -----------------------------------------------------------------------


def _steps() -> list[Case]:
    rng = np.random.default_rng(73)
    return [
        (
            rng.choice([-3.0, 2.0], n),
            rng.choice([-4.0, 5.0], n),
            alpha,
            rng.choice([-2.0, 3.0], n),
        )
        for n, alpha in ((1, 4.0), (1, 0.5), (2, 0.3), (3, 2.0))
    ]


class _Given:
    """A generator that returns the noise that it was given."""

    def __init__(self, z: Any) -> None:
        self.z = z

    def standard_normal(self, shape: Any, dtype: Any = None) -> Any:
        return self.z.copy()


def _langevin_by_minidiff(x: Any, score: Any, alpha: float, z: Any) -> Any:
    return langevin_step(x, score, alpha, rng=_Given(z))


langevin = Exercise(
    arguments=("x", "score", "alpha", "z"),
    results=("x_new",),
    reference=_langevin_by_minidiff,
    cases=_steps,
)


@langevin.mistake("moves by alpha times the score")
def _drift_not_halved(x: Any, score: Any, alpha: float, z: Any) -> Any:
    """Noise of variance alpha is undone by the drift alpha / 2 (7.13). Twice of it, and the cloud
    settles at about half of the variance that it should have.
    """
    return _langevin_by_minidiff(x, 2 * score, alpha, z)


@langevin.mistake("multiplies z by alpha")
def _noise_not_rooted(x: Any, score: Any, alpha: float, z: Any) -> Any:
    """The noise has the *variance* alpha, so z is multiplied by sqrt(alpha). With small alpha
    there would be hardly any noise, and all particles would end on the summits.
    """
    return x + alpha / 2 * score + alpha * z


@langevin.mistake("has the noise of the other convention")
def _conventions_mixed(x: Any, score: Any, alpha: float, z: Any) -> Any:
    """Either alpha / 2 with sqrt(alpha), or epsilon with sqrt(2 epsilon), where alpha is twice
    epsilon. The drift alpha / 2 with sqrt(2 alpha) heats the cloud up.
    """
    return x + alpha / 2 * score + np.sqrt(2 * alpha) * z


@langevin.mistake("goes downhill")
def _langevin_down(x: Any, score: Any, alpha: float, z: Any) -> Any:
    """Noise already drives the cloud apart. The drift has to bring it back: plus."""
    return _langevin_by_minidiff(x, -score, alpha, z)


@langevin.mistake("adds no noise")
def _no_noise(x: Any, score: Any, alpha: float, z: Any) -> Any:
    """That is gradient ascent: it ends on a summit, always the same one."""
    return x + alpha / 2 * score


# --- 7.4 two ways back -------------------------------------------------------------------------


def _places() -> list[Case]:
    rng = np.random.default_rng(74)
    return [
        (rng.choice([-3.0, 2.0], n), rng.choice([-4.0, 5.0], n), beta)
        for n, beta in ((1, 4.0), (1, 0.25), (2, 9.0), (3, 2.0))
    ]


def _both(x: Any, score: Any, beta: float) -> Any:
    process = VP(beta, beta)
    return process.reverse_drift(x, 0.5, score), process.probability_flow(x, 0.5, score)


ways_back = Exercise(
    arguments=("x", "score", "beta"),
    results=("reverse", "flow"),
    reference=_both,
    cases=_places,
)


@ways_back.mistake("gives the flow all of the score")
def _whole_score(x: Any, score: Any, beta: float) -> Any:
    """Without noise, half of g^2 times the score is what carries the cloud back. The other half
    in the reverse SDE pays for its noise, and the flow has none (7.16).
    """
    reverse, _ = _both(x, score, beta)
    return reverse, reverse


@ways_back.mistake("gives the reverse SDE half of the score")
def _half_score(x: Any, score: Any, beta: float) -> Any:
    """That is the flow. Add noise to it, and the cloud gets wider than it was: the other half of
    the score has to make up for the noise (7.17).
    """
    _, flow = _both(x, score, beta)
    return flow, flow


@ways_back.mistake("multiplies the score by g, not by g squared")
def _g_not_squared(x: Any, score: Any, beta: float) -> Any:
    """g = sqrt(beta) scales the noise; what it adds to the variance in dt is g^2 = beta, and that
    is what the score has to make up for.
    """
    drift, g = -beta / 2 * x, np.sqrt(beta)
    return drift - g * score, drift - g / 2 * score


@ways_back.mistake("turns both signs round")
def _reversed_twice(x: Any, score: Any, beta: float) -> Any:
    """The equations are meant for a dt that is negative on the way back. If you turn the drift
    round as well, you go forwards.
    """
    reverse, flow = _both(x, score, beta)
    return -reverse, -flow


@ways_back.mistake("adds the score, for a dt that is negative")
def _plus(x: Any, score: Any, beta: float) -> Any:
    """With dt < 0 a drift of -g^2 score moves uphill. A plus leads away from the data."""
    return _both(x, -score, beta)


@ways_back.mistake("shrinks by beta instead of beta / 2")
def _drift_not_halved_forwards(x: Any, score: Any, beta: float) -> Any:
    """A step multiplies by sqrt(1 - beta), about 1 - beta / 2: so f = -beta x / 2."""
    reverse, flow = _both(x, score, beta)
    return reverse - beta / 2 * x, flow - beta / 2 * x


EXERCISES = {"7.1": tweedie, "7.2": mixture, "7.3": langevin, "7.4": ways_back}
