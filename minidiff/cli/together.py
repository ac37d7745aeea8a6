"""The command line in several processes, started by ``mpiexec``: one voice and one end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout

from minidiff.errors import InputError
from minidiff.training.parallel import Communicator, launched_rank, world

SECONDS = 2.0
"""How long a process that failed waits for the others to fail of the same, before it ends them."""


def together(command: Callable[[], tuple[int, str]]) -> int:
    """Run `command` in every process; the exit code.

    Rank 0 alone is heard, but for an error that only another one meets. An error that all meet
    (a setting is wrong) ends each of them as it would end a single process; one that only some
    meet ends all, who would wait for the dead without end.

    Parameters
    ----------
    command : returns an exit code, and what there is to say on standard error
    """
    first = True
    try:
        first = not launched_rank()
        ranks = world()
    except InputError as error:
        if first:
            print(f"minidiff: error: {error}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        if not ranks.first:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            code, message = command()
        except Exception:  # a fault of the program
            code, message = 1, traceback.format_exc()
    return _end(ranks, code, message)


def _end(ranks: Communicator, code: int, message: str) -> int:
    """Say the message of rank 0, and end the other processes unless they end of themselves."""
    if message and ranks.first:
        print(message, file=sys.stderr, flush=True)
    if code and not ranks.barrier(SECONDS):
        if message and not ranks.first:
            print(f"{message} (rank {ranks.rank})", file=sys.stderr, flush=True)
        ranks.abort(code)
    return code
