"""docs/notation.md names every function of the package that computes something, and its source."""

import importlib
import inspect
import pkgutil
import re
from collections import Counter
from pathlib import Path

import pytest

import minidiff.diffusion
import minidiff.metrics

PAGE = (Path(__file__).parents[2] / "docs" / "notation.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.split("## Formulas")[1].split("\n## ")[0].splitlines()
    if line.startswith("| ") and "---" not in line
][1:]
SOURCE = re.compile(
    r"\b(eq\.|section|Algorithms?|appendix|table|figures?|theorem)\s*[A-Z]?\.?\d", re.I
)

# What computes nothing: checks, choices by name, records of results, loops over steps of others.
NO_FORMULA = """
arrays: check_like floats per_image
checks: check_numbers
coding: Curve Split
decoder: check_levels check_on_levels
denoiser: evaluate predict
elbo: Bound Step
exact: Affine
metrics.arrays: check_features check_same_kind real
metrics.inception: Score
metrics.kid: Distance
names: lookup with_options
objectives: split_channels
ode: Likelihood
parameterizations: check_clip
samplers: Facts make nfe
samplers.base: State check_rng check_start descend final
samplers.plms: pseudo
samplers.pndm: middle
schedules: Schedule check_steps check_t make
sde: make
sigma: finite_levels levels
time_draws: draw
timesteps: resolve
"""
PLUMBING = {
    f"{module}.{name}"
    for line in NO_FORMULA.split("\n")[1:-1]
    for module, names in [line.split(": ")]
    for name in names.split()
}


def public():
    """ "module.name" -> function or class, for all that is defined in these packages."""
    found = {}
    for info in (
        *pkgutil.walk_packages(minidiff.diffusion.__path__, "minidiff.diffusion."),
        *pkgutil.walk_packages(minidiff.metrics.__path__, "minidiff.metrics."),
    ):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == info.name
            if own and name[0] != "_" and (inspect.isfunction(value) or inspect.isclass(value)):
                short = info.name.removeprefix("minidiff.").removeprefix("diffusion.")
                found[f"{short}.{name}"] = value
    return found


PUBLIC = public()
SHARED = {n for n, k in Counter(name.split(".")[-1] for name in PUBLIC).items() if k > 1}


def named(cell):
    """The names in a cell of the table, as far as they are public functions: full names."""
    for token in re.findall(r"`([A-Za-z_][\w.]*)", cell):
        last = token.split(".")[-1]
        for full in PUBLIC:
            exact = full.endswith("." + token) or full == token
            if full.split(".")[-1] == last and (exact or last not in SHARED):
                yield full
            elif full.split(".")[-1] in token.split(".") and inspect.isclass(PUBLIC[full]):
                yield full  # by one of its methods


NAMED = {full for row in ROWS for full in named(row[1])}


@pytest.mark.parametrize("full", sorted(set(PUBLIC) - PLUMBING))
def test_every_formula_is_in_the_table(full):
    assert full in NAMED, f"docs/notation.md has no row with `{full}`"


def test_what_is_left_out_exists():
    assert set(PUBLIC) >= PLUMBING


def test_what_the_table_names_exists():
    methods = {name for value in PUBLIC.values() if inspect.isclass(value) for name in vars(value)}
    known = {full.split(".")[-1] for full in PUBLIC} | methods
    for _, cell, _ in ROWS:
        for token in re.findall(r"`([A-Za-z_][\w.]*)[`(]", cell):
            assert token.split(".")[-1] in known, f"there is no {token}"


@pytest.mark.parametrize("row", [r for r in ROWS if SOURCE.search(r[2])], ids=lambda row: row[1])
def test_where_the_table_has_a_source_each_docstring_has_it_too(row):
    """Each function that the row names says itself where its formula is from; a method, or its
    class, does so for it.
    """
    texts = {}
    for token in re.findall(r"`([A-Za-z_][\w.]*)", row[1]):
        for full in named(f"`{token}`"):
            value, last = PUBLIC[full], token.split(".")[-1]
            method = inspect.isclass(value) and last in vars(value)
            both = (value, getattr(value, last)) if method else (value,)
            texts[token, full] = " ".join(inspect.getdoc(x) or "" for x in both)
    assert texts, f"{row[1]} is nothing public"
    assert not [names for names, text in texts.items() if not SOURCE.search(text)]
