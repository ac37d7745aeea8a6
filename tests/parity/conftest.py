"""Parity with PyTorch: the whole folder is skipped, with the reason, where it is not installed."""

import importlib.util

import pytest

REASON = "PyTorch is not installed: pip install -e '.[parity]'"


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Skip each module before it imports torch."""
    if importlib.util.find_spec("torch") is None:
        return _Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)
