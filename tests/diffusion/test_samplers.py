"""What every sampler must do, whatever its algorithm."""

import inspect

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.autograd import Tensor
from minidiff.diffusion import samplers, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers import FACTS, State, final
from minidiff.errors import InputError
from tests import strategies
from tests.diffusion.models import gaussian

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
@given(st.integers(4, 40), st.data())
@settings(max_examples=30)
def test_states_go_from_the_noise_to_the_sample(name, T, data):
    schedule = schedules.linear(T)
    steps = data.draw(st.integers(FACTS[name].min_steps, T))
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
    if name not in ("pndm", "plms"):  # there the last prediction is of a combination of eps
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


VARIANTS = [
    ("ddpm", {}),
    ("ddpm", {"variance": "beta"}),
    ("ddim", {}),
    ("ddim", {"eta": 0.5}),
    ("pndm", {}),
    ("plms", {}),
    ("euler", {}),
    ("euler_ancestral", {}),
    ("rk2", {}),
    ("rk2", {"alpha": 0.5}),
    ("rk2", {"alpha": 2 / 3}),
    ("edm", {}),
    ("edm", {"s_churn": 5.0}),
    ("dpmpp_2m", {}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 20])
def test_evaluations_are_as_many_as_stated(name, options, steps):
    if steps < FACTS[name].min_steps:
        with pytest.raises(InputError, match=f"needs {FACTS[name].min_steps} steps or more"):
            samplers.nfe(name, steps)
        return
    denoiser = Counter(gaussian(0.5, 0.25, LINEAR))
    rng = Counter(np.random.default_rng(0))
    labels = np.array([3, 1, 2])
    sampler = samplers.make(name, steps=steps, **options)
    states = list(sampler(denoiser, LINEAR, noise()[:, :1], rng=rng, labels=labels))
    matters = {k: v for k, v in options.items() if k == "alpha"}
    assert len(denoiser.calls) == samplers.nfe(name, steps, **matters)
    assert bool(rng.calls) == (FACTS[name].stochastic(**options) and steps > 1)
    asked = [t[0] for _, t, _ in denoiser.calls]
    for xt, t, cond in denoiser.calls:
        assert xt.shape == (3, 1)
        assert (t == t[0]).all()
        assert t.dtype == (np.int64 if t[0] == round(t[0]) else np.float64)
        assert 0 < t[0] <= 1000
        assert cond.keys() == {"labels"}
        assert cond["labels"] is labels
    if "s_churn" not in options:
        assert {state.t for state in states[:-1]} <= set(asked)
        assert asked[0] == 1000
        assert_array_equal(denoiser.calls[0][0], states[0].x)


def test_the_table_of_evaluations():
    """20 steps: DDIM S, PNDM S + 9, PLMS S + 1, Heun 2S - 1, midpoint 2S, K corrections S + 19K."""
    got = [samplers.nfe(name, 20) for name in samplers.SAMPLERS]
    assert got == [20, 20, 29, 21, 20, 20, 39, 39, 20, 115, 39]
    assert samplers.nfe("rk2", 20, alpha=0.5) == 40
    assert samplers.nfe("ddpm", 1000) == 1000
    assert samplers.FACTS.keys() == samplers.SAMPLERS.keys()
    assert not FACTS["ddim"].stochastic()
    assert FACTS["ddim"].stochastic(eta=0.1)
    assert FACTS["ddpm"].stochastic()


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
    assume(len(start) > FACTS[name].min_steps)
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
        (
            lambda: samplers.make("eular"),
            "unknown sampler 'eular'; choose one of ddpm, ddim, pndm, plms, euler, ",
        ),
        (
            lambda: samplers.make("ddpm", eta=0.5),
            "sampler 'ddpm' has no option 'eta'; its options are steps, variance, spacing, clip",
        ),
        (lambda: samplers.make("ddim", variance="beta"), "steps, eta, spacing, clip"),
        (lambda: run("ddpm", variance="large"), "unknown variance.*posterior, beta, learned"),
        (lambda: run("pndm", steps=3), "4 steps or more for their four-step formula, got 3"),
        (lambda: run("plms", steps=[9, 5, 1, 0]), "4 steps or more .* got 3"),
        (lambda: run("euler_ancestral", rng=None), "pass rng"),
        (lambda: run("edm", rng=None, s_churn=1), "pass rng"),
        (lambda: run("edm", s_churn=-1), "s_churn must be a number >= 0"),
        (lambda: run("edm", s_noise=float("nan")), "s_noise must be a number >= 0"),
        (lambda: run("edm", s_churn=float("inf")), "s_churn must be a number >= 0"),
        (lambda: run("rk2", alpha=0), "1 Heun, 1/2 midpoint, 2/3 Ralston"),
        (lambda: run("rk2", alpha=1.5), r"alpha must lie in \(0, 1\]"),
        (lambda: run("euler", sigmas=[1.0, 2.0, 0.0]), "decrease strictly to 0"),
        (lambda: run("euler", sigmas=[1.0, 0.5]), "decrease strictly to 0"),
        (lambda: run("dpmpp_2m", sigmas=[200.0, 0.0]), r"sigma must lie in 0\.\.157"),
        (lambda: samplers.nfe("pndm", 3), "pndm needs 4 steps or more, got 3"),
        (lambda: samplers.nfe("heun", 3), "unknown sampler 'heun'"),
        (lambda: samplers.nfe("ddim", 2.5), "steps must be a whole number >= 1, got 2.5"),
        (lambda: samplers.nfe("ddim", 3, alpha=1), "depends on none but steps, not on 'alpha'"),
        (lambda: samplers.nfe("rk2", 3, eta=1), "depends on alpha, not on 'eta'"),
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
        (lambda: run(steps=1, eta=float("inf")), "eta must be >= 0 and finite"),
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


@each
def test_what_a_clip_returns_is_checked(name):
    with pytest.raises(InputError, match=r"x0 must have the shape of .*\(3, 2\), got \(1, 2\)"):
        final(run(name, clip=lambda x0: x0[:1], steps=5))
