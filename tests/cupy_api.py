"""Writes down what CuPy offers, for the tests that run without it. Needs CuPy, but no GPU:

    python tests/cupy_api.py > tests/data/cupy14_api.json

For each name: the keywords that it takes ("**" for any), or null where that cannot be told.
"""

import inspect
import json
import re

import numpy as np


def keywords(thing):
    """The parameters of a function or method: of its signature or, if compiled, its docstring."""
    try:
        parameters = inspect.signature(thing).parameters.values()
        return ["**" if p.kind is p.VAR_KEYWORD else p.name for p in parameters if p.name != "self"]
    except (TypeError, ValueError):
        line = re.match(r"\S*\((.*?)\)( ->|$)", (thing.__doc__ or "").partition("\n")[0])
    if line is None or not callable(thing) or isinstance(thing, type):
        return None
    names = [re.split("[=:]", p)[0].split()[-1].strip("*") for p in line[1].split(",") if p.strip()]
    return [name for name in names if name not in ("self", "/", "")]


def offered(owner, like=None):
    """(name, value) of what is public in `owner`, some of which shows only when it is asked for."""
    for name in sorted({*dir(owner), *dir(like)}):
        if not name.startswith("_") and hasattr(owner, name):
            yield name, getattr(owner, name)


def main():
    import cupy
    import cupyx.scipy.special

    names, ufuncs = {}, []
    for space in ("", "fft.", "lib.", "lib.stride_tricks.", "linalg.", "random."):
        owner, like = cupy, np
        for part in space.split(".")[:-1]:
            owner, like = getattr(owner, part), getattr(like, part)
        for name, value in offered(owner, like):
            if isinstance(value, cupy.ufunc):
                ufuncs.append(space + name)
            plain = inspect.ismodule(value) or isinstance(value, cupy.ufunc)
            names[space + name] = None if plain else keywords(value)
    api = {
        "version": cupy.__version__,
        "names": names,
        "ufuncs": ufuncs,
        "ndarray": {name: keywords(getattr(cupy.ndarray, name)) for name in dir(cupy.ndarray)},
        "special": [name for name, _ in offered(cupyx.scipy.special)],
    }
    # one name a line, so that the next version of CuPy makes a difference that can be read
    text = json.dumps(api, indent=0)
    print(re.sub(r"\[([^\[\]{}]*)\]", lambda m: f"[{' '.join(m[1].split())}]", text))


if __name__ == "__main__":
    main()
