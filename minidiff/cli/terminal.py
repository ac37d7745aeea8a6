"""What the commands show on a terminal, and how they are stopped there."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm


@contextmanager
def stop_signals(*, loud: bool = True) -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying by them; a second one acts as it always does.

    The first one is answered by a line on standard error if it is `loud`.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        # not print(): the signal may have come in the middle of one
        if loud:
            os.write(2, b"\nFinishing this step, then saving; once more stops at once.\n")

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Bar:
    """A progress bar with a line of text that is made anew only when it will be seen.

    It shows itself after the first step, so that an error before that stands alone.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self._every = 0.2 if sys.stderr.isatty() else 10.0  # seconds; a log file wants few lines
        self._due = 0.0
        self._bar: tqdm | None = None

    def step(self, text: Callable[[], str]) -> None:
        """One step further; `text` may cost time (it may wait for the device)."""
        if self._bar is None:
            size = shutil.get_terminal_size()  # tqdm believes a terminal that says 0 by 0
            self._bar = tqdm(
                total=self.total, initial=self.done, desc=self.title, mininterval=self._every,
                ncols=min(100, size.columns), nrows=size.lines,
                bar_format="{desc} |{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]",
            )  # fmt: skip
        self.done += 1
        if time.monotonic() >= self._due or self.done == self.total:
            self._due = time.monotonic() + self._every
            self._bar.set_postfix_str(text(), refresh=False)
        self._bar.update()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
