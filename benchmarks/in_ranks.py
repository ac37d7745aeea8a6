"""A contestant of `benchmarks.train_step` in several processes; `Player` starts them under MPI.

The first process talks to the benchmark, by lines of JSON. The others sleep while it waits.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.train_step import serve
from minidiff.training.parallel import world


class Lines:
    """The pipe of these processes, which all ask and answer together."""

    def __init__(self, ranks: Any) -> None:
        self.ranks = ranks

    def recv(self) -> Any:
        """The next question, in every process."""
        line = sys.stdin.readline() if self.ranks.first else ""
        self.ranks.barrier()  # asleep: a rank that waits in a collective call would take a core
        if not (line := self.ranks.broadcast(line)):
            raise EOFError
        return json.loads(line)

    def send(self, answer: Any) -> None:
        """Say it once."""
        if self.ranks.first:
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(Lines(world()), *json.loads(sys.argv[1]), ranks=world())
