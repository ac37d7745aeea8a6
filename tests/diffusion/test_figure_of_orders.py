"""The figure of docs/samplers.md: the orders that it names, and the table beneath it."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from docs.figures.solver_orders import (
    WITH_NOISE,
    WITHOUT_NOISE,
    Curve,
    draw,
    with_noise,
    without_noise,
)
from minidiff.diffusion.samplers import FACTS, SAMPLERS, nfe

DOCS = Path(__file__).parents[2] / "docs"
PICTURE = (DOCS / "images" / "solver_orders.svg").read_text("utf-8")
ROWS = {
    cells[0].strip("`"): cells
    for line in (DOCS / "samplers.md").read_text("utf-8").splitlines()
    if len(cells := [cell.strip() for cell in line.strip("| ").split(" | ")]) == 5
}

BOTH = WITHOUT_NOISE | WITH_NOISE
ORDERLY = [label for label, (name, _) in BOTH.items() if FACTS[name].order]


@cache
def measured():
    """Steps enough for the order to show, and few enough to be quick."""
    noisy = {label: WITH_NOISE[label] for label in ORDERLY if label in WITH_NOISE}
    return without_noise((32, 64)) | with_noise((32, 64), noisy)


def test_every_sampler_is_in_the_figure_and_in_the_table():
    assert {name for name, _ in BOTH.values()} == set(SAMPLERS)
    assert list(ROWS)[1:] == list(SAMPLERS)  # after the head


@pytest.mark.parametrize("label", ORDERLY)
def test_the_orders(label):
    curve = measured()[label]
    np.testing.assert_allclose(curve.order, FACTS[BOTH[label][0]].order, atol=0.15)
    assert curve.errors[0] < 0.3


def test_the_same_method_twice():
    """What the page says of them, and why they share a line."""
    for labels in [
        ("ddim", "euler"),
        ("rk2, alpha 1 (Heun)", "edm, no churn"),
        ("ddpm, posterior", "ddim, eta 1", "euler_ancestral"),
    ]:
        errors = [measured()[label].errors for label in labels]
        np.testing.assert_allclose(errors[1:], errors[:1] * (len(labels) - 1), rtol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_table_says_what_the_package_says(name):
    _, _, evaluations, order, noise = ROWS[name]
    facts = FACTS[name]
    assert order == (str(facts.order) if facts.order else "none")
    option = f"if `{facts.noise}` > 0"
    assert noise == (option if isinstance(facts.noise, str) else ("no", "yes")[facts.noise])
    formula = evaluations.split(" (Heun)")[0].replace("\N{MINUS SIGN}", "-")
    assert eval(re.sub(r"(\d) ?([S(])", r"\1 * \2", formula), {"S": 20}) == nfe(name, 20)


def test_the_picture_is_that_of_this_script():
    """Its data is not computed again; what it names is what the script names."""
    text = " ".join(re.findall(r"<!-- (.*?) -->", PICTURE, re.S))
    for label in BOTH:
        assert label in text


def test_drawing_is_quick_and_complete():
    points = {
        label: Curve([8, 16], [8, 16], [4.0**-k, 4.0 ** -(k + 1)])
        for k, label in enumerate(WITHOUT_NOISE)
    }
    noisy = {label: Curve([8, 16], [8, 16], [0.5, 0.25]) for label in WITH_NOISE}
    figure = draw(points, noisy)
    left, right = figure.axes
    assert len(left.lines) == len(points)
    assert len(right.lines) == 1  # all alike, so drawn once
    heights = sorted(text.xyann[1] for text in left.texts)
    assert np.diff(heights).min() > 0.149
