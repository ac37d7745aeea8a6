"""Which kernels run: fast ones by default, definitions on request, by one switch of each kind."""

import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend import kernels
from minidiff.backend.kernels import definitions_only, reference
from minidiff.backend.kernels import numpy as fast


@pytest.fixture(autouse=True)
def fast_by_default(monkeypatch):
    """Whatever MINIDIFF_KERNELS this run has."""
    monkeypatch.setattr(kernels, "_choice", "fast")


def modules():
    """The libraries of kernels in use: minidiff.backend.kernels.<library>, without submodules."""
    return {".".join(f.__module__.split(".")[:4]) for f in vars(kernels.of(np)).values()}


def test_fast_kernels_override_definitions_of_the_same_name():
    table = vars(kernels.of(np))
    assert table.keys() == kernels.public(reference).keys()
    for name, f in table.items():
        assert f is getattr(fast, name, getattr(reference, name))
    assert fast.__name__ in modules()


def test_definitions_only_within_the_block():
    before = modules()
    with definitions_only():
        assert modules() == {reference.__name__}
        with definitions_only():
            pass
        assert modules() == {reference.__name__}
    assert modules() == before
    with pytest.raises(KeyError), definitions_only():
        raise KeyError
    assert modules() == before


def test_operations_look_their_kernels_up_when_they_run(monkeypatch):
    monkeypatch.setattr(kernels.of(np), "silu", lambda xp, x: (x + 1, x))
    assert ops.silu(np.zeros(1)).item() == 1
    with definitions_only():
        assert ops.silu(np.zeros(1)).item() == 0


def test_a_library_without_fast_kernels_gets_the_definitions():
    other = ModuleType("other_library")
    assert vars(kernels.of(other)) == kernels.public(reference)


def test_helpers_and_imported_functions_are_no_kernels():
    library = ModuleType("library")
    code = "def kernel(xp): pass\ndef _helper(): pass\nclass Helper: pass\nNUMBER = 1"
    exec(code, library.__dict__)
    library.imported = kernels.of
    assert kernels.public(library) == {"kernel": library.kernel}


def test_fast_kernel_without_definition_is_an_error(monkeypatch):
    library = ModuleType(f"{kernels.__name__}.odd")
    exec("def unheard_of(xp): pass", library.__dict__)
    monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.setattr(kernels, "_HAVE_FAST", ("odd",))
    with pytest.raises(AssertionError, match="unheard_of"):
        kernels.of(ModuleType("odd"))


def in_a_new_process(choice, code):
    return subprocess.run(
        [sys.executable, "-c", f"import numpy as np; from minidiff.backend import kernels; {code}"],
        env=os.environ | {"MINIDIFF_KERNELS": choice},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("choice", ["", "fast", "reference"])
def test_environment_variable(choice):
    code = "print({f.__module__ for f in vars(kernels.of(np)).values()})"  # with submodules
    printed = in_a_new_process(choice, code).stdout
    assert (fast.__name__ in printed) == (choice != "reference")
    assert (reference.__name__ in printed) == (choice == "reference" or modules() > {fast.__name__})


def test_unknown_value_of_the_variable_names_the_choices():
    error = in_a_new_process("quick", "pass").stderr
    assert "InputError" in error and "'quick'" in error
    assert "fast" in error and "reference" in error
