"""The whole fast path of CuPy, from the launch to the last number, on the processor."""

import numpy as np
import pytest

from minidiff import backend, ops
from minidiff.optim import EMA, Adam, update
from minidiff.unet import UNet, UNetConfig
from tests import double
from tests.gpu import emulator

CONFIG = UNetConfig(
    8, in_channels=3, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4,
    num_classes=3,
)  # fmt: skip


def steps(module, config, n=2):
    """Losses, norms, parameters, averages and a prediction of a small network after `n` steps."""
    model = UNet(config, rng=np.random.default_rng(0)).train()
    rng = np.random.default_rng(1)
    for p in model.parameters():  # none of them zero
        p.data += backend.asarray(0.05 * rng.standard_normal(p.shape, dtype=np.float32))
    flat = model.flatten()
    adam, ema, results = Adam(flat, 1e-3), EMA(flat, 0.9, warmup=False), []
    for _ in range(n):
        x, eps = (rng.standard_normal((3, 8, 8, 3), dtype=np.float32) for _ in range(2))
        t, labels = rng.integers(1, 1000, 3), rng.integers(0, 4, 3)
        model.zero_grad()
        loss = ops.mse(model(backend.asarray(x), t, labels), backend.asarray(eps))
        loss.backward()
        results += [loss.data, update(adam, ema, max_norm=0.05)]
    results += [flat.grad, flat.data, ema.data, model.denoise(backend.asarray(x), t, labels)]
    return [backend.to_numpy(r) for r in results]


@pytest.mark.parametrize("conditioning", ["add", "scale_shift"])
def test_training_and_evaluation_are_those_of_numpy(emulated, monkeypatch, conditioning):
    config = UNetConfig(**vars(CONFIG) | {"time_conditioning": conditioning})
    expected = steps(np, config)
    monkeypatch.setattr(backend, "xp", double.xp)
    emulator.launches.clear()
    with double.forbid("synchronization"):
        # results are read afterwards, on the host
        monkeypatch.setattr(backend, "to_numpy", lambda a: getattr(a, "_a", a))
        got = steps(double.xp, config)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1e-3, np.abs(b).max()))
    used = {name for name, _, _ in emulator.launches}
    assert {"group_norm", "group_norm_grad", "softmax", "square_sums", "update"} <= used
    assert any(name.startswith("correlate") for name in used)
