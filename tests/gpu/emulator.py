"""CuPy's RawModule without a GPU: the kernel's source is compiled for the processor and run there.

The launch is as strict as the hardware is not: an argument must have the type that the kernel
declares, an array must be contiguous, and around every array lies a zone of NaN in which nothing
may be written. The threads run in the order `order`; a result must not depend on it.
"""

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tests import double

HEADER = Path(__file__).parent / "cuda_on_host.h"
COMPILER = shutil.which("g++")
GUARD = 1 << 16
ORDERS = {"forward": 0, "backward": 1, "shuffled": 2}
C_TYPES = {
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "float": np.float32,
    "double": np.float64,
    "bool": np.bool_,
}
ERRORS = {
    1: "some threads of a block wait at a barrier at which others do not",
    2: "more than 1024 threads in a block, or 65535 blocks in the second or third direction",
}

order = "forward"
launches = []  # (kernel, grid, block) of every launch, for tests to look at


class LaunchError(AssertionError):
    """A kernel was launched as it must not be, or wrote where it must not."""


def preprocessed(code, options):
    """The source with its macros expanded: only then can the kernels' parameters be read."""
    defines = [o for o in options if o.startswith("-D")]
    run = subprocess.run(
        [COMPILER, "-E", "-P", "-x", "c++", *defines, "-"],
        input=code, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return run.stdout


def signatures(code, options):
    """Name -> ("*" or "", type, whether it is const) of every parameter, of every kernel."""
    found = {}
    bounds = r"(?:__launch_bounds__\(.*?\)\s+)??"
    pattern = rf'extern\s+"C"\s+__global__\s+{bounds}void\s+(\w+)\(([^)]*)\)'
    for name, parameters in re.findall(pattern, preprocessed(code, options)):
        types = []
        for parameter in parameters.split(","):
            words = parameter.replace("*", " * ").split()[:-1]
            kind = " ".join(w for w in words if w not in ("*", "const"))
            types.append(("*" if "*" in words else "", kind, "const" in words))
        found[name] = tuple(types)
    return found


@functools.cache
def library(code, options):
    """The kernels of a source as functions of a shared library."""
    calls = []
    for name, types in signatures(code, options).items():
        arguments = (f"*({kind}{pointer}*)a[{i}]" for i, (pointer, kind, _) in enumerate(types))
        calls.append(
            f'extern "C" int emulate_{name}(void** a, const unsigned* grid, const unsigned* block, '
            f"int order) {{ return emulator::run(grid, block, order, "
            f"[](void** a) {{ {name}({', '.join(arguments)}); }}, a); }}"
        )
    text = "\n".join([HEADER.read_text(), code, *calls])
    defines = [o for o in options if o.startswith("-D")]
    flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-w", *defines]
    digest = hashlib.sha256("\n".join([text, *flags]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / "minidiff-cuda-on-host"
    folder.mkdir(exist_ok=True)
    built = folder / f"{digest}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "kernels.so"
            command = [COMPILER, *flags, "-x", "c++", "-", "-o", out]
            run = subprocess.run(command, input=text, capture_output=True, text=True)
            if run.returncode:
                raise AssertionError(f"the source does not compile:\n{run.stderr[:4000]}")
            shutil.copy(out, built.with_suffix(f".{Path(scratch).name}"))
            built.with_suffix(f".{Path(scratch).name}").replace(built)
    return ctypes.CDLL(str(built))


class Kernel:
    """A function of a RawModule."""

    def __init__(self, code, options, name, types):
        self.code, self.options, self.name, self.types = code, options, name, types

    def __call__(self, grid, block, args, *, shared_mem=0):
        launches.append((self.name, grid, block))
        graph, before = double.capturing(), []
        if graph is not None:
            written = (a._a for a, (p, _, const) in zip(args, self.types, strict=True)
                       if p and not const)  # fmt: skip
            before = [(a, a.copy()) for a in written]
        self._run(grid, block, args)
        if graph is not None:
            graph.note(lambda: self._run(grid, block, args), before)

    def _run(self, grid, block, args):
        grid, block = ((*map(int, size), 1, 1)[:3] for size in (grid, block))
        if len(args) != len(self.types):
            raise LaunchError(f"{self.name} takes {len(self.types)} arguments, got {len(args)}")
        real = next(o.removeprefix("-DREAL=") for o in self.options if o.startswith("-DREAL="))
        guarded, values = {}, []
        for i, (value, (pointer, kind, const)) in enumerate(zip(args, self.types, strict=True)):
            dtype = C_TYPES[real if kind == "REAL" else kind]
            if pointer:
                values.append(self._pointer(i, value, dtype, const, guarded))
            elif type(value) is not dtype:
                raise LaunchError(f"{self.name}: argument {i} is {type(value)}, not {dtype}")
            else:
                values.append(np.array(value))
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        sizes = ((ctypes.c_uint * 3)(*size) for size in (grid, block))
        function = getattr(library(self.code, self.options), f"emulate_{self.name}")
        if wrong := function(pointers, *sizes, ORDERS[order]):
            raise LaunchError(f"{self.name}: {ERRORS[wrong]}")
        for array, wide, const in guarded.values():
            edge = np.concatenate([wide[:GUARD], wide[GUARD + array.size :]])
            if not np.array_equal(edge, np.full_like(edge, _guard(array.dtype)), equal_nan=True):
                raise LaunchError(f"{self.name} wrote outside of an array of {array.shape}")
            after = wide[GUARD : GUARD + array.size].reshape(array.shape)
            if not const:
                array[...] = after
            elif not np.array_equal(after, array, equal_nan=True):
                raise LaunchError(f"{self.name} wrote to an array that it declares const")

    def _pointer(self, i, value, dtype, const, guarded):
        array = getattr(value, "_a", None)
        if not isinstance(array, np.ndarray):
            raise LaunchError(f"{self.name}: argument {i} is {type(value)}, not an array")
        if array.dtype != dtype:
            raise LaunchError(f"{self.name}: argument {i} is {array.dtype}, not {dtype.__name__}")
        if not array.flags.c_contiguous:
            raise LaunchError(f"{self.name}: argument {i} is not contiguous")
        key = array.ctypes.data
        if key not in guarded:
            wide = np.full(array.size + 2 * GUARD, _guard(array.dtype), array.dtype)
            wide[GUARD : GUARD + array.size] = array.reshape(-1)
            guarded[key] = array, wide, const
        array, wide, known = guarded[key]
        guarded[key] = array, wide, known and const
        return np.array(wide[GUARD:].ctypes.data, np.uintp)


def _guard(dtype):
    return np.nan if dtype.kind == "f" else 77


class RawModule:
    """Stands in for cupy.RawModule."""

    def __init__(self, *, code, options=()):
        self._code, self._options = code, tuple(options)
        self._signatures = signatures(self._code, self._options)

    def get_function(self, name):
        if name not in self._signatures:
            raise LaunchError(f"no kernel {name}; there are {sorted(self._signatures)}")
        return Kernel(self._code, self._options, name, self._signatures[name])
