"""Progressive coding: how many bits have arrived at time t, and how good an image they give.

The sender transmits x_T, then x_{T-1}, ..., x_0. A draw of q costs about KL(q || p) bits when the
receiver knows p, so the terms of the bound are the lengths of the messages, and their sum in the
order of sending is the rate. At any t the receiver can stop and predict x_0 from x_t: that is the
distortion. Most bits of the last steps describe what no eye sees (Ho et al. 2020, section 4.3).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidiff.diffusion.elbo import Bound, bits_per_dim


class Curve(NamedTuple):
    """Rate and distortion by time, means over the images; index t, from 0 to T."""

    rate_bits_per_dim: NDArray[np.float64]
    """Bits per dimension that have arrived with x_t: L_T at t = T, the whole bound at t = 0."""
    distortion_rms: NDArray[np.float64]
    """Root of the mean squared error of x_0 as predicted from x_t; 0 at t = 0."""


def rate_distortion(bound: Bound, *, scale: float = 127.5) -> Curve:
    """Rate L_T + L_{T-1} + ... + L_t and distortion at each t (Ho et al. 2020, section 4.3).

    Parameters
    ----------
    bound : Bound
        From `elbo.bound_nats`.
    scale : float
        Multiplies the distortion: 127.5 gives it in units of 8-bit pixels, [-1, 1] being 0..255.
    """
    nats = bound.step_nats.mean(0)
    arrived = bound.prior_nats.mean() + np.append(np.cumsum(nats[:0:-1])[::-1], 0)
    return Curve(bits_per_dim(arrived, bound.dims), scale * np.sqrt(bound.x0_mse.mean(0)))


class Split(NamedTuple):
    """Where the bits per dimension go, means over the images (Ho et al. 2020, section 4.3)."""

    prior: float
    """L_T: 0 but for what is left of x_0 in x_T."""
    rate: float
    """L_{T-1} + ... + L_1: the steps to x_1."""
    reconstruction: float
    """L_0: from x_1 to the exact pixels."""

    @property
    def total(self) -> float:
        """The whole bound."""
        return self.prior + self.rate + self.reconstruction


def split_bits_per_dim(bound: Bound) -> Split:
    """The bound in bits per dimension, in three parts (Ho et al. 2020, section 4.3).

    They count L_T as rate.
    """
    steps = bound.step_bits_per_dim.mean(0)
    return Split(float(bound.prior_bits_per_dim.mean()), float(steps[2:].sum()), float(steps[1]))
