import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.diffusion import objectives, process, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.errors import InputError
from tests import strategies


@pytest.mark.parametrize(
    ("variance", "loss"), [(1.0, 0.275513), (0.25, 0.173053), (0.01, 0.041431)]
)
def test_the_least_loss_that_any_model_can_reach(variance, loss):
    """The expectation by quadrature: (x_0, eps) = (+-1, +-1) has the moments of a Gaussian up to
    the third, and the squared error of an affine model is of second degree."""
    schedule = schedules.linear()
    t = np.repeat(np.arange(1, 1001), 4)
    x0, eps = np.tile([[1, 1], [1, -1], [-1, 1], [-1, -1]], (1000, 1)).T.reshape(2, 4000, 1)
    x0 = 0.3 + np.sqrt(variance) * x0
    oracle = Gaussian.isotropic([0.3], variance).denoiser(schedule)
    got = objectives.simple(oracle, schedule, x0, t, eps.astype(np.float64))
    assert_allclose(got.item(), loss, atol=1e-6)
    abar = schedule.abar[1:]
    exact = np.mean(abar * variance / (abar * variance + 1 - abar))
    assert_allclose(got.item(), exact, rtol=1e-10)


@given(strategies.schedules(max_T=50), strategies.seeds)
def test_the_loss_is_the_mean_of_squares_and_reaches_the_parameters(schedule, seed):
    rng = np.random.default_rng(seed)
    x0, eps = rng.standard_normal((2, 5, 2, 2, 1))
    t = objectives.draw_t(schedule, 5, rng=rng)
    weight = Tensor(rng.standard_normal((1,)), requires_grad=True)
    seen = []

    def model(xt, t, labels=None):
        seen.append((xt, t, labels))
        return ops.mul(weight, Tensor(xt))

    labels = np.arange(5)
    loss = objectives.simple(model, schedule, x0, t, eps, labels=labels)
    loss.backward()
    xt = process.q_sample(schedule, x0, t, eps)
    error = weight.data * xt - eps
    assert_allclose(loss.item(), np.mean(error**2), rtol=1e-12)
    assert_allclose(weight.grad, [np.mean(2 * error * xt)], rtol=1e-10, atol=1e-12)
    assert_array_equal(seen[0][0], xt)
    assert seen[0][1] is t
    assert seen[0][2] is labels


def test_both_forms_of_the_loss_are_one():
    """|eps - eps_theta(x_t, t)|^2 and with x_t written out, to the bit."""
    schedule = schedules.linear()
    x0, eps = np.random.default_rng(0).standard_normal((2, 4, 3))
    t = np.array([1, 20, 300, 1000])
    abar = schedule.abar[t][:, None]

    def model(xt, t):
        return np.tanh(xt) * 0.5

    got = objectives.simple(model, schedule, x0, t, eps).item()
    written_out = model(np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps, t)
    assert got == ops.mse(written_out, eps).item()
    error = objectives.squared_error(model, schedule, x0, t, eps)
    assert_allclose(objectives.mean(error).item(), got, rtol=1e-14)


def test_float32_stays_float32():
    x0, eps = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    seen = []

    def model(xt, t):
        seen.append(xt.dtype)
        return Tensor(xt)

    loss = objectives.simple(model, schedules.linear(), x0, np.array([1, 20, 300, 1000]), eps)
    assert seen == [np.float32]
    assert loss.dtype == np.float32


def test_times_are_uniform_on_1_to_T():
    schedule, n = schedules.linear(20), 50_000
    t = objectives.draw_t(schedule, n, rng=np.random.default_rng(0))
    assert t.shape == (n,)
    assert t.dtype == np.int64
    counts = np.bincount(t, minlength=22)
    assert counts[0] == counts[21] == 0
    chi2 = ((counts[1:21] - n / 20) ** 2 / (n / 20)).sum()
    assert abs(chi2 - 19) < 5 * np.sqrt(2 * 19)
    assert_array_equal(t, objectives.draw_t(schedule, n, rng=np.random.default_rng(0)))
    assert_array_equal(
        objectives.draw_t(schedules.linear(1), 9, rng=np.random.default_rng(0)), np.ones(9)
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.floats(0, 1), strategies.seeds)
def test_a_dropped_label_is_the_null_class_and_the_others_stay(labels, p, seed):
    rng = np.random.default_rng(seed)
    given_labels = np.array(labels)
    got = objectives.drop_labels(given_labels, p_uncond=p, null=10, rng=rng)
    assert got.dtype == np.int64
    kept = got != 10
    assert_array_equal(got[kept], given_labels[kept])
    assert_array_equal(given_labels, labels)  # not changed in place
    # Whatever p is, the generator has given as many numbers: a run does not depend on it elsewhere.
    expected = np.random.default_rng(seed)
    expected.random(len(labels))
    assert rng.bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_the_share_of_dropped_rows(p):
    """Binomial, within 5 standard errors over 50,000 rows."""
    n = 50_000
    labels = np.zeros(n, dtype=int)
    options = {} if p == 0.2 else {"p_uncond": p}  # 0.2 is the default
    got = objectives.drop_labels(labels, null=10, rng=np.random.default_rng(1), **options)
    assert abs((got == 10).mean() - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_dropping_none_and_all_is_exact():
    labels = np.arange(10_000) % 10
    rng = np.random.default_rng(0)
    assert_array_equal(objectives.drop_labels(labels, p_uncond=0, null=10, rng=rng), labels)
    assert (objectives.drop_labels(labels, p_uncond=1, null=10, rng=rng) == 10).all()


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: objectives.drop_labels([0.5], null=10, rng=RNG), "N integers.*float64"),
        (lambda: objectives.drop_labels(3, null=10, rng=RNG), r"shape \(\)"),
        (lambda: objectives.drop_labels([[1]], null=10, rng=RNG), r"shape \(1, 1\)"),
        (lambda: objectives.drop_labels([1], p_uncond=1.1, null=10, rng=RNG), "got 1.1"),
        (lambda: objectives.drop_labels([1], p_uncond=np.nan, null=10, rng=RNG), "got nan"),
        (lambda: loss(t=0), "t must lie in 1..10"),
        (lambda: loss(t=np.array([1, 2])), "does not fit"),
        (lambda: loss(eps=np.zeros((3, 1))), "eps must have the shape"),
        (lambda: loss(model=lambda xt, t: Tensor(xt[:, :1])), r"model returned shape \(3, 1\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def loss(model=lambda xt, t: Tensor(xt), t=5, eps=np.zeros((3, 2))):  # noqa: B008
    return objectives.simple(model, schedules.linear(10), np.zeros((3, 2)), t, eps)
