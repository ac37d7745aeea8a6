import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidiff.autograd import Tensor
from minidiff.diffusion import exact, process, samplers, schedules
from minidiff.diffusion.oracle import Gaussian
from minidiff.diffusion.samplers import ddpm, final
from minidiff.diffusion.samplers.ddpm import coefficients, learned_sigma
from minidiff.errors import InputError
from tests import strategies


@given(strategies.jumps(), st.sampled_from(["posterior", "beta"]))
def test_the_step_is_the_posterior_with_one_of_two_variances(jump, variance):
    schedule, s, t = jump
    c_0, c_t, sigma = coefficients(schedule, s, t, variance)
    p_0, p_t, tilde = process.posterior(schedule, s, t)
    assert (c_0, c_t) == (p_0, p_t)
    expected = tilde if variance == "posterior" else 1 - schedule.abar[t] / schedule.abar[s]
    assert_allclose(sigma**2, expected if s > 0 else 0.0, rtol=1e-12)


def algorithm_2(denoiser, schedule, x, rng, variance):
    """The paper's Algorithm 2 as printed, with either of its two variances."""
    for t in range(schedule.T, 0, -1):
        beta, abar, before = schedule.beta[t], schedule.abar[t], schedule.abar[t - 1]
        sigma2 = beta if variance == "beta" else (1 - before) / (1 - abar) * beta
        z = rng.standard_normal(x.shape) if t > 1 else 0.0
        eps = denoiser(x, np.full(len(x), t))
        x = (x - beta / np.sqrt(1 - abar) * eps) / np.sqrt(1 - beta) + np.sqrt(sigma2) * z
    return x


@given(strategies.schedules(max_T=60, min_abar_T=1e-5), strategies.seeds)
@settings(max_examples=40)
def test_it_is_algorithm_2(schedule, seed):
    """Same noise, same result as the printed line in eps, for a denoiser that is not Gaussian."""

    def denoiser(xt, t):
        return np.tanh(xt + t[:, None] / schedule.T)

    x_T = np.random.default_rng(seed).standard_normal((4, 2))
    for variance in ("posterior", "beta"):
        got = ddpm(denoiser, schedule, x_T, rng=np.random.default_rng(seed), variance=variance)
        expected = algorithm_2(denoiser, schedule, x_T, np.random.default_rng(seed), variance)
        assert_allclose(final(got), expected, rtol=1e-7, atol=1e-7)


def test_clipping_is_of_the_predicted_x0():
    """With a model that predicts far too little noise, every step aims at the clipped image."""
    schedule = schedules.linear(50, 0.01, 0.2)
    denoiser = Gaussian.isotropic([3.0], 1e-6).denoiser(schedule)
    x_T = np.random.default_rng(0).standard_normal((100, 1))
    free = final(ddpm(denoiser, schedule, x_T, rng=np.random.default_rng(1)))
    clipped = final(ddpm(denoiser, schedule, x_T, rng=np.random.default_rng(1), clip=(-1, 1)))
    assert_allclose(free, 3.0, atol=0.01)
    assert (clipped == 1).all()


class TestLearnedVariance:
    """variance="learned": a denoiser that returns (eps, v)."""

    schedule = schedules.linear(60, 1e-3, 0.1)
    oracle = staticmethod(Gaussian.isotropic([0.5], 0.25).denoiser(schedule))

    def final(self, v, variance="learned", **options):
        x_T = np.random.default_rng(0).standard_normal((5, 1))

        def both(xt, t):
            return self.oracle(xt, t), np.broadcast_to(v, xt.shape).astype(xt.dtype)

        denoiser = self.oracle if v is None else both
        rng = np.random.default_rng(1)
        return final(ddpm(denoiser, self.schedule, x_T, rng=rng, variance=variance, **options))

    @pytest.mark.parametrize("steps", [None, 7])
    @pytest.mark.parametrize(("v", "variance"), [(0.0, "posterior"), (1.0, "beta")])
    def test_its_ends_are_the_two_fixed_variances(self, v, variance, steps):
        got = self.final(v, steps=steps)
        assert_allclose(got, self.final(None, variance, steps=steps), rtol=1e-9)

    @given(strategies.jumps(), st.floats(-0.5, 1.5))
    def test_between_them_it_is_linear_in_the_logarithm(self, jump, v):
        schedule, s, t = jump
        if s == 0:
            return
        small, large = (coefficients(schedule, s, t, name)[2] for name in ("posterior", "beta"))
        got = learned_sigma(schedule, s, t, np.full((2, 1), v))
        expected = np.exp(v * np.log(large**2) + (1 - v) * np.log(small**2))  # eq. 15 as printed
        assert_allclose(got**2, expected, rtol=1e-9)

    def test_each_element_has_its_own(self):
        v = np.array([[0.0], [1.0], [0.0], [0.3], [1.0]])
        got = self.final(v)
        assert_allclose(got[[0, 2]], self.final(0.0)[[0, 2]])
        assert_allclose(got[[1, 4]], self.final(1.0)[[1, 4]])

    def test_the_variance_of_the_data_comes_out_with_the_v_that_is_right_for_it(self):
        """For N(m, v) the reverse step has a known variance; as v it makes the sampler exact.

        Exact but for the first draw, which is N(0, 1) and not N(sqrt(abar_T) m, ...).
        """
        schedule = schedules.linear(200, 1e-3, 0.2)
        data_variance = 0.25
        oracle = Gaussian.isotropic([0.5], data_variance).denoiser(schedule)

        def right(s, t):
            """Var(x_s | x_t) = (1 - a) Var(x_s) / Var(x_t)."""
            abar_s, abar_t = schedule.abar[[s, t]]
            before, after = (abar * data_variance + 1 - abar for abar in (abar_s, abar_t))
            return (1 - abar_t / abar_s) * before / after

        def both(xt, t):
            t = int(t[0])
            if t == 1:
                return oracle(xt, np.full(len(xt), t)), np.zeros_like(xt)
            small, large = (
                np.log(coefficients(schedule, t - 1, t, name)[2] ** 2)
                for name in ("posterior", "beta")
            )
            v = (np.log(right(t - 1, t)) - small) / (large - small)
            return oracle(xt, np.full(len(xt), t)), np.full_like(xt, v)

        def variance(denoiser, variance):
            run = samplers.make("ddpm", variance=variance)
            map_ = exact.propagate(lambda x, rng: final(run(denoiser, schedule, x, rng=rng)), (1,))
            return map_.covariance.item()

        by_network, by_function = variance(both, "learned"), variance(oracle, right)
        assert_allclose(by_network, by_function, rtol=1e-9)
        fixed = [variance(oracle, name) for name in ("posterior", "beta")]
        missing = data_variance - by_function  # the last step adds no noise
        assert 0 < missing < 1.1 * right(0, 1)
        assert all(abs(v - data_variance) > 2 * missing for v in fixed)

    def test_samplers_that_need_no_variance_take_such_a_denoiser_too(self):
        x_T = np.random.default_rng(0).standard_normal((5, 1))

        def both(xt, t):
            return self.oracle(xt, t), np.full_like(xt, np.nan)

        for name in samplers.SAMPLERS:
            got, expected = (
                final(
                    samplers.make(name, steps=10)(
                        denoiser, self.schedule, x_T, rng=np.random.default_rng(0)
                    )
                )
                for denoiser in (both, self.oracle)
            )
            assert_array_equal(got, expected)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (lambda eps: eps, None),
            (lambda eps: eps[:, :0], r"returned shape \(5, 0\)"),
            (Tensor, "returned a Tensor"),
        ],
    )
    def test_v_is_checked_like_eps(self, second, message):
        def both(xt, t):
            eps = self.oracle(xt, t)
            return eps, second(eps)

        states = ddpm(
            both, self.schedule, np.ones((5, 1)), rng=np.random.default_rng(0), variance="learned"
        )
        if message is None:
            final(states)
            return
        with pytest.raises(InputError, match=message):
            final(states)

    def test_what_is_missing_is_said(self):
        with pytest.raises(InputError, match=r"needs a denoiser that returns \(eps, v\)"):
            self.final(None)
        states = ddpm(
            lambda xt, t: (xt, xt, xt), self.schedule, np.ones((5, 1)), rng=np.random.default_rng()
        )
        with pytest.raises(InputError, match="returned 3 things"):
            final(states)


@pytest.mark.parametrize("bad", [-1e-3, np.nan, np.inf])
def test_a_variance_that_is_a_function(bad):
    schedule = schedules.linear(20)
    for s, t in [(0, 1), (3, 9)]:
        known = coefficients(schedule, s, t, "beta")
        beta = process.forward(schedule, s, t)[1]
        got = coefficients(schedule, s, t, lambda s, t, beta=beta: beta)
        assert got == known
        assert all(type(c) is float for c in got)
    with pytest.raises(InputError, match=r"variance\(3, 9\) must be a number >= 0"):
        coefficients(schedule, 3, 9, lambda s, t: bad)
