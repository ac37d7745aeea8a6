"""Trading variety for fidelity to a condition."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff import backend
from minidiff.diffusion.arrays import Array
from minidiff.diffusion.denoiser import Denoiser
from minidiff.errors import InputError


def classifier_free(denoiser: Denoiser, *, w: float, null: int) -> Denoiser:
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

    Returns
    -------
    A denoiser ``guided(xt, t, *, labels)``.
    """
    if not math.isfinite(w):
        raise InputError(f"the guidance weight w must be finite, got {w}")
    w = float(w)

    def guided(xt: Array, t: NDArray[np.int64], *, labels: Any) -> Array:
        n = len(xt)
        labels = np.asarray(labels)
        if labels.shape != (n,):
            raise InputError(f"{n} images need {n} labels, got labels of shape {labels.shape}")
        nulls = np.full_like(labels, null)
        if w == 0:
            return denoiser(xt, t, labels=labels)
        if w == -1:
            return denoiser(xt, t, labels=nulls)
        both = backend.array_module(xt).concatenate([xt, xt])
        eps = denoiser(both, np.concatenate([t, t]), labels=np.concatenate([labels, nulls]))
        return (1 + w) * eps[:n] - w * eps[n:]

    return guided


def to_scale(w: float) -> float:
    """The guidance scale s = 1 + w of eps(null) + s (eps(c) - eps(null)); s = 1 is no guidance."""
    return 1 + w


def from_scale(scale: float) -> float:
    """The weight w = s - 1 of a guidance scale s."""
    return scale - 1
