"""A training step, and an evaluation of the network, as graphs that a GPU replays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff import backend, ops
from minidiff.backend.graphs import Captured, supported
from minidiff.diffusion import process
from minidiff.optim import Adam, tick, update_by
from minidiff.unet import Conditions, UNet

if TYPE_CHECKING:
    from minidiff.training.trainer import Trainer

Array = Any


def step_of(trainer: Trainer) -> CapturedStep | None:
    """The captured step of a trainer, or None where its config or the backend does not allow it.

    Allowed is DDPM's own objective with Adam and no dropout, in one process.
    """
    c = trainer.config
    plain = (c.objective.target, c.objective.weight) == ("eps", "uniform")
    alone = trainer.ranks.size == 1 and type(trainer.optimizer) is Adam
    return CapturedStep(trainer) if supported() and plain and alone and not c.unet.dropout else None


class CapturedStep:
    """`Trainer.train_step` with all work of the device in one graph.

    The host draws times and labels, and computes what follows from them; noise is drawn on the
    device, from (seed, step), outside of the graph.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._graph = Captured(self._on_device)

    def __call__(
        self, rows: np.ndarray, t: np.ndarray, eps: Array, labels: np.ndarray | None
    ) -> tuple[Array, Array]:
        """Do the step of these draws; its loss and the norm of its gradient, on the device."""
        trainer = self.trainer
        dtype = trainer.images.dtype
        c, variance = process.forward(trainer.schedule, 0, t)
        columns = (a.astype(dtype).reshape(-1, 1, 1, 1) for a in (c, np.sqrt(variance)))
        clock = np.array(tick(trainer.optimizer, trainer.ema, lr=trainer.lr(trainer.step + 1)))
        conditions = (a for a in trainer.model.conditions(t, labels, dtype) if a is not None)
        loss, norm = self._graph(rows, *columns, eps, clock, *conditions)
        return loss, norm

    def _on_device(
        self, rows: Array, c: Array, deviation: Array, eps: Array, clock: Array, *conditions: Array
    ) -> tuple[Array, Array]:
        trainer = self.trainer
        xt = c * trainer.images[rows] + deviation * eps
        trainer.model.zero_grad()
        loss = ops.mse(trainer.model(xt, Conditions(*conditions)), eps)
        loss.backward()
        limit = trainer.config.grad_clip
        norm = update_by(clock, trainer.optimizer, trainer.ema, max_norm=limit)
        return loss.data, norm


def denoiser(model: UNet) -> Any:
    """`model.denoise` as a captured graph, for a sampler whose batches have one size.

    The weights are read where they are at each call; to change them in place is allowed.
    """
    if not supported():
        return model.denoise
    graph = Captured(lambda x, *conditions: (_evaluate(model, x, conditions),))

    def captured(xt: Array, t: np.ndarray, labels: np.ndarray | None = None) -> Array:
        conditions = (a for a in model.conditions(t, labels, xt.dtype) if a is not None)
        return graph(xt, *conditions)[0]

    return captured


def _evaluate(model: UNet, x: Array, conditions: tuple[Array, ...]) -> Array:
    return model.denoise(x, Conditions(*conditions))
