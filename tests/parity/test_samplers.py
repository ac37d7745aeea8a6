"""Whole trajectories beside those of Hugging Face diffusers' schedulers.

Both sides see the same model, the same first noise and the same draws. Their tables of abar and
sigma are float32; here they get ours, so that only the algorithms are compared. What they compute
in float32 all the same (everything in sigma) is held to 1e-5, the rest to 1e-9. Their t counts from
0, and their times are chosen as ours are by ``timestep_spacing="trailing"``.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from minidiff.diffusion import parameterizations, samplers, schedules, timesteps
from minidiff.diffusion.samplers import ddim, ddim_inversion, ddpm, final
from minidiff.diffusion.samplers.plms import transfer
from tests.diffusion.models import answer, ramp

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e '.[parity]'"
)
# NumPy 2 warns of how PyTorch's tensors become arrays in their code.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LINEAR = schedules.linear()
X_T = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "timestep_spacing": "trailing",
}


def model(xt, t):
    """Neither exact nor linear; `t` as ours."""
    return np.sin(xt + np.reshape(t, (-1, 1, 1, 1)) / 1000)


class Draws:
    """PyTorch's normal numbers as one of our generators."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def standard_normal(self, shape, dtype):
        kind = {"float32": torch.float32, "float64": torch.float64}[np.dtype(dtype).name]
        return torch.randn(shape, generator=self.generator, dtype=kind).numpy()


def scheduler(name, **config):
    """Their scheduler with our abar."""
    made = getattr(diffusers, name)(**{**COMMON, **config})
    made.alphas_cumprod = torch.tensor(LINEAR.abar[1:])
    return made


def their_states(theirs, steps, predict=model, **options):
    """x_T and x after each call of their step function: x_t at float64, in our coordinates."""
    theirs.set_timesteps(steps)
    x = torch.tensor(X_T)
    in_sigma = hasattr(theirs, "sigmas") and theirs.init_noise_sigma != 1
    if in_sigma:
        times = np.append(theirs.timesteps.numpy() + 1, 0).round().astype(int)
        theirs.sigmas = torch.tensor(np.sqrt(1 / LINEAR.abar[times] - 1))
        if len(theirs.timesteps) > steps:  # Heun: each level but the first and 0 comes twice
            pairs = [*times[:-1:2], 0]
            levels = np.sqrt(1 / LINEAR.abar[np.repeat(pairs, 2)[1:-1]] - 1)
            theirs.sigmas = torch.tensor(np.append(levels, 0.0))
        x = x * torch.sqrt(1 + theirs.sigmas[0] ** 2)
    states = []
    for i, t in enumerate(theirs.timesteps):
        asked = theirs.scale_model_input(x, t) if in_sigma else x
        eps = torch.tensor(predict(asked.double().numpy(), np.full(len(x), float(t) + 1)))
        x = theirs.step(eps, t, x, **options).prev_sample.double()
        states.append((x / torch.sqrt(1 + theirs.sigmas[i + 1] ** 2) if in_sigma else x).numpy())
    return states


def our_states(name, steps, **options):
    states = samplers.make(name, steps=steps, **options)(model, LINEAR, X_T, rng=Draws())
    return [state.x for state in states][1:]


def assert_same(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= tolerance * max(1, np.abs(b).max())


def seeded():
    return {"generator": torch.Generator().manual_seed(0)}


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"), [("posterior", "fixed_small"), ("beta", "fixed_large")]
)
@pytest.mark.parametrize("steps", [1000, 50])
def test_ddpm(steps, ours, theirs, clip):
    reference = scheduler("DDPMScheduler", variance_type=theirs, clip_sample=clip)
    got = our_states("ddpm", steps, variance=ours, clip=(-1, 1) if clip else None)
    expected = their_states(reference, steps, **seeded())
    if steps < 1000 and theirs == "fixed_large":
        expected[-1] = without_their_last_noise(expected[-1], steps)
    assert_same(got, expected, 1e-9)


def without_their_last_noise(x, steps):
    """Their finished image has noise of variance beta in it, if its last step is a jump.

    They leave it out in the step from t = 1 only, and a run of fewer steps ends with another one.
    Algorithm 2 has z = 0 in the last step, and so have we.
    """
    draws = Draws()
    for _ in range(steps):
        z = draws.standard_normal(X_T.shape, np.float64)
    return x - np.sqrt(1 - LINEAR.abar[1000 // steps]) * z


def test_ddpm_with_a_learned_variance():
    """Their network predicts 2 v - 1, in channels of the same array."""

    def v(xt):
        return 0.5 + 0.4 * np.cos(xt)

    reference = scheduler("DDPMScheduler", variance_type="learned_range", clip_sample=False)
    reference.set_timesteps(50)
    generator, x, theirs = torch.Generator().manual_seed(0), torch.tensor(X_T), []
    for t in reference.timesteps:
        xt = x.numpy()
        both = np.concatenate([model(xt, np.full(2, int(t) + 1)), 2 * v(xt) - 1], axis=1)
        x = reference.step(torch.tensor(both), t, x, generator=generator).prev_sample
        theirs.append(x.numpy())
    states = ddpm(
        lambda xt, t: (model(xt, t), v(xt)),
        LINEAR, X_T, rng=Draws(), steps=50, variance="learned",
    )  # fmt: skip
    # Their last step has noise in it here too: see above.
    assert_same([state.x for state in states][1:-1], theirs[:-1], 1e-9)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [50, 10])
def test_ddim(steps, eta, clip):
    """With the eps that belongs to the clipped x0, which is not their default."""
    reference = scheduler("DDIMScheduler", clip_sample=clip)
    got = our_states("ddim", steps, eta=eta, clip=(-1, 1) if clip else None)
    options = {"eta": eta, "use_clipped_model_output": True, **seeded()}
    assert_same(got, their_states(reference, steps, **options), 1e-9)


def test_their_default_ddim_keeps_an_eps_that_does_not_fit_the_clipped_x0():
    """x_s then lies off the process: (x0, eps) no longer give x_t. Ours follows the paper."""
    theirs = their_states(scheduler("DDIMScheduler", clip_sample=True), 10)
    ours = list(ddim(model, LINEAR, X_T, steps=10, clip=(-1, 1)))
    first = ours[0]
    signal, noise = np.sqrt(LINEAR.abar[900]), np.sqrt(1 - LINEAR.abar[900])
    stale = signal * first.x0 + noise * model(X_T, np.full(2, 1000))
    fitting = signal * first.x0 + noise * parameterizations.eps_from_x0(LINEAR, X_T, 1000, first.x0)
    assert_same([theirs[0]], [stale], 1e-9)
    assert_same([ours[1].x], [fitting], 1e-9)
    assert np.abs(stale - fitting).max() > 1e-3


@pytest.mark.parametrize("steps", [50, 10, 4])
def test_pndm(steps):
    """Their three first steps take four calls each. Their alpha is set to one at the end."""
    reference = scheduler("PNDMScheduler", set_alpha_to_one=True)
    reference.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    theirs = their_states(reference, steps)
    assert len(theirs) == samplers.nfe("pndm", steps)
    assert_same(our_states("pndm", steps), [*theirs[3:12:4], *theirs[12:]], 1e-9)


def test_their_halfway_time_if_steps_are_odd():
    """T / S = 25: they take x to 988 and tell the model 987. Ours is 987 for both."""
    reference = scheduler("PNDMScheduler", set_alpha_to_one=True)
    first = their_states(reference, 40)[0]
    assert (reference.timesteps[:4].numpy() + 1).tolist() == [1000, 987, 987, 975]
    eps = model(X_T, np.full(2, 1000))
    assert_same([first], [transfer(LINEAR, X_T, 1000, 988, eps)], 1e-9)

    asked = []

    def watched(xt, t):
        asked.append((int(t[0]), xt))
        return model(xt, t)

    final(samplers.pndm(watched, LINEAR, X_T, steps=40))
    assert [t for t, _ in asked[:4]] == [1000, 987, 987, 975]
    assert_same([asked[1][1]], [transfer(LINEAR, X_T, 1000, 987, eps)], 1e-9)


@pytest.mark.parametrize("steps", [50, 10, 4])
def test_plms(steps):
    """Their first step takes two calls."""
    reference = scheduler("PNDMScheduler", set_alpha_to_one=True, skip_prk_steps=True)
    theirs = their_states(reference, steps)
    assert len(theirs) == samplers.nfe("plms", steps)
    assert_same(our_states("plms", steps), theirs[1:], 1e-9)


@pytest.mark.parametrize("steps", [50, 10])
def test_heun(steps):
    theirs = their_states(scheduler("HeunDiscreteScheduler"), steps)
    assert len(theirs) == samplers.nfe("rk2", steps)
    assert_same(our_states("rk2", steps, alpha=1.0), [*theirs[1::2], theirs[-1]], 1e-5)


@pytest.mark.parametrize("steps", [50, 10])
def test_euler(steps):
    theirs = their_states(scheduler("EulerDiscreteScheduler"), steps)
    assert_same(our_states("euler", steps), theirs, 1e-5)


@pytest.mark.parametrize("steps", [50, 10])
def test_euler_ancestral(steps):
    theirs = their_states(scheduler("EulerAncestralDiscreteScheduler"), steps, **seeded())
    assert_same(our_states("euler_ancestral", steps), theirs, 1e-5)


@pytest.mark.parametrize("steps", [50, 10])
def test_dpmpp_2m(steps):
    """Their formulas are in x_t, with sigma for sqrt(1 - abar) once alpha is divided out."""
    reference = scheduler("DPMSolverMultistepScheduler", solver_order=2)
    theirs = their_states(reference, steps)
    assert_same(our_states("dpmpp_2m", steps), theirs, 1e-5)


def test_ddim_inversion_asks_at_the_other_end_than_theirs():
    """Theirs gives the model x_s and the later time t; ours, as Song et al. 2021, x_s and s.

    Each is an Euler method. The paper's inverse is that of the flow, whose slope at x_s is eps
    at s; theirs takes x_s for x_t. Both are put together here from the formula of the step.
    """
    reference = scheduler("DDIMInverseScheduler", clip_sample=False)
    reference.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    theirs = their_states(reference, 10)
    times = timesteps.resolve(1000, 10)[::-1].tolist()

    def step(x, s, t, eps):
        signal, noise = np.sqrt(LINEAR.abar[s]), np.sqrt(1 - LINEAR.abar[s])
        x0 = (x - noise * eps) / signal
        return np.sqrt(LINEAR.abar[t]) * x0 + np.sqrt(1 - LINEAR.abar[t]) * eps

    x, y, early, late = X_T, X_T, [], []
    for s, t in pairwise(times):
        x = step(x, s, t, model(x, np.full(2, max(s, 1))))
        y = step(y, s, t, model(y, np.full(2, t)))
        early.append(x)
        late.append(y)
    ours = [state.x for state in ddim_inversion(model, LINEAR, X_T, steps=10)][1:]
    assert_same(ours, early, 1e-9)
    assert_same(theirs, late, 1e-9)
    assert np.abs(early[-1] - late[-1]).max() > 1e-3


@pytest.mark.parametrize(
    ("target", "total", "mean"), [("eps", 258.9606, 0.3372), ("v", 202.0296, 0.2631)]
)
def test_published_ddpm_runs(target, total, mean):
    """The sums that they test whole DDPM runs with; the draws are PyTorch's for seed 0."""

    def denoiser(xt, t):
        return parameterizations.convert(
            LINEAR, xt, t, answer(xt, t).astype(xt.dtype), source=target, target="eps"
        )

    class Theirs(Draws):
        """In the order of their axes, channels first."""

        def standard_normal(self, shape, dtype):
            n, h, w, c = shape
            return super().standard_normal((n, c, h, w), dtype).transpose(0, 2, 3, 1)

    x_T = ramp().astype(np.float32)
    x = final(ddpm(denoiser, LINEAR, x_T, rng=Theirs(), clip=(-1, 1)))
    assert abs(np.abs(x).sum() - total) < 1e-2
    assert abs(np.abs(x).mean() - mean) < 1e-3
