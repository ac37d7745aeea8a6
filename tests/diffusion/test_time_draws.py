"""How the times of a training step are drawn: marginals, spread, weights, state."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.diffusion import schedules, time_draws
from minidiff.errors import InputError
from tests import strategies


class Says:
    """A generator whose whole number is given."""

    def __init__(self, k):
        self.k = k

    def integers(self, high):
        assert 0 <= self.k < high
        return self.k


def schedule(T):
    return schedules.linear(T, 1e-3, 0.02)


@given(st.integers(1, 60), st.integers(1, 40))
def test_stratified_times_are_uniform_for_every_image(T, n):
    """Exactly: over the T equally likely outcomes each image gets each time once."""
    outcomes = np.array([time_draws.stratified(schedule(T), n, rng=Says(k)) for k in range(T)])
    assert outcomes.dtype == np.int64
    assert_array_equal(np.sort(outcomes, axis=0), np.arange(1, T + 1)[:, None].repeat(n, axis=1))


@given(st.integers(1, 300), st.integers(1, 300), strategies.seeds)
def test_stratified_times_are_spread_evenly(T, n, seed):
    t = time_draws.stratified(schedule(T), n, rng=np.random.default_rng(seed))
    counts = np.bincount(t, minlength=T + 1)[1:]
    assert counts.max() - counts.min() <= 1
    # Any stretch of times has its share of the batch, up to one or two.
    cumulated = np.cumsum(counts) - np.arange(1, T + 1) * n / T
    assert np.ptp(cumulated) < 2


def test_stratified_batches_scatter_less():
    """The variance of a batch's mean falls as 1 / n^2 and not as 1 / n."""
    s, rng = schedule(1000), np.random.default_rng(0)
    uniform, stratified = (
        np.var(
            [np.mean(1 / (100 + time_draws.draw(name, s, 64, rng=rng, step=1))) for _ in range(400)]
        )
        for name in ("uniform", "stratified")
    )
    assert stratified < 0.06 * uniform


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 40))
def test_cyclic_times_come_once_in_each_round(T, n, first):
    steps = -(-T // n) + first
    t = np.concatenate(
        [time_draws.cyclic(schedule(T), n, step=step) for step in range(first, steps + 1)]
    )
    assert_array_equal(np.sort(t[:T]), np.arange(1, T + 1))  # any T that follow each other


def test_cyclic_batches_are_spread_over_all_times():
    for step in (1, 2, 17):
        t = np.sort(time_draws.cyclic(schedule(1000), 64, step=step))
        assert np.diff(np.append(t, t[0] + 1000)).max() < 3 * 1000 / 64


@pytest.mark.parametrize("name", time_draws.NAMES)
def test_the_marginal_over_an_epoch_is_uniform(name):
    """1000 batches of 50, T = 50: each time 1000 times, exactly or within 5 standard errors."""
    rng, s = np.random.default_rng(0), schedule(50)
    counts = sum(
        np.bincount(time_draws.draw(name, s, 50, rng=rng, step=step), minlength=51)
        for step in range(1, 1001)
    )
    assert counts[0] == 0
    allowed = 5 * np.sqrt(1000) if name == "uniform" else 0
    assert np.abs(counts[1:] - 1000).max() <= allowed


@given(strategies.seeds)
def test_by_name_is_by_function(seed):
    s = schedule(30)

    def rng():
        return np.random.default_rng(seed)

    assert_array_equal(
        time_draws.draw("stratified", s, 9, rng=rng(), step=5),
        time_draws.stratified(s, 9, rng=rng()),
    )
    generator = rng()
    got = time_draws.draw("cyclic", s, 9, rng=generator, step=5)
    assert_array_equal(got, time_draws.cyclic(s, 9, step=5))
    assert generator.bit_generator.state == rng().bit_generator.state  # draws nothing


def filled(T, losses, **options):
    """A history that has seen losses[t] at each t, often enough."""
    history = time_draws.LossHistory(schedule(T), **options)
    for _ in range(history.losses.shape[1]):
        history.update(np.arange(1, T + 1), np.asarray(losses, dtype=np.float64))
    return history


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0.001, 1))
@example([5e-324], 0.5)
def test_times_by_loss_history_are_weighted_back_to_uniform(losses, floor):
    """Exactly: sum of p_t w_t f_t is the mean of f over 1..T."""
    T = len(losses)
    history = filled(T, losses, floor=floor)
    p = history.probabilities
    assert p[0] == 0
    assert_allclose(p.sum(), 1, rtol=1e-12)
    assert (p[1:] >= 0.999 * floor / T).all()
    t, weight = history.draw(200, rng=np.random.default_rng(0))
    assert t.min() >= 1
    assert_allclose(weight, 1 / (T * p[t]), rtol=1e-12)
    w = 1 / (T * p[1:])
    f = np.random.default_rng(T).standard_normal(T)
    assert_allclose((p[1:] * w * f).sum(), f.mean(), rtol=1e-9, atol=1e-12)
    scale = np.abs(np.array(losses)).sum()
    if scale > 0:  # the share that is not uniform goes with the losses
        assert_allclose(p[1:] - floor / T, (1 - floor) * (np.array(losses) / scale), atol=1e-12)


def test_draws_by_loss_history_are_unbiased_and_scatter_less():
    f = 10.0 ** -np.linspace(0, 4, 40)  # orders of magnitude between the terms, as in L_vlb
    history, rng = filled(40, f), np.random.default_rng(0)
    t, weight = history.draw(20_000, rng=rng)
    values = weight * f[t - 1]
    assert abs(values.mean() - f.mean()) < 5 * values.std() / np.sqrt(len(values))
    plain = f[rng.integers(0, 40, 20_000)]
    assert values.std() < 0.1 * plain.std()


def test_the_history_is_the_root_mean_square_of_the_last_losses():
    history = time_draws.LossHistory(schedule(2), size=2, floor=1e-9)
    assert_array_equal(history.probabilities, [0, 0.5, 0.5])
    history.update([1, 1, 1, 2], np.array([9.0, 3.0, 4.0, 5.0]))
    assert_array_equal(history.probabilities, [0, 0.5, 0.5])  # t = 2 was seen once
    history.update([2], np.array([0.0]))
    ratio = np.sqrt(25 / 2) / np.sqrt(25 / 2)  # (3, 4), the 9 is forgotten; and (5, 0)
    assert_allclose(history.probabilities[1] / history.probabilities[2], ratio, rtol=1e-6)
    history.update([2, 2], np.array([30.0, 40.0]))
    assert_allclose(history.probabilities[2] / history.probabilities[1], 10, rtol=1e-6)


def test_losses_that_are_all_zero_leave_the_draw_uniform():
    assert_allclose(filled(5, np.zeros(5)).probabilities[1:], 0.2)


@given(strategies.seeds)
def test_a_history_goes_on_from_its_state(seed):
    rng = np.random.default_rng(seed)
    history = filled(5, rng.random(5), size=3)
    state = history.state_dict()
    other = time_draws.LossHistory(schedule(5), size=3)
    other.load_state_dict(state)
    for h in (history, other):
        h.update([1, 5, 5], np.array([7.0, 8.0, 9.0]))
    for name, value in history.state_dict().items():
        assert_array_equal(value, other.state_dict()[name])
        assert not np.array_equal(value, state[name])  # what was taken is a copy
    a, b = (h.draw(50, rng=np.random.default_rng(seed)) for h in (history, other))
    assert_array_equal(a[0], b[0])
    assert_array_equal(a[1], b[1])


HISTORY = time_draws.LossHistory(schedule(5))
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: time_draws.cyclic(schedule(5), 3, step=0),
            "step must be a whole number >= 1, got 0",
        ),
        (
            lambda: time_draws.draw("random", schedule(5), 3, rng=RNG, step=1),
            "choose one of uniform, stratified, cyclic",
        ),
        (lambda: time_draws.LossHistory(schedule(5), size=0), "size must be a whole number >= 1"),
        (lambda: time_draws.LossHistory(schedule(5), floor=0), "floor is a share of the draws"),
        (lambda: HISTORY.update([1, 2], np.ones(3)), r"N losses, got shapes \(2,\) and \(3,\)"),
        (lambda: HISTORY.update(1, np.ones(1)), "N losses"),
        (lambda: HISTORY.update([6], np.ones(1)), r"t must lie in 1..5"),
        (lambda: HISTORY.update([1], np.array([np.nan])), "not finite"),
        (lambda: HISTORY.load_state_dict({}), "'losses' must have shape"),
        (
            lambda: HISTORY.load_state_dict(HISTORY.state_dict() | {"counts": np.zeros(3)}),
            r"'counts' must have shape \(6,\), got \(3,\)",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
