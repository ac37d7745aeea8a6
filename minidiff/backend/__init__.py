"""Which array library the program runs on: NumPy, or CuPy with ``MINIDIFF_BACKEND=cupy``.

This package is the only place that imports cupy. Code that *creates* arrays takes the library
from here (`backend.xp`, looked up when it is used); code that *transforms* arrays takes it from
the arrays it was given (`array_module`), so that one body serves both.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np

from minidiff.backend.philox import Philox
from minidiff.errors import InputError

NAMES = ("numpy", "cupy")
PRECISIONS = ("float32", "tf32")

precision: str = os.environ.get("MINIDIFF_PRECISION") or "float32"
"""How a GPU multiplies float32 numbers in matrix products and convolutions: in full, or with
factors of 10 bits of mantissa (TF32), which tensor cores take; sums are float32 in both.
"""


def _load(name: str) -> ModuleType:
    """The array module called `name`; says what to install or check when it cannot be had."""
    if name == "numpy":
        return np
    if name != "cupy":
        raise InputError(f"MINIDIFF_BACKEND={name!r} is unknown; choose one of {', '.join(NAMES)}")
    if precision == "tf32":  # CuPy reads it at its first matrix product
        os.environ["CUPY_TF32"] = "1"
    hint = "or unset MINIDIFF_BACKEND to run on NumPy"
    try:
        import cupy
    except ImportError as error:
        raise InputError(
            f"MINIDIFF_BACKEND=cupy, but CuPy cannot be imported ({error}); install it with "
            f"pip install 'minidiff[cuda12]' (or cuda13, to match the driver), {hint}"
        ) from error
    if not cupy.cuda.is_available():
        raise InputError(
            "MINIDIFF_BACKEND=cupy, but CuPy finds no usable GPU; check that nvidia-smi lists one "
            f"and that its driver is recent enough for CuPy {cupy.__version__}, {hint}"
        )
    return cupy


if precision not in PRECISIONS:
    raise InputError(
        f"MINIDIFF_PRECISION={precision!r} is unknown; choose one of {', '.join(PRECISIONS)}"
    )
name: str = os.environ.get("MINIDIFF_BACKEND") or "numpy"
xp: Any = _load(name)


def array_module(*arrays: Any) -> Any:
    """The module (numpy, cupy) that the first array among `arrays` belongs to.

    Anything that is not an array (a Python scalar, None, a string) is passed over; with no array
    at all it is the chosen backend.
    """
    for a in arrays:
        kind = type(a)
        if kind is np.ndarray:
            return np
        if kind.__module__.startswith("cupy"):  # loaded only when it is the backend
            return xp
        if hasattr(a, "__array_namespace__"):
            return a.__array_namespace__()
    return xp


def asarray(a: Any, dtype: Any = None) -> Any:
    """`a` (host or device data) as an array of the chosen backend."""
    return xp.asarray(a, dtype=dtype)


def to_numpy(a: Any) -> np.ndarray:
    """`a` as a NumPy array on the host; an array of a GPU is copied."""
    return a.get() if hasattr(a, "get") else np.asarray(a)


def synchronize() -> None:
    """Wait until the device has done all that was asked of it (nothing to wait for on NumPy)."""
    if xp is not np:
        xp.cuda.Stream.null.synchronize()


def special(module: Any) -> Any:
    """The library of special functions (erf, ...) that goes with an array module."""
    if module is np:
        import scipy.special as functions
    elif hasattr(module, "special"):  # an array double of the tests brings its own
        functions = module.special
    else:
        import cupyx.scipy.special as functions
    return functions


def _entropy(seed: int, step: int, rank: int, stream: int) -> np.random.SeedSequence:
    if min(seed, step, rank) < 0:
        raise InputError(f"seed, step and rank must be >= 0, got {seed}, {step}, {rank}")
    return np.random.SeedSequence([seed, step, rank, stream])


def key(seed: int, step: int = 0, rank: int = 0) -> np.ndarray:
    """What `Philox` draws from: uint32 (2,), on the host, a pure function of (seed, step, rank)."""
    return _entropy(seed, step, rank, stream=0).generate_state(2, np.uint32)


def generator(seed: int, step: int = 0, rank: int = 0) -> Any:
    """A generator that draws on the device, a pure function of (seed, step, rank).

    Since every step derives its own, a run that is resumed draws what it would have drawn, and
    no generator state is ever saved. Offers ``standard_normal(shape, dtype=)`` and
    ``random(shape, dtype=)``. On NumPy it is NumPy's own generator, elsewhere `Philox`: their
    draws differ.
    """
    if xp is np:
        return np.random.default_rng(_entropy(seed, step, rank, stream=0))
    return Philox(asarray(key(seed, step, rank)))


def host_generator(seed: int, step: int = 0, rank: int = 0) -> np.random.Generator:
    """A NumPy generator for what lives on the host: time steps, labels, permutations.

    Its stream is another one than `generator`'s and does not depend on the backend.
    """
    return np.random.default_rng(_entropy(seed, step, rank, stream=1))
