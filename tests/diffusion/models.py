"""Denoisers that the tests of several samplers share."""

import numpy as np

from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.diffusion.sigma import eps_denoiser

MIXTURE = GaussianMixture(
    [0.3, 0.7],
    [[-1.0, 0.3], [0.8, -0.5]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.25, -0.05], [-0.05, 0.4]]],
)


def everywhere(data, schedule):
    """The optimal denoiser of `data` at any real time."""
    return eps_denoiser(lambda x, sigma: data.at(1.0, sigma).x0(x), schedule)


def gaussian(mean, variance, schedule):
    """The optimal denoiser of N(mean, variance), one number, at any real time."""
    return everywhere(Gaussian.isotropic([mean], variance), schedule)


def wobbly(schedule):
    """Some denoiser that is neither exact nor linear, at any real time."""
    return lambda xt, t: np.sin(xt + t[:, None] / schedule.T)


# What Hugging Face diffusers tests its schedulers with: a ramp for noise, and a "model" that
# answers x t / (t + 1), where t counts from 0.
_SIZE = 4 * 3 * 8 * 8


def ramp():
    """Their x_T, the channels moved last."""
    return (np.arange(_SIZE) / _SIZE).reshape(3, 8, 8, 4).transpose(3, 1, 2, 0)


def answer(xt, t):
    """Their model at our t."""
    return xt * ((np.asarray(t) - 1) / t).reshape(-1, 1, 1, 1)
