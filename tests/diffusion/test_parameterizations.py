import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import parameterizations, process, schedules
from minidiff.diffusion.parameterizations import convert, denoised
from minidiff.errors import InputError
from tests import strategies


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
