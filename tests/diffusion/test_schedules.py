import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import exact, process, samplers, schedules
from minidiff.diffusion.schedules import SCHEDULES, Schedule, check_t
from minidiff.errors import InputError, PriorWarning
from tests import strategies
from tests.diffusion.gaussians import chain, condition
from tests.diffusion.models import gaussian


@given(strategies.schedules())
@example(schedules.linear(1))
@example(schedules.linear(4000))
@example(schedules.linear(4000, scale="reference"))
@example(schedules.cosine(1))
@example(schedules.cosine(4000))
@example(schedules.sigmoid(1))
@example(schedules.sigmoid(4000))
@example(schedules.quadratic(1))
@example(schedules.quadratic(4000))
@example(schedules.constant(1))
@example(schedules.constant(4000))
@example(schedules.karras(1))
@example(schedules.karras(4000))
def test_a_schedule_has_its_invariants(schedule):
    T = schedule.T
    for values in (schedule.beta, schedule.alpha, schedule.abar):
        assert values.shape == (T + 1,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    assert schedule.beta[0] == 0
    assert schedule.abar[0] == 1
    assert (np.diff(schedule.abar) < 0).all()
    assert schedule.abar[-1] > 0
    assert_array_equal(schedule.alpha, 1 - schedule.beta)
    assert_allclose(schedule.abar, np.exp(np.cumsum(np.log1p(-schedule.beta))), rtol=1e-10)


@given(strategies.schedules())
def test_from_abar_undoes_the_product(schedule):
    again = Schedule.from_abar(schedule.abar[1:])
    assert_allclose(again.beta, schedule.beta, rtol=1e-9)
    assert_allclose(again.abar, schedule.abar, rtol=1e-12)


@given(strategies.schedules())
def test_snr(schedule):
    abar = schedule.abar[1:]
    assert schedule.snr[0] == schedule.log_snr[0] == np.inf
    assert_allclose(schedule.snr[1:], abar / (1 - abar))
    assert_allclose(schedule.log_snr[1:], np.log(abar) - np.log1p(-abar), rtol=1e-10, atol=1e-10)
    assert (np.diff(schedule.snr[1:]) < 0).all()


def test_a_schedule_cannot_be_changed():
    betas = np.array([0.1, 0.2])
    schedule = Schedule.from_betas(betas)
    betas[0] = 0.5
    assert schedule.beta[1] == 0.1
    for name in ("beta", "alpha", "abar"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(schedule, name)[1] = 0.3
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(schedule, name, betas)


def test_linear_is_the_schedule_of_ddpm():
    schedule = schedules.linear()
    assert schedule.T == 1000
    assert schedule.beta[1] == 1e-4
    assert schedule.beta[1000] == 0.02
    assert_allclose(np.diff(schedule.beta[1:]), (0.02 - 1e-4) / 999, rtol=1e-10)
    assert_allclose(schedule.abar[1000], 4.0358e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("T", "scale", "abar_T", "bits"),
    [
        (200, "none", 0.132, 314),
        (500, "none", 6.35e-3, 14.1),
        (1000, "none", 4.0358e-5, 0.0894),
        (2000, "none", 1.63e-9, 3.6e-6),
        (500, "reference", 3.77e-5, 0.0835),
        (1000, "reference", 4.0358e-5, 0.0894),
        (2000, "reference", 4.18e-5, 0.0925),
    ],
)
def test_three_lengths_are_three_experiments_unless_betas_are_scaled(T, scale, abar_T, bits):
    """At 500 steps of the published betas, 14 bits of each image of CIFAR-10 are left in x_T."""
    schedule = schedules.linear(T, scale=scale)
    assert_allclose(schedule.abar[T], abar_T, rtol=3e-3)
    assert_allclose(schedules.prior_bits(schedule), bits, rtol=5e-3)


def test_with_scaled_betas_the_limit_is_not_zero():
    """It is exp(-10.05), approached as 1 / T; with betas that stay as they are, it is 0."""
    limit = np.exp(-10.05)
    assert_allclose(limit, 4.32e-5, rtol=1e-3)
    off = [schedules.linear(T, scale="reference").abar[T] / limit - 1 for T in (1000, 2000, 4000)]
    assert_allclose(np.divide(off[:-1], off[1:]), 2, rtol=0.03)
    assert_allclose(schedules.linear(10**5, scale="reference").abar[-1], limit, rtol=1e-3)
    assert schedules.constant(10**5, beta=1e-3).abar[-1] < 1e-43
    assert_allclose(
        schedules.constant(10**5, beta=0.01, scale="reference").abar[-1], np.exp(-10), rtol=1e-3
    )


def test_linear_with_ten_times_the_noise():
    """The picture at t = 195 shows something with beta_T = 0.2, but with 0.02 hardly a change."""
    strong, published = schedules.linear(1000, 1e-4, 0.2).abar, schedules.linear().abar
    assert_allclose(strong[195], 0.0212, atol=5e-5)
    assert_allclose(np.sqrt([strong[195], published[195]]), [0.146, 0.820], atol=5e-4)
    assert np.argmax(strong < 0.01) == 214
    assert np.argmax(published < 0.01) == 674
    assert_allclose((strong[1:] < 0.01).mean(), 0.786, atol=2e-3)
    assert_allclose(strong[1000], 2.1e-47, rtol=5e-3)


def test_the_prior_term_in_bits():
    """0.0228 bits for 784 dimensions and 0.0894 for 3072, as an upper bound; not zero."""
    linear = schedules.linear()
    assert_allclose(schedules.prior_bits(linear, 784), 0.0228, rtol=2e-3)
    assert_allclose(schedules.prior_bits(linear, 3072), 0.0894, rtol=1e-3)
    assert schedules.prior_bits(schedules.zero_terminal_snr(linear)) == 0


@given(strategies.schedules(max_T=50, min_abar_T=1e-6), strategies.seeds)
def test_the_prior_term_is_a_divergence_and_the_largest(schedule, seed):
    """KL(N(m, v) || N(0, 1)) = (v + m^2 - 1 - log v) / 2 nats, for m = sqrt(abar_T) x_0."""
    x0 = np.append(np.random.default_rng(seed).uniform(-1, 1, 20), [1, -1])
    v = 1 - schedule.abar[-1]
    bits = (v + schedule.abar[-1] * x0**2 - 1 - np.log(v)) / 2 / np.log(2)
    largest = schedules.prior_bits(schedule, 1)
    assert_allclose(bits[-2:], largest, rtol=1e-6, atol=1e-15)
    assert (bits <= largest + 1e-15).all()
    assert_allclose(schedules.prior_bits(schedule, 100), 100 * largest)


def told(f):
    """What `f` warns of, and what it returns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = f()
    return caught, value


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.sampled_from([1, 3, 7, 8, 100, 998, 1000, 3000]))
def test_a_name_that_does_not_end_in_noise_warns_where_it_is_called(name, T):
    caught, schedule = told(lambda: SCHEDULES[name](T))
    bits = schedules.prior_bits(schedule)
    assert [w.category for w in caught] == [PriorWarning] * (bits > 0.1)
    for w in caught:
        assert f"the prior term is {bits:.3g} bits" in str(w.message)
        assert w.filename == __file__
    assert len(told(lambda: schedules.make(name, T))[0]) == len(caught)
    # Betas that are given are what was asked for.
    assert not told(lambda: Schedule.from_betas(schedule.beta[1:]))[0]


def test_who_warns():
    def warns(f):
        return bool(told(f)[0])

    assert not warns(schedules.linear)
    assert not warns(lambda: schedules.linear(2000))
    assert warns(lambda: schedules.linear(500))
    assert not warns(lambda: schedules.linear(500, scale="reference"))
    assert not warns(lambda: schedules.linear(100, 1e-3, 0.2))
    assert not warns(lambda: schedules.cosine(20))
    assert not warns(lambda: schedules.sigmoid(20))
    assert not warns(schedules.constant)
    assert warns(schedules.quadratic)  # a published flaw: see zero_terminal_snr
    with pytest.warns(PriorWarning, match=r"14\.1 bits .* T = 500 .* abar_T = 0\.0064"):
        schedules.linear(500)


@given(st.integers(10, 4000))
@example(10)
@example(4000)
def test_cosine_clips_exactly_one_beta(T):
    schedule = schedules.cosine(T)
    assert_array_equal(np.flatnonzero(schedule.beta == 0.999), [T])
    # Before the clip it is the formula.
    t = np.arange(T + 1)
    f = np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2
    assert_allclose(schedule.abar[:T], (f / f[0])[:T], rtol=1e-8, atol=1e-14)
    # After it, abar is what the clipped beta gives.
    assert_allclose(schedule.abar[T], schedule.abar[T - 1] * 0.001, rtol=1e-12)


def test_cosine_at_1000():
    schedule = schedules.cosine(1000)
    assert schedule.abar[0] == 1
    assert_allclose(schedule.abar[1000], 2.43e-9, rtol=2e-3)


@pytest.mark.parametrize("T", [10, 100, 1000, 4000])
def test_what_the_clip_of_cosine_avoids(T):
    """A step from t = T divides by sqrt(alpha_T): 31.6 with the clip, more than 1e7 without."""
    schedule = schedules.cosine(T)
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    assert np.sqrt(f[T - 1] / f[T]) > 1e7
    assert schedules.cosine(T, beta_max=1.0).alpha[T] == 0
    assert_allclose(1 / np.sqrt(schedule.alpha[T]), 31.6, atol=0.05)
    # f has a double zero at T, so the step before goes from 4 units to 1.
    assert_allclose(schedule.beta[T - 1], 0.75, atol=0.7 / T**2)


def test_cosine_falls_more_steadily_than_linear():
    def bend(schedule):
        return np.abs(np.diff(schedule.abar[100:901], 2)).max()

    assert bend(schedules.cosine()) < bend(schedules.linear())


@given(st.integers(10, 4000), st.floats(-4, -0.5), st.floats(0.5, 4), st.floats(0.5, 2))
@example(10, -3.0, 3.0, 1.0)
@example(4000, -3.0, 3.0, 1.0)
def test_sigmoid(T, start, end, tau):
    schedule = schedules.sigmoid(T, start, end, tau)
    t = np.arange(T + 1) / T
    f = 1 / (1 + np.exp(-end / tau)) - 1 / (1 + np.exp(-(start + t * (end - start)) / tau))
    assert_allclose(schedule.abar[:T], (f / f[0])[:T], rtol=1e-7, atol=1e-12)
    assert_array_equal(np.flatnonzero(schedule.beta == 0.999), [T])
    assert_allclose(schedule.abar[T], schedule.abar[T - 1] * 0.001, rtol=1e-12)


def test_sigmoid_ends_in_a_single_zero():
    assert_allclose([schedules.sigmoid(T).beta[T - 1] for T in (1000, 4000)], 0.5, atol=2e-3)


def test_quadratic_is_the_schedule_of_latent_diffusion():
    schedule = schedules.quadratic()
    assert_allclose(schedule.beta[[1, 1000]], [0.00085, 0.012], rtol=1e-12)
    assert_allclose(np.diff(np.sqrt(schedule.beta[1:]), 2), 0, atol=1e-12)
    assert_allclose(schedule.abar[1000], 0.0047, rtol=1e-2)


@given(st.integers(1, 1000), st.floats(1e-3, 0.3))
def test_constant(T, beta):
    assert_allclose(schedules.constant(T, beta).abar, (1 - beta) ** np.arange(T + 1), rtol=1e-10)


def test_the_levels_of_karras():
    """Their eq. 5 with 18 steps, as printed by their code: sigma_max first, 0 last."""
    levels = schedules.karras_sigmas(18, 0.002, 80)
    assert_array_equal(levels[[0, -1]], [80, 0])
    assert_allclose(levels[1:4], [57.5860, 40.7856, 28.3748], rtol=2e-5)
    assert_allclose(levels[-2], 0.002, rtol=1e-9)
    assert_array_equal(schedules.karras_sigmas(1, 0.1, 7), [7, 0])


@given(st.integers(2, 500), st.floats(1e-3, 1), st.floats(2, 1000), st.floats(1, 20))
def test_any_levels_of_karras(steps, low, high, rho):
    levels = schedules.karras_sigmas(steps, low, high, rho)
    assert levels.shape == (steps + 1,)
    assert (np.diff(levels) < 0).all()
    assert_allclose(np.diff(levels[:-1] ** (1 / rho), 2), 0, atol=1e-9 * high)
    assert_allclose(levels[-2], low, rtol=1e-7)
    schedule = schedules.karras(steps, low, high, rho)
    assert_allclose(schedule.sigma[:0:-1], levels[:-1], rtol=1e-6)


def test_a_sampler_takes_the_levels_of_karras():
    """On N(0, 1) a step of Euler multiplies by 1 + (next - sigma) sigma / (1 + sigma^2)."""
    schedule = schedules.linear()
    levels = schedules.karras_sigmas(20, schedule.sigma[1], schedule.sigma[-1])
    sampler = samplers.make("euler", sigmas=levels)
    map_ = exact.propagate(
        lambda x, rng: samplers.final(sampler(gaussian(0.0, 1.0, schedule), schedule, x)), (1,)
    )
    factors = 1 + np.diff(levels) * levels[:-1] / (1 + levels[:-1] ** 2)
    expected = np.prod(factors) * np.sqrt(1 + levels[0] ** 2)
    assert_allclose(map_.matrix.item(), expected, rtol=1e-6)


@given(strategies.schedules(max_T=300, min_abar_T=1e-8))
def test_sigma(schedule):
    assert schedule.sigma[0] == 0
    assert_allclose(schedule.sigma[1:] ** -2, schedule.snr[1:], rtol=1e-10)
    again = Schedule.from_sigmas(schedule.sigma[1:])
    # sigma_1^2 = beta_1 keeps ten digits of a beta of 1e-6.
    assert_allclose(again.abar, schedule.abar, rtol=1e-8)
    assert_allclose(again.beta[1:], schedule.beta[1:], rtol=1e-6)


@given(strategies.schedules(max_T=300))
def test_zero_terminal_snr(schedule):
    """The roots of abar under an affine map that keeps the first and sends the last to 0."""
    assume(schedule.T > 1 and schedule.abar[1] - schedule.abar[-1] > 1e-4)
    zero = schedules.zero_terminal_snr(schedule)
    root, new = np.sqrt(schedule.abar[1:]), np.sqrt(zero.abar[1:])
    assert zero.abar[-1] == zero.snr[-1] == 0
    assert zero.beta[-1] == 1
    assert zero.log_snr[-1] == -np.inf
    assert zero.sigma[-1] == np.inf
    assert_allclose(new[0], root[0], rtol=1e-12)
    slope = root[0] / (root[0] - root[-1])
    assert_allclose(new, slope * (root - root[-1]), rtol=1e-9, atol=1e-10)
    assert (zero.abar <= schedule.abar + 1e-12).all()
    assert_allclose(schedules.zero_terminal_snr(zero).abar, zero.abar, rtol=1e-9)
    # Such a schedule passes through every constructor that has room for it.
    for again in (Schedule.from_betas(zero.beta[1:]), Schedule.from_abar(zero.abar[1:])):
        assert_allclose(again.abar, zero.abar, rtol=1e-9, atol=0)


@given(st.lists(st.floats(1e-3, 0.9), min_size=1, max_size=6), st.floats(-3, 3), st.floats(-3, 3))
def test_q_and_its_posteriors_know_a_last_beta_of_1(betas, x0, xt):
    betas = [*betas, 1.0]
    schedule, T = Schedule.from_betas(betas), len(betas)
    assert process.forward(schedule, 0, T) == (0, 1)
    mean, covariance = condition(*chain(betas), given=[0, T], values=np.array([x0, xt]))
    for s in range(1, T):
        c_0, c_t, variance = process.posterior(schedule, s, T)
        assert c_t == 0
        assert_allclose(c_0 * x0, mean[s - 1], rtol=1e-9, atol=1e-9)
        assert_allclose(variance, covariance[s - 1, s - 1], rtol=1e-9)


def test_make_finds_schedules_by_name():
    assert_array_equal(schedules.make("linear", 7).beta, schedules.linear(7).beta)
    assert_array_equal(schedules.make("cosine", 7, s=0.1).beta, schedules.cosine(7, s=0.1).beta)
    assert schedules.make("linear").T == 1000


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=20)
@given(st.integers(1, 300))
def test_every_name_makes_a_schedule_of_any_length(name, T):
    assert schedules.make(name, T).T == T


def test_repr_says_what_matters():
    assert repr(schedules.linear()) == (
        "Schedule(T=1000, beta_1=0.0001, beta_T=0.02, abar_T=4.04e-05)"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.make("sine"), "unknown schedule 'sine'; choose one of linear, cosine"),
        (lambda: schedules.make("sine"), "linear, cosine, sigmoid, quadratic, constant, karras$"),
        (lambda: schedules.make(["linear"]), "unknown schedule"),
        (lambda: schedules.make("linear", s=1), "no option 's'; its options are T, beta_1, beta_T"),
        (lambda: schedules.linear(scale="T"), "unknown scale 'T'; choose one of none, reference"),
        (
            lambda: schedules.linear(20, scale="reference"),
            r"beta_20 = 1\.0 after scaling by 50: use more steps",
        ),
        (lambda: schedules.linear(10, -0.1, 0.1), "beta_1 = -0.1"),
        (lambda: schedules.linear(10, 0.1, np.nan), "beta_T = nan"),
        (lambda: schedules.constant(10, 1.0), r"beta = 1\.0$"),
        (lambda: schedules.quadratic(10, -0.1, 0.1), "beta_1 = -0.1"),
        (lambda: schedules.cosine(10, s=-1.0), r"cosine needs a finite s >= 0, got -1\.0"),
        (lambda: schedules.cosine(10, s=np.nan), "cosine needs a finite s >= 0, got nan"),
        (lambda: schedules.cosine(10, s=np.inf), "cosine needs a finite s >= 0, got inf"),
        (lambda: schedules.cosine(10, s="a"), "s must be a number, got 'a'"),
        (lambda: schedules.cosine(10, beta_max="a"), "beta_max must be a number, got 'a'"),
        (lambda: schedules.sigmoid(10, 3, -3), "start < end and tau > 0"),
        (lambda: schedules.sigmoid(10, tau=0), "start < end and tau > 0"),
        (lambda: schedules.sigmoid(10, tau="a"), "tau must be a number, got 'a'"),
        (lambda: schedules.sigmoid(10, tau=1e-308), "are no numbers, got tau = 1e-308"),
        (lambda: schedules.sigmoid(10, -1e308, 1e308), "are no numbers"),
        (lambda: schedules.sigmoid(1000, -300, 300), "abar must decrease .* flat"),
        (lambda: schedules.karras(10, 1.0, 0.5), "0 < sigma_min < sigma_max"),
        (lambda: schedules.karras(10, 0.0, 0.5), "0 < sigma_min < sigma_max"),
        (lambda: schedules.karras(0), "got 0"),
        (lambda: schedules.karras_sigmas(2.0, 1, 2), "steps must be a whole number"),
        (lambda: schedules.karras_sigmas(2, 1, 2, rho=0), "rho must be > 0"),
        (lambda: schedules.karras(10, rho=1e-9), "rho = 1e-09 is too small for these levels"),
        (lambda: schedules.karras_sigmas(9, 1e-9, 1, rho=1e-3), "rho = 0.001 is too small"),
        (lambda: schedules.zero_terminal_snr(schedules.linear(1)), "T = 1 cannot"),
        (lambda: Schedule.from_sigmas([2.0, 1.0, 0.0]), "values above 0 and below 1e\\+150"),
        (lambda: Schedule.from_sigmas([2.0, 1.0]), "must rise from sigma_1 to sigma_T"),
        (lambda: Schedule.from_sigmas([1.0, np.inf]), "values above 0 and below 1e\\+150"),
        (lambda: Schedule.from_sigmas([1.0, np.nan]), "values above 0 and below 1e\\+150"),
        (lambda: Schedule.from_sigmas([[1.0]]), "one-dimensional"),
        (lambda: Schedule.from_betas([0.1, 1.0, 0.1]), r"beta_2 = 1\.0 \(only the last may be 1\)"),
        (lambda: Schedule.from_betas([0.9] * 400 + [1.0]), "stay positive"),
        (lambda: schedules.linear(0), "got 0"),
        (lambda: schedules.linear(-3), "got -3"),
        (lambda: schedules.cosine(2.5), "got 2.5"),
        (lambda: schedules.cosine(True), "got True"),
        (lambda: schedules.linear(10, 0.1, 1.0), r"beta_T = 1\.0"),
        (lambda: schedules.linear(10, -1e308, 1e308), "beta_1 = -1e"),
        (lambda: schedules.linear(10, 0.1, 1e308, scale="reference"), "beta_T = 1e"),
        (lambda: schedules.karras(10, sigma_max=1e200), "below 1e"),
        (lambda: schedules.karras(1, sigma_max=1e200), "below 1e"),
        (lambda: schedules.karras(10, rho=1e300), "not all different in float64; use fewer steps"),
        (lambda: schedules.karras_sigmas(9, 79.99999999999999, 80), "not all different"),
        (lambda: Schedule.from_betas([0.1, np.nan]), "beta_2 = nan"),
        (lambda: Schedule.from_betas([np.inf]), "beta_1 = inf"),
        (lambda: Schedule.from_betas([0.1, 0.0]), r"beta_2 = 0\.0"),
        (lambda: Schedule.from_betas([-0.1]), r"beta_1 = -0\.1"),
        (lambda: Schedule.from_betas([]), "T >= 1"),
        (lambda: Schedule.from_betas([[0.1]]), "one-dimensional"),
        (lambda: Schedule.from_betas([0.1, 1e-17]), "abar must decrease.*beta_2 = 1e-17"),
        (lambda: Schedule.from_betas([0.9] * 400), "stay positive"),
        (lambda: Schedule(np.array([0.1, 0.2])), "Schedule.from_betas takes"),
        (lambda: Schedule.from_abar([0.5, 0.6]), "but abar_1 = 0.5 and abar_2 = 0.6"),
        (lambda: Schedule.from_abar([1.0, 0.6]), "but abar_0 = 1 and abar_1 = 1"),
        (lambda: Schedule.from_abar([5e-324, 0.9]), "abar_2 = 0.9"),
        (lambda: Schedule.from_abar([0.0, 0.5]), "abar must be one-dimensional"),
        (lambda: Schedule.from_abar([0.5, np.nan]), "abar must be one-dimensional"),
    ],
)
def test_bad_schedules_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_check_t():
    schedule = schedules.linear(10)
    assert check_t(schedule, np.int32(3)) == 3
    assert type(check_t(schedule, np.int32(3))) is int
    t = check_t(schedule, np.array([1, 10], dtype=np.uint8))
    assert t.dtype == np.int64
    assert_array_equal(t, [1, 10])
    assert check_t(schedule, 0, first=0) == 0


@pytest.mark.parametrize("t", [0, 11, -1, [1, 11], [0, 3], 1.0, [1.5], True, "3"])
def test_times_outside_are_refused(t):
    with pytest.raises(InputError, match="t must"):
        check_t(schedules.linear(10), t)
