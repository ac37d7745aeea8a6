"""The package as a whole: what it imports, in which direction, and what it tells about itself."""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minidiff.errors import InputError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minidiff"

# From the bottom up: each part may import those before it, and itself.
LAYERS = (
    "errors", "backend", "autograd", "gradcheck", "ops", "nn", "optim", "unet",
    "diffusion", "data", "metrics", "training", "plot", "cli",
)  # fmt: skip
# What stands below a part and yet is no business of it: diffusion knows a denoiser, not a network.
STRANGERS = {"diffusion": {"nn", "optim", "unet"}}


def imported(source: str, path: Path) -> set[str]:
    """Full names of all modules that the source of the module at `path` imports, anywhere in it."""
    package = list(path.relative_to(ROOT).parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def wrong_way(source: str, path: Path) -> set[str]:
    """Imports of a part that stands above the part of the module at `path`."""
    own = layer(path)
    if own == "__init__":
        allowed = set()
    elif own == "__main__":
        allowed = set(LAYERS)
    else:
        allowed = {*LAYERS[: LAYERS.index(own) + 1], "__version__"} - STRANGERS.get(own, set())
    return {
        name
        for name in imported(source, path)
        if name.startswith("minidiff.") and name.split(".")[1] not in allowed
    }


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    assert not wrong_way(path.read_text(), path)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops/conv.py", "from minidiff import nn"),
        ("ops/conv.py", "from ..nn.layers import Linear"),
        ("autograd.py", "def f():\n    import minidiff.ops.shape"),
        ("diffusion/process.py", "from minidiff.training import run"),
        ("diffusion/samplers/ddim.py", "from minidiff.unet import UNet"),
        ("__init__.py", "from . import backend"),
    ],
)
def test_an_import_that_points_up_is_found(module, source):
    assert wrong_way(source, PACKAGE / module)


def test_the_table_of_the_architecture_is_what_is_imported():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    assert {part for part, _ in rows} == set(LAYERS)
    named = {part: set(re.findall(r"`(\w+)`", cell)) for part, cell in rows}
    real: dict[str, set[str]] = {part: set() for part in LAYERS}
    for path in MODULES:
        names = [n.split(".")[1] for n in imported(path.read_text(), path) if "minidiff." in n]
        real.setdefault(layer(path), set()).update(names)
    for part in LAYERS:
        assert named[part] == (real[part] & set(LAYERS)) - {part, "errors"}, part


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("cupy", "backend"), ("cupyx", "backend"), ("matplotlib", "plot"), ("PIL", "plot"),
        ("mpi4py", "training"),
    ],
)  # fmt: skip
def test_one_part_only_imports(library, home):
    users = {
        layer(path)
        for path in MODULES
        if any(name.split(".")[0] == library for name in imported(path.read_text(), path))
    }
    assert users <= {home}


@pytest.mark.parametrize("library", ["torch", "jax", "tensorflow", "sklearn"])
def test_never_imports(library):
    assert not [
        path
        for path in MODULES
        if any(name.split(".")[0] == library for name in imported(path.read_text(), path))
    ]


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import minidiff;"
        "print(time.perf_counter() - start, *sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds, *modules = min((run.stdout.split() for run in runs), key=lambda out: float(out[0]))
    assert float(seconds) < 0.3
    assert "minidiff" in modules
    assert not {"matplotlib", "cupy", "scipy"} & set(modules)


def test_constraints_name_no_host():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert not [line for line in pins if "==" not in line or "/" in line or "@" in line]


def test_code_in_the_readme_is_the_code():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    source = "\n".join(path.read_text() for path in MODULES)
    source = re.sub(r"  # eq\. .*$", "", source, flags=re.MULTILINE)  # what points to a chapter
    assert blocks
    for block in blocks:
        assert any(textwrap.indent(block, " " * n) in source for n in (0, 4, 8)), block


def test_a_mistake_of_the_user_is_a_value_error():
    with pytest.raises(ValueError, match="T is 0"):
        raise InputError("T is 0, expected at least 1: choose a longer chain")
