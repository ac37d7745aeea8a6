import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff import backend
from minidiff.diffusion import (
    objectives,
    parameterizations,
    process,
    samplers,
    schedules,
    timesteps,
)
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.parameterizations import convert, denoised, dynamic_threshold
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import InputError
from tests import double, strategies


@st.composite
def cases(draw):
    """A schedule, times, and the five quantities of one x_t, each from its own definition."""
    schedule = draw(strategies.schedules(max_T=1000, min_abar_T=1e-6))
    rng = np.random.default_rng(draw(strategies.seeds))
    t = rng.integers(1, schedule.T + 1, size=4)
    if draw(st.booleans()):
        t = int(t[0])
    x0, eps = rng.standard_normal((2, 4, 3))
    abar, before = (np.reshape(schedule.abar[u], (-1, 1)) for u in (t, np.subtract(t, 1)))
    beta = np.reshape(schedule.beta[t], (-1, 1))
    xt = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps
    values = {
        "eps": eps,
        "x0": x0,
        "v": np.sqrt(abar) * eps - np.sqrt(1 - abar) * x0,
        "score": (np.sqrt(abar) * x0 - xt) / (1 - abar),  # of q(x_t | x_0)
        "mu": (np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before) * xt) / (1 - abar),
    }
    return schedule, xt, t, values


def test_all_are_covered():
    assert set(parameterizations.NAMES) == {"eps", "x0", "v", "score", "mu"}


@given(cases())
def test_any_to_any(case):
    schedule, xt, t, values = case
    # Rounding is amplified by 1/sqrt(abar_t) or 1/sqrt(1 - abar_t), twice by way of a score or mu.
    scale = 1 / (schedule.abar[t] * (1 - schedule.abar[t])).min()
    # mu differs from x_t by little more than beta_t, and x0 is read off that difference.
    from_mu = 1 / (schedule.beta[t] * (1 - schedule.abar[t])).min()
    for source, target in itertools.product(values, values):
        got = convert(schedule, xt, t, values[source], source=source, target=target)
        atol = 1e-14 * scale + (1e-15 * from_mu if source == "mu" else 0)
        assert_allclose(got, values[target], rtol=1e-9, atol=atol, err_msg=source + target)


@given(cases())
def test_both_forms_of_the_mean_agree(case):
    """Algorithm 2's line in eps, and the posterior mean of the x0 that this eps implies."""
    schedule, xt, t, values = case
    eps = values["eps"] + 0.3  # any prediction, not only the true noise
    posterior = convert(schedule, xt, t, eps, source="eps", target="mu")
    algorithm2 = parameterizations.mu_from_eps(schedule, xt, t, eps)
    assert_allclose(algorithm2, posterior, rtol=1e-9, atol=1e-9)


@given(cases())
def test_dtype_is_kept(case):
    schedule, xt, t, values = case
    xt = xt.astype(np.float32)
    for source, target in itertools.product(values, values):
        value = values[source].astype(np.float32)
        got = convert(schedule, xt, t, value, source=source, target=target)
        assert got.dtype == np.float32
    assert parameterizations.mu_from_eps(schedule, xt, t, xt).dtype == np.float32


def test_v_is_well_conditioned_where_eps_is_not():
    """At the cosine schedule's last t, x0 = (x_t - eps) / 5e-5: float32 loses it, but not by v."""
    schedule = schedules.cosine()
    x0, eps = np.random.default_rng(0).standard_normal((2, 100, 1)).astype(np.float32)
    xt = process.q_sample(schedule, x0, 1000, eps)
    v = parameterizations.v_from_x0_eps(schedule, 1000, x0, eps)
    from_v = convert(schedule, xt, 1000, v, source="v", target="x0")
    from_eps = convert(schedule, xt, 1000, eps, source="eps", target="x0")
    assert np.abs(from_v - x0).max() < 1e-6
    assert np.abs(from_eps - x0).max() > 1e-4


@given(cases(), st.floats(0.1, 2))
def test_clipping_x0_recomputes_eps(case, high):
    schedule, xt, t, values = case
    eps = values["eps"] + 1.0
    x0, clipped_eps = denoised(schedule, xt, t, eps, clip=(-high, high))
    assert np.abs(x0).max() <= high
    unclipped, same = denoised(schedule, xt, t, eps)
    assert same is eps
    assert_array_equal(x0, np.clip(unclipped, -high, high))
    abar = np.reshape(schedule.abar[t], (-1, 1))
    # The pair still describes this x_t...
    assert_allclose(np.sqrt(abar) * x0 + np.sqrt(1 - abar) * clipped_eps, xt, atol=1e-9)
    # ... which the stale eps does not, wherever something was clipped.
    off = np.abs(np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps - xt)
    clipped = np.broadcast_to(np.sqrt(abar), xt.shape) * np.abs(x0 - unclipped)
    assert_allclose(off, clipped, atol=1e-9)


def test_clip_may_be_any_function():
    schedule = schedules.linear(10)
    xt, eps = np.random.default_rng(0).standard_normal((2, 4, 3))
    x0, new = denoised(schedule, xt, 5, eps, clip=np.zeros_like)
    assert (x0 == 0).all()
    assert_allclose(new, xt / np.sqrt(1 - schedule.abar[5]))


@given(strategies.jumps(max_T=300, min_abar_T=1e-8), strategies.seeds)
def test_the_two_views_of_a_process(jump, seed):
    """x_t / sqrt(abar_t) = x_0 + sigma_t n, and its steps add noise to what is there."""
    schedule, s, t = jump
    x0, eps, z = np.random.default_rng(seed).standard_normal((3, 2, 3))
    xt = process.q_sample(schedule, x0, t, eps)
    ve = parameterizations.ve_from_vp(schedule, xt, t)
    assert_allclose(ve, x0 + schedule.sigma[t] * eps, rtol=1e-9, atol=1e-9)
    assert_allclose(parameterizations.vp_from_ve(schedule, ve, t), xt, rtol=1e-12, atol=1e-12)
    if s > 0:
        xs = process.q_sample(schedule, x0, s, eps)
        before = parameterizations.ve_from_vp(schedule, xs, s)
        step = process.forward_sample(schedule, xs, s, t, z)
        added = np.sqrt(schedule.sigma[t] ** 2 - schedule.sigma[s] ** 2)
        after = parameterizations.ve_from_vp(schedule, step, t)
        assert_allclose(after, before + added * z, rtol=1e-7, atol=1e-7)
    # The schedule of these sigmas has the same q.
    again = Schedule.from_sigmas(schedule.sigma[1:])
    assert_allclose(process.q_sample(again, x0, t, eps), xt, rtol=1e-7, atol=1e-9)


def test_the_views_of_several_times():
    schedule, t = schedules.linear(), np.array([3, 500])
    xt = np.random.default_rng(0).standard_normal((2, 4, 4, 1), dtype=np.float32)
    ve = parameterizations.ve_from_vp(schedule, xt, t)
    assert ve.dtype == np.float32
    for i in range(2):
        alone = parameterizations.ve_from_vp(schedule, xt[i : i + 1], int(t[i]))
        assert_allclose(ve[i : i + 1], alone, rtol=1e-6)


# With no signal left at T, x_T = eps, v = -x_0, and mu = sqrt(abar_{T-1}) x_0.
LINEAR = schedules.linear()
ZERO = schedules.zero_terminal_snr(schedules.linear(10))


@pytest.mark.parametrize("t", [10, np.array([10, 4, 10])], ids=["one t", "one t for each"])
def test_where_no_signal_is_left_v_and_x0_still_give_everything(t):
    x0, eps = np.random.default_rng(0).standard_normal((2, 3, 2))
    xt = process.q_sample(ZERO, x0, t, eps)
    v = parameterizations.v_from_x0_eps(ZERO, t, x0, eps)
    assert_array_equal(xt[[0, 2]], eps[[0, 2]])
    assert_array_equal(v[[0, 2]], -x0[[0, 2]])
    for source, value in {"v": v, "x0": x0}.items():
        got = {
            target: convert(ZERO, xt, t, value, source=source, target=target)
            for target in parameterizations.NAMES
        }
        assert_allclose(got["x0"], x0, rtol=1e-12, atol=1e-12)
        assert_allclose(got["eps"], eps, rtol=1e-12, atol=1e-12)
        assert_allclose(got["v"], v, rtol=1e-12, atol=1e-12)
        assert_allclose(got["score"][0], -eps[0], rtol=1e-12)
        assert_allclose(got["mu"][0], np.sqrt(ZERO.abar[9]) * x0[0], rtol=1e-12)
        back = convert(ZERO, xt, t, got["mu"], source="mu", target="x0")
        assert_allclose(back, x0, rtol=1e-9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x, t: parameterizations.x0_from_eps(ZERO, x, t, x),
        lambda x, t: parameterizations.mu_from_eps(ZERO, x, t, x),
        lambda x, t: convert(ZERO, x, t, x, source="score", target="v"),
        lambda x, t: convert(ZERO, x, t, x, source="eps", target="mu"),
        lambda x, t: denoised(ZERO, x, t, x, clip=(-1, 1)),
        lambda x, t: parameterizations.ve_from_vp(ZERO, x, t),
        lambda x, t: parameterizations.vp_from_ve(ZERO, x, t),
    ],
)
def test_where_no_signal_is_left_eps_says_nothing(ask):
    x = np.ones((2, 3))
    for t in (10, np.array([3, 10])):
        with pytest.raises(InputError, match=r"at t = T = 10 this schedule keeps no signal"):
            ask(x, t)
    assert np.isfinite(ask(x, 9)).all()


def test_a_sampler_of_eps_says_that_it_cannot_start_where_no_signal_is_left():
    oracle = Gaussian.isotropic([0.0], 1.0).denoiser(ZERO)
    x_T = np.ones((2, 1))
    for name in ("ddpm", "ddim"):
        states = samplers.make(name, steps=5)(oracle, ZERO, x_T, rng=np.random.default_rng(0))
        with pytest.raises(InputError, match=r"T - 1: steps=timesteps\.subset\(T - 1, S\)"):
            samplers.final(states)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_model_of_v_samples_from_the_time_before_pure_noise(name):
    """What the error says to do: with v for a point of data, every sampler ends there."""
    zero = schedules.zero_terminal_snr(schedules.linear())
    assert_allclose(zero.abar[999], 4e-9, rtol=0.1)
    x0 = np.full((2, 1), 0.5)

    def model(xt, t):
        whole = np.round(t).astype(int)
        eps = parameterizations.eps_from_x0(zero, xt, whole, x0)
        return parameterizations.v_from_x0_eps(zero, whole, x0, eps)

    denoiser = objectives.as_denoiser(model, zero, target="v")
    x_T = np.random.default_rng(0).standard_normal((2, 1))
    states = samplers.make(name, steps=timesteps.subset(999, 20))(
        denoiser, zero, x_T, rng=np.random.default_rng(0)
    )
    assert_allclose(samplers.final(states), x0, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: parameterizations.x0_from_eps(LINEAR, x, 5, y), "eps must have the shape"),
        (lambda x, y: parameterizations.eps_from_x0(LINEAR, x, 5, y), "x0 must have the shape"),
        (lambda x, y: parameterizations.x0_from_v(LINEAR, x, 5, y), "v must have the shape"),
        (lambda x, y: parameterizations.eps_from_v(LINEAR, x, 5, y), "v must have the shape"),
        (lambda x, y: parameterizations.v_from_x0_eps(LINEAR, 5, x, y), "eps must have the shape"),
        (lambda x, y: parameterizations.mu_from_x0(LINEAR, x, 5, y), "x0 must have the shape"),
        (lambda x, y: parameterizations.x0_from_mu(LINEAR, x, 5, y), "mu must have the shape"),
        (lambda x, y: parameterizations.mu_from_eps(LINEAR, x, 5, y), "eps must have the shape"),
        *(
            (
                lambda x, y, name=name: convert(LINEAR, x, 5, y, source=name, target="v"),
                "must have the shape",
            )
            for name in parameterizations.NAMES
        ),
        (
            lambda x, y: denoised(LINEAR, x, 5, x, clip=lambda x0: y),
            r"x0 must have the shape of xt, \(3, 2\), got \(1, 2\)",
        ),
    ],
)
def test_shapes_that_only_broadcast_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(np.ones((3, 2)), np.ones((1, 2)))


def by_the_book(x0, quantile):
    """Dynamic thresholding, one image at a time, with NumPy's quantile."""
    result = []
    for image in x0:
        s = max(1.0, np.quantile(np.abs(image), quantile))
        result.append(np.clip(image, -s, s) / s)
    return np.array(result)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    st.floats(0.1, 5),
    st.sampled_from([0.5, 0.9, 0.995, 1.0]),
    strategies.seeds,
)
def test_dynamic_thresholding(shape, spread, quantile, seed):
    x0 = spread * np.random.default_rng(seed).standard_normal(shape)
    got = dynamic_threshold(x0, quantile=quantile)
    assert_allclose(got, by_the_book(x0, quantile), rtol=1e-12, atol=1e-15)
    assert np.abs(got).max() <= 1
    # It leaves alone what is in range, so a second time does nothing.
    assert_array_equal(dynamic_threshold(got, quantile=quantile), got)
    inside = np.clip(x0, -1, 1)
    assert_array_equal(dynamic_threshold(inside, quantile=quantile), inside)
    # Every image is treated by itself, wherever in the batch it is.
    order = np.random.default_rng(seed).permutation(len(x0))
    assert_array_equal(dynamic_threshold(x0[order], quantile=quantile), got[order])
    assert_array_equal(dynamic_threshold(x0[:1], quantile=quantile), got[:1])


def mutant_of_the_batch(x0, quantile):
    s = max(1.0, np.quantile(np.abs(x0), quantile))
    return np.clip(x0, -s, s) / s


def mutant_of_the_wrong_side(x0, quantile):
    s = np.minimum(1.0, np.quantile(np.abs(x0), quantile, axis=(1, 2, 3), keepdims=True))
    return np.clip(x0, -s, s) / s


def mutant_without_the_division(x0, quantile):
    s = np.maximum(1.0, np.quantile(np.abs(x0), quantile, axis=(1, 2, 3), keepdims=True))
    return np.clip(x0, -s, s)


def mutant_of_signed_values(x0, quantile):
    s = np.maximum(1.0, np.quantile(x0, quantile, axis=(1, 2, 3), keepdims=True))
    return np.clip(x0, -s, s) / s


@pytest.mark.parametrize(
    "mutant",
    [
        mutant_of_the_batch,
        mutant_of_the_wrong_side,
        mutant_without_the_division,
        mutant_of_signed_values,
    ],
)
def test_the_test_sees_the_mistakes_that_people_make(mutant):
    x0 = np.random.default_rng(0).standard_normal((3, 8, 8, 1))
    x0 *= np.array([0.2, 1.0, 3.0]).reshape(3, 1, 1, 1)
    x0[2] -= 2.0
    assert_allclose(dynamic_threshold(x0, quantile=0.9), by_the_book(x0, 0.9), rtol=1e-12)
    assert np.abs(mutant(x0, 0.9) - by_the_book(x0, 0.9)).max() > 0.05


def test_thresholding_saturates_less_than_clipping():
    x0 = 3 * np.random.default_rng(0).standard_normal((4, 16, 16, 3))
    saturated = np.abs(dynamic_threshold(x0)) > 0.99
    assert saturated.mean() < 0.01 < 0.5 < (np.abs(np.clip(x0, -1, 1)) > 0.99).mean()


def test_thresholding_is_a_clip_and_recomputes_eps():
    schedule = schedules.linear()
    xt, eps = 2 * np.random.default_rng(0).standard_normal((2, 3, 4, 4, 1))
    x0, new = denoised(schedule, xt, 400, eps, clip=dynamic_threshold)
    assert_array_equal(x0, dynamic_threshold(denoised(schedule, xt, 400, eps)[0]))
    assert_allclose(process.q_sample(schedule, x0, 400, new), xt, rtol=1e-12)
    states = samplers.ddim(
        Gaussian.isotropic(np.full((4, 4, 1), 3.0), 1.0).denoiser(schedule),
        schedule,
        xt,
        steps=5,
        clip=partial(dynamic_threshold, quantile=0.9),
    )
    assert all(np.abs(state.x0).max() <= 1 for state in states)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholding_on_a_device(device, dtype):
    x0 = 2 * np.random.default_rng(0).standard_normal((3, 5, 5, 2)).astype(dtype)
    got = dynamic_threshold(device.asarray(x0))
    assert got.dtype == dtype
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    assert_allclose(backend.to_numpy(got), by_the_book(x0, 0.995), rtol=rtol, atol=rtol)
    with double.forbid("synchronization"):
        dynamic_threshold(device.asarray(x0))


@pytest.mark.parametrize("quantile", [0, -1, 1.01, 99.5, np.nan])
def test_bad_quantiles_are_refused(quantile):
    with pytest.raises(InputError, match=r"quantile must lie in \(0, 1\]"):
        dynamic_threshold(np.zeros((1, 1)), quantile=quantile)


@pytest.mark.parametrize("clip", [True, 1.0, (1, -1), (0, 0), (1,), (-1, 0, 1), "ab", (np.nan, 1)])
def test_bad_clips_are_refused(clip):
    x = np.zeros((1, 1))
    with pytest.raises(InputError, match="clip must be None"):
        denoised(schedules.linear(10), x, 5, x, clip=clip)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s, x: convert(s, x, 1, x, source="noise", target="x0"),
            "unknown parameterization 'noise'; choose one of eps, x0, v, score, mu",
        ),
        (lambda s, x: convert(s, x, 1, x, source="x0", target="y"), "unknown parameterization 'y'"),
        (lambda s, x: convert(s, x, 0, x, source="x0", target="eps"), "t must lie in 1..10"),
        (lambda s, x: convert(s, x, 0, x, source="mu", target="eps"), "t must lie in"),
        (lambda s, x: parameterizations.mu_from_eps(s, x, 11, x), "t must lie in 1..10"),
        (lambda s, x: parameterizations.x0_from_eps(s, x, np.array([1, 2]), x), "does not fit"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(schedules.linear(10), np.zeros((3, 2)))
