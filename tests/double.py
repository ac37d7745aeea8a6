"""An array library that is NumPy underneath and as strict as CuPy 14 on the outside.

Code that runs on it obeys CuPy's rules, so that they are tested where there is no GPU:

- no name and no keyword that CuPy lacks (`tests/cupy_api.py` wrote them down);
- no NumPy array, and no list, where an array is wanted: only `asarray` and `array` take them;
- nothing turns into a NumPy array, or an index, by itself: only `.get()` and `.item()` do that;
- reductions and single elements are arrays of no dimension, not scalars;
- only `add` and `multiply` reduce, and only some functions have `.at`;
- an assignment by integer arrays that names an element twice is refused (CuPy's result is
  undefined), as is an index out of range (CuPy wraps it without a word).

In three things it is stricter than CuPy, by intent: a NumPy function is refused where CuPy would
step in for it, an index may not be a list or a NumPy array, and there is no global generator.
`forbid` makes it stricter still. `Stream` captures graphs, by CuPy's rules for them; it is no part
of `xp`, since code that finds graphs uses them. What it does not model raises NotImplementedError.
"""

import json
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.special

API = json.loads((Path(__file__).parent / "data" / "cupy14_api.json").read_text())
AT = {"add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"}
REDUCE = {"add", "multiply"}
HOST_TYPES = (np.generic, np.dtype, np.finfo, np.iinfo)  # CuPy uses NumPy's own
FROM_HOST = {"array", "asarray"}
CREATE = FROM_HOST | {
    "arange", "broadcast_shapes", "can_cast", "empty", "eye", "full", "identity", "indices",
    "isdtype", "issubdtype", "linspace", "logspace", "ones", "promote_types", "result_type",
    "tri", "zeros",
}  # fmt: skip


class Forbidden(AssertionError):
    """Something happened that `forbid` forbids."""


_forbidden: set[str] = set()


@contextmanager
def forbid(*what):
    """Refuse "synchronization" (the host waits for the device) or "float64" (a new array of it)."""
    before = set(_forbidden)
    _forbidden.update(what)
    try:
        yield
    finally:
        _forbidden.clear()
        _forbidden.update(before)


def _synchronize(how):
    if "synchronization" in _forbidden:
        raise Forbidden(f"{how} makes the host wait for the device")
    _not_captured(how)


# What CuPy 14 does not do while a stream is captured: call its libraries, move data, wait.
LIBRARIES = {
    "dot", "einsum", "inner", "linalg", "matmul", "tensordot", "vdot", "argsort", "lexsort",
    "median", "nonzero", "partition", "percentile", "quantile", "sort", "unique",
}  # fmt: skip
_capture = None


class Graph:
    """Work that was captured; every launch does it again, on the memory that it was captured with.

    A capture itself does no work: what it has written to is put back at its end.
    """

    def __init__(self):
        self.launches, self._work, self._before = 0, [], []

    def note(self, work, before):
        """`work` belongs to the graph; `before` is (array, copy) of all that it wrote to."""
        self._work.append(work)
        self._before += before

    def close(self):
        """Put back what the capture has written to."""
        for array, before in reversed(self._before):
            array[...] = before
        self._before = []

    def launch(self):
        self.launches += 1
        for work in self._work:
            work()


class Stream:
    """cupy.cuda.Stream as far as graphs need it."""

    def __init__(self, non_blocking=False):
        if not non_blocking:
            raise NotImplementedError("while it is captured, the default stream is of no use")
        self._current = False

    def __enter__(self):
        self._current = True
        return self

    def __exit__(self, *error):
        self._current = False

    def begin_capture(self):
        global _capture
        if not self._current or _capture is not None:
            raise RuntimeError("begin_capture() of a stream that work is not sent to")
        _capture = Graph()

    def end_capture(self):
        global _capture
        graph, _capture = _capture, None
        graph.close()
        return graph


def capturing():
    """The graph that is captured now, or None."""
    return _capture


def _not_captured(what):
    if _capture is not None:
        raise Forbidden(f"{what} while a graph is captured")


def _do(f, *args, written=(), **kwargs):
    """What f returns, as arrays of the double; a replay puts the same again where they are."""
    if _capture is None:
        return _wrap(f(*args, **kwargs))
    before = [(a, a.copy()) for a in written]
    value = _wrap(f(*args, **kwargs))
    _capture.note(lambda: _overwrite(value, _wrap(f(*args, **kwargs))), before)
    return value


def _overwrite(old, new):
    if isinstance(old, Array):
        np.copyto(old._a, new._a)
    elif isinstance(old, list | tuple):
        for a, b in zip(old, new, strict=True):
            _overwrite(a, b)


def _wrap(value):
    """NumPy's arrays and scalars as arrays of the double, also in a list or a tuple."""
    if isinstance(value, np.ndarray | np.generic):
        return Array(np.asarray(value))
    if isinstance(value, list):
        return list(map(_wrap, value))
    if isinstance(value, tuple):  # a named one too
        return tuple(map(_wrap, value))
    return value


def _unwrap(value):
    """What is inside an array of the double; a NumPy array is refused, also in a list or tuple."""
    if isinstance(value, Array):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array among arrays of the device; backend.asarray moves it there")
    if isinstance(value, list | tuple):
        return type(value)(map(_unwrap, value))
    return value


def _operand(value):
    """One operand of an elementwise function: an array of the double or a scalar."""
    if isinstance(value, Array | np.ndarray):
        return _unwrap(value)
    if isinstance(value, bool | int | float | complex | np.generic):
        return value
    raise TypeError(f"Unsupported type {type(value)} in an elementwise function")


def _key(index):
    """An index as NumPy takes it."""
    for part in _parts(index):
        if isinstance(part, list | np.ndarray):
            raise TypeError(f"an index of type {type(part)}; backend.asarray moves it over")
    return _unwrap(index)


def _check_keywords(name, taken, given):
    """Refuse a keyword that CuPy's function does not take (None or "**": that is not known)."""
    if taken is not None and "**" not in taken and (wrong := set(given) - set(taken)):
        raise TypeError(f"{name}() in CuPy takes no keyword {', '.join(sorted(wrong))}")


class Array:
    """An array on a pretended device."""

    __slots__ = ("_a",)
    __array_ufunc__ = None  # NumPy's operators and functions keep their hands off
    __hash__ = None

    def __init__(self, a):
        if a.dtype.kind not in "biufc":
            raise TypeError(f"Unsupported dtype {a.dtype}")
        if "float64" in _forbidden and a.dtype == np.float64:
            raise Forbidden(f"an array of float64, of shape {a.shape}")
        self._a = a

    def __array_namespace__(self, api_version=None):
        return xp

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion to a NumPy array; backend.to_numpy copies to the host")

    def __array_function__(self, f, types, args, kwargs):
        raise TypeError(f"numpy.{f.__name__} of an array of the device; take it from its module")

    def __getattr__(self, name):
        if name.startswith("_") or name not in API["ndarray"]:
            raise AttributeError(f"CuPy's arrays have no attribute {name!r}")
        if name == "data":  # of which only the address is modelled
            return types.SimpleNamespace(ptr=self._a.ctypes.data)
        if name in ("base", "device", "flat"):
            raise NotImplementedError(f"the double does not model .{name}")
        value = getattr(self._a, name)
        if not callable(value):
            return _wrap(value) if isinstance(value, np.ndarray) else value

        def method(*args, **kwargs):
            _check_keywords(name, API["ndarray"][name], kwargs)
            if name in LIBRARIES:
                _not_captured(f".{name}()")
            written = [self._a] if name == "fill" else []
            return _do(value, *_unwrap(args), written=written, **_unwrap_values(kwargs))

        return method

    def __repr__(self):
        return f"double({self._a!r})"

    def set(self, arr, stream=None):
        """Copy an array of the host into this one."""
        if not isinstance(arr, np.ndarray) or (arr.shape, arr.dtype) != (self.shape, self.dtype):
            raise TypeError(f"set() takes a NumPy array of {self.shape} and {self.dtype}")
        _not_captured("data from the host")
        self._a[...] = arr

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return _do(self._a.__getitem__, _key(index))

    def __setitem__(self, index, value):
        key = _key(index)
        if any(isinstance(k, np.ndarray) and k.dtype.kind in "iu" for k in _parts(key)):
            places = np.arange(self._a.size).reshape(self._a.shape)[key]
            if len(np.unique(places)) < places.size:
                raise IndexError("an element is assigned twice: undefined on CuPy, use add.at")
        _do(self._a.__setitem__, key, _operand(value), written=[self._a])

    # what follows copies to the host, and so waits for the device

    def get(self, stream=None, order="C", out=None, blocking=True):
        _synchronize(".get()")
        return self._a.copy()

    def item(self, *index):
        _synchronize(".item()")
        return self._a.item(*index)

    def tolist(self):
        _synchronize(".tolist()")
        return self._a.tolist()

    def __float__(self):
        _synchronize("float()")
        return float(self._a)

    def __int__(self):
        _synchronize("int()")
        return int(self._a)

    def __bool__(self):
        _synchronize("bool(), as in `if`,")
        return bool(self._a)


def _parts(key):
    return key if isinstance(key, tuple) else (key,)


def _unwrap_values(kwargs):
    return {name: _unwrap(value) for name, value in kwargs.items()}


def _takes_over(other):
    """Whether it is a Tensor, say, which knows what to do with an array."""
    return getattr(other, "__array_ufunc__", 0) is None and not isinstance(other, Array)


def _operator(name):
    def apply(self, *others):
        if any(_takes_over(other) for other in others):
            return NotImplemented
        if "matmul" in name and "matmul" in LIBRARIES:
            _not_captured("@")
        return _do(getattr(self._a, name), *map(_operand, others))

    return apply


def _in_place(name):
    def apply(self, other):
        _do(getattr(self._a, name), _operand(other), written=[self._a])
        return self

    return apply


for _name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift",
    "rshift",
):  # fmt: skip
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(Array, f"__r{_name}__", _operator(f"__r{_name}__"))
    setattr(Array, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in (
    "matmul",
    "rmatmul",
    "neg",
    "pos",
    "abs",
    "invert",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


class Ufunc:
    """An elementwise function."""

    def __init__(self, name, f):
        self.__name__, self._f = name, f

    def __call__(self, *args, out=None, **kwargs):
        _check_keywords(self.__name__, ("dtype", "casting"), kwargs)
        if self.__name__ in LIBRARIES:
            _not_captured(f"{self.__name__}()")
        if out is None:
            return _do(self._f, *map(_operand, args), **kwargs)
        target = _unwrap(out)
        _do(self._f, *map(_operand, args), out=target, written=[target], **kwargs)
        return out

    def __getattr__(self, name):
        if name == "at" and self.__name__ in AT:
            return lambda a, index, b: _do(
                self._f.at, _unwrap(a), _key(index), _operand(b), written=[_unwrap(a)]
            )
        if name in ("reduce", "accumulate") and self.__name__ in REDUCE:
            return _function(f"{self.__name__}.{name}", getattr(self._f, name), None)
        raise NotImplementedError(f"`cupy.{self.__name__}.{name}` is not supported")


def _function(name, f, keywords):
    """The function `f` of NumPy with CuPy's manners."""

    def call(*args, **kwargs):
        _check_keywords(name, keywords, kwargs)
        if name in FROM_HOST:
            return _do(_from_host, *args, **kwargs)
        everything = [*args, *kwargs.values()]
        if name not in CREATE and not any(map(_has_array, everything)):
            raise TypeError(f"{name}() without an array of the device")
        if LIBRARIES & set(name.split(".")) or (name == "where" and len(args) == 1):
            _not_captured(f"{name}()")
        written = [] if kwargs.get("out") is None else [_unwrap(kwargs["out"])]
        value = _do(f, *_unwrap(args), written=written, **_unwrap_values(kwargs))
        if type(value) is bool:  # allclose, array_equal
            return _wrap(np.asarray(value))
        return value if kwargs.get("out") is None else kwargs["out"]

    call.__name__ = name
    return call


def _has_array(value):
    if isinstance(value, list | tuple):
        return any(map(_has_array, value))
    return isinstance(value, Array)


def _from_host(a, dtype=None, **options):
    """An array from anything: what comes from the host is copied, as it is on its way to a GPU."""
    if isinstance(a, Array):
        return np.asarray(a._a, dtype)
    if isinstance(a, list | tuple) and _has_array(a):
        a = _unwrap(a)
    elif np.ndim(a):  # a number is an argument of the kernel that fills the array
        _not_captured("data from the host")
    return np.array(a, dtype)


class Space(types.ModuleType):
    """NumPy's module `like` with the names of CuPy alone, under `prefix`."""

    def __init__(self, name, like, prefix=""):
        super().__init__(name)
        self._like, self._prefix = like, prefix

    def __getattr__(self, name):
        dotted = self._prefix + name
        if name.startswith("_") or dotted not in API["names"]:
            raise AttributeError(f"module 'cupy' has no attribute {dotted!r}")
        value = self._make(dotted, getattr(self._like, name, None))
        setattr(self, name, value)
        return value

    def _make(self, dotted, value):
        if isinstance(value, types.ModuleType):
            return Space(f"double.{dotted}", value, f"{dotted}.")
        if isinstance(value, np.ufunc):
            return Ufunc(dotted, value)
        if isinstance(value, float | int) or dotted == "newaxis":
            return value
        if isinstance(value, type) and issubclass(value, HOST_TYPES):
            return value
        if isinstance(value, type) or not callable(value):
            raise NotImplementedError(f"the double does not model cupy.{dotted}")
        return _function(dotted, value, API["names"][dotted])


class _Special(types.ModuleType):
    """cupyx.scipy.special, which `backend.special` finds."""

    def __getattr__(self, name):
        if name not in API["special"]:
            raise AttributeError(f"module 'cupyx.scipy.special' has no attribute {name!r}")
        f = getattr(scipy.special, name)
        return Ufunc(name, f) if isinstance(f, np.ufunc) else _function(name, f, None)


class _Random(types.ModuleType):
    """cupy.random: its generators have a state; those of the backend have none."""

    def __getattr__(self, name):
        if f"random.{name}" in API["names"]:
            raise NotImplementedError(f"cupy.random.{name}: take a generator that was passed in")
        raise AttributeError(f"module 'cupy.random' has no attribute {name!r}")


_null_stream = types.SimpleNamespace(synchronize=lambda: _synchronize("synchronize()"))

xp = Space("double", np)
xp.ndarray, xp.random, xp.special = Array, _Random("random"), _Special("special")
xp.cuda = types.SimpleNamespace(Stream=types.SimpleNamespace(null=_null_stream))
