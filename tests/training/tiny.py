"""A run so small that a step takes milliseconds; with dropout, so that all randomness is used."""

import tomllib

from minidiff.training import TrainConfig, read

TINY = """\
data = "digits"
T = 20
steps = 12
batch_size = 8
lr = 1e-2
warmup = 4
ema_decay = 0.9
seed = 7
checkpoint_every = 5
sample_every = 1000

[unet]
image_size = 8
channels = 4
multipliers = [1]
blocks = 1
groups = 2
dropout = 0.1
num_classes = 10
"""


def write_tiny(folder) -> str:
    """The path of a recipe file with it."""
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return str(path)


def tiny(folder, **changes) -> TrainConfig:
    """The config, with some settings changed."""
    return read(write_tiny(folder)).replace(**changes)


def tiny_without_file() -> TrainConfig:
    """The same config, for a process that may write nothing."""
    return TrainConfig.from_dict(tomllib.loads(TINY))
