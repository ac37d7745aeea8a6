"""Every CUDA kernel is its definition, to rounding: run on the processor, thread by thread."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.backend import kernels
from minidiff.backend.kernels import cupy as fast
from minidiff.backend.kernels import reference
from tests import double
from tests.gpu import emulator
from tests.kernels.agreement import assert_agrees
from tests.kernels.cases import CASES, FLAT
from tests.strategies import examples, lay_out, layouts

FAST = kernels.public(fast)
DEFINITIONS = kernels.public(reference)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])


def on_the_double(kernel):
    """The kernel as a function of NumPy's arrays."""

    def call(_, *args):
        there = [double._wrap(a) for a in args]
        returned = kernel(double.xp, *there)
        return double._unwrap(returned)

    return call


@pytest.mark.parametrize("name", sorted(FAST))
@both_dtypes
@given(data=st.data())
@examples(0.3)
def test_kernel_agrees_with_its_definition(emulated, name, dtype, data):
    args = data.draw(CASES[name])
    order = data.draw(st.sampled_from(sorted(emulator.ORDERS)))

    def any_layout(a):
        return lay_out(a, "contiguous" if name in FLAT else data.draw(layouts))

    with mock.patch.object(emulator, "order", order):
        assert_agrees(on_the_double(FAST[name]), DEFINITIONS[name], args, dtype, any_layout)
