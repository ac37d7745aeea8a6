"""Which array library runs, and what is said when it cannot."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from minidiff import backend
from minidiff.backend import NAMES, _load, kernels
from minidiff.errors import InputError


@pytest.fixture
def fake_cupy(monkeypatch):
    """A module that says it is CuPy; `usable` decides whether it finds a GPU."""

    def install(usable):
        module = ModuleType("cupy")
        module.__version__ = "14.2.0"
        module.cuda = SimpleNamespace(is_available=lambda: usable)
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    return install


def python(code, **environment):
    """Run `code` in a new Python with these variables set."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MINIDIFF_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True
    )


def test_numpy_is_the_default():
    run = python("from minidiff import backend; print(backend.name, backend.xp.__name__)")
    assert run.stdout.split() == ["numpy", "numpy"]


@pytest.mark.parametrize("value", ["numpy", ""])
def test_numpy_can_be_named(value):
    run = python("from minidiff import backend; print(backend.name)", MINIDIFF_BACKEND=value)
    assert run.stdout.split() == ["numpy"]


def test_an_unknown_backend_is_refused_with_the_names():
    run = python("import minidiff.backend", MINIDIFF_BACKEND="torch")
    assert run.returncode != 0
    message = run.stderr.splitlines()[-1]
    assert "InputError" in message
    assert "'torch'" in message
    assert "numpy, cupy" in message
    assert NAMES == ("numpy", "cupy")


def test_an_unknown_choice_of_kernels_is_refused_with_the_names():
    run = python("import minidiff.backend.kernels", MINIDIFF_KERNELS="quick")
    assert "MINIDIFF_KERNELS='quick'" in run.stderr
    assert run.returncode != 0
    assert "fast" in run.stderr.splitlines()[-1]
    assert "reference" in run.stderr.splitlines()[-1]


def test_importing_the_package_asks_for_no_backend():
    assert python("import minidiff", MINIDIFF_BACKEND="torch").returncode == 0


def test_without_cupy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(InputError) as error:
        _load("cupy")
    message = str(error.value)
    assert "pip install 'minidiff[cuda12]'" in message
    assert "cuda13" in message
    assert "unset MINIDIFF_BACKEND" in message
    assert "\n" not in message


def test_without_a_gpu_it_says_what_to_check(fake_cupy):
    fake_cupy(usable=False)
    with pytest.raises(InputError) as error:
        _load("cupy")
    message = str(error.value)
    assert "nvidia-smi" in message
    assert "driver" in message
    assert "14.2.0" in message
    assert "unset MINIDIFF_BACKEND" in message
    assert "\n" not in message


def test_with_a_gpu_cupy_is_the_backend(fake_cupy):
    module = fake_cupy(usable=True)
    assert _load("cupy") is module


def test_the_variable_chooses_cupy(tmp_path):
    (tmp_path / "cupy.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: True)\n"
    )
    run = python(
        "from minidiff import backend; print(backend.name, backend.xp.__name__)",
        MINIDIFF_BACKEND="cupy",
        PYTHONPATH=str(tmp_path),
    )
    assert run.stdout.split() == ["cupy", "cupy"]


def test_the_module_of_an_array(device):
    x = backend.asarray([1.0])
    assert backend.array_module(x) is device
    assert backend.array_module(2.0, None, "ij->ji", x, np.ones(1)) is device
    assert backend.array_module(np.ones(1), x) is np  # the first array decides
    assert backend.array_module() is backend.array_module(1.0, None) is device


def test_to_the_device_and_back(device):
    host = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    x = backend.asarray(host)
    assert isinstance(x, device.ndarray)
    back = backend.to_numpy(x)
    assert type(back) is np.ndarray
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, host)
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(x)), host)
    assert backend.asarray([1, 2], dtype=np.float64).dtype == np.float64
    assert backend.to_numpy(3.5) == 3.5
    backend.synchronize()


def test_special_functions(device):
    y = backend.special(device).erf(backend.asarray([0.0, 1.0]))
    np.testing.assert_allclose(backend.to_numpy(y), [0, 0.8427007929497149], rtol=1e-12)


def test_the_kernels_of_a_library_are_its_own_or_the_definitions(device):
    table = vars(kernels.of(device))
    assert table.keys() == kernels.public(kernels.reference).keys()
    if device is not np:
        assert all(f.__module__ == kernels.reference.__name__ for f in table.values())
    with kernels.definitions_only():
        table = vars(kernels.of(device))
        assert all(f.__module__ == kernels.reference.__name__ for f in table.values())
    assert vars(kernels.of(np)).keys() == table.keys()


def test_definitions_only_ends_with_an_error():
    before = kernels.of(np)
    with pytest.raises(RuntimeError), kernels.definitions_only():
        raise RuntimeError
    assert kernels.of(np) is before


def test_an_unknown_precision_is_refused_with_the_names():
    run = python("import minidiff.backend", MINIDIFF_PRECISION="bf16")
    assert run.returncode != 0
    assert "'bf16'" in run.stderr and "float32, tf32" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(("precision", "expected"), [("tf32", "1"), ("float32", "None")])
def test_tf32_is_asked_of_cupy_before_it_is_imported(tmp_path, precision, expected):
    (tmp_path / "cupy.py").write_text(
        "import os\nprint(os.environ.get('CUPY_TF32'))\n"
        "class cuda:\n    is_available = staticmethod(lambda: True)\n"
    )
    run = python(
        "import minidiff.backend",
        MINIDIFF_BACKEND="cupy",
        MINIDIFF_PRECISION=precision,
        PYTHONPATH=str(tmp_path),
    )
    assert run.stdout.split() == [expected]
