"""Exercises of chapter 13: the guided noise, labels that are dropped, the dynamic threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from chapterlib.checker import Case, Exercise
from exercises.ch10 import with_mutant

from minidiff import backend
from minidiff.diffusion import guidance, objectives, parameterizations

# --- 13.1 the guided noise -----------------------------------------------------------------------


def _guided_by_minidiff(eps_c: Any, eps_u: Any, w: float) -> Any:
    """What the library makes of a network with these two answers: label 0, and 1 for none."""
    c, u = (backend.asarray(a[None]) for a in (eps_c, eps_u))

    def network(xt: Any, t: Any, *, labels: Any) -> Any:
        none = backend.asarray((labels == 1)[:, None])
        return backend.array_module(xt).where(none, u, c)

    guided = guidance.classifier_free(network, w=w, null=1)
    return backend.to_numpy(guided(0 * c, np.array([1]), labels=np.array([0])))[0]


guided = Exercise(
    arguments=("eps_c", "eps_u", "w"),
    results=("eps",),
    reference=_guided_by_minidiff,
    cases=lambda: [
        (np.array(c), np.array(u), w)
        for c, u in (([2.0], [5.0]), ([3.0, -2.0], [-4.0, 7.0]))
        for w in (2.0, 0.5, 0.0, -1.0)
    ],
    mistakes=[
        with_mutant(id, _guided_by_minidiff)
        for id in (
            "guidance-the-wrong-way",
            "guidance-adds-the-unconditional",
            "weight-read-as-scale",
        )
    ],
)


@guided.mistake("has weights that do not sum to 1")
def _weights(eps_c: Any, eps_u: Any, w: float) -> Any:
    """With eps_c = eps_u, where the label makes no difference, guidance must change nothing. So the
    weights are 1 + w and -w (13.3).
    """
    return w * eps_c - w * eps_u


@guided.mistake("leaves out the conditional noise once")
def _minus_one(eps_c: Any, eps_u: Any, w: float) -> Any:
    """eps_c - w eps_u forgets that the push is added w times on *both* sides: eps_c + w (eps_c -
    eps_u) = (1 + w) eps_c - w eps_u.
    """
    return eps_c - w * eps_u


# --- 13.2 labels that are dropped ----------------------------------------------------------------


class _Coins:
    """A generator whose uniform numbers are given."""

    def __init__(self, u: Any) -> None:
        self.u = u

    def random(self, n: int | None = None) -> Any:
        return self.u[0] if n is None else self.u[:n]


def _drop_by_minidiff(labels: Any, u: Any, p_uncond: float, null: int) -> Any:
    coins: Any = _Coins(u)
    return objectives.drop_labels(labels, p_uncond=p_uncond, null=null, rng=coins)


def _labels() -> list[Case]:
    rng = np.random.default_rng(132)
    return [
        (rng.integers(1, 8, n), rng.choice([0.05, 0.15, 0.6, 0.9], n), p, 9)
        for n in (2, 3, 6)
        for p in (0.1, 0.5, 0.75)
    ]


drop = Exercise(
    arguments=("labels", "u", "p_uncond", "null"),
    results=("labels",),
    reference=_drop_by_minidiff,
    cases=_labels,
    mistakes=[
        with_mutant(id, _drop_by_minidiff) for id in ("one-coin-for-the-batch", "mask-inverted")
    ],
)


@drop.mistake("keeps the share p_uncond, and drops the rest")
def _other_share(labels: Any, u: Any, p_uncond: float, null: int) -> Any:
    """p_uncond is the probability to lose the label: u < p_uncond happens with this probability."""
    return np.where(u < 1 - p_uncond, null, labels)


@drop.mistake("makes class 0 of what it drops")
def _zero(labels: Any, u: Any, p_uncond: float, null: int) -> Any:
    """Zero is a class like the others (the digit 0, as a rule), and would be learned as the mean of
    all. "Zeros in place of the condition" means its *embedding*. The label to write is null.
    """
    return np.where(u < p_uncond, 0, labels)


@drop.mistake("removes the rows that it drops")
def _removed(labels: Any, u: Any, p_uncond: float, null: int) -> Any:
    """The images stay in the batch: they are what the model without label learns from."""
    return labels[u >= p_uncond]


# --- 13.3 the dynamic threshold ------------------------------------------------------------------


def _threshold_by_minidiff(x0: Any, quantile: float) -> Any:
    x0 = backend.asarray(x0)
    return backend.to_numpy(parameterizations.dynamic_threshold(x0, quantile=quantile))


def _images() -> list[Case]:
    rows = [[3.0, -2.0, 0.5, 1.0, -6.0], [0.2, -0.4, 0.6, -0.8, 0.3], [-1.5, 2.0, -4.0, 0.1, 0.7]]
    return [(np.array(rows[:n]), q) for n in (2, 3, 1) for q in (0.75, 0.9)]


threshold = Exercise(
    arguments=("x0", "quantile"),
    results=("x0",),
    reference=_threshold_by_minidiff,
    cases=_images,
    mistakes=[
        with_mutant(id, _threshold_by_minidiff)
        for id in (
            "threshold-clamps-the-wrong-side",
            "threshold-of-the-batch",
            "threshold-without-division",
        )
    ],
)


@threshold.mistake("takes one quantile over the whole array")
def _one_quantile(x0: Any, quantile: float) -> Any:
    """np.quantile without an axis mixes the pixels of all images. Each image has its own s."""
    s = max(1.0, float(np.quantile(np.abs(x0), quantile)))
    return np.clip(x0, -s, s) / s


@threshold.mistake("takes the quantile of the values, not of their sizes")
def _signed(x0: Any, quantile: float) -> Any:
    """Pixels leave the range on both sides. The quantile is that of |x0|."""
    s = np.maximum(1, np.quantile(x0, quantile, axis=1, keepdims=True))
    return np.clip(x0, -s, s) / s


@threshold.mistake("clips to [-1, 1], as if there were no s")
def _static(x0: Any, quantile: float) -> Any:
    """That is the static threshold. It leaves whole areas at the limit; (13.9) divides instead."""
    return np.clip(x0, -1, 1)


@threshold.mistake("divides without clipping")
def _not_clipped(x0: Any, quantile: float) -> Any:
    """The brightest pixels lie beyond the quantile, and would stay outside [-1, 1]."""
    return x0 / np.maximum(1, np.quantile(np.abs(x0), quantile, axis=1, keepdims=True))


EXERCISES = {"13.1": guided, "13.2": drop, "13.3": threshold}
