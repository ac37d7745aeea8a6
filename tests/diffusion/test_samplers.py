"""What every sampler must do, whatever its algorithm."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.autograd import Tensor
from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers import State, final
from minidiff.errors import InputError
from tests import strategies

LINEAR = schedules.linear()
ORACLE = Gaussian.isotropic([0.5, -0.5], 0.25).denoiser(LINEAR)

each = pytest.mark.parametrize("name", samplers.SAMPLERS)


class Counter:
    """A generator that counts its arrays, or a denoiser that counts its evaluations."""

    def __init__(self, inner):
        self.inner = inner
        self.calls = []

    def standard_normal(self, shape, dtype=np.float64):
        self.calls.append((tuple(shape), np.dtype(dtype)))
        return self.inner.standard_normal(shape, dtype=dtype)

    def __call__(self, xt, t, **cond):
        self.calls.append((xt, t, cond))
        return self.inner(xt, t, **cond)


def noise(n=3, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2), dtype=dtype)


@each
@given(st.integers(1, 40), st.data())
@settings(max_examples=30)
def test_states_go_from_the_noise_to_the_sample(name, T, data):
    schedule = schedules.linear(T)
    steps = data.draw(st.integers(1, T))
    x_T = noise()
    states = list(
        samplers.SAMPLERS[name](
            Gaussian.isotropic([0.0, 0.0], 1.0).denoiser(schedule),
            schedule,
            x_T,
            rng=np.random.default_rng(0),
            steps=steps,
        )
    )
    assert len(states) == steps + 1
    assert [type(state) for state in states] == [State] * (steps + 1)
    assert states[0].t == T
    assert states[0].x is x_T
    assert states[-1].t == 0
    assert states[-1].x0 is states[-1].x
    assert (np.diff([state.t for state in states]) < 0).all()
    # The last step returns the last prediction of x0 itself: no noise, nothing of x_t left.
    assert_array_equal(states[-1].x, states[-2].x0)


@each
def test_a_progress_picture_is_a_choice_of_states(name):
    states = samplers.SAMPLERS[name](
        ORACLE, LINEAR, noise(), rng=np.random.default_rng(0), steps=None
    )
    chosen = [state for state in states if state.t % 100 == 0]
    assert [state.t for state in chosen] == list(range(1000, -1, -100))
    assert_array_equal(chosen[0].x, noise())
    again = samplers.SAMPLERS[name](
        ORACLE, LINEAR, noise(), rng=np.random.default_rng(0), steps=None
    )
    # Nothing that was yielded is overwritten later, and the last state is the sample.
    assert_array_equal(chosen[-1].x, final(again))


@each
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_one_evaluation_a_step(name, steps):
    denoiser = Counter(ORACLE)
    labels = np.array([3, 1, 2])
    states = list(
        samplers.SAMPLERS[name](
            denoiser,
            LINEAR,
            noise(),
            rng=np.random.default_rng(0),
            steps=steps,
            labels=labels,
        )
    )
    assert len(denoiser.calls) == steps
    for (xt, t, cond), state in zip(denoiser.calls, states, strict=False):
        assert xt is state.x
        assert_array_equal(t, [state.t] * 3)
        assert t.dtype == np.int64
        assert cond.keys() == {"labels"}
        assert cond["labels"] is labels


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"variance": "beta"}),
        ("ddpm", {"variance": "posterior"}),
        ("ddim", {"steps": None, "eta": 1.0}),
    ],
)
def test_noise_is_drawn_in_every_step_but_the_last(name, options, T):
    """With x_T itself that is 1 + (T - 1) arrays of noise for a sample."""
    schedule = schedules.linear(T)
    rng = Counter(np.random.default_rng(0))
    x_T = rng.standard_normal((3, 2), np.float32)
    denoiser = Gaussian.isotropic([0.0, 0.0], 1.0).denoiser(schedule)
    final(samplers.make(name, **options)(denoiser, schedule, x_T, rng=rng))
    assert rng.calls == [((3, 2), np.float32)] * (1 + (T - 1))


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [None, (-1, 1)])
def test_dtype_is_kept(name, dtype, clip):
    states = samplers.SAMPLERS[name](
        ORACLE, LINEAR, noise(dtype=dtype), rng=np.random.default_rng(0), steps=20, clip=clip
    )
    assert all(state.x.dtype == state.x0.dtype == dtype for state in states)


@each
def test_float32_follows_float64(name):
    class Rounded:
        """The same draws in both precisions."""

        def __init__(self):
            self.rng = np.random.default_rng(1)

        def standard_normal(self, shape, dtype):
            return self.rng.standard_normal(shape).astype(dtype)

    got = [
        final(
            samplers.SAMPLERS[name](
                ORACLE, LINEAR, noise(50).astype(dtype), rng=Rounded(), steps=200
            )
        )
        for dtype in (np.float32, np.float64)
    ]
    assert_allclose(*got, atol=2e-4)


@each
def test_same_seed_same_bits(name):
    first, second = (
        final(samplers.SAMPLERS[name](ORACLE, LINEAR, noise(), rng=np.random.default_rng(7)))
        for _ in range(2)
    )
    assert_array_equal(first, second)


@each
def test_clipping_bounds_every_prediction(name):
    states = samplers.SAMPLERS[name](
        ORACLE, LINEAR, 3 * noise(), rng=np.random.default_rng(0), clip=(-0.2, 0.3)
    )
    for state in states:
        assert -0.2 <= state.x0.min() <= state.x0.max() <= 0.3


@each
@given(strategies.subsequences(30))
@settings(max_examples=20)
def test_times_can_be_given(name, times):
    schedule = schedules.linear(30)
    start = times[1:] if len(times) > 2 else times  # from a latent below T too
    states = samplers.SAMPLERS[name](
        Gaussian.isotropic([0.0, 0.0], 1.0).denoiser(schedule),
        schedule,
        noise(),
        rng=np.random.default_rng(0),
        steps=start,
    )
    assert [state.t for state in states] == start.tolist()


@each
def test_nothing_but_the_generator_is_random(name):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    final(samplers.SAMPLERS[name](ORACLE, LINEAR, noise(), rng=np.random.default_rng(0), steps=5))
    assert_array_equal(np.random.get_state()[1], before)


def test_samplers_by_name():
    sampler = samplers.make("ddim", steps=5, eta=0.5)
    got = final(sampler(ORACLE, LINEAR, noise(), rng=np.random.default_rng(0)))
    expected = samplers.ddim(
        ORACLE, LINEAR, noise(), rng=np.random.default_rng(0), steps=5, eta=0.5
    )
    assert_array_equal(got, final(expected))


def test_the_table_in_the_docs_lists_every_option():
    for name, sampler in samplers.SAMPLERS.items():
        row = next(line for line in samplers.__doc__.splitlines() if line.startswith(name))
        options = [
            p.name
            for p in inspect.signature(sampler).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name != "rng"
        ]
        assert row.split()[1 : 1 + len(options)] == options


def run(name="ddim", denoiser=ORACLE, x_T=None, **options):
    """Only builds the generator: whatever is refused is refused before the first state."""
    x_T = noise() if x_T is None else x_T
    options.setdefault("rng", np.random.default_rng(0))
    return samplers.SAMPLERS[name](denoiser, LINEAR, x_T, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: samplers.make("euler"), "unknown sampler 'euler'; choose one of ddpm, ddim"),
        (
            lambda: samplers.make("ddpm", eta=0.5),
            "sampler 'ddpm' has no option 'eta'; its options are steps, variance, spacing, clip",
        ),
        (lambda: samplers.make("ddim", variance="beta"), "steps, eta, spacing, clip"),
        (lambda: run("ddpm", variance="learned"), "unknown variance.*posterior, beta"),
        (lambda: run("ddpm", rng=None), "pass rng"),
        (lambda: run(rng=None, eta=0.1), "pass rng"),
        (lambda: run(steps=1001), "steps must lie in 1..1000"),
        (lambda: run("ddpm", steps=0), "steps must lie in 1..1000"),
        (lambda: run(spacing="uniform"), "unknown spacing.*trailing, leading, linspace"),
        (lambda: run(clip=True), "clip must be None"),
        (lambda: run("ddpm", clip=(1, 0)), "clip must be None"),
        (lambda: run(x_T=np.zeros((2, 2), dtype=int)), "array of floats"),
        (lambda: run("ddpm", x_T=np.zeros(2)), "of shape"),
        (lambda: run(x_T=[[0.0]]), "array of floats"),
        (lambda: run(eta=-0.1), "eta must be >= 0"),
        (lambda: run(eta=float("nan")), "eta must be >= 0"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(call, message):
    with pytest.raises(InputError, match=message):
        call()


@each
def test_what_a_denoiser_returns_is_checked(name):
    with pytest.raises(InputError, match=r"shape \(3,\) for images of shape \(3, 2\)"):
        next(run(name, denoiser=lambda xt, t: xt[:, 0]))
    with pytest.raises(InputError, match=r"pass model\.denoise"):
        next(run(name, denoiser=lambda xt, t: Tensor(xt)))
