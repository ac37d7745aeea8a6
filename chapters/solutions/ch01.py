"""Solutions of the exercises of chapter 1, and why they are right."""

import numpy as np


def my_backward(tape, g):
    """1.1. Each value was made before it was used, so backwards along the tape, when the turn of
    a step comes, all steps that used its result have already added their part.
    """
    bar = [0.0] * tape.size
    bar[-1] = g
    for step in reversed(tape):
        for i, contribution in zip(step.inputs, step.vjp(bar[step.out]), strict=True):
            bar[i] += contribution
    return bar


def my_mul_vjp(g, a, b):
    """1.2. Equation (1.7) element by element, then (1.6) for what was repeated."""
    return _sum_to_shape(g * b, a.shape), _sum_to_shape(g * a, b.shape)


def _sum_to_shape(g, shape):
    while g.ndim > len(shape):  # axes that were put in front
        g = g.sum(axis=0)
    for axis, n in enumerate(shape):  # axes of length 1 that were stretched
        if n == 1:
            g = g.sum(axis=axis, keepdims=True)
    return g


def my_sum_vjp(g, shape, axis):
    """1.3. Every element that went into a sum gets the gradient of that sum, equation (1.8)."""
    return np.broadcast_to(np.expand_dims(g, axis), shape)


def my_matmul_vjp(g, a, b):
    """1.4. Equation (1.9); with other shapes than square ones nothing else would fit."""
    return g @ b.T, a.T @ g


SOLUTIONS = {"1.1": my_backward, "1.2": my_mul_vjp, "1.3": my_sum_vjp, "1.4": my_matmul_vjp}
