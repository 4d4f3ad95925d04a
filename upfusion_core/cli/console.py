"""What the user sees: sentences, progress bars, errors. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import OutputError
from .interrupt import check

if TYPE_CHECKING:
    from ..types import OnProgress


def tolerate_narrow_encodings() -> None:
    """Lets consoles that know few letters (cp1252) replace the others instead of ending the program."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        with suppress(AttributeError, ValueError):  # replaced by a test or a host, or already closed
            stream.reconfigure(errors="replace")


def plain_warnings() -> None:
    """Shows the library's warnings as sentences, without the place in the source."""
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"


def say(text: str) -> None:
    """One line on stderr, for the user's eyes."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def answer(text: str) -> None:
    """One line on stdout, also for programs that read it.

    Raises:
        OutputError: stdout is full or closed; nothing more is written there.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        raise OutputError(
            f"the answer could not be printed on stdout ({error.strerror}), but what was to be done is done; "
            "look at the files"
        ) from error


@contextmanager
def progress(title: str) -> Iterator[OnProgress]:
    """A bar with elapsed and remaining time; where stderr is not a terminal, one line that says what begins.

    What is told how far the stage is raises KeyboardInterrupt if Ctrl-C was pressed (see interrupt.patient).
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        say(f"{title} ...")
        yield lambda done: check()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=1.0)

        def advance(done: float) -> None:
            bars.update(task, completed=done)
            check()

        yield advance


def duration(seconds: float) -> str:
    """Example: 4000 -> "1 h 6 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"
