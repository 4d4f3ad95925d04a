"""Ctrl-C during training: at once, but never between the parts of an update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """What a pressed Ctrl-C does: KeyboardInterrupt at once, or, while held, once the hold ends.

    pressed: whether one waits.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._holds = 0

    def press(self, number: int = 0, frame: object = None) -> None:
        """The signal's handler."""
        self.pressed = True
        if not self._holds:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, all that is begun is finished."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self.pressed and not self._holds:
            raise KeyboardInterrupt


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Takes Ctrl-C over. Outside of the main thread Python delivers none, and nothing is changed."""
    waiting = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = signal.signal(signal.SIGINT, waiting.press)
    try:
        yield waiting
    finally:
        signal.signal(signal.SIGINT, before)
