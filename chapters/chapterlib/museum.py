"""Appendix A: the mistakes of `tests/mutants`, brought to life one after the other."""

from __future__ import annotations

import warnings

import numpy as np

from chapterlib.figures import BLUE, GREY, ORANGE, plt
from minidiff.errors import PriorWarning
from tests.diffusion.test_exact import POINT, UNIT, generated, package
from tests.mutants import collection
from tests.mutants.checks import killer
from tests.mutants.mutant import Mutant

HALLS = {
    "SCHEDULES": "Schedules",
    "PROCESS": "The forward process and its posterior",
    "PARAMETERIZATIONS": "What the network predicts",
    "ANCESTRAL": "Ancestral sampling",
    "DDIM": "DDIM",
    "SOLVERS": "Solvers and other samplers",
    "GUIDANCE": "Guidance",
    "BOUNDS": "Losses, bounds and codes",
    "NETWORK": "The network and its layers",
    "TRAINING": "Training",
    "METRICS": "Metrics",
}
"""The halls of the museum: the parts of the collection, with what is shown there."""


def mutants(hall: str) -> tuple[Mutant, ...]:
    """The mistakes of a hall."""
    return getattr(collection, hall)


def autopsy(hall: str) -> None:
    """Make each mistake of a hall, and say which test fails first; every one must be seen."""
    width = max(len(mutant.id) for mutant in mutants(hall))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorWarning)  # of the short schedules in the tests
        for mutant in mutants(hall):
            case = killer(mutant.id)
            assert case is not None, f"no test sees the mistake {mutant.id}"
            test = case.partition("(")[0].rpartition("::")[2]
            print(f"✗ {mutant.id:{width}}  {test}")


def what_samplers_generate() -> None:
    """Draw the variances that each wrong sampler makes: of data N(0, 1), and of a single point."""
    shown = [m for hall in ("ANCESTRAL", "DDIM") for m in mutants(hall) if m.generates]
    _, axes = plt.subplots(
        1, 2, figsize=(7.6, 0.34 * len(shown) + 1.1), sharey=True, layout="constrained"
    )
    for ax, data, title in zip(axes, (UNIT, POINT), ("variance 1", "a single point"), strict=True):
        for row, mutant in enumerate(reversed(shown)):
            known = mutant.generates
            sampler = package(known.sampler, **known.options)
            right = max(generated(sampler, data)[1], TINY)
            with mutant.applied():
                wrong = max(generated(sampler, data)[1], TINY)
            ax.plot([right, wrong], [row, row], color=GREY, lw=1)
            ax.plot(right, row, "o", color=BLUE, ms=6)
            ax.plot(wrong, row, "x", color=ORANGE, ms=7, mew=2)
        ax.set(xscale="log", xlabel="variance generated", title=f"data: {title}")
    axes[0].set_yticks(np.arange(len(shown)), [m.id for m in reversed(shown)])


TINY = 1e-16
"""Variances below are drawn here: next to the point's own 1e-8 they are none."""
