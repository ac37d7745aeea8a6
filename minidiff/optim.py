"""Optimizers, gradient clipping and weight averaging: vector operations on a flat model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from minidiff import backend
from minidiff.autograd import Array
from minidiff.backend import kernels
from minidiff.errors import InputError, check_number
from minidiff.nn import Flat


class Adam:
    """Adam with bias correction: Kingma & Ba (2015), Algorithm 1.

    Parameters
    ----------
    flat : the model's parameters and gradients, from `Module.flatten()`
    lr : step size (> 0)
    betas : decay rates of the first and second moment, each in [0, 1)
    eps : added to the square root of the second moment
    """

    def __init__(
        self, flat: Flat, lr: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        _check_flat("Adam", flat)
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise InputError(f"Adam: betas must be two numbers, got {betas!r}")
        numbers = {"lr": lr, "beta_1": betas[0], "beta_2": betas[1], "eps": eps}
        rate, b1, b2, small = (check_number(f"Adam: {n}", v) for n, v in numbers.items())
        if not 0 < rate < math.inf or not small > 0 or not (0 <= b1 < 1 and 0 <= b2 < 1):
            raise InputError(
                f"Adam: wants lr > 0, betas in [0, 1) and eps > 0, got {lr}, {betas}, {eps}"
            )
        self.flat, self.lr, self.betas, self.eps = flat, lr, betas, eps
        xp = backend.array_module(flat.data)
        self.m, self.v, self.steps = xp.zeros_like(flat.data), xp.zeros_like(flat.data), 0
        self.weight_decay = 0.0  # AdamW's

    def rate(self, lr: float | None) -> float:
        """The step size of one step: `lr`, or the optimizer's own for None."""
        if lr is None:
            return self.lr
        if not 0 <= check_number("lr", lr) < math.inf:
            raise InputError(f"the step size lr must be >= 0 and finite, got {lr}")
        return lr

    def step(self, lr: float | None = None) -> None:
        """Move the parameters against the gradient; `lr` overrides the step size this once."""
        lr = self.rate(lr)
        self.steps += 1  # eq. (8.4)
        xp = backend.array_module(self.flat.data)
        kernels.of(xp).adam(  # eq. (2.14), eq. (2.15)
            xp, self.flat.data, self.flat.grad, self.m, self.v, self.steps,
            lr, *self.betas, self.eps,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The moments m and v, and the number of steps taken."""
        return {"m": self.m, "v": self.v, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of an optimizer of the same model."""
        moments = {"m": self.m, "v": self.v}
        if missing := sorted({*moments, "steps"} - set(state)):
            raise InputError(f"optimizer state lacks {', '.join(missing)}")
        steps = check_number("optimizer state 'steps'", state["steps"])
        if steps < 0 or not steps.is_integer():
            raise InputError(f"optimizer state 'steps' must be a whole number, got {steps}")
        for name, own in moments.items():
            if not hasattr(state[name], "shape"):
                raise InputError(f"optimizer state {name!r} must be an array, got {state[name]!r}")
            if tuple(state[name].shape) != own.shape:
                raise InputError(
                    f"optimizer state {name!r} has shape {tuple(state[name].shape)}, "
                    f"expected {own.shape}: it belongs to another model"
                )
        for name, own in moments.items():
            own[...] = backend.asarray(state[name], dtype=own.dtype)
        self.steps = int(state["steps"])


class AdamW(Adam):
    """Adam with decoupled weight decay: Loshchilov & Hutter (2019), Algorithm 2.

    Each step first shrinks the parameters by 1 - lr * weight_decay.
    """

    def __init__(
        self, flat: Flat, lr: float = 1e-3, *, weight_decay: float = 0.01, **options: Any
    ) -> None:
        super().__init__(flat, lr, **options)
        if not 0 <= check_number("AdamW: weight_decay", weight_decay) < math.inf:
            raise InputError(f"AdamW: weight_decay must be >= 0, got {weight_decay}")
        self.weight_decay = weight_decay

    def step(self, lr: float | None = None) -> None:
        """Shrink, then take Adam's step."""
        self.flat.data[...] *= 1 - self.rate(lr) * self.weight_decay
        super().step(lr)


def constant(step: int, steps: int) -> float:
    """1: the learning rate stays as it is."""
    return 1.0


def cosine_decay(step: int, steps: int) -> float:
    """(1 + cos(pi (step - 1) / steps)) / 2, from 1 at the first of `steps` steps to nearly 0.

    The factor of the learning rate at step 1, ..., steps, and 0 beyond: Loshchilov & Hutter
    (2017), SGDR, eq. 5, without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 1) / max(1, steps))))


DECAYS = {"constant": constant, "cosine": cosine_decay}
"""How a learning rate falls over a run, by name: (step, steps) -> a factor, step from 1."""


def clip_grad_norm(flat: Flat, max_norm: float) -> Array:
    """Scale the gradient so that its Euclidean norm is at most `max_norm` (> 0).

    Returns the norm before, as a device scalar (reading it on the host waits for the device).
    """
    _check_flat("clip_grad_norm", flat)
    _check_limit("clip_grad_norm", max_norm)
    xp = backend.array_module(flat.grad)
    return kernels.of(xp).clip_norm(xp, flat.grad, max_norm)


def _check_flat(name: str, flat: Any) -> None:
    if not isinstance(flat, Flat):
        raise InputError(f"{name} wants model.flatten(), got {type(flat).__name__}")


def _check_limit(name: str, max_norm: float) -> None:
    if not check_number(f"{name}: max_norm", max_norm) > 0:
        raise InputError(f"{name}: max_norm must be positive, got {max_norm}")


class EMA:
    """An exponential moving average of the weights: ema <- d ema + (1 - d) weights.

    With `warmup` the decay of update n is min(decay, (1 + n) / (10 + n)), so that an early average
    is not dominated by the random start. Training never reads the average.
    """

    def __init__(self, flat: Flat, decay: float = 0.999, *, warmup: bool = True) -> None:
        _check_flat("EMA", flat)
        if not 0 <= check_number("EMA: decay", decay) < 1:
            raise InputError(f"EMA: decay must lie in [0, 1), got {decay}")
        self.flat, self.decay, self.warmup, self.updates = flat, decay, warmup, 0
        self.data = flat.data.copy()

    def next_decay(self) -> float:
        """The decay of the next update."""
        n = self.updates
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    def update(self) -> None:
        """Take the current weights into the average."""
        decay = self.next_decay()
        self.updates += 1  # eq. (8.6)
        xp = backend.array_module(self.data)
        kernels.of(xp).moving_average(xp, self.data, self.flat.data, decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it the model has the averaged weights; after it, its own again."""
        own = self.flat.data.copy()
        try:
            self.flat.data[...] = self.data
            yield
        finally:
            self.flat.data[...] = own


def update(
    optimizer: Adam, ema: EMA | None, *, max_norm: float, lr: float | None = None
) -> Array:
    """All that follows the gradient in a step of training; returns the norm of the gradient.

    The same as ``norm = clip_grad_norm(flat, max_norm)``, ``optimizer.step(lr)``, ``ema.update()``
    for an optimizer and an average of one model, but a GPU does it in one pass. Without an average
    `ema` is None.
    """
    return update_by(tick(optimizer, ema, lr=lr), optimizer, ema, max_norm=max_norm)


def tick(
    optimizer: Adam, ema: EMA | None, *, lr: float | None = None
) -> tuple[float, float, float]:
    """Count a step, and tell what is this step's own: its number, its size, the average's decay."""
    rate = optimizer.rate(lr)
    optimizer.steps += 1
    decay = 0.0
    if ema is not None:
        decay = ema.next_decay()
        ema.updates += 1
    return float(optimizer.steps), rate, decay


def update_by(clock: Any, optimizer: Adam, ema: EMA | None, *, max_norm: float) -> Array:
    """`update` by the numbers that `tick` tells, without counting the step.

    A captured graph does this at each replay, with `clock` an array of the device, float64 (3,).
    """
    _check_limit("update", max_norm)
    flat = optimizer.flat
    if ema is not None and ema.flat.data is not flat.data:
        raise InputError("update: the optimizer and the average are of different models")
    xp = backend.array_module(flat.data)
    return kernels.of(xp).update(
        xp, flat.data, flat.grad, optimizer.m, optimizer.v, None if ema is None else ema.data,
        clock, max_norm, *optimizer.betas, optimizer.eps, optimizer.weight_decay,
    )  # fmt: skip
