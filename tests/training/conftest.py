"""A disk that is full, as the system itself reports it."""

import resource
from contextlib import contextmanager

import pytest


@contextmanager
def limit(size):
    """Let no file grow beyond `size` bytes: a write past it is an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def full_disk():
    """The context manager `limit`."""
    return limit
