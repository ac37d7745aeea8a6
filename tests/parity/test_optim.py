"""Adam, AdamW, gradient clipping and weight averaging against PyTorch's, over many steps."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from minidiff import ops
from minidiff.nn import Flat, Module, Parameter
from minidiff.optim import EMA, Adam, AdamW, clip_grad_norm
from tests.parity.compare import DTYPES, assert_close, torch_clip

pytestmark = [pytest.mark.parity, pytest.mark.parametrize("dtype", DTYPES)]

STEPS = 100
OPTIMIZERS = {
    "Adam": (Adam, torch.optim.Adam, {}),
    "Adam, other options": (Adam, torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-4}),
    "Adam, no memory": (Adam, torch.optim.Adam, {"betas": (0.0, 0.0)}),
    "AdamW": (AdamW, torch.optim.AdamW, {"weight_decay": 0.01}),
    "AdamW, strong decay": (AdamW, torch.optim.AdamW, {"weight_decay": 0.5, "eps": 1e-6}),
}
every_optimizer = pytest.mark.parametrize("kinds", OPTIMIZERS.values(), ids=OPTIMIZERS)


class LeastSquares(Module):
    """mean (A x B - C)^2 in x and B, from the same start at every call."""

    def __init__(self, dtype):
        rng = np.random.default_rng(0)
        self.A = rng.standard_normal((9, 5)).astype(dtype)
        self.C = rng.standard_normal((9, 4)).astype(dtype)
        self.x = Parameter(rng.standard_normal((5, 3)).astype(dtype))
        self.B = Parameter(rng.standard_normal((3, 4)).astype(dtype))

    def __call__(self):
        return ops.mse(self.A @ (self.x @ self.B), self.C)


def as_torch(array):
    """A parameter of PyTorch with a copy of the numbers, in float64."""
    return torch.nn.Parameter(torch.tensor(array, dtype=torch.float64))


@every_optimizer
def test_least_squares(kinds, dtype):
    ours, theirs, options = kinds
    problem = LeastSquares(dtype)
    x, B = as_torch(problem.x.data), as_torch(problem.B.data)
    A, C = (torch.tensor(a, dtype=torch.float64) for a in (problem.A, problem.C))
    optimizer = ours(problem.flatten(), 0.05, **options)
    reference = theirs([x, B], 0.05, **options)
    losses = []
    for _ in range(STEPS):
        problem.zero_grad()
        loss = problem()
        loss.backward()
        optimizer.step()

        reference.zero_grad()
        expected = torch.nn.functional.mse_loss(A @ (x @ B), C)
        expected.backward()
        reference.step()

        losses.append((loss.item(), expected.item()))
    if dtype == "float64":  # in float32 the problem amplifies each rounding
        np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-10)
        assert_close("x", problem.x.data, x.detach(), dtype)
        assert_close("B", problem.B.data, B.detach(), dtype)
    else:
        np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-3)
    assert losses[-1][0] < losses[0][0]


@every_optimizer
def test_random_gradients(kinds, dtype):
    """Gradients of many sizes, some zero for a while, and a step size that changes."""
    ours, theirs, options = kinds
    rng = np.random.default_rng(1)
    n = 200
    size = 10.0 ** rng.uniform(-4, 2, n)
    start = rng.standard_normal(n).astype(dtype)
    flat = Flat(start.copy(), np.zeros(n, dtype))
    optimizer = ours(flat, 1e-2, **options)
    p = as_torch(start)
    reference = theirs([p], 1e-2, **options)
    for step in range(STEPS):
        g = (size * rng.standard_normal(n)).astype(dtype)
        g[: n // 4] = 0 if 10 <= step < 40 else g[: n // 4]
        flat.grad[...] = g
        p.grad = torch.tensor(g, dtype=torch.float64)
        lr = 1e-2 * min(1, (step + 1) / 20)
        reference.param_groups[0]["lr"] = lr
        optimizer.step(lr)
        reference.step()
        assert_close(f"step {step}", flat.data, p.detach(), dtype)
    state = reference.state[p]
    assert_close("m", optimizer.m, state["exp_avg"], dtype)
    assert_close("v", optimizer.v, state["exp_avg_sq"], dtype)
    assert optimizer.steps == state["step"] == STEPS


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e3])
def test_clipping(max_norm, dtype):
    g = np.random.default_rng(2).standard_normal(50).astype(dtype)
    flat = Flat(np.zeros_like(g), g.copy())
    parts = [as_torch(np.zeros(20)), as_torch(np.zeros(30))]
    parts[0].grad, parts[1].grad = torch.tensor(g, dtype=torch.float64).split([20, 30])
    norm = clip_grad_norm(flat, max_norm)
    expected = torch_clip(parts, max_norm)
    assert_close("norm", norm, expected, dtype)
    assert_close("gradient", flat.grad, torch.cat([p.grad for p in parts]), dtype)


def test_average(dtype):
    """PyTorch's average starts with the first update, ours with the weights that it is given."""
    rng = np.random.default_rng(3)
    flat = Flat(rng.standard_normal(30).astype(dtype), np.zeros(30, dtype))
    average = EMA(flat, 0.9, warmup=False)
    module = torch.nn.ParameterList([as_torch(flat.data)])
    reference = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    reference.update_parameters(module)
    for step in range(STEPS):
        flat.data[...] = rng.standard_normal(30)
        with torch.no_grad():
            module[0].copy_(torch.tensor(flat.data))
        average.update()
        reference.update_parameters(module)
        assert_close(f"step {step}", average.data, reference.module[0].detach(), dtype)
