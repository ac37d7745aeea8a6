"""Draws docs/images/solver_orders.svg: the error of every sampler against its evaluations.

    python -m docs.figures.solver_orders

Left: solvers without noise, on a mixture of two Gaussians in the plane, whose optimal denoiser is
known. The error is the distance to the exact probability flow from the same noise, at a quarter of
the time, as root mean square over 8 points. Right: samplers that draw noise have no single end to
compare; there the error is that of the variance which they generate for data N(0, 4), found
exactly (for the predictor-corrector, whose step depends on the batch, from 200,000 draws). Langevin
steps of finite size leave an error that more times do not remove, so those two have no order.

The same numbers at every run, in less than a minute on one core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidiff.diffusion import exact, ode, samplers, schedules
from minidiff.diffusion.oracle import Gaussian, GaussianMixture
from minidiff.diffusion.samplers import FACTS
from minidiff.diffusion.sigma import eps_denoiser, sigma_of

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "images" / "solver_orders.svg"
STYLE = ROOT / "chapters" / "chapterlib" / "chapter.mplstyle"

T = 768
SCHEDULE = schedules.linear(T, scale="reference")
STEPS = (8, 16, 32, 64, 128)  # multiples of 4: all of them visit a quarter of the time
QUARTER = T // 4

MIXTURE = GaussianMixture(
    [0.3, 0.7],
    [[-1.0, 0.3], [0.8, -0.5]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.25, -0.05], [-0.05, 0.4]]],
)
VARIANCE = 4.0
GAUSSIAN = Gaussian.isotropic([0.0], VARIANCE)

Sampler = tuple[str, dict[str, Any]]
WITHOUT_NOISE: dict[str, Sampler] = {
    "ddim": ("ddim", {}),
    "euler": ("euler", {}),
    "rk2, alpha 1 (Heun)": ("rk2", {"alpha": 1.0}),
    "rk2, alpha 1/2 (midpoint)": ("rk2", {"alpha": 0.5}),
    "edm, no churn": ("edm", {}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "plms": ("plms", {}),
    "pndm": ("pndm", {}),
}
WITH_NOISE: dict[str, Sampler] = {
    "ddpm, posterior": ("ddpm", {"variance": "posterior"}),
    "ddpm, beta": ("ddpm", {"variance": "beta"}),
    "ddim, eta 1": ("ddim", {"eta": 1.0}),
    "euler_ancestral": ("euler_ancestral", {}),
    "edm, s_churn 10": ("edm", {"s_churn": 10.0}),
    "annealed_langevin": ("annealed_langevin", {}),
    "predictor_corrector": ("predictor_corrector", {}),
}


class Curve(NamedTuple):
    """Errors of one sampler, and the evaluations that they cost."""

    steps: list[int]
    evaluations: list[int]
    errors: list[float]

    @property
    def order(self) -> float:
        """p, if the error falls as (steps)^-p between the last two points."""
        (n, m), (e, f) = self.steps[-2:], self.errors[-2:]
        return float(np.log(e / f) / np.log(m / n))


class Counted:
    """A denoiser that counts its evaluations."""

    def __init__(self, denoiser: Callable[..., Any]) -> None:
        self.denoiser, self.evaluations = denoiser, 0

    def __call__(self, xt: Any, t: Any) -> Any:
        """Eps, and one more evaluation."""
        self.evaluations += 1
        return self.denoiser(xt, t)


def everywhere(data: GaussianMixture) -> Callable[..., Any]:
    """The optimal denoiser of `data` at all real times."""
    return eps_denoiser(lambda x, sigma: data.at(1.0, sigma).x0(x), SCHEDULE)


def exact_flow(x_T: Any, t: int) -> Any:
    """x_t on the probability flow of the mixture from x_T."""
    first, last = (float(sigma) for sigma in sigma_of(SCHEDULE, [T, t]))
    x = ode.flow(
        lambda x, sigma: MIXTURE.at(1.0, sigma).x0(x),
        x_T * np.sqrt(1 + first**2), first, last,
        rtol=1e-11, atol=1e-11, method="DOP853",
    )  # fmt: skip
    return x / np.sqrt(1 + last**2)


def without_noise(steps: Sequence[int] = STEPS) -> dict[str, Curve]:
    """The left side of the figure."""
    x_T = np.random.default_rng(0).standard_normal((8, 2))
    right = exact_flow(x_T, QUARTER)

    def error(name: str, options: dict[str, Any], n: int) -> tuple[int, float]:
        denoiser, spent = Counted(everywhere(MIXTURE)), 0
        for state in samplers.make(name, steps=n, **options)(denoiser, SCHEDULE, x_T):
            if state.t == QUARTER:
                return spent, float(np.sqrt(np.mean((state.x - right) ** 2)))
            spent = denoiser.evaluations  # what the next state is made of
        raise AssertionError(f"{name} does not visit t = {QUARTER}")

    return curves(WITHOUT_NOISE, error, steps)


def with_noise(
    steps: Sequence[int] = STEPS, which: dict[str, Sampler] = WITH_NOISE
) -> dict[str, Curve]:
    """The right side of the figure."""

    def error(name: str, options: dict[str, Any], n: int) -> tuple[int, float]:
        sampler = samplers.make(name, steps=n, **options)

        def run(x: Any, rng: Any) -> Any:
            return samplers.final(sampler(everywhere(GAUSSIAN), SCHEDULE, x, rng=rng))

        if name == "predictor_corrector":
            rng = np.random.default_rng(0)
            variance = run(rng.standard_normal((200_000, 1)), rng).var()
        else:
            variance = exact.propagate(run, (1,)).covariance.item()
        return samplers.nfe(name, n), float(abs(variance / VARIANCE - 1))

    return curves(which, error, steps)


def curves(
    which: dict[str, Sampler],
    error: Callable[[str, dict[str, Any], int], tuple[int, float]],
    steps: Sequence[int],
) -> dict[str, Curve]:
    """A curve for each sampler."""
    made = {}
    for label, (name, options) in which.items():
        evaluations, errors = zip(*(error(name, options, n) for n in steps), strict=True)
        made[label] = Curve(list(steps), list(evaluations), list(errors))
    return made


def draw(left: dict[str, Curve], right: dict[str, Curve]) -> Any:
    """The figure."""
    import matplotlib.pyplot as plt

    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.8))
        panel(axes[0], left, "Without noise: distance to the exact flow")
        panel(axes[1], right, "With noise: relative error of the variance, data N(0, 4)")
        for ax in axes:
            ax.set_xlabel("evaluations of the denoiser")
    return figure


def panel(ax: Any, data: dict[str, Curve], title: str) -> None:
    """One side: a line for each curve, named with its order beside its right end."""
    lines = together(data)
    for curve, marker in zip(lines.values(), cycle("os^vDP"), strict=False):
        ax.plot(curve.evaluations, curve.errors, marker=marker, markersize=5, linewidth=1.6)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    low, high = ax.get_xlim()
    ticks = [2**k for k in range(2, 11) if low < 2**k < high]
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.set_title(title)

    ends = [ax.transLimits.transform((0, np.log10(c.errors[-1])))[1] for c in lines.values()]
    for height, label, line in zip(apart(ends, 0.075), lines, ax.lines, strict=True):
        curve, color = lines[label], line.get_color()
        ax.annotate(
            label,
            (curve.evaluations[-1], curve.errors[-1]),
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "lw": 0.8},
        )


def together(data: dict[str, Curve]) -> dict[str, Curve]:
    """Curves by what is written beside them: once where samplers are the same method."""
    groups: list[tuple[list[str], Curve]] = []
    for label, curve in data.items():
        for labels, known in groups:
            if curve.evaluations == known.evaluations and np.allclose(
                curve.errors, known.errors, rtol=1e-6
            ):
                labels.append(label)
                break
        else:
            groups.append(([label], curve))
    which = WITHOUT_NOISE | WITH_NOISE
    named = {}
    for labels, curve in groups:
        order = f"\norder {curve.order:.2f}" if FACTS[which[labels[0]][0]].order else ""
        named[",\n".join(labels) + order] = curve
    return named


def apart(heights: Sequence[float], line: float) -> list[float]:
    """Heights of the names: `heights`, moved until none overlaps the next."""
    order = np.argsort(heights)
    moved = np.array(heights)
    for _ in range(500):
        for i, j in pairwise(order):
            lack = 2 * line - (moved[j] - moved[i])
            if lack > 0:
                moved[i] -= lack / 2
                moved[j] += lack / 2
    return [float(h) for h in moved]


def main() -> None:
    """Compute, draw, write."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "minidiff"  # the same bytes at every run
    left, right = without_noise(), with_noise()
    for label, curve in (left | right).items():
        print(f"{label:28} order {curve.order:5.2f}  errors", *(f"{e:.2e}" for e in curve.errors))
    draw(left, right).savefig(TARGET, metadata={"Date": None})
    print("written:", TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
