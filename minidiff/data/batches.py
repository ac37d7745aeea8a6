"""Which images each step sees: a pure function of (seed, step), so a resume needs no state."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from minidiff import backend
from minidiff.errors import InputError


def batch_indices(n: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """The rows of the data that step `step` trains on.

    The permutations of epochs 0, 1, 2, ... are laid end to end, and step k = 1, 2, ... takes the
    k-th stretch of `batch_size` rows. A batch may reach over the end of an epoch, so that every
    image is seen equally often and no rest is dropped.

    Parameters
    ----------
    n : number of images, >= 1
    batch_size : rows of a batch, >= 1
    seed : of the run, >= 0
    step : number of the step, from 1

    Returns
    -------
    int64 (batch_size,), each in 0..n - 1
    """
    if min(n, batch_size, step) < 1:
        raise InputError(
            f"n, batch_size and step must be >= 1, got n={n}, batch_size={batch_size}, step={step}"
        )
    position = (step - 1) * batch_size + np.arange(batch_size)
    epoch, place = np.divmod(position, n)
    rows = np.empty(batch_size, dtype=np.int64)
    for e in range(epoch[0], epoch[-1] + 1):
        rows[epoch == e] = _permutation(n, seed, int(e))[place[epoch == e]]
    return rows


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    # A child stream: the generator of (seed, step) itself belongs to the training steps.
    rows = backend.host_generator(seed, epoch).spawn(1)[0].permutation(n)
    rows.flags.writeable = False
    return rows
