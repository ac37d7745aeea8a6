"""The same code on arrays as strict as CuPy's: same numbers, and nothing fetched to the host."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minidiff.diffusion import guidance, objectives, parameterizations, process, samplers, schedules
from minidiff.diffusion.oracle import Gaussian
from tests import double
from tests.diffusion.models import everywhere

LINEAR = schedules.linear()
DATA = Gaussian(np.array([[0.3], [-0.2]]), np.array([[1.0, 0.5], [0.5, 0.8]]))
T = np.array([1, 400, 1000])


def images(seed):
    return np.random.default_rng(seed).standard_normal((3, 2, 1), dtype=np.float32)


class HostDraws:
    """NumPy's draws, as arrays of whichever library is tested."""

    def __init__(self, xp):
        self.rng, self.xp = np.random.default_rng(0), xp

    def standard_normal(self, shape, dtype):
        return self.xp.asarray(self.rng.standard_normal(shape, dtype=dtype))


def on_the_host(a):
    return a.get() if hasattr(a, "get") else a


def both(f):
    """f(xp, arrays of that library...) on NumPy and on the double give the same."""
    expected = f(np, *map(images, range(3)))
    device = [double.xp.asarray(images(seed)) for seed in range(3)]
    with double.forbid("synchronization", "float64"):
        got = f(double.xp, *device)
    for a, b in zip(got, expected, strict=True):
        assert type(a) is double.Array
        assert a.dtype == b.dtype == np.float32
        assert_allclose(on_the_host(a), b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("t", [7, T], ids=["one t", "one t for each"])
def test_the_process(t):
    both(lambda xp, x, y, z: [process.q_sample(LINEAR, x, t, y)])
    both(lambda xp, x, y, z: [process.posterior_sample(LINEAR, x, y, t - 1, t, z)])


@pytest.mark.parametrize("source", parameterizations.NAMES)
@pytest.mark.parametrize("target", parameterizations.NAMES)
def test_conversions(source, target):
    t = np.array([300, 400, 500])
    both(
        lambda xp, x, y, z: [
            parameterizations.convert(LINEAR, x, t, y, source=source, target=target)
        ]
    )


@pytest.mark.parametrize("clip", [None, (-1, 1), lambda x0: x0 / 2])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"steps": 10}),
        ("ddpm", {"steps": 10, "variance": "beta"}),
        ("ddim", {"steps": 10}),
        ("ddim", {"steps": 10, "eta": 0.7}),
        ("pndm", {"steps": 10}),
        ("plms", {"steps": 10}),
        ("euler", {"steps": 10}),
        ("euler_ancestral", {"steps": 10}),
        ("rk2", {"steps": 10}),
        ("rk2", {"steps": 10, "alpha": 0.5}),
        ("edm", {"steps": 10, "s_churn": 3.0}),
        ("dpmpp_2m", {"steps": 10}),
        ("dpmpp_2m", {"sigmas": [80.0, 20.0, 5.0, 1.0, 0.1, 0.0]}),
    ],
)
def test_samplers_of_a_guided_oracle(name, options, clip):
    oracle = everywhere(DATA, LINEAR)
    guided = guidance.classifier_free(oracle, w=1.5, null=10)

    def run(xp, x_T, *_):
        states = samplers.make(name, clip=clip, **options)(
            guided, LINEAR, x_T, rng=HostDraws(xp), labels=np.array([1, 2, 3])
        )
        return [a for state in states for a in (state.x, state.x0)]

    both(run)


def test_ddpm_with_a_learned_variance():
    oracle = DATA.denoiser(LINEAR)

    def run(xp, x_T, *_):
        states = samplers.ddpm(
            lambda xt, t: (oracle(xt, t), xt),
            LINEAR, x_T, rng=HostDraws(xp), steps=5, variance="learned",
        )  # fmt: skip
        return [state.x for state in states]

    both(run)


def test_ddim_inversion():
    both(
        lambda xp, x, *_: [
            state.x for state in samplers.ddim_inversion(DATA.denoiser(LINEAR), LINEAR, x, steps=5)
        ]
    )


def test_the_loss():
    def run(xp, x0, eps, _):
        return [objectives.simple(DATA.denoiser(LINEAR), LINEAR, x0, T, eps).data]

    both(run)
