"""The command line: ``minidiff demo``, ``minidiff train``, ``minidiff sample``.

A mistake is one line on standard error and exit code 2; a stop by Ctrl-C or SIGTERM, or by a
reader of the output that has gone, is 128 and the number of the signal. A schedule that does not
end in noise is one line too, and no mistake.
What the commands do is in `minidiff.cli.commands`, which is imported once the arguments are read,
so that help and most errors come at once.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from minidiff.cli.arguments import make_parser
from minidiff.errors import InputError, PriorWarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (by default that of the process) asks for; the exit code.

    Under an MPI launcher every process runs it, and rank 0 speaks for all: see `cli.together`.
    """
    # Before NumPy is loaded: the waiting threads of OpenBLAS spin. For small images two are hardly
    # faster than one, and many times slower when anything else wants a core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _set_up_streams()
    if any(name.startswith(("PMI_", "PMIX_", "OMPI_")) for name in os.environ):
        from minidiff.cli.together import together

        return together(partial(_run, argv))
    code, message = _run(argv)
    if message:
        print(message, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # it has been told; Python would try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _set_up_streams() -> None:
    """Have output that can be written to, and that takes any name of a file."""
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started the program
        while os.open(os.devnull, os.O_RDWR) < 2:  # else a file of the run would get its number
            pass
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the end)
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as it is for standard error


def _run(argv: Sequence[str] | None) -> tuple[int, str]:
    """The exit code of a command, and what there is to say of its end on standard error."""
    parser = make_parser()
    try:
        arguments = vars(parser.parse_args(argv))
        name = arguments.pop("command")
        if name is None:
            parser.print_help()
            return 0, ""
        from minidiff.cli import commands

        with _one_line_warnings():
            code = commands.COMMANDS[name](**arguments)
            sys.stdout.flush()  # here its errors are told as any other
            return code, ""
    except KeyboardInterrupt:
        return 128 + signal.SIGINT, "\nminidiff: stopped"
    except BrokenPipeError:  # nobody reads on, as after "| head"
        return 128 + 13, ""
    except InputError as error:
        message = str(error)
    except OSError as error:
        place = f": {error.filename}" if error.filename is not None else ""
        message = f"{error.strerror or error}{place}"
    except MemoryError as error:
        message = f"not enough memory; a smaller batch or network needs less ({error})"
    return 2, f"minidiff: error: {' '.join(message.split())}"


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Within it a `PriorWarning` is one line on standard error, however often it comes."""
    seen: set[str] = set()

    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if not issubclass(category, PriorWarning):
                others(message, category, filename, lineno, file, line)
            elif str(message) not in seen:
                seen.add(str(message))
                print("minidiff: warning:", " ".join(str(message).split()), file=sys.stderr)

        warnings.simplefilter("always", PriorWarning)
        warnings.showwarning = show
        yield
