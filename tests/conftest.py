"""What every test run shares: one BLAS thread, no screen, and the hypothesis profiles."""

import importlib
import os
import pkgutil

# Read when NumPy, SciPy and PyTorch load, so they must be set before any of them is imported. The
# threads of OpenBLAS spin while they wait: two of them on a busy machine are slower than one.
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

import minidiff  # noqa: E402
from minidiff import backend  # noqa: E402
from tests import double  # noqa: E402

# "ci" draws the same examples every time; `pytest --hypothesis-profile=deep` searches for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "deep", derandomize=False, deadline=None, max_examples=2000, print_blob=True
)
settings.load_profile("ci")


def pytest_configure():
    """Load the whole package first. Hypothesis draws the numbers that stand in loaded code more
    often than others, so its examples would depend on which tests ran before in the same process.
    """
    for module in pkgutil.walk_packages(minidiff.__path__, "minidiff."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def pytest_collection_modifyitems(items):
    """Begin with the slow ones: a long test that starts last leaves the other processor idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_terminal_summary(terminalreporter):
    """Print the mutation score (tests/mutants). It is here because with `-n` only this file is
    loaded in the process that sums up.
    """
    verdicts = {
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "mutant"
    }
    if verdicts:
        killed = sum(dead for _, dead in verdicts)
        share = 100 * killed / len(verdicts)
        terminalreporter.write_line(f"mutants: {killed} of {len(verdicts)} killed ({share:.0f}%)")


@pytest.fixture(params=["numpy", "double", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The array module behind `backend.xp` in this test: NumPy, the double, or CuPy on a GPU."""
    module = {"numpy": np, "double": double.xp}.get(request.param) or _cupy()
    monkeypatch.setattr(backend, "xp", module)
    return module


def _cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    return cupy
