"""What is asked of NCCL, on a stand-in that notes it down."""

from types import SimpleNamespace

import numpy as np
import pytest

from minidiff import backend
from minidiff.backend import nccl
from tests import double


@pytest.fixture
def two(monkeypatch):
    """CuPy with NCCL and two GPUs, as process 1 of 2 sees it; `calls` is what NCCL was asked."""
    calls = []

    class Communicator:
        def __init__(self, size, key, rank):
            calls.append((size, key, rank))

        def allReduce(self, *args):
            calls.append(args)

    device = SimpleNamespace(id=0)

    def make(number=None):
        def use():
            device.id = number

        return SimpleNamespace(id=device.id, use=use)

    cuda = SimpleNamespace(
        Device=make,
        runtime=SimpleNamespace(getDeviceCount=lambda: 2, deviceGetPCIBusId=str),
        get_current_stream=lambda: SimpleNamespace(ptr=99),
    )
    library = SimpleNamespace(
        NcclCommunicator=Communicator, get_unique_id=lambda: b"own", NCCL_FLOAT32=7,
        NCCL_FLOAT64=8, NCCL_SUM=0,
    )  # fmt: skip
    monkeypatch.setattr(nccl, "_library", lambda: library)
    monkeypatch.setattr(double.xp, "cuda", cuda)
    monkeypatch.setattr(backend, "xp", double.xp)
    monkeypatch.setattr(backend, "name", "cupy")
    return SimpleNamespace(calls=calls, device=device, cuda=cuda)


def make(devices_differ=True):
    def gather(mine):
        return [("other", "0") if devices_differ else mine, mine]

    return nccl.reducer(1, 2, lambda value: b"of rank 0", gather)


@pytest.mark.parametrize(("dtype", "number"), [(np.float32, 7), (np.float64, 8)])
def test_the_sum_is_taken_in_place_and_in_stream_order(two, dtype, number):
    add_up = make()
    a = double.xp.zeros((3, 5), dtype)
    add_up(a)
    place = a.data.ptr
    assert two.calls == [(2, b"of rank 0", 1), (place, place, 15, number, 0, 99)]


def test_each_process_has_a_gpu_of_its_own(two):
    for rank, expected in [(1, 1), (2, 0), (3, 1)]:
        nccl.use_own_device(rank)
        assert two.device.id == expected


def test_no_nccl_where_a_gpu_is_shared_or_it_is_not_there(two, monkeypatch):
    assert make(devices_differ=False) is None
    monkeypatch.setattr(nccl, "_library", lambda: None)
    assert make() is None
    assert two.calls == []


def test_no_nccl_on_numpy():
    nccl.use_own_device(1)
    assert make() is None
