"""What a run takes of the memory, estimated from its config before any of it is taken.

Where memory runs out, the system kills a process without a word. So a config that asks for more
than there is must be refused for its numbers alone. The estimates count what is large and leave
out the rest (Python and its libraries are some 150 MB); a test holds them to what is measured,
within a factor of two.
"""

from __future__ import annotations

from minidiff.backend.memory import available
from minidiff.errors import InputError
from minidiff.training.config import TrainConfig
from minidiff.unet import UNetConfig

VECTORS = 13
"""As large as the weights: they, the gradient, Adam's two moments and the average; while a
checkpoint is written, copies of all but the gradient, and two of a file that holds two of them.
"""

KEPT = 3.5
"""As large as what goes into a block and comes out of it: what is kept for the way back."""

SURE = 2
"""How far off an estimate may be: what needs more than this many times the memory cannot fit."""

OBJECTS = 30_000
"""Bytes of Python itself for each block: layers, parameters, nodes of the tape."""


def of_training(config: TrainConfig, ranks: int = 1) -> int:
    """Bytes that training takes in each of its processes."""
    u = config.unet
    blocks = (2 * u.blocks + 1) * len(u.widths) + 2
    return 4 * VECTORS * parameters(u) + OBJECTS * blocks + of_batch(config, ranks)


def of_batch(config: TrainConfig, ranks: int = 1) -> int:
    """Those of them that grow with the batch."""
    u, rows = config.unet, -(-config.batch_size // ranks)
    through = sum((5 * u.blocks + 3) * a for a in _areas(u)) + 4 * _areas(u)[-1]
    drawn = u.image_size**2 * u.in_channels  # in every process for all rows
    kept, at_once = _scores(u)
    row = KEPT * through + kept + at_once
    return int(4 * (rows * row + config.batch_size * drawn))


def of_sampling(config: TrainConfig, n: int, batch: int) -> int:
    """Bytes that it takes to draw n images, `batch` at a time, and to write them."""
    u = config.unet
    skips = sum((u.blocks + 1) * a for a in _areas(u))
    row = skips + 8 * max(_areas(u)) + _scores(u)[1]
    row *= 1 if u.num_classes is None else 2  # guidance evaluates both models at once
    image = 4 * u.image_size**2 * u.in_channels + 4
    return int(4 * (2 * parameters(u) + min(n, batch) * row + n * image))


def parameters(u: UNetConfig) -> int:
    """About how many parameters the network has: as if its levels were equally wide."""
    down, up = u.blocks, u.blocks + 1
    time = u.time_width * (2 if u.time_conditioning == "scale_shift" else 1)
    n = u.time_width * (u.channels + u.time_width + (u.num_classes or 0))
    for c, size in zip(u.widths, u.resolutions, strict=True):
        attention = 4 * (down + up) if size in u.attention else 0
        n += (18 * down + 29 * up + 18 + attention) * c**2 + (down + up) * time * c
    return n + 40 * u.widths[-1] ** 2  # the middle


def check(needed: int, advice: str) -> None:
    """Refuse what cannot fit, even if the estimate is too high.

    Raises
    ------
    InputError
        If `needed` bytes are more than `SURE` times what there is; it ends with the `advice`.
    """
    there = available()
    if there is not None and needed > SURE * there:
        raise InputError(
            f"this needs about {in_words(needed)} of memory, and {in_words(there)} are free; "
            f"{advice}"
        )


def check_training(config: TrainConfig, ranks: int = 1) -> None:
    """`check` training with this config, in each of its processes."""
    batch = in_words(of_batch(config, ranks))
    advice = f"lower batch_size (the batch takes {batch} of it), unet.channels or unet.blocks"
    check(of_training(config, ranks), advice)


def in_words(n: int) -> str:
    """A number of bytes for people: ``3.2 GB``."""
    n = min(n, 10**300)  # more is no float
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"


def _areas(u: UNetConfig) -> list[int]:
    """Numbers in the features of one image, for each level."""
    return [c * size**2 for c, size in zip(u.widths, u.resolutions, strict=True)]


def _scores(u: UNetConfig) -> tuple[int, int]:
    """Numbers in the scores of one image's attentions: in all of them, and three times in one."""
    scores = {size: u.heads * size**4 for size in u.resolutions}
    levels = sum((2 * u.blocks + 1) * scores[size] for size in set(u.attention))
    middle = scores[u.resolutions[-1]]
    return levels + middle, 3 * max([middle, *(scores[size] for size in u.attention)])
