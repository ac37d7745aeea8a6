"""Moving elements: indexing, cutting, look-ups, and what they say of mistakes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from minidiff import ops
from minidiff.autograd import Tensor
from minidiff.backend import kernels
from minidiff.backend.kernels import reference
from minidiff.errors import InputError
from tests.strategies import arrays, seeds, shapes


def gradient(f, x, g):
    leaf = Tensor(np.array(x, float), requires_grad=True)
    f(leaf).backward(np.array(g, float))
    return leaf.grad


def test_a_repeated_index_accumulates():
    index = np.array([0, 2, 2, -1])  # 2 and -1 are the same row
    assert_array_equal(gradient(lambda x: x[index], [5, 6, 7], [1, 10, 100, 1000]), [1, 0, 1110])
    rows, columns = np.array([0, 0, 1]), np.array([1, 1, 0])
    assert_array_equal(
        gradient(lambda x: x[rows, columns], np.zeros((2, 2)), [1, 10, 100]), [[0, 11], [100, 0]]
    )


def test_indices_of_every_kind():
    x = np.arange(24.0).reshape(2, 3, 4)
    for index in (
        1, -1, np.int64(1), slice(None, None, -2), Ellipsis, None, [0, 0], [True, False],
        (0, slice(1, None)), (Ellipsis, 0), (slice(None), None, 2), (np.int64(1), 2),
        (slice(None), [0, 2, 0]), (0, np.array([[1], [2]]), [0, 3]), x > 11,
    ):  # fmt: skip
        y = Tensor(x)[index]
        assert_array_equal(y.data, x[index])
        g = np.arange(1.0, y.size + 1).reshape(y.shape)
        expected = np.zeros(x.shape)
        np.add.at(expected, index, g)
        assert_array_equal(gradient(lambda t, i=index: t[i], x, g), expected)


@given(x=arrays(shapes(min_dims=1)), sections=st.integers(1, 3), data=st.data())
def test_concat_puts_together_what_split_took_apart(x, sections, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    x = np.concatenate([x] * sections, axis=axis)
    parts = ops.split(Tensor(x), sections, axis=axis)
    assert len(parts) == sections
    assert len({p.shape for p in parts}) == 1
    assert_array_equal(ops.concat(*parts, axis=axis).data, x)


@given(x=arrays(shapes()), data=st.data())
def test_transposing_back(x, data):
    order = data.draw(st.permutations(range(x.ndim)))
    y = ops.transpose(x, order)
    assert y.shape == tuple(x.shape[a] for a in order)
    assert_array_equal(ops.transpose(y, np.argsort(order).tolist()).data, x)


def test_split_into_unequal_parts_is_refused():
    for sections in (2, 0, -1):
        with pytest.raises(InputError, match=f"axis 1 of length 5 has no {sections} equal parts"):
            ops.split(Tensor(np.zeros((2, 5))), sections, axis=1)


@given(seed=seeds)
def test_look_up_is_a_product_with_unit_vectors(seed):
    rng = np.random.default_rng(seed)
    table, indices = rng.standard_normal((4, 3)), rng.integers(0, 4, (2, 5))
    units, g = np.eye(4)[indices], rng.standard_normal((2, 5, 3))
    np.testing.assert_allclose(ops.embedding(table, indices).data, units @ table, atol=1e-15)
    expected = np.einsum("abk,abd->kd", units, g)
    got = gradient(lambda t: ops.embedding(t, indices), table, g)
    np.testing.assert_allclose(got, expected, atol=1e-14)


@pytest.mark.parametrize("row", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("places", [(5,), (2, 5), (0,)], ids=str)
def test_rows_of_any_shape_are_looked_up_at_any_places(row, places):
    rng = np.random.default_rng(0)
    table, indices = rng.standard_normal((4, *row)), rng.integers(0, 4, places)
    g, expected = rng.standard_normal((*places, *row)), np.zeros((4, *row))
    np.add.at(expected, indices, g)
    got = gradient(lambda t: ops.embedding(t, indices), table, g)
    np.testing.assert_allclose(got, expected, atol=1e-14)


@pytest.mark.parametrize("library", [None, reference], ids=["fast", "definition"])
def test_the_gradient_of_a_large_table_takes_little_memory(library, monkeypatch):
    """All rows beside all indices, as one matrix, would be 900 MB."""
    rng = np.random.default_rng(0)
    table, indices = (
        Tensor(np.zeros((12_000, 2)), requires_grad=True),
        rng.integers(0, 12_000, 9600),
    )
    y, g = ops.embedding(table, indices), rng.standard_normal((9600, 2))
    if library is not None:
        monkeypatch.setattr(kernels, "of", lambda xp: library)
    tracemalloc.start()
    try:
        y.backward(g)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (10e6 if library is None else 400e6)
    expected = np.zeros(table.shape)
    np.add.at(expected, indices, g)
    np.testing.assert_allclose(table.grad, expected, atol=1e-14)


@pytest.mark.parametrize("f", [ops.embedding, ops.cross_entropy], ids=["embedding", "labels"])
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.array([0, 3]), r"0\.\.2, got 0\.\.3"),
        ([0, -1], r"0\.\.2, got -1\.\.0"),
        (np.array([0.0, 1.0]), "integers, got float64"),
        ([True, False], "integers, got bool"),
    ],
)
def test_impossible_indices_are_refused(f, indices, message):
    with pytest.raises(InputError, match=message):
        f(np.zeros((2, 3)) if f is ops.cross_entropy else np.zeros((3, 2)), indices)


def test_a_broadcast_value_can_be_used_further():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    y = ops.broadcast_to(x, shape=(3, 2))
    (y * y).sum().backward()
    assert_array_equal(x.grad, [6, 12])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.transpose(x, (0, 0)), r"transpose: \(0, 0\) are not the axes"),
        (lambda x: ops.transpose(x, (0, 5)), r"transpose: \(0, 5\) are not the axes"),
        (lambda x: ops.concat(axis=0), "concat: no axis 0"),
        (lambda x: ops.concat(x, axis=4), r"concat: no axis 4 .* \[\(2, 3\)\]"),
        (lambda x: ops.split(Tensor(x), 1, axis=7), "split: no axis 7"),
        (lambda x: ops.pad(x, widths=((1, 0),)), r"for each of 2 axes; got \(\(1, 0\),\)"),
        (lambda x: ops.pad(x, widths=((-1, 0), (0, 0))), "not negative"),
        (lambda x: ops.embedding(x, None), "indices must be integers, got object"),
        (lambda x: ops.embedding(1.0, [0]), "a table of shape"),
    ],
)
def test_impossible_shapes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(np.zeros((2, 3)))
