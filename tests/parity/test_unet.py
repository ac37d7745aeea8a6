"""The U-Net against the same network in PyTorch: outputs, every gradient, whole training runs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minidiff import ops
from minidiff.optim import EMA, Adam, clip_grad_norm
from minidiff.training.config import read
from minidiff.unet import UNet, UNetConfig
from tests.parity import torch_unet
from tests.parity.compare import DTYPES, assert_close, assert_gradients_close, torch_clip
from tests.parity.layout import nchw, nhwc

pytestmark = pytest.mark.parity

CONFIGS = {
    "the demo's": read("digits8").unet,
    "one level": UNetConfig(4, channels=8, multipliers=(1,), blocks=1, groups=4),
    "attention at two levels": UNetConfig(
        8, channels=16, multipliers=(1, 2), blocks=1, attention=(8, 4), groups=8
    ),
    "several heads": UNetConfig(
        8, channels=16, multipliers=(1, 2), blocks=2, attention=(4,), heads=4, groups=4
    ),
    "scale and shift": UNetConfig(
        8, channels=16, blocks=1, groups=8, time_conditioning="scale_shift", num_classes=3
    ),
    "fourier": UNetConfig(
        8, channels=16, multipliers=(1, 2), blocks=1, groups=8, time_embedding="fourier"
    ),
    "three channels, six out": UNetConfig(
        8, in_channels=3, out_channels=6, channels=16, multipliers=(2, 1, 1), groups=4,
        norm_eps=1e-5,
    ),
    "28x28, two levels": UNetConfig(28, channels=8, multipliers=(1, 2), blocks=1, groups=4),
    "all at once": UNetConfig(
        16, in_channels=3, channels=8, multipliers=(1, 2, 3), blocks=1, attention=(8, 4), heads=2,
        groups=4, time_embedding="fourier", time_conditioning="scale_shift", num_classes=5,
    ),
}  # fmt: skip
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def networks(config, dtype):
    """minidiff's network and PyTorch's with the same weights, none of them zero."""
    rng = np.random.default_rng(0)
    ours = UNet(config, rng=rng)
    for p in ours.parameters():
        p.data += (0.1 * rng.standard_normal(p.shape)).astype(p.dtype)
    ours.astype(dtype)
    theirs = torch_unet.UNet(config).to(getattr(torch, dtype))
    torch_unet.load(theirs, ours.state_dict())
    return ours, theirs


class Batch:
    """Random images, noise, times, and labels of which one is the null class."""

    def __init__(self, config, dtype, n=3, seed=1):
        rng = np.random.default_rng(seed)
        size = (n, config.image_size, config.image_size)
        self.x = rng.standard_normal((*size, config.in_channels)).astype(dtype)
        channels = config.out_channels or config.in_channels
        self.target = rng.standard_normal((*size, channels)).astype(dtype)
        self.t = rng.integers(1, 1001, n)
        self.labels = None
        if config.num_classes is not None:
            self.labels = rng.integers(0, config.num_classes, n)
            self.labels[-1] = config.num_classes

    def torch(self):
        """The inputs of PyTorch's network."""
        labels = None if self.labels is None else torch.from_numpy(self.labels)
        return nchw(torch.from_numpy(self.x)), torch.from_numpy(self.t), labels

    def torch_target(self):
        return nchw(torch.from_numpy(self.target))


@every_dtype
@every_config
def test_output_and_gradients(config, dtype):
    ours, theirs = networks(config, dtype)
    batch = Batch(config, dtype)

    pred = ours(batch.x, batch.t, batch.labels)
    loss = ops.mse(pred, batch.target)
    loss.backward()
    expected = theirs(*batch.torch())
    F.mse_loss(expected, batch.torch_target()).backward()

    assert_close("output", pred.data, nhwc(expected).detach(), dtype)
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    assert_gradients_close(gradients, torch_unet.gradients(theirs), dtype)


@every_config
def test_denoiser_and_null_class(config):
    """No labels and the null label are the same; dropout does nothing when sampling."""
    ours, theirs = networks(UNetConfig(**(vars(config) | {"dropout": 0.3})), "float64")
    batch = Batch(config, "float64")
    x, t, labels = batch.torch()
    with torch.inference_mode():
        conditional, unconditional = (nhwc(theirs.eval()(x, t, y)) for y in (labels, None))
    assert_close("with", ours.denoise(batch.x, batch.t, batch.labels), conditional, "float64")
    assert_close("without", ours.denoise(batch.x, batch.t), unconditional, "float64")
    if labels is not None:
        null = np.full(len(batch.t), config.num_classes)
        assert_close("null", ours.denoise(batch.x, batch.t, null), unconditional, "float64")


@every_config
def test_training(config):
    """Twelve steps of a training run: loss, clipping, Adam, average of the weights."""
    ours, theirs = networks(config, "float64")
    flat = ours.flatten()
    adam, ema = Adam(flat, 1e-3), EMA(flat, 0.9, warmup=False)
    parameters = list(theirs.parameters())
    reference = torch.optim.Adam(parameters, 1e-3)
    average = [p.detach().clone() for p in parameters]
    for step in range(12):
        batch = Batch(config, "float64", n=2, seed=step)
        ours.zero_grad()
        loss = ops.mse(ours(batch.x, batch.t, batch.labels), batch.target)
        loss.backward()
        norm = clip_grad_norm(flat, 0.5)
        adam.step()
        ema.update()

        reference.zero_grad()
        expected = F.mse_loss(theirs(*batch.torch()), batch.torch_target())
        expected.backward()
        expected_norm = torch_clip(parameters, 0.5)
        reference.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 0.1)

        np.testing.assert_allclose(
            [loss.item(), norm.item()], [expected.item(), expected_norm.item()], rtol=1e-9
        )
    for p, mean in zip(parameters, average, strict=True):
        p.data.copy_(mean)
    with ema.swapped():
        averaged = dict(ours.state_dict())
        for name, value in torch_unet.weights(theirs):
            np.testing.assert_allclose(averaged[name], value, rtol=0, atol=1e-9, err_msg=name)


def test_every_weight_is_carried_over():
    config = CONFIGS["all at once"]
    ours, theirs = networks(config, "float32")
    null = 4 * config.channels  # PyTorch's row of the null class, which stays zero
    assert ours.num_parameters == sum(p.numel() for p in theirs.parameters()) - null
    state = dict(ours.state_dict())
    state.pop("conv_in.bias")
    with pytest.raises(ValueError, match=r"conv_in\.bias"):
        torch_unet.load(theirs, state)
