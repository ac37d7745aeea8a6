"""Which times t a training step sees: uniform, evenly spread, in turn, or where the loss is large.

`draw` chooses among the first three by name. In all of them every t in 1, ..., T is equally likely
for every image, so the plain mean of the losses is unbiased. `LossHistory` is not uniform: it
returns the weights that undo it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidiff import backend
from minidiff.diffusion.checks import check_numbers
from minidiff.diffusion.names import lookup
from minidiff.diffusion.objectives import draw_t
from minidiff.diffusion.schedules import Schedule, check_t
from minidiff.errors import InputError, check_count, check_number


def stratified(schedule: Schedule, n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """t_i = 1 + (k + floor(i T / n)) mod T for i = 0, ..., n - 1, with k uniform on 0, ..., T - 1.

    The low-discrepancy draw of Kingma et al. 2021, section 5.3, in whole numbers: each t_i is
    uniform, and together they are spread as evenly as n times can be, which lowers the variance of
    a batch's loss. One draw, whatever n is.
    """
    check_count("n", n, least=0)
    # eq. (8.2)
    return 1 + (rng.integers(schedule.T) + np.arange(n) * schedule.T // n) % schedule.T


def cyclic(schedule: Schedule, n: int, *, step: int) -> NDArray[np.int64]:
    """The times in a fixed order that visits each of them once in T draws: no randomness.

    Step 1 takes the first n, step 2 the next n, and so on: `step` is all the state that there is.
    The order goes on by about T / 1.618 (mod T), so that each batch is spread over all times.
    """
    check_count("n", n, least=0)
    check_count("step", step)
    T = schedule.T
    stride = round(T * (math.sqrt(5) - 1) / 2)
    while math.gcd(stride, T) > 1:
        stride -= 1
    places = (step - 1) * n + np.arange(n, dtype=np.int64)
    return 1 + places % T * stride % T


NAMES = ("uniform", "stratified", "cyclic")


def draw(
    name: str, schedule: Schedule, n: int, *, rng: np.random.Generator, step: int
) -> NDArray[np.int64]:
    """n times, drawn as `name` says: "uniform", "stratified" or "cyclic".

    Parameters
    ----------
    name : one of `NAMES`
    schedule : Schedule
    n : int
        Images in the batch.
    rng : numpy.random.Generator
        On the host. "cyclic" draws nothing from it.
    step : int, >= 1
        The training step; only "cyclic" looks at it.
    """
    ways = {
        "uniform": lambda: draw_t(schedule, n, rng=rng),
        "stratified": lambda: stratified(schedule, n, rng=rng),
        "cyclic": lambda: cyclic(schedule, n, step=step),
    }
    return lookup(ways, name, "draw of t")()


class LossHistory:
    """Draws t where the loss has been large: p_t ~ sqrt(E[L_t^2]) (Nichol & Dhariwal 2021, eq. 18).

    E[L_t^2] is the mean over the last losses at t; until every t has `size` of them the draw is
    uniform. Each loss counts with weight 1 / (T p_t), so the weighted mean is as unbiased as
    the plain one of a uniform draw. Meant for L_vlb, whose terms differ by orders of magnitude:

        t, weight = history.draw(n, rng=rng)
        losses = objectives.vlb_nats_per_dim(model, schedule, x0, t, eps, variance="learned")
        objectives.mean(losses, weight).backward()
        history.update(t, losses.data)

    Parameters
    ----------
    schedule : Schedule
    size : int, >= 1
        How many losses are kept for each t.
    floor : float in (0, 1]
        Share of the draws that is uniform, so that no t is forgotten; 1 is the uniform draw.
    """

    def __init__(self, schedule: Schedule, *, size: int = 10, floor: float = 0.001) -> None:
        size = check_count("size", size)
        if not 0 < check_number("floor", floor) <= 1:
            raise InputError(f"floor is a share of the draws, in (0, 1], got {floor}")
        self.schedule, self.floor = schedule, floor
        self.losses = np.zeros((schedule.T + 1, size))
        self.counts = np.zeros(schedule.T + 1, dtype=np.int64)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """p_t, shape (T + 1,), with p_0 = 0."""
        T, size = self.schedule.T, self.losses.shape[1]
        p = np.full(T + 1, 1 / T)
        if self.counts[1:].min() >= size:
            magnitude = np.sqrt(np.mean(self.losses[1:] ** 2, axis=1))
            if magnitude.sum() > 0:
                p[1:] = (1 - self.floor) * magnitude / magnitude.sum() + self.floor / T
        p[0] = 0
        return p

    def draw(
        self, n: int, *, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(t, weight): n times and the weights 1 / (T p_t) of their losses (host arrays)."""
        check_count("n", n, least=0)
        p = self.probabilities
        t = rng.choice(self.schedule.T + 1, size=n, p=p / p.sum())
        return t, 1 / (self.schedule.T * p[t])

    def update(self, t: ArrayLike, losses: Any) -> None:
        """Remember the losses (N,) at the times t (N,). Losses on a device are waited for."""
        times = np.asarray(check_t(self.schedule, t))
        values = check_numbers("losses", backend.to_numpy(losses))
        if times.ndim != 1 or values.shape != times.shape:
            raise InputError(f"N times need N losses, got shapes {times.shape} and {values.shape}")
        if not np.isfinite(values).all():
            raise InputError("a loss is not finite, and would be remembered for long")
        for time, loss in zip(times.tolist(), values.tolist(), strict=True):  # a time may repeat
            self.losses[time, self.counts[time] % self.losses.shape[1]] = loss
            self.counts[time] += 1

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that it remembers: ``losses`` (T + 1, size) and ``counts`` (T + 1,), copied."""
        return {"losses": self.losses.copy(), "counts": self.counts.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a history of the same T and size."""
        for name, own in self.state_dict().items():
            if name not in state or np.shape(state[name]) != own.shape:
                got = np.shape(state[name]) if name in state else "nothing"
                raise InputError(f"state {name!r} must have shape {own.shape}, got {got}")
        self.losses = np.array(state["losses"], dtype=np.float64)
        self.counts = np.array(state["counts"], dtype=np.int64)
