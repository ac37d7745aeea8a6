"""Optimizers, clipping and averaging against hand traces and closed forms."""

import math
from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff import backend, ops
from minidiff.errors import InputError
from minidiff.nn import Flat, Linear
from minidiff.optim import EMA, Adam, AdamW, clip_grad_norm, tick, update, update_by
from tests import double

finite = st.floats(-1e3, 1e3).filter(lambda v: v == 0 or abs(v) > 1e-3)
vectors = hnp.arrays(np.float64, st.integers(1, 20), elements=finite)


def flat_of(data, dtype=np.float64):
    data = np.array(data, dtype)
    return Flat(data, np.zeros_like(data))


def run(optimizer, gradients, **options):
    """The parameters after each step."""
    path = []
    for g in gradients:
        optimizer.flat.grad[...] = g
        optimizer.step(**options)
        path.append(optimizer.flat.data.copy())
    return path


# --- Adam ----------------------------------------------------------------------------------------


def test_adam_by_hand():
    """Three steps on gradients 1, -2, 3 with decay rates 1/2 and 3/4.

    m = 1/2, -3/4, 9/8 and 1 - beta1^t = 1/2, 3/4, 7/8, so m_hat = 1, -1, 9/7;
    v = 1/4, 19/16, 201/64 and 1 - beta2^t = 1/4, 7/16, 37/64, so v_hat = 1, 19/7, 201/37.
    """
    flat = flat_of([10.0])
    optimizer = Adam(flat, lr=0.1, betas=(0.5, 0.75), eps=1e-3)
    path = run(optimizer, [1.0, -2.0, 3.0])
    moves = [-1 / (1 + 1e-3), 1 / (math.sqrt(19 / 7) + 1e-3), -9 / 7 / (math.sqrt(201 / 37) + 1e-3)]
    np.testing.assert_allclose(np.ravel(path), 10 + 0.1 * np.cumsum(moves), rtol=1e-12)
    np.testing.assert_allclose(optimizer.m, [9 / 8], rtol=1e-12)
    np.testing.assert_allclose(optimizer.v, [201 / 64], rtol=1e-12)
    assert optimizer.steps == 3


@given(g=vectors, lr=st.floats(1e-6, 10))
def test_the_first_step_is_the_learning_rate_in_the_direction_of_descent(g, lr):
    flat = flat_of(np.zeros(len(g)))
    (after,) = run(Adam(flat, lr), [g])
    assert np.all(np.abs(after) <= lr * (1 + 1e-12))
    np.testing.assert_allclose(after, -lr * np.sign(g), rtol=1e-4)  # eps is 1e-8, |g| > 1e-3


@given(g=vectors, scale=st.floats(0.1, 10))
def test_the_scale_of_the_gradient_does_not_matter(g, scale):
    paths = [
        run(Adam(flat_of(np.zeros(len(g))), 0.1, eps=1e-12), [c * g, -c * g, 3 * c * g])
        for c in (1, scale)
    ]
    np.testing.assert_allclose(*paths, rtol=1e-6, atol=1e-9)


def test_a_steady_gradient_moves_by_the_learning_rate_each_time():
    """What the bias correction is for: m_hat = g and v_hat = g^2 from the first step on."""
    path = run(Adam(flat_of([0.0, 0.0]), 0.01, eps=1e-12), [[5.0, -0.2]] * 50)
    expected = np.outer(np.arange(1, 51), [-0.01, 0.01])
    np.testing.assert_allclose(path, expected, rtol=1e-9)


def test_no_gradient_no_step():
    (after,) = run(Adam(flat_of([1.0, 2.0])), [[0.0, 0.0]])
    np.testing.assert_array_equal(after, [1, 2])


def test_the_learning_rate_of_one_step_can_be_given():
    path = run(Adam(flat_of([0.0]), 0.5), [1.0], lr=0.25)
    path += run(Adam(flat_of([0.0]), 0.25), [1.0])
    assert path[0] == path[1]
    optimizer = Adam(flat_of([0.0]), 0.5)
    optimizer.step(lr=0.0)
    assert optimizer.lr == 0.5


@pytest.mark.parametrize("make", [Adam, AdamW])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_keeps_its_dtype_and_place(make, dtype):
    flat = flat_of([1.0, 2.0], dtype)
    data, optimizer = flat.data, make(flat)
    moments = optimizer.m, optimizer.v
    run(optimizer, [[1.0, 3.0]] * 3)
    assert flat.data is data
    assert optimizer.m is moments[0]
    assert optimizer.v is moments[1]
    assert {a.dtype for a in (data, *moments)} == {np.dtype(dtype)}


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_a_model_learns(make):
    rng = np.random.default_rng(0)
    model = Linear(3, 2, rng=rng).astype(np.float64)
    x, w, b = rng.standard_normal((50, 3)), rng.standard_normal((3, 2)), rng.standard_normal(2)
    flat = model.flatten()
    options = {} if make is Adam else {"weight_decay": 0.0}
    optimizer = make(flat, 0.05, **options)
    for _ in range(500):
        model.zero_grad()
        ops.mse(model(x), x @ w + b).backward()
        optimizer.step()
    np.testing.assert_allclose(model.weight.data, w, atol=1e-4)
    np.testing.assert_allclose(model.bias.data, b, atol=1e-4)


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_a_saved_optimizer_goes_on_to_the_same_bits(make):
    gradients = np.random.default_rng(0).standard_normal((6, 4))
    whole = make(flat_of(np.ones(4)), 0.1)
    expected = run(whole, gradients)

    first = make(flat_of(np.ones(4)), 0.1)
    run(first, gradients[:3])
    state = {k: np.array(v) for k, v in first.state_dict().items()}
    second = make(flat_of(first.flat.data), 0.1)
    second.load_state_dict(state)
    np.testing.assert_array_equal(run(second, gradients[3:]), expected[3:])
    assert second.steps == 6
    run(second, gradients)
    np.testing.assert_array_equal(state["m"], first.m)  # what was loaded is a copy


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    optimizer = Adam(flat_of([1.0, 2.0]))
    run(optimizer, [[1.0, 1.0]])
    before = {k: np.array(v) for k, v in optimizer.state_dict().items()}
    bad = [
        ({"m": np.ones(3), "v": np.ones(2), "steps": 9}, "'m' has shape (3,), expected (2,)"),
        ({"m": np.ones(2), "v": np.ones(1), "steps": 9}, "'v' has shape (1,), expected (2,)"),
        ({"m": np.ones(2), "v": np.ones(2)}, "lacks steps"),
        ({}, "lacks m, steps, v"),
    ]
    for state, words in bad:
        with pytest.raises(InputError) as error:
            optimizer.load_state_dict(state)
        assert words in str(error.value)
        for name, value in optimizer.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("make", [Adam, AdamW])
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0},
        {"lr": -1e-3},
        {"lr": math.nan},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"betas": (0.9, 1.0)},
        {"eps": 0.0},
    ],
)
def test_impossible_settings_are_refused(make, options):
    with pytest.raises(InputError, match="lr > 0, betas in"):
        make(flat_of([1.0]), **options)


# --- AdamW ---------------------------------------------------------------------------------------


@given(g=vectors, lr=st.floats(1e-4, 0.5), decay=st.floats(0, 1))
def test_weight_decay_is_decoupled(g, lr, decay):
    """p <- (1 - lr decay) p and then Adam's step, whose moments know nothing of the decay."""
    start = np.linspace(-2, 2, len(g))
    plain, decayed = Adam(flat_of(start), lr), AdamW(flat_of(start), lr, weight_decay=decay)
    p = start
    for step, gradient in enumerate([g, -g, 2 * g]):
        before = plain.flat.data.copy()
        (after,) = run(plain, [gradient])
        p = (1 - lr * decay) * p + (after - before)
        (got,) = run(decayed, [gradient])
        np.testing.assert_allclose(got, p, rtol=1e-9, atol=1e-9, err_msg=f"{step=}")
        np.testing.assert_array_equal(decayed.m, plain.m)
        np.testing.assert_array_equal(decayed.v, plain.v)


def test_without_gradient_the_weights_only_shrink():
    path = run(AdamW(flat_of([1.0, -2.0]), 0.1, weight_decay=0.5), np.zeros((3, 2)))
    np.testing.assert_allclose(path[-1], 0.95**3 * np.array([1, -2]), rtol=1e-14)


def test_the_decay_follows_the_learning_rate_of_the_step():
    (after,) = run(AdamW(flat_of([1.0]), 0.1, weight_decay=0.5), [[0.0]], lr=0.2)
    assert after[0] == pytest.approx(0.9, rel=1e-14)


def test_no_decay_is_adam_to_the_bit():
    gradients = np.random.default_rng(0).standard_normal((5, 3))
    np.testing.assert_array_equal(
        run(AdamW(flat_of(np.ones(3)), weight_decay=0), gradients),
        run(Adam(flat_of(np.ones(3))), gradients),
    )


def test_a_negative_decay_is_refused():
    for decay in (-1, float("nan")):
        with pytest.raises(InputError, match=f"weight_decay must be >= 0, got {decay}"):
            AdamW(flat_of([1.0]), weight_decay=decay)


# --- Clipping ------------------------------------------------------------------------------------


@given(g=vectors, max_norm=st.floats(1e-3, 1e5), dtype=st.sampled_from([np.float32, np.float64]))
def test_clipping_limits_the_norm_and_keeps_the_direction(g, max_norm, dtype):
    flat = flat_of(np.ones(len(g)), dtype)
    flat.grad[...] = g
    g, place = flat.grad.copy(), flat.grad
    norm = clip_grad_norm(flat, max_norm)
    assert norm.dtype == dtype
    size = math.sqrt(sum(float(v) ** 2 for v in g))
    rounding = 1e-5 if dtype == np.float32 else 1e-12
    assert float(norm) == pytest.approx(size, rel=rounding)
    assert flat.grad is place
    assert flat.grad.dtype == dtype
    if size < max_norm * (1 - rounding):
        np.testing.assert_array_equal(flat.grad, g)
    else:
        assert np.linalg.norm(flat.grad) <= max_norm * (1 + rounding)
        np.testing.assert_allclose(flat.grad, g * (max_norm / size), rtol=3 * rounding)
    np.testing.assert_array_equal(flat.data, 1)


def test_a_gradient_of_zero_stays_zero_and_infinity_clips_nothing():
    flat = flat_of([1.0, 2.0])
    assert clip_grad_norm(flat, 1.0) == 0
    np.testing.assert_array_equal(flat.grad, 0)
    flat.grad[...] = [3, 4]
    assert clip_grad_norm(flat, math.inf) == 5
    np.testing.assert_array_equal(flat.grad, [3, 4])


def test_a_gradient_that_is_not_finite_shows_in_the_norm():
    flat = flat_of([1.0, 2.0])
    flat.grad[...] = [math.nan, 4]
    assert math.isnan(clip_grad_norm(flat, 1.0))


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan])
def test_an_impossible_limit_is_refused(max_norm):
    with pytest.raises(InputError, match="must be positive"):
        clip_grad_norm(flat_of([1.0]), max_norm)


# --- Averaging -----------------------------------------------------------------------------------


def averaged(weights, **options):
    """The average after starting at weights[0] and updating with each of the others."""
    flat = flat_of(weights[0])
    ema = EMA(flat, **options)
    for w in weights[1:]:
        flat.data[...] = w
        ema.update()
    return ema


def shares(n, decay, warmup):
    """The share of each of the n + 1 weights in the average: its closed form."""
    decays = [min(decay, (1 + k) / (10 + k)) if warmup else decay for k in range(n)]
    later = [math.prod(decays[k:]) for k in range(n + 1)]
    return np.array([later[0], *((1 - d) * later[k + 1] for k, d in enumerate(decays))])


@given(
    n=st.integers(0, 60),
    decay=st.sampled_from([0.0, 0.05, 0.5, 0.99, 0.9999]),
    warmup=st.booleans(),
)
def test_the_average_is_its_closed_form(n, decay, warmup):
    weights = np.random.default_rng(n).standard_normal((n + 1, 3))
    expected = shares(n, decay, warmup)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(expected >= 0)
    ema = averaged(weights, decay=decay, warmup=warmup)
    np.testing.assert_allclose(ema.data, expected @ weights, rtol=1e-10, atol=1e-12)
    assert ema.updates == n


def test_the_share_of_the_random_start_after_a_thousand_updates():
    """Without warm-up a decay of 0.9999 still has 90 % of the start in it; with warm-up nothing."""
    weights = np.zeros((1001, 1))
    weights[0] = 1
    assert averaged(weights, decay=0.9999, warmup=False).data[0] == pytest.approx(0.9048, abs=1e-4)
    assert averaged(weights, decay=0.9999).data[0] < 1e-20


def test_with_warm_up_the_decay_grows_to_its_value():
    flat = flat_of([0.0])
    ema, decays = EMA(flat, 0.9), []
    for _ in range(100):
        ema.data[...], flat.data[...] = 1, 0
        ema.update()
        decays.append(float(ema.data[0]))
    np.testing.assert_allclose(decays[:3], [1 / 10, 2 / 11, 3 / 12], rtol=1e-12)
    assert decays == sorted(decays)
    np.testing.assert_allclose(decays[81:], 0.9, rtol=1e-12)
    assert decays[78] < 0.9 - 1e-4


def train(average):
    rng = np.random.default_rng(0)
    model = Linear(3, 2, rng=rng)
    x, y = (rng.standard_normal((8, n)).astype(np.float32) for n in (3, 2))
    flat = model.flatten()
    optimizer, ema = Adam(flat, 0.1), EMA(flat) if average else None
    for _ in range(20):
        model.zero_grad()
        ops.mse(model(x), y).backward()
        optimizer.step()
        if ema is not None:
            ema.update()
            with ema.swapped():
                model(x)
    return flat.data


def test_training_knows_nothing_of_the_average():
    np.testing.assert_array_equal(train(average=True), train(average=False))


def test_swapped_lends_the_average_to_the_model():
    model = Linear(2, 2, rng=np.random.default_rng(0))
    flat = model.flatten()
    ema = EMA(flat, 0.5, warmup=False)
    flat.data[...] += 1
    ema.update()
    own, average, place = flat.data.copy(), ema.data.copy(), flat.data
    assert not np.allclose(own, average)
    with ema.swapped():
        np.testing.assert_array_equal(model.weight.data.ravel(), average[:4])
        assert flat.data is place
    np.testing.assert_array_equal(flat.data, own)
    np.testing.assert_array_equal(ema.data, average)


def test_swapped_gives_the_weights_back_after_an_error():
    flat = flat_of([1.0, 2.0])
    ema = EMA(flat)
    flat.data[...] = 5
    with pytest.raises(RuntimeError), ema.swapped():
        np.testing.assert_array_equal(flat.data, [1, 2])
        raise RuntimeError
    np.testing.assert_array_equal(flat.data, [5, 5])


def test_the_average_keeps_its_dtype_and_starts_as_a_copy():
    flat = flat_of([1.0], np.float32)
    ema = EMA(flat)
    flat.data[...] = 3
    np.testing.assert_array_equal(ema.data, [1])
    ema.update()
    assert ema.data.dtype == np.float32


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5, math.nan])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(InputError, match=r"decay must lie in \[0, 1\)"):
        EMA(flat_of([1.0]), decay)


# --- All of it, as a step of training does it ----------------------------------------------------


def of_one_model(optimizer, decay, dtype, n=50_001):
    """An optimizer and an average of the same vector, in the middle of a training."""
    rng = np.random.default_rng(0)
    flat = Flat(*(backend.asarray(rng.standard_normal(n), dtype) for _ in range(2)))
    one = optimizer(flat)
    one.m[...] = backend.asarray(rng.standard_normal(n), dtype)
    one.v[...] = backend.asarray(rng.random(n), dtype)
    one.steps = 6
    if decay is None:
        return one, None
    average = EMA(flat, decay)
    average.data += backend.asarray(rng.standard_normal(n), dtype)
    average.updates = 3
    return one, average


@pytest.mark.parametrize("optimizer", [Adam, AdamW])
@pytest.mark.parametrize("decay", [None, 0.0, 0.05, 0.999])
@pytest.mark.parametrize("max_norm", [1.0, math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_update_is_its_parts_to_the_bit(optimizer, decay, max_norm, dtype):
    (a, average_a), (b, average_b) = (of_one_model(optimizer, decay, dtype) for _ in range(2))
    rng = np.random.default_rng(1)
    for lr in (None, 0.02, 0.0):
        a.flat.grad[...] = rng.standard_normal(a.m.size)
        b.flat.grad[...] = a.flat.grad
        norm = clip_grad_norm(a.flat, max_norm)
        a.step(lr)
        if average_a is not None:
            average_a.update()
        assert update(b, average_b, max_norm=max_norm, lr=lr) == norm
    for name in ("flat.data", "flat.grad", "m", "v", "steps"):
        np.testing.assert_array_equal(*map(attrgetter(name), (b, a)))
    for name in ("data", "updates") if decay is not None else ():
        np.testing.assert_array_equal(*map(attrgetter(name), (average_b, average_a)))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_numbers_of_the_step_may_come_from_the_memory_of_the_device(monkeypatch, decay):
    """As in a captured graph, whose host only counts."""
    monkeypatch.setattr(backend, "xp", double.xp)
    (a, average_a), (b, average_b) = (of_one_model(AdamW, decay, np.float32, 99) for _ in range(2))
    clock = backend.asarray(tick(a, average_a, lr=0.1), np.float64)
    assert a.steps == 7 and (decay is None or average_a.updates == 4)
    with double.forbid("synchronization"):
        got = update_by(clock, a, average_a, max_norm=0.5)
        expected = update(b, average_b, max_norm=0.5, lr=0.1)
    np.testing.assert_allclose(got.get(), expected.get(), rtol=1e-6)
    pairs = [(a.flat.data, b.flat.data), (a.m, b.m), (a.v, b.v)]
    pairs += [] if decay is None else [(average_a.data, average_b.data)]
    for got, expected in pairs:
        assert got.dtype == np.float32
        np.testing.assert_allclose(got.get(), expected.get(), rtol=1e-5, atol=1e-6)


def test_an_update_of_two_models_or_to_an_impossible_norm_is_refused():
    one, other = Adam(flat_of([1.0])), EMA(flat_of([1.0]))
    with pytest.raises(InputError, match="different models"):
        update(one, other, max_norm=1.0)
    with pytest.raises(InputError, match="update: max_norm must be positive, got 0"):
        update(one, EMA(one.flat), max_norm=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: Adam(f, lr="a"), "Adam: lr must be a number"),
        (lambda f: Adam(f, lr=math.inf), "wants lr > 0"),
        (lambda f: Adam(f, betas=(0.9,)), "betas must be two numbers"),
        (lambda f: Adam(f, betas="ab"), "betas must be two numbers, got 'ab'"),
        (lambda f: Adam(f.data), r"wants model.flatten\(\), got ndarray"),
        (lambda f: EMA(f.data), r"wants model.flatten\(\), got ndarray"),
        (lambda f: EMA(f, "a"), "decay must be a number"),
        (lambda f: clip_grad_norm(f, None), "max_norm must be a number"),
        (lambda f: AdamW(f, weight_decay=math.inf), "weight_decay must be >= 0"),
        (lambda f: Adam(f).step(math.nan), "lr must be >= 0 and finite, got nan"),
        (lambda f: AdamW(f).step(-1), "lr must be >= 0 and finite, got -1"),
        (lambda f: update(Adam(f), None, max_norm=1, lr="a"), "lr must be a number"),
        (lambda f: Adam(f).load_state_dict({"m": [0], "v": [0], "steps": 1}), "be an array"),
        (lambda f: Adam(f).load_state_dict(Adam(f).state_dict() | {"steps": -1}), "steps"),
    ],
)
def test_impossible_values_are_refused_before_anything_moves(call, message):
    flat = flat_of([1.0])
    with pytest.raises(InputError, match=message):
        call(flat)
    np.testing.assert_array_equal(flat.data, [1.0])
