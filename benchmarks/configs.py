"""The networks that are measured, by name, and the data of their training steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from minidiff.training.config import read
from minidiff.unet import UNet, UNetConfig

CONFIGS = {
    # the demo's network, on 8x8 digits
    "digits8": read("digits8").unet,
    # 28x28 images of one channel
    "mnist-small": UNetConfig(
        28, channels=32, multipliers=(1, 2, 2), blocks=2, attention=(7,), groups=8
    ),
    # DDPM's network for CIFAR-10 (Ho et al. 2020, appendix B)
    "cifar-ddpm": UNetConfig(
        32, in_channels=3, channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,)
    ),
}


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one training step reads: noisy images, the noise to predict, times and labels."""

    x: np.ndarray
    target: np.ndarray
    t: np.ndarray
    labels: np.ndarray | None


def batches(config: UNetConfig, size: int, n: int) -> list[Batch]:
    """`n` batches of random data, the same at every call."""
    rng = np.random.default_rng(1)
    shape = (size, config.image_size, config.image_size, config.in_channels)

    def batch() -> Batch:
        x, target = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
        labels = None
        if config.num_classes is not None:
            labels = rng.integers(0, config.num_classes + 1, size)
        return Batch(x, target, rng.integers(1, 1001, size), labels)

    return [batch() for _ in range(n)]


def model(config: UNetConfig) -> UNet:
    """The network with the same weights at every call, none of them zero."""
    rng = np.random.default_rng(0)
    net = UNet(config, rng=rng)
    for p in net.parameters():
        p.data += 0.02 * rng.standard_normal(p.shape, dtype=np.float32)
    return net
