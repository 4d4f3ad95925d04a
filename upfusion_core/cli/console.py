"""What the user sees: sentences, progress bars, errors. Progress goes to stderr, results to stdout."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..support.errors import OutputError
from ..support.interruption import Interruption

if TYPE_CHECKING:
    from ..types import OnStep

interruption = Interruption(patience=0.5)  # Ctrl-C is raised by the next step of a progress bar if that comes soon


def say(text: str) -> None:
    """One line on stderr, for the user's eyes."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def answer(text: str) -> None:
    """One line on stdout, also for programs that read it; OutputError if it is full or closed, and not used again."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        fault = f"the answer could not be printed on stdout ({error.strerror})"
        raise OutputError(f"{fault}, but what was to be done is done; look at the files") from error


@contextmanager
def progress(title: str) -> "Iterator[OnStep]":
    """A bar, as `bar` has it; what it yields raises KeyboardInterrupt after Ctrl-C."""
    with bar(title) as show:
        yield lambda step, total, preview: show(title, step / total)


@contextmanager
def bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar with times, or a line where stderr is no terminal; to be told a title and the share that is done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        say(f"{title} ...")
        yield lambda now, share: interruption.check()
        return
    task, elapsed, left = (TextColumn(text, markup=False) for text in ("{task.description}", "elapsed,", "left"))
    columns = (task, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), elapsed, TimeRemainingColumn(), left)
    with Progress(*columns, console=console) as bars:
        shown = bars.add_task(title, total=1.0)

        def show(now: str, share: float) -> None:
            bars.update(shown, description=now, completed=share)
            interruption.check()

        yield show


def duration(seconds: float) -> str:
    """Example: 4000 -> "1 h 6 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"
