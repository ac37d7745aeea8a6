"""CuPy's rules, read off the source: names and keywords that it has, NumPy on the host alone.

What running the code can tell is in test_double.py. This file sees the lines that no test runs.
"""

import ast
from pathlib import Path

import numpy as np
import pytest

from tests.double import API, AT, REDUCE

PACKAGE = Path(__file__).parents[1] / "minidiff"

# Modules in which arrays are arrays of the device: what each may take from NumPy, and why.
NUMPY_FOR = {
    "autograd": ({"array", "generic"}, "a NumPy scalar becomes a Python number"),
    "ops/attention": ({"ndarray"}, "a mask that is on the host is checked there"),
    "ops/shape": ({"asarray", "cumsum", "ndarray"}, "shapes; indices on the host are checked"),
    "nn/layers": (
        {"float32", "ndarray", "ones", "random.Generator", "zeros"},
        "the first weights are drawn on the host",
    ),
    "nn/module": ({"asarray", "float32", "float64"}, "parameters come from the host"),
    "nn/time": (
        {
            "arange", "asarray", "concatenate", "cos", "exp", "float32", "float64", "ndarray",
            "random.Generator", "sin",
        },
        "time steps live on the host",
    ),
    "unet": (
        {"asarray", "max", "min", "ndarray", "random.Generator", "shape", "where"},
        "time steps and labels live on the host",
    ),
}  # fmt: skip
DEVICE = ("autograd", "backend/kernels/reference", "nn", "ops", "optim", "unet")

# Modules that may use all of NumPy, and why.
HOST = {
    "backend/__init__": "it is what hides NumPy and CuPy from the others",
    "backend/kernels/numpy": "the kernels for NumPy's arrays",
    "gradcheck": "it compares numbers, on the host",
    "diffusion": "coefficients in float64, times and labels live on the host",
    "data": "data sets live on the host",
    "metrics": "eigenvalues in float64, on the host; features are few beside the images",
    "training": "records, files and labels live on the host; arrays are moved by the backend",
    "plot": "pictures are drawn on the host",
    "cli": "labels and files live on the host",
}

METHODS_WITH_KEYWORDS = (
    "all", "any", "argmax", "argmin", "astype", "clip", "cumprod", "cumsum", "max", "mean", "min",
    "prod", "reshape", "round", "sort", "std", "sum", "var",
)  # fmt: skip
ONLY_NUMPY = set(dir(np.ndarray)) - set(API["ndarray"])


def within(path, places):
    """Whether the module at `path` is one of the modules and packages in `places`."""
    name = path.removesuffix(".py")
    return any(name == p or name.startswith(f"{p}/") for p in places)


def chains(tree):
    """(root, names, node) of each whole a.b.c in the tree; the root is whatever `a` is."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    for node in attributes:
        if id(node) not in inner:
            names, root = [], node
            while isinstance(root, ast.Attribute):
                names.insert(0, root.attr)
                root = root.value
            yield root, names, node


def is_call_of(node, name):
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "attr", getattr(node.func, "id", None)) == name


def of_the_device(root, names):
    """The dotted name in `xp.a.b`, `backend.xp.a.b` or `array_module(x).a.b`; else None."""
    if isinstance(root, ast.Name) and root.id == "backend" and names[:1] == ["xp"]:
        names = names[1:]
    elif not is_call_of(root, "array_module") and getattr(root, "id", None) != "xp":
        return None
    return ".".join(names) or None


def lacks(dotted, path):
    """Whether CuPy, or code outside the backend, lacks a name."""
    owner, _, last = dotted.rpartition(".")
    if owner in API["ufuncs"]:
        return not ((last == "at" and owner in AT) or (last == "reduce" and owner in REDUCE))
    if dotted.startswith("cuda."):
        return not within(path, ["backend"])
    return dotted not in API["names"] and dotted != "__name__"


def unknown_keywords(call, taken):
    given = {k.arg for k in call.keywords if k.arg}
    return sorted(given - set(taken)) if taken is not None and "**" not in taken else []


def of_names(tree, path):
    """(node, text) for each name that should not be there."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for root, names, node in chains(tree):
        call, dotted = calls.get(id(node)), of_the_device(root, names)
        if dotted is not None:
            taken = API["names"].get(dotted)
            if dotted in API["ufuncs"]:
                taken = ["out", "dtype", "casting"]
            if within(path, ["backend/kernels/numpy"]):  # its xp is NumPy
                continue
            if lacks(dotted, path):
                yield node, f"CuPy has no {dotted}"
            elif call and (wrong := unknown_keywords(call, taken)):
                yield node, f"CuPy's {dotted} takes no {', '.join(wrong)}"
        elif getattr(root, "id", None) == "np":
            dotted = ".".join(names)
            module = path.removesuffix(".py")
            if module in NUMPY_FOR and dotted not in NUMPY_FOR[module][0]:
                yield node, f"np.{dotted} among arrays of the device"
            draws = names[0] == "random" and dotted != "random.Generator"
            if draws and not within(path, ["backend"]):
                yield node, f"np.{dotted}: generators come from the backend"
        elif within(path, [*DEVICE, "diffusion"]):
            for name in ONLY_NUMPY.intersection(names):
                yield node, f"CuPy's arrays have no {name}"
            if call and names[-1] in METHODS_WITH_KEYWORDS:
                for keyword in unknown_keywords(call, API["ndarray"][names[-1]]):
                    yield node, f"CuPy's method {names[-1]} takes no {keyword}"


def of_statements(tree, path):
    """(node, text) for each import and assignment that should not be there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            if not any((m or "").split(".")[0] == "numpy" for m in modules):
                continue
            if not within(path, NUMPY_FOR) and not within(path, HOST):
                yield node, "imports NumPy without a reason in this test"
            elif isinstance(node, ast.ImportFrom) and within(path, NUMPY_FOR):
                yield node, "a part of NumPy under its own name escapes this test"
        elif isinstance(node, ast.Assign):
            module = is_call_of(node.value, "array_module") or (
                isinstance(node.value, ast.Attribute) and ast.unparse(node.value) == "backend.xp"
            )
            if module and [ast.unparse(t) for t in node.targets] != ["xp"]:
                yield node, "an array module under another name than xp escapes this test"
        elif is_call_of(node, "getattr") and getattr(node.args[0], "id", None) == "xp":
            yield node, "a name looked up by getattr escapes this test"


def violations(source, path):
    """What CuPy, or the rules of the project, would not have: a line of text for each."""
    tree = ast.parse(source)
    found = [*of_names(tree, path), *of_statements(tree, path)]
    return [f"{path}:{node.lineno}: {text}" for node, text in found]


MODULES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES)
def test_module(path):
    assert violations((PACKAGE / path).read_text(), path) == []


@pytest.mark.parametrize("places", [NUMPY_FOR, DEVICE, HOST], ids=["numpy", "device", "host"])
def test_every_exception_is_of_a_module_that_exists(places):
    assert [p for p in places if not any(within(path, [p]) for path in MODULES)] == []


def test_the_rules_see_the_code():
    """So many names of the array module are found: the rules are not blind to how it is called."""
    used = set()
    for path in MODULES:
        for root, names, _ in chains(ast.parse((PACKAGE / path).read_text())):
            used.add(of_the_device(root, names))
    assert {"add.at", "asarray", "einsum", "exp", "uint64", "where", "zeros"} <= used
    assert "lib.stride_tricks.sliding_window_view" in used
    assert len(used) > 25


PLANTED = {
    "a name": ("ops/conv.py", "def f(xp, x):\n    return xp.einsum_path(x)"),
    "a name in a namespace": ("ops/conv.py", "y = xp.linalg.vector_norm(x)"),
    "a name of the backend's": ("training/trainer.py", "y = backend.xp.geomspace(1, 2)"),
    "a name of the array's": ("diffusion/guidance.py", "y = backend.array_module(x).block([x])"),
    "a special function": ("ops/elementwise.py", "y = xp.special.erf(x)"),
    "errstate": ("optim.py", "with xp.errstate(over='ignore'):\n    pass"),
    "maximum.reduce": ("ops/reduce.py", "y = xp.maximum.reduce(x)"),
    "multiply.at": ("ops/shape.py", "xp.multiply.at(x, i, g)"),
    "cuda outside": ("optim.py", "xp.cuda.Stream.null.synchronize()"),
    "a keyword": ("ops/reduce.py", "y = xp.max(x, initial=0.0)"),
    "a keyword of a ufunc": ("ops/reduce.py", "y = xp.add(x, x, where=x > 0)"),
    "a keyword of a method": ("ops/reduce.py", "y = x.sum(axis=0, where=mask)"),
    "a method": ("nn/module.py", "p.data.setflags(write=False)"),
    "NumPy's function": ("ops/elementwise.py", "import numpy as np\ny = np.exp(x)"),
    "NumPy's other function": ("ops/shape.py", "y = np.exp(x)"),
    "part of NumPy": ("ops/shape.py", "from numpy import exp"),
    "another name": ("ops/norm.py", "m = backend.array_module(x)\ny = m.block(x)"),
    "getattr": ("ops/norm.py", "y = getattr(xp, 'block')(x)"),
    "the global generator": ("data/batches.py", "np.random.seed(0)"),
    "a new generator": ("training/trainer.py", "rng = np.random.default_rng()"),
}


@pytest.mark.parametrize(("path", "source"), PLANTED.values(), ids=PLANTED)
def test_a_planted_violation_is_found(path, source):
    assert violations(source, path)


ALLOWED = {
    "names": ("ops/conv.py", "y = xp.lib.stride_tricks.sliding_window_view(xp.pad(x, 1), 3)"),
    "keywords": ("ops/reduce.py", "y = xp.sum(x, axis=0, keepdims=True) + x.max(axis=0)"),
    "any keyword": ("ops/linalg.py", "y = xp.einsum('i->', x, optimize=True)"),
    "at and reduce": ("ops/shape.py", "xp.add.at(x, i, g)\nxp.add.reduce(x)"),
    "NumPy on the host": ("diffusion/process.py", "import numpy as np\ny = np.geomspace(1, 2)"),
    "a method of NumPy's": ("data/batches.py", "rows.setflags(write=False)"),
    "cuda inside": ("backend/__init__.py", "xp.cuda.Stream.null.synchronize()"),
}


@pytest.mark.parametrize(("path", "source"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_right_is_left_alone(path, source):
    assert violations(source, path) == []
