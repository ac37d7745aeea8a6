"""What every test run shares: one BLAS thread, no screen, and the hypothesis profiles."""

import os

# Read when NumPy, SciPy and PyTorch load, so they must be set before any of them is imported. The
# threads of OpenBLAS spin while they wait: two of them on a busy machine are slower than one.
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings  # noqa: E402

# "ci" draws the same examples every time; `pytest --hypothesis-profile=deep` searches for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "deep", derandomize=False, deadline=None, max_examples=2000, print_blob=True
)
settings.load_profile("ci")
