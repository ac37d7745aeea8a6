"""Run one function in minidiff and in PyTorch: value and every gradient must agree.

PyTorch computes in float64 whatever minidiff does, so in float32 all of the error is ours (its
own group norm loses four digits in float32 where the mean is far from zero).
"""

import numpy as np
import torch

from minidiff.autograd import Tensor

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
DTYPES = tuple(TOLERANCE)


def assert_close(name, ours, theirs, dtype, *, like=None):
    """The largest error is small against the largest number expected (in `like`, if given)."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == dtype, f"{name}: {ours.dtype}"
    assert ours.shape == theirs.shape, f"{name}: shapes {ours.shape} and {theirs.shape}"
    assert np.isfinite(theirs).all(), f"{name}: PyTorch's is not finite"
    error = np.abs(ours - theirs).max(initial=0)
    scale = np.abs(theirs if like is None else np.asarray(like)).max(initial=0)
    assert error <= TOLERANCE[dtype] * scale, f"{name}: error {error:.2e} at scale {scale:.2e}"


def assert_gradients_close(ours, theirs, dtype):
    """Dictionaries with the same names.

    A bias of the keys moves all scores of a query alike, which softmax does not see: its gradient
    is zero but for rounding, so its error is held against the gradient of the keys' weights.
    """
    assert ours.keys() == theirs.keys()
    for name, g in ours.items():
        like = theirs[name.replace("key.bias", "key.weight")]
        assert_close(f"gradient of {name}", g, theirs[name], dtype, like=like)


def check(ours, theirs, inputs, dtype, *, module=None):
    """`ours` of minidiff Tensors, `theirs` of torch tensors, on the same arrays by name.

    With a `module` of minidiff its parameters are inputs too: `theirs` gets them, in minidiff's
    layout, as a dictionary by name after the other inputs. The cotangent is random.
    """
    leaves = {name: Tensor(np.array(x, dtype), requires_grad=True) for name, x in inputs.items()}
    parameters = {} if module is None else dict(module.named_parameters())
    references = {
        name: torch.tensor(leaf.data, dtype=torch.float64, requires_grad=True)
        for name, leaf in (leaves | parameters).items()
    }
    weights = [] if module is None else [{name: references[name] for name in parameters}]

    expected = theirs(*(references[name] for name in leaves), *weights)
    got = ours(*leaves.values())
    assert_close("value", got.data, expected.detach(), dtype)

    g = np.random.default_rng(99).standard_normal(got.shape).astype(dtype)
    got.backward(g)
    expected.backward(torch.tensor(g, dtype=torch.float64))
    assert_gradients_close(
        {name: leaf.grad for name, leaf in (leaves | parameters).items()},
        {name: reference.grad for name, reference in references.items()},
        dtype,
    )


def torch_clip(parameters, max_norm):
    """PyTorch's clipping without the 1e-6 that it adds to the norm; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    if norm > max_norm:
        for p in parameters:
            p.grad *= (norm + 1e-6) / norm
    return norm
