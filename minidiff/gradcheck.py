"""Check a gradient against a central difference, in a way that wrong gradients do not survive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidiff import backend
from minidiff.autograd import Tensor, no_grad
from minidiff.errors import InputError

Host = np.ndarray


def check_vjp(
    f: Callable[..., Tensor],
    *inputs: Any,
    rng: np.random.Generator,
    rtol: float = 1e-6,
    step: float = 1e-5,
    every_element: bool = False,
) -> None:
    """Check that <g, J u> = <u, J^T g> for random g and u, J being the Jacobian of `f`.

    J u comes from a central difference of `f` along the direction u, J^T g from `backward` with
    the cotangent g. One pair of random vectors sees every element of J with probability one, at
    the cost of two evaluations, whatever the shapes. The gradient is taken, and checked, for each
    input alone and for all of them together; it must have the shape of its input and leave the
    inputs and g as they were.

    Why g is random, and not the ones of ``f(x).sum().backward()``: ones see only the sums of the
    columns of J. The values of a softmax sum to 1 whatever x is, so those sums are zero, and a
    backward pass that always returns zero passes. So does a group norm without its variance term
    (at gamma = 1 the normalized values sum to zero), a transpose whose gradient is transposed the
    wrong way, and an upsampling that sends four times one pixel's gradient instead of the sum of
    four: all that moves or mixes the elements of ones changes nothing.

    Parameters
    ----------
    f : takes one Tensor for each input, returns a Tensor. What is not differentiated (labels,
        options) it brings along. It must be the same function at each call: one that draws makes
        its generator anew. It must be smooth within some steps of the inputs: no kink of |x|.
    inputs : arrays or numbers, of order 1; they are used in float64
    rng : draws the cotangent and the directions
    rtol : error allowed, relative to the sum of the magnitudes of the terms of <g, J u>
    step : the difference is taken between x + step u and x - step u
    every_element : also compare each element of each gradient by itself (2 evaluations for each,
        so for small inputs), to see which one is wrong

    Raises
    ------
    AssertionError
        with both numbers, when they differ or are not finite
    InputError
        where nothing would be checked: no inputs, or none of real numbers
    """
    points = [_point(x) for x in inputs]
    if not any(x.size for x in points) or not hasattr(rng, "standard_normal"):
        raise InputError(
            f"check_vjp wants inputs with numbers in them and rng, a generator; got inputs of "
            f"shapes {[x.shape for x in points]} and {rng!r}"
        )
    value = _values(f, points)
    if not np.array_equal(value, _values(f, points), equal_nan=True):
        raise AssertionError("f gives another value at a second call; make its generator within f")
    g = rng.standard_normal(value.shape)
    noise = float(np.abs(g * value).sum()) * np.finfo(np.float64).eps / step

    def check(name: str, chosen: Sequence[int]) -> list[Host]:
        gradients = _gradients(f, points, g, chosen)
        u = [rng.standard_normal(x.shape) * (i in chosen) for i, x in enumerate(points)]
        forward = g * _central_difference(f, points, u, step)  # eq. (1.2)
        backward = [(d * u[i]).ravel() for d, i in zip(gradients, chosen, strict=True)]
        _compare(name, forward, np.concatenate(backward), rtol, noise)
        return gradients

    for i in range(len(points)):
        (gradient,) = check(_name(points, i), [i])
        if every_element:
            _compare_elements(f, points, g, i, gradient, rtol, step, noise)
    if len(points) > 1:
        check("all inputs together", range(len(points)))


def _point(x: Any) -> Host:
    """An input in float64; of a complex one the check would see a part."""
    try:
        return np.array(backend.to_numpy(x)).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError):
        raise InputError(f"check_vjp wants arrays of real numbers, got {x!r}") from None


def _values(f: Callable[..., Tensor], points: Sequence[Host]) -> Host:
    """The value of f as a host array; f must leave its inputs alone."""
    tensors = [Tensor(backend.asarray(x.copy())) for x in points]
    with no_grad():
        y = f(*tensors)
    for i, (t, x) in enumerate(zip(tensors, points, strict=True)):
        if not np.array_equal(backend.to_numpy(t.data), x, equal_nan=True):
            raise AssertionError(f"f wrote into {_name(points, i)}")
    return backend.to_numpy(y.data).copy()


def _gradients(
    f: Callable[..., Tensor], points: Sequence[Host], g: Host, chosen: Sequence[int]
) -> list[Host]:
    """J^T g for the chosen inputs, the others needing no gradient."""
    tensors = [Tensor(backend.asarray(x.copy()), i in chosen) for i, x in enumerate(points)]
    y, cotangent = f(*tensors), backend.asarray(g.copy())
    if y.requires_grad:
        y.backward(cotangent)
    if not np.array_equal(backend.to_numpy(cotangent), g):
        raise AssertionError("a VJP wrote into the cotangent")
    gradients = []
    for i, (t, x) in enumerate(zip(tensors, points, strict=True)):
        if not np.array_equal(backend.to_numpy(t.data), x, equal_nan=True):
            raise AssertionError(f"a VJP wrote into {_name(points, i)}")
        if i in chosen:
            d = np.zeros(x.shape) if t.grad is None else backend.to_numpy(t.grad)
            if d.shape != x.shape or d.dtype != np.float64:
                raise AssertionError(f"{_name(points, i)} got a {d.dtype} gradient of {d.shape}")
            gradients.append(d)
    return gradients


def _central_difference(
    f: Callable[..., Tensor], points: Sequence[Host], directions: Sequence[Host], step: float
) -> Host:
    """J u, from (f(x + step u) - f(x - step u)) / (2 step)."""
    ahead, behind = (
        _values(f, [x + s * u for x, u in zip(points, directions, strict=True)])
        for s in (step, -step)
    )
    return (ahead - behind) / (2 * step)  # eq. (1.12)


def _name(points: Sequence[Host], i: int) -> str:
    return f"input {i} (of {len(points)}, shape {points[i].shape})"


def _compare(name: str, forward: Host, backward: Host, rtol: float, noise: float) -> None:
    """The sums of `forward`, the terms of <g, J u>, and `backward`, those of <u, J^T g>, agree."""
    expected, got = float(forward.sum()), float(backward.sum())
    scale = max(float(np.abs(forward).sum()), float(np.abs(backward).sum()))
    allowed = rtol * scale + noise
    if not abs(got - expected) <= allowed < np.inf:  # in this form NaN fails
        ratio = f", {got / expected:.6g} times it" if expected else ""
        raise AssertionError(
            f"wrong gradient for {name}: <g, J u> is {expected:.9g} by central difference, "
            f"<u, vjp(g)> is {got:.9g}{ratio}; the error {abs(got - expected):.3g} exceeds "
            f"{allowed:.3g}"
        )


def _compare_elements(
    f: Callable[..., Tensor], points: Sequence[Host], g: Host, i: int, gradient: Host,
    rtol: float, step: float, noise: float,
) -> None:  # fmt: skip
    expected = np.empty(points[i].shape)
    for index in np.ndindex(expected.shape):
        directions = [np.zeros(x.shape) for x in points]
        directions[i][index] = 1
        expected[index] = (g * _central_difference(f, points, directions, step)).sum()
    error = np.abs(gradient - expected)
    allowed = rtol * float(np.abs(expected).max(initial=0)) + noise
    if not np.all(error <= allowed):
        worst = np.unravel_index(int(np.argmax(error)), error.shape)
        at = tuple(int(k) for k in worst)
        raise AssertionError(
            f"wrong gradient for {_name(points, i)}, {int((~(error <= allowed)).sum())} of "
            f"{error.size} elements, most at {at}: {expected[at]:.9g} by central difference, "
            f"{gradient[at]:.9g} by the VJP; the error {error[at]:.3g} exceeds {allowed:.3g}"
        )
