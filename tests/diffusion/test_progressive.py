import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minidiff.diffusion import oracle, samplers, schedules
from minidiff.diffusion.oracle import GaussianMixture
from minidiff.diffusion.progressive import record, shared_latent
from minidiff.errors import InputError

LINEAR = schedules.linear()
SHORT = schedules.linear(40, 0.005, 0.5)
DATA = GaussianMixture(
    [0.3, 0.7], [[1.0, -1.0], [-0.5, 0.5]], [[[0.2, 0.1], [0.1, 0.3]], 0.2 * np.eye(2)], [0, 1]
)


def ddpm(n, schedule, seed=0, **options):
    rng = np.random.default_rng(seed)
    x_T = rng.standard_normal((n, 2))
    return x_T, samplers.ddpm(DATA.denoiser(schedule), schedule, x_T, rng=rng, **options)


def test_a_record_is_the_states_that_were_asked_for():
    x_T, states = ddpm(3, LINEAR)
    kept = record(states, range(0, 1001, 100))
    assert [state.t for state in kept] == list(range(1000, -1, -100))
    assert kept[0].x is x_T
    assert_array_equal(kept[-1].x, samplers.final(ddpm(3, LINEAR)[1]))


def test_a_time_that_is_not_visited_is_an_error():
    with pytest.raises(InputError, match="does not visit t = 7, 999; choose"):
        record(ddpm(3, LINEAR, steps=10)[1], [1000, 999, 7])


def test_the_prediction_is_a_martingale():
    """E[x0_hat] is the data's mean at every t: 4,000 runs, 5 standard errors.

    Of a spread of about 0.9: a drift of 0.07 would show. A sampler that forgets c_t drifts so.
    """
    n = 4000
    _, states = ddpm(n, SHORT, variance="beta")
    means = []
    for state in states:
        error = state.x0.std(0) / np.sqrt(n)
        # Noise is N(0, I) here and q(x_T) is not quite: that much of the mean is missing at T.
        off = np.sqrt(SHORT.abar[SHORT.T]) * np.abs(DATA.mean)
        assert (np.abs(state.x0.mean(0) - DATA.mean) < 5 * error + off).all()
        means.append(state.x0.mean(0))
    assert len(means) == 41


def test_the_prediction_gets_sharper():
    """Its variance rises from nothing to the data's: detail comes last."""
    _, states = ddpm(2000, SHORT, variance="beta")
    spread = np.array([state.x0.var(0).sum() for state in states])
    assert spread[0] < 0.05
    assert (np.diff(spread) > -0.01).all()
    assert abs(spread[-1] / np.trace(DATA.covariance) - 1) < 0.1


def test_from_one_latent_what_was_decided_is_shared():
    """At t = 1 nothing is left to draw; at T everything is."""
    rng = np.random.default_rng(0)
    data = oracle.template_images()
    sampler = samplers.make("ddpm")
    same = []
    for t in (2, 20, 40):
        noised = data.at_time(SHORT, t)
        xt = noised.sample(5, rng=rng)
        x = samplers.final(
            shared_latent(sampler, data.denoiser(SHORT), SHORT, xt, t=t, n=6, rng=rng)
        )
        assert x.shape == (30, 8, 8, 1)
        digit = data.at(1, 0).log_labels(x).argmax(1).reshape(5, 6)
        same.append((digit == digit[:, :1]).mean())
    assert same[0] == 1
    assert same[0] >= same[1] > same[2]


def test_what_belongs_to_an_image_is_repeated_with_it():
    seen = []

    def denoiser(xt, t, *, labels, scale):
        seen.append((len(xt), labels, scale, t[0]))
        return xt

    xt = np.arange(4.0).reshape(2, 2)
    states = list(
        shared_latent(
            samplers.make("ddim"), denoiser, SHORT, xt, t=9, n=3, rng=None, steps=3,
            labels=np.array([4, 7]), scale=2.0,
        )
    )  # fmt: skip
    assert_array_equal(states[0].x, np.repeat(xt, 3, axis=0))
    assert [state.t for state in states] == [9, 6, 3, 0]
    n, labels, scale, t = seen[0]
    assert (n, scale, t) == (6, 2.0, 9)
    assert_array_equal(labels, [4, 4, 4, 7, 7, 7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be a whole number >= 1"),
        ({"n": 1.5}, "n must be a whole number >= 1"),
        ({"steps": 10}, r"steps must lie in 1..9"),
        ({"t": 41}, r"t must lie in 1\.\.40"),
        ({"t": 0}, r"t must lie in 1\.\.40"),
        ({"t": 2.5, "steps": 2}, "t must be an integer"),
        ({"t": [9, 8]}, "of one time t"),
    ],
)
def test_bad_input_is_refused(options, message):
    settings = {"t": 9, "n": 2, "rng": None} | options
    with pytest.raises(InputError, match=message):
        shared_latent(samplers.ddim, DATA.denoiser(SHORT), SHORT, np.zeros((2, 2)), **settings)
