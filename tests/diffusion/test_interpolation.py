import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import exact, interpolation, process, samplers, schedules
from minidiff.diffusion.interpolation import interpolate, linear, mix, variance_preserving
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import InputError
from tests.diffusion.test_samplers import Counter

LINEAR = schedules.linear()
SHORT = schedules.linear(20, 0.01, 0.8)
DATA = Gaussian.isotropic([0.4, -0.4], 0.5)
KINDS = tuple(interpolation.KINDS)


def pairs(n=3, seed=0, dtype=np.float64):
    a = np.random.default_rng(seed).standard_normal((4, n, 2)).astype(dtype)
    return (a[0], a[1]), (a[2], a[3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1, 500, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_are_the_two_images_noised_to_the_bit(kind, t, dtype):
    x0, eps = pairs(dtype=dtype)
    for i, lam in ((0, 0.0), (1, 1.0)):
        got = mix(LINEAR, x0, eps, t, lam, kind)
        assert_array_equal(got, process.q_sample(LINEAR, x0[i], t, eps[i]))
        assert got.dtype == dtype


@given(st.floats(0, 1))
def test_the_variance_of_the_noise(lam):
    """lambda^2 + (1 - lambda)^2 as printed, and 1; exactly, from the map's coefficients."""
    for kind, expected in ((linear, lam**2 + (1 - lam) ** 2), (variance_preserving, 1.0)):
        one, zero = np.ones((1, 1)), np.zeros((1, 1))
        a, b = kind(one, zero, lam).item(), kind(zero, one, lam).item()
        assert_allclose(a**2 + b**2, expected, rtol=1e-14)


def test_in_the_middle_half_of_the_noise_is_gone():
    zeros = np.zeros((1, 1)), np.zeros((1, 1))

    def variance(kind):
        def run(z, rng):
            none = np.zeros_like(z), np.zeros_like(z)
            eps = z, rng.standard_normal(z.shape)
            return mix(LINEAR, none, eps, 700, 0.5, kind)

        return exact.propagate(run, (1,)).covariance.item()

    assert_allclose(variance("linear"), 0.5 * (1 - LINEAR.abar[700]), rtol=1e-12)
    assert_allclose(variance("variance_preserving"), 1 - LINEAR.abar[700], rtol=1e-12)
    assert mix(LINEAR, zeros, zeros, 700, 0.5).item() == 0


@given(st.floats(0, 1), st.integers(1, 1000))
def test_as_printed_it_mixes_the_latents(lam, t):
    """(1 - lambda) x_t + lambda x'_t; the other mixes the images in the same way."""
    x0, eps = pairs()
    xt = [process.q_sample(LINEAR, x0[i], t, eps[i]) for i in (0, 1)]
    assert_allclose(
        mix(LINEAR, x0, eps, t, lam, "linear"), (1 - lam) * xt[0] + lam * xt[1], atol=1e-12
    )
    middle = (1 - lam) * x0[0] + lam * x0[1]
    none = np.zeros_like(eps[0]), np.zeros_like(eps[1])
    for kind in KINDS:
        signal = mix(LINEAR, x0, none, t, lam, kind)
        assert_allclose(signal, np.sqrt(LINEAR.abar[t]) * middle, atol=1e-12)


def test_one_lambda_for_each_image():
    x0, eps = pairs()
    lam = np.array([0.0, 0.3, 1.0])
    got = mix(LINEAR, x0, eps, 400, lam)
    for n in range(3):
        one = mix(
            LINEAR, tuple(a[n : n + 1] for a in x0), tuple(a[n : n + 1] for a in eps), 400, lam[n]
        )
        assert_allclose(got[n : n + 1], one, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("t", "steps"), [(1, None), (7, None), (20, None), (15, 4)])
def test_it_is_denoised_from_the_time_it_was_noised_to(kind, t, steps):
    """The first question to the denoiser is x_t, at t: one off is a mistake that people make."""
    x0, _ = pairs()
    denoiser = Counter(DATA.denoiser(SHORT))
    states = list(
        interpolate(
            samplers.make("ddim"), denoiser, SHORT, x0,
            t=t, lam=0.3, rng=np.random.default_rng(5), kind=kind, steps=steps,
        )
    )  # fmt: skip
    rng = np.random.default_rng(5)
    eps = rng.standard_normal(x0[0].shape), rng.standard_normal(x0[0].shape)
    xt, first, _ = denoiser.calls[0]
    assert_array_equal(xt, mix(SHORT, x0, eps, t, 0.3, kind))
    assert_array_equal(first, [t] * 3)
    assert len(denoiser.calls) == (steps or t)
    assert (states[0].t, states[-1].t) == (t, 0)


def test_at_the_ends_ddim_gives_its_reconstructions():
    x0, _ = pairs()
    for i, lam in ((0, 0.0), (1, 1.0)):
        got = samplers.final(
            interpolate(
                samplers.make("ddim"), DATA.denoiser(SHORT), SHORT, x0,
                t=9, lam=lam, rng=np.random.default_rng(1),
            )
        )  # fmt: skip
        rng = np.random.default_rng(1)
        eps = [rng.standard_normal((3, 2)) for _ in range(2)][i]
        xt = process.q_sample(SHORT, x0[i], 9, eps)
        times = range(9, -1, -1)
        again = samplers.ddim(DATA.denoiser(SHORT), SHORT, xt, steps=list(times))
        assert_array_equal(got, samplers.final(again))


def test_what_is_made_of_the_middle():
    """Exactly, over the noises: mixed as printed, the samples vary less than they should.

    The mixture of two draws of N(0, 1) is N(0, 1/2). Preserving the variance, the latent is a draw
    of q(x_t | that); DDIM then makes more of it than of the printed one.
    """
    data = Gaussian.isotropic([0.0], 1.0)

    def variance(kind):
        def run(z, rng):
            zero = np.zeros_like(z), np.zeros_like(z)
            latent = mix(SHORT, zero, (z, rng.standard_normal(z.shape)), 20, 0.5, kind)
            sampler = samplers.ddim(data.denoiser(SHORT), SHORT, latent, steps=None)
            return samplers.final(sampler)

        return exact.propagate(run, (1,)).covariance.item()

    assert_allclose(variance("linear") / variance("variance_preserving"), 0.5, rtol=1e-12)


def run(**options):
    x0, eps = pairs()
    given = {"x0": x0, "eps": eps, "t": 5, "lam": 0.5} | options
    return mix(LINEAR, **given)


def run_interpolation(**options):
    given = {"x0": pairs()[0], "t": 5, "lam": 0.5, "rng": np.random.default_rng(0)} | options
    return interpolate(samplers.ddim, DATA.denoiser(LINEAR), LINEAR, **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(lam=1.1), r"lambda must lie in \[0, 1\], got 1.1"),
        (lambda: run(lam=np.nan), "lambda must lie"),
        (lambda: run(lam=np.array([0.5, 0.5])), "give one t, or one for each image"),
        (lambda: run(kind="slerp"), "unknown kind of interpolation.*linear, variance_preserving"),
        (lambda: run(t=0), "t must lie in 1..1000"),
        (lambda: run(x0=(np.zeros((3, 2)), np.zeros((1, 2)))), "must have the shape of the first"),
        (lambda: run_interpolation(t=[5, 6, 7]), "noised to one time t"),
        (lambda: run_interpolation(t=5, steps=6), r"steps must lie in 1..5"),
        (lambda: run_interpolation(rng=None), "pass rng"),
        (lambda: run_interpolation(x0=np.zeros((2, 3, 2), dtype=int)), "array of floats"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
