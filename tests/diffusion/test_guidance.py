import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import backend, nn, ops
from minidiff.autograd import Tensor
from minidiff.diffusion import exact, guidance, parameterizations, samplers, schedules
from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.errors import InputError
from tests import double

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
    assert_allclose(
        map_.covariance.item(), variance, rtol=0, atol=5e-5 if variance > 1e-3 else 5e-6
    )
    if mean is not None:
        assert_allclose(map_.mean.item(), mean, atol=5e-4)


def test_a_larger_weight_is_more_condition_and_less_variety():
    """w = -1 is unconditional, 0 conditional; from there on the mean goes past the condition's."""
    schedule = schedules.linear(100, scale="reference")
    cond = Gaussian.isotropic([1.0], 0.25).denoiser(schedule)
    uncond = Gaussian.isotropic([0.0], 1.25).denoiser(schedule)

    def denoiser(xt, t, *, labels):
        return np.where((labels == NULL)[:, None], uncond(xt, t), cond(xt, t))

    def run(w):
        guided = guidance.classifier_free(denoiser, w=w, null=NULL)
        sampler = samplers.make("ddim", steps=None)
        return exact.propagate(
            lambda x, rng: samplers.final(sampler(guided, schedule, x, labels=np.full(len(x), 3))),
            (1,),
        )

    results = [run(w) for w in (-1, -0.5, 0, 0.5, 1, 2)]
    assert (np.diff([m.covariance.item() for m in results]) < 0).all()
    assert (np.diff([m.mean.item() for m in results]) > 0).all()
    assert_allclose([results[0].mean.item(), results[2].mean.item()], [0, 1], atol=0.02)


# ------------------------------------------------------------------------ interval, rescale


@pytest.mark.parametrize(
    ("interval", "times", "sizes"),
    [
        ((20, 60), [20, 10, 61], [3]),  # outside: the conditional model alone
        ((20, 60), [21, 60, 40], [6]),  # the lower end is outside, the upper one inside
        ((20, 60), [20, 21, 61], [6]),
        ((0, 100), [1, 50, 100], [6]),
        ((20.5, 20.75), [20, 21, 22], [3]),
        (None, [1, 50, 100], [6]),
    ],
)
@pytest.mark.parametrize("w", [2.0, -1.0])
def test_guidance_within_an_interval(interval, times, sizes, w):
    denoiser = Recorder()
    xt, _, labels = inputs()
    t = np.array(times)
    guided = guidance.classifier_free(denoiser, w=w, null=NULL, interval=interval)
    got = guided(xt, t, labels=labels)
    if w == -1 and sizes == [6] and times != [20, 21, 61]:
        sizes = [3]  # the unconditional model alone
    assert [shape[0] for shape, *_ in denoiser.calls] == sizes
    low, high = interval or (0, 100)
    inside = ((low < t) & (t <= high)).reshape(3, 1, 1, 1)
    everywhere = guidance.classifier_free(denoiser, w=w, null=NULL)(xt, t, labels=labels)
    expected = np.where(inside, everywhere, denoiser(xt, t, labels=labels))
    assert_allclose(got, expected, rtol=1e-12)


def test_an_interval_keeps_the_dtype():
    xt, _, labels = inputs(dtype=np.float32)
    guided = guidance.classifier_free(Recorder(), w=2.0, null=NULL, interval=(20, 60), rescale=0.5)
    assert guided(xt, np.array([20, 30, 40]), labels=labels).dtype == np.float32


@given(weights, st.floats(0, 1))
def test_rescaling_brings_the_spread_of_each_image_back(w, phi):
    """Lin et al. 2024: phi * guided * std(cond) / std(guided) + (1 - phi) * guided, per image."""
    xt, t, labels = inputs()
    plain = guidance.classifier_free(Recorder(), w=w, null=NULL)(xt, t, labels=labels)
    got = guidance.classifier_free(Recorder(), w=w, null=NULL, rescale=phi)(xt, t, labels=labels)
    cond = Recorder()(xt, t, labels=labels)
    for i in range(3):
        rescaled = plain[i] * cond[i].std() / plain[i].std()
        assert_allclose(got[i], phi * rescaled + (1 - phi) * plain[i], rtol=1e-9, atol=1e-12)
    if phi == 0:
        assert_array_equal(got, plain)


def test_rescaling_is_by_image_and_knows_its_ends():
    xt, t, labels = inputs()

    def spread(w, phi, rows=slice(None)):
        f = guidance.classifier_free(Recorder(), w=w, null=NULL, rescale=phi)
        return f(xt[rows], t[rows], labels=labels[rows]).std(axis=(1, 2, 3))

    cond = Recorder()(xt, t, labels=labels).std(axis=(1, 2, 3))
    assert_allclose(spread(4.0, 1.0), cond, rtol=1e-12)
    assert_allclose(spread(-1.0, 1.0), cond, rtol=1e-12)
    assert_allclose(spread(0.0, 1.0), cond, rtol=1e-12)
    assert_allclose(spread(4.0, 0.7)[1:], spread(4.0, 0.7, slice(1, None)), rtol=1e-12)
    assert np.ptp(spread(4.0, 0.0) / cond) > 0.1  # what one factor for all could not mend


def test_a_learned_variance_is_that_of_the_condition():
    def pair(xt, t, *, labels):
        eps = Recorder()(xt, t, labels=labels)
        return eps, eps + labels.reshape(-1, 1, 1, 1)

    xt, t, labels = inputs()
    for options in ({"w": 0}, {"w": 2.0}, {"w": 2.0, "rescale": 0.5}):
        guided = guidance.classifier_free(pair, null=NULL, **options)
        eps, v = guided(xt, t, labels=labels)
        alone = guidance.classifier_free(Recorder(), null=NULL, **options)(xt, t, labels=labels)
        assert_array_equal(eps, alone)
        assert_array_equal(v, pair(xt, t, labels=labels)[1])
    log_prob = lambda x, t, *, labels: ops.sum(x * x, axis=(1, 2, 3))  # noqa: E731
    eps, v = guidance.classifier(pair, LINEAR, log_prob, scale=1.0, conditional=True)(
        xt, t, labels=labels
    )
    assert_array_equal(v, pair(xt, t, labels=labels)[1])
    assert eps.shape == xt.shape


# -------------------------------------------------------------------------------- classifier

LINEAR = schedules.linear()
MEANS = np.array([[-1.0, 0.3], [0.8, -0.5], [1.5, 1.0]])
VARIANCES, WEIGHTS = np.array([0.3, 0.2, 0.5]), np.array([0.3, 0.5, 0.2])
MIXTURE = GaussianMixture(WEIGHTS, MEANS, VARIANCES, labels=[0, 1, 1])


def bayes(x, t):
    """log p(y, x_t) of the mixture by our own operations: the logits of the Bayes classifier."""
    xp = backend.array_module(x.data)
    columns = []
    abar = LINEAR.abar[t].reshape(-1, 1)
    for mean, variance, weight in zip(MEANS, VARIANCES, WEIGHTS, strict=True):
        v = abar * variance + 1 - abar
        centred = x - xp.asarray(np.sqrt(abar) * mean, dtype=x.dtype)
        square = ops.sum(centred * centred, axis=1, keepdims=True)
        constant = np.log(weight) - np.log(v)
        columns.append(
            square * xp.asarray(-0.5 / v, dtype=x.dtype) + xp.asarray(constant, dtype=x.dtype)
        )
    second = ops.logsumexp(ops.concat(*columns[1:], axis=1), axis=1, keepdims=True)
    return ops.concat(columns[0], second, axis=1)


LOG_P = guidance.label_log_prob(bayes)


def cases(seed=0, n=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)) * 1.5, rng.integers(1, 1001, n), rng.integers(0, 2, n)


def no_condition(xt, t, **cond):
    assert not cond
    return MIXTURE.eps(LINEAR, xt, t)


@given(st.integers(0, 10**6))
def test_the_gradient_of_a_classifier_is_a_difference_of_noises(seed):
    """grad log p(y | x_t) = -(eps(x_t, y) - eps(x_t)) / sqrt(1 - abar_t)."""
    xt, t, labels = cases(seed)
    noise = np.sqrt(1 - LINEAR.abar[t])[:, None]
    zero = lambda xt, t: np.zeros_like(xt)  # noqa: E731
    gradient = -guidance.classifier(zero, LINEAR, LOG_P, scale=1.0)(xt, t, labels=labels) / noise
    difference = MIXTURE.eps(LINEAR, xt, t, labels) - MIXTURE.eps(LINEAR, xt, t)
    assert_allclose(gradient, -difference / noise, rtol=1e-10, atol=1e-10)
    assert_allclose(gradient, MIXTURE.at_time(LINEAR, t).label_score(xt, labels), atol=1e-10)
    direction = np.random.default_rng(seed).standard_normal(xt.shape)
    up, down = (LOG_P(Tensor(xt + h * direction), t, labels=labels).data for h in (1e-5, -1e-5))
    assert_allclose((gradient * direction).sum(1), (up - down) / 2e-5, rtol=1e-6, atol=1e-6)


@given(st.floats(-2, 10), st.integers(0, 10**6))
def test_classifier_guidance_of_exact_models_is_classifier_free(w, seed):
    xt, t, labels = cases(seed)
    exact_ = MIXTURE.denoiser(LINEAR)
    free = guidance.classifier_free(exact_, w=w, null=MIXTURE.null)(xt, t, labels=labels)
    by_scale = guidance.classifier(no_condition, LINEAR, LOG_P, scale=guidance.to_scale(w))
    by_weight = guidance.classifier(exact_, LINEAR, LOG_P, scale=w, conditional=True)
    for guided in (by_scale, by_weight):
        assert_allclose(guided(xt, t, labels=labels), free, rtol=1e-9, atol=1e-9)


def test_bayes_turns_an_unconditional_model_into_a_conditional_one():
    """By samples: those of class 0 have its mean and variance."""
    guided = guidance.classifier(no_condition, LINEAR, LOG_P, scale=1.0)
    x_T = np.random.default_rng(0).standard_normal((4000, 2))
    labels = np.zeros(4000, dtype=int)
    x = samplers.final(samplers.ddim(guided, LINEAR, x_T, steps=50, labels=labels))
    assert_allclose(x.mean(0), MEANS[0], atol=0.05)
    assert_allclose(x.var(0), VARIANCES[0], atol=0.04)


def test_any_log_probability_will_do():
    """A condition that is no class: a measurement y = a.x_0 of the clean image with some noise."""
    data = Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.6], [0.6, 0.8]]))
    a, y, tau2 = np.array([1.0, -2.0]), np.array([0.7, -1.0, 0.2]), 0.1
    t = 300
    abar = LINEAR.abar[t]
    # p(y | x_t) is Gaussian: its mean is linear in x_t, by conditioning (x_0, x_t).
    mean, covariance = data.marginal(LINEAR, t)
    gain = np.sqrt(abar) * data.covariance @ np.linalg.inv(covariance)
    left = data.covariance - np.sqrt(abar) * gain @ data.covariance
    spread = a @ left @ a + tau2
    slope = a @ gain
    offset = a @ (data.mean - gain @ mean)

    def log_prob(x, t, *, y):
        error = ops.sum(x * slope, axis=1) + offset - y
        return error * error * (-0.5 / spread)

    xt = np.random.default_rng(0).standard_normal((3, 2))
    guided = guidance.classifier(data.denoiser(LINEAR), LINEAR, log_prob, scale=1.0)
    # The same by conditioning the data first, which gives another Gaussian.
    k = data.covariance @ a / (a @ data.covariance @ a + tau2)
    for i in range(3):
        given_y = Gaussian(
            data.mean + k * (y[i] - a @ data.mean),
            data.covariance - np.outer(k, a @ data.covariance),
        )
        expected = given_y.eps(LINEAR, xt[i : i + 1], t)
        got = guided(xt[i : i + 1], np.array([t]), y=y[i : i + 1])
        assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_a_classifier_between_the_times_of_a_schedule():
    xt = np.ones((2, 2))
    zero = lambda xt, t: np.zeros_like(xt)  # noqa: E731
    slope = lambda x, t: ops.sum(x * 3.0, axis=1)  # noqa: E731
    guided = guidance.classifier(zero, LINEAR, slope, scale=2.0)
    at = [guided(xt, np.full(2, t))[0, 0] for t in (40, 40.5, 41)]
    assert_allclose(at[0], -6 * np.sqrt(1 - LINEAR.abar[40]), rtol=1e-12)
    assert at[0] > at[1] > at[2]
    assert_allclose(at[1], (at[0] + at[2]) / 2, rtol=1e-3)
    assert_allclose(guided(xt, np.full(2, 40.0)), guided(xt, np.full(2, 40)), rtol=1e-12)
    zero_snr = schedules.zero_terminal_snr(LINEAR)
    last = guidance.classifier(zero, zero_snr, slope, scale=2.0)(xt, np.full(2, 1000))
    assert_array_equal(last, np.full((2, 2), -6.0))


def test_a_network_as_classifier_keeps_its_gradients():
    rng = np.random.default_rng(0)
    layer = nn.Linear(2, 3, rng=rng)
    xt = rng.standard_normal((4, 2), dtype=np.float32)
    t, labels = np.full(4, 10), np.array([0, 2, 1, 2])
    log_p = guidance.label_log_prob(lambda x, t: layer(x))
    guided = guidance.classifier(lambda xt, t: np.zeros_like(xt), LINEAR, log_p, scale=1.0)
    got = guided(xt, t, labels=labels)
    assert got.dtype == np.float32
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())
    w, b = (p.data.astype(float) for p in (layer.weight, layer.bias))
    p = np.exp(xt @ w + b)
    p /= p.sum(1, keepdims=True)
    gradient = (np.eye(3)[labels] - p) @ w.T
    assert_allclose(got, -np.sqrt(1 - LINEAR.abar[10]) * gradient, rtol=1e-4, atol=1e-6)


def test_scale_0_does_not_ask_the_classifier():
    def never(*args, **kwargs):
        raise AssertionError

    xt, t, labels = cases()
    guided = guidance.classifier(no_condition, LINEAR, never, scale=0)
    assert_array_equal(guided(xt, t, labels=labels), no_condition(xt, t))


def test_on_a_device(device):
    xt, t, labels = cases()
    clip = parameterizations.dynamic_threshold
    for make in (
        lambda d: guidance.classifier_free(
            d, w=2.0, null=MIXTURE.null, interval=(200, 900), rescale=0.5
        ),
        lambda d: guidance.classifier(d, LINEAR, LOG_P, scale=1.5, conditional=True),
    ):
        guided = make(MIXTURE.denoiser(LINEAR))
        expected = guided(xt, t, labels=labels)
        got = guided(device.asarray(xt.astype(np.float32)), t, labels=labels)
        assert type(got) is type(device.asarray(xt))
        assert got.dtype == np.float32
        assert_allclose(backend.to_numpy(got), expected, rtol=2e-4, atol=2e-5)
        with double.forbid("synchronization", "float64"):
            x_T = device.asarray(xt.astype(np.float32))
            samplers.final(samplers.ddim(guided, LINEAR, x_T, steps=3, clip=clip, labels=labels))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guided(interval=(3, 3)), r"two times \(low, high\) with low < high, got \(3, 3\)"),
        (lambda: guided(interval=5), "two times"),
        (lambda: guided(interval=(1, 2, 3)), "two times"),
        (lambda: guided(interval=(np.nan, 3)), "two times"),
        (lambda: guided(rescale=1.1), r"must lie in \[0, 1\], got 1\.1"),
        (lambda: guided(rescale=np.nan), "must lie in"),
        (lambda: guided(rescale=0.5, shape=(3, 1)), "two elements or more"),
        (lambda: by_classifier(scale=np.inf), "scale of guidance must be finite, got inf"),
        (lambda: by_classifier(lambda x, t, labels: ops.sum(x * x)), r"one number for each of 6"),
        (lambda: by_classifier(lambda x, t, labels: x * x), r"got shape \(6, 2\)"),
        (lambda: by_classifier(lambda x, t, labels: Tensor(np.ones(6))), "must return a Tensor"),
        (lambda: by_classifier(lambda x, t, labels: x.data.sum(1)), "must return a Tensor"),
        (lambda: by_classifier(labels=np.full(6, 2)), r"knows labels 0\.\.1, got 2\.\.2"),
        (lambda: by_classifier(labels=np.full(6, -1)), r"knows labels 0\.\.1, got -1\.\.-1"),
        (lambda: by_classifier(labels=np.zeros(5, dtype=int)), "6 images need 6 whole numbers"),
        (lambda: by_classifier(labels=np.zeros(6)), "6 images need 6 whole numbers"),
        (lambda: by_classifier(plain, t=np.full(6, 1001)), "t must lie in"),
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


def guided(labels=(0, 1, 2), shape=(3, 2, 2, 1), w=1.0, **options):
    t = np.array([1, 50, 100])
    denoiser = guidance.classifier_free(Recorder(), w=w, null=NULL, **options)
    return denoiser(np.ones(shape), t, labels=labels)


def plain(x, t, labels):
    return ops.sum(x, axis=1)


def by_classifier(log_prob=LOG_P, *, scale=1.0, t=None, labels=None):
    xt, times, some = cases()
    denoiser = guidance.classifier(lambda xt, t: xt, LINEAR, log_prob, scale=scale)
    return denoiser(xt, times if t is None else t, labels=some if labels is None else labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rescaling_of_noise_without_spread_is_finite(dtype):
    """A U-Net before its first step predicts 0 everywhere."""
    guided = guidance.classifier_free(lambda xt, t, labels: 0 * xt, w=2, null=NULL, rescale=0.7)
    xt, t, labels = inputs(dtype=dtype)
    got = guided(xt, t, labels=labels)
    assert got.dtype == dtype
    assert_array_equal(got, 0)
