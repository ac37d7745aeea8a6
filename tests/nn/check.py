"""The gradient check of a layer: through its inputs and every parameter."""

import numpy as np

from minidiff.gradcheck import check_vjp
from minidiff.nn import Parameter


def perturb(module, seed=0, size=0.3):
    """Move every parameter off its start, where some are zero and would hide a gradient."""
    rng = np.random.default_rng(seed)
    for p in module.parameters():
        p.data += (size * rng.standard_normal(p.shape)).astype(p.dtype)
    return module


def check_module(module, *inputs, rng, call=None):
    """`module` in float64, moved off its start, as a function of `inputs` and each parameter.

    `call` is what is differentiated, given the inputs; the module itself by default.
    """
    perturb(module.astype(np.float64), seed=rng)
    places = _places(module)
    values = [getattr(owner, name).data for owner, name in places]

    def f(*tensors):
        for (owner, name), tensor in zip(places, tensors[len(inputs) :], strict=True):
            setattr(owner, name, tensor)
        return (call or module)(*tensors[: len(inputs)])

    check_vjp(f, *inputs, *values, rng=rng)


def check_parts(module, *inputs, rng, call):
    """The same with the parameters of each direct part of `module` as one vector.

    For a network whose parts were checked by themselves, and have too many parameters to take
    them one by one.
    """
    perturb(module.astype(np.float64), seed=rng)
    parts = [places for _, part in module.children() if (places := _places(part))]
    values = [np.concatenate([getattr(o, n).data.ravel() for o, n in places]) for places in parts]

    def f(*tensors):
        for places, vector in zip(parts, tensors[len(inputs) :], strict=True):
            start = 0
            for owner, name in places:
                p = getattr(owner, name)
                setattr(owner, name, vector[start : start + p.size].reshape(p.shape))
                start += p.size
        return call(*tensors[: len(inputs)])

    check_vjp(f, *inputs, *values, rng=rng)


def _places(module):
    """(owner, attribute) of every parameter."""
    return [
        (owner, name)
        for _, owner in module.named_modules()
        for name, value in vars(owner).items()
        if isinstance(value, Parameter)
    ]
