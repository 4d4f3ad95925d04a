"""What the user sees: sentences, progress bars, errors. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..support.errors import OutputError

PATIENCE_SECONDS = 0.5

_pressed = threading.Event()
"""Set while a Ctrl-C waits for the next step; of the whole program, as the signal is."""


@contextmanager
def patient() -> Iterator[None]:
    """Inside, Ctrl-C is raised by `check`, or where it was pressed after PATIENCE_SECONDS, or when pressed again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers no Ctrl-C there
        return
    timers: list[threading.Timer] = []

    def press_again() -> None:
        if not _pressed.is_set():
            return
        main = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:  # a signal also wakes a thread that waits
            signal.pthread_kill(main, signal.SIGINT)
        else:
            _thread.interrupt_main()

    def press(number: int, frame: object) -> None:
        if _pressed.is_set() or timers:
            _pressed.clear()
            raise KeyboardInterrupt
        _pressed.set()
        timers.append(threading.Timer(PATIENCE_SECONDS, press_again))
        timers[0].daemon = True
        timers[0].start()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        _pressed.clear()
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed."""
    if _pressed.is_set():
        _pressed.clear()
        raise KeyboardInterrupt


if TYPE_CHECKING:
    from torch import Tensor

    from ..types import OnStep


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
def progress(title: str) -> Iterator[OnStep]:
    """A bar with elapsed and remaining time; where stderr is not a terminal, one line that says what begins.

    What it yields raises KeyboardInterrupt if Ctrl-C was pressed (see patient).
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        say(f"{title} ...")
        yield lambda step, total, preview: check()
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

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            bars.update(task, completed=step / total)
            check()

        yield on_step


def duration(seconds: float) -> str:
    """Example: 4000 -> "1 h 6 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"
