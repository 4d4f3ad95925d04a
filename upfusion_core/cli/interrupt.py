"""Ctrl-C: at the next step if that comes soon, as its state can be saved then, else at once."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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

    def press(number: int, frame: object) -> None:
        if _pressed.is_set() or timers:
            _pressed.clear()
            raise KeyboardInterrupt
        _pressed.set()
        timers.append(threading.Timer(PATIENCE_SECONDS, _press_again))
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


def _press_again() -> None:
    if not _pressed.is_set():
        return
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:  # a signal also wakes a thread that waits
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()
