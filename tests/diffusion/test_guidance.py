import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import exact, guidance, samplers, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import InputError

NULL = 10


class Recorder:
    """A denoiser that depends on everything it is given, row by row, and keeps a record."""

    def __init__(self):
        self.calls = []

    def __call__(self, xt, t, *, labels):
        self.calls.append((xt.shape, t.copy(), labels.copy()))
        column = (labels + t / 7).astype(xt.dtype).reshape(-1, *[1] * (xt.ndim - 1))
        return np.sin(xt * (1 + column)) + np.cos(column)


def inputs(n=3, dtype=np.float64):
    rng = np.random.default_rng(0)
    xt = rng.standard_normal((n, 2, 2, 1), dtype=dtype)
    return xt, rng.integers(1, 100, size=n), rng.integers(0, 10, size=n)


weights = st.floats(-5, 20).filter(lambda w: w not in (0, -1))


@given(weights)
def test_one_call_of_twice_the_batch(w):
    denoiser = Recorder()
    xt, t, labels = inputs()
    got = guidance.classifier_free(denoiser, w=w, null=NULL)(xt, t, labels=labels)
    assert len(denoiser.calls) == 1
    shape, times, both = denoiser.calls[0]
    assert shape == (6, 2, 2, 1)
    assert_array_equal(times, np.concatenate([t, t]))
    assert_array_equal(both, np.concatenate([labels, np.full(3, NULL)]))
    cond, uncond = denoiser(xt, t, labels=labels), denoiser(xt, t, labels=np.full(3, NULL))
    assert_array_equal(got, (1 + w) * cond - w * uncond)
    # Affine in w, through the two points that are exact.
    assert_allclose(got, cond + w * (cond - uncond), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("w", "which"), [(0, "cond"), (0.0, "cond"), (-0.0, "cond"), (-1, "null")])
def test_no_guidance_and_no_condition_are_exact_and_cost_one_batch(w, which):
    denoiser = Recorder()
    xt, t, labels = inputs()
    got = guidance.classifier_free(denoiser, w=w, null=NULL)(xt, t, labels=labels)
    expected = labels if which == "cond" else np.full(3, NULL)
    assert [shape for shape, *_ in denoiser.calls] == [(3, 2, 2, 1)]
    assert_array_equal(denoiser.calls[0][2], expected)
    assert_array_equal(got, denoiser(xt, t, labels=expected))


@pytest.mark.parametrize("w", [0, -1, 2, np.float64(0.5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(w, dtype):
    xt, t, labels = inputs(dtype=dtype)
    guided = guidance.classifier_free(Recorder(), w=w, null=NULL)
    assert guided(xt, t, labels=labels).dtype == dtype
    assert guided(xt, t, labels=labels.tolist()).dtype == dtype


@given(st.floats(-10, 10))
def test_conversion_to_a_scale(w):
    scale = guidance.to_scale(w)
    cond, uncond = np.random.default_rng(0).standard_normal((2, 5))
    assert_allclose(
        uncond + scale * (cond - uncond), (1 + w) * cond - w * uncond, rtol=1e-9, atol=1e-12
    )
    assert_allclose(guidance.from_scale(scale), w, rtol=1e-12, atol=1e-15)


def test_no_guidance_is_weight_0_and_scale_1():
    assert guidance.to_scale(0) == 1
    assert guidance.from_scale(1) == 0
    assert guidance.to_scale(-1) == guidance.from_scale(1) == 0


@pytest.mark.parametrize(
    ("w", "mean", "variance"),
    [
        (-1, None, 1.2455),
        (0, None, 0.2485),
        (0.5, None, 0.1109),
        (1, 1.320, 0.0494),
        (2, None, 0.0098),
        (5, None, 8e-5),
    ],
)
def test_what_guidance_generates_from_gaussians(w, mean, variance):
    """Known numbers for a condition N(1, 0.25) within N(0, 1.25), by DDIM with all 1000 steps.

    They are not those of the density p(x | c)^(1+w) / p(x)^w, whose variance at w = 1 is 0.139:
    guided sampling does not draw from it.
    """
    schedule = schedules.linear()
    cond = Gaussian.isotropic([1.0], 0.25).denoiser(schedule)
    uncond = Gaussian.isotropic([0.0], 1.25).denoiser(schedule)

    def denoiser(xt, t, *, labels):
        null = (labels == NULL)[:, None]
        return np.where(null, uncond(xt, t), cond(xt, t))

    guided = guidance.classifier_free(denoiser, w=w, null=NULL)

    def run(x, rng):
        labels = np.full(len(x), 3)
        return samplers.final(samplers.ddim(guided, schedule, x, steps=None, labels=labels))

    map_ = exact.propagate(run, (1,))
    assert_allclose(map_.covariance.item(), variance, rtol=0.06 if variance < 1e-3 else 8e-3)
    if mean is not None:
        assert_allclose(map_.mean.item(), mean, atol=5e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guidance.classifier_free(Recorder(), w=np.nan, null=NULL), "finite, got nan"),
        (lambda: guidance.classifier_free(Recorder(), w=np.inf, null=NULL), "finite, got inf"),
        (lambda: guided(labels=None), "3 images need 3 labels"),
        (lambda: guided(labels=3), r"3 images need 3 labels, got labels of shape \(\)"),
        (lambda: guided(labels=np.zeros(6, dtype=int)), "got labels of shape \\(6,\\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def guided(labels):
    xt, t, _ = inputs()
    return guidance.classifier_free(Recorder(), w=1.0, null=NULL)(xt, t, labels=labels)
