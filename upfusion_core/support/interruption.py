"""Ctrl-C, raised where a program can stop well."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """What Ctrl-C and SIGTERM do in `taken`: KeyboardInterrupt after up to `patience` seconds, never while `held`."""

    def __init__(self, patience: float = 0.0) -> None:
        self.patience, self.pressed = patience, False
        self._holds = 0
        self._timer: threading.Timer | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, Ctrl-C comes here. Outside of the main thread Python delivers none, and nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._press) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self.pressed = None, False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, all that is begun is finished."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if not self._holds:
            self.check()

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed."""
        if self.pressed:
            self.pressed = False
            raise KeyboardInterrupt

    def _press(self, number: int, frame: object) -> None:
        again, self.pressed = self.pressed or self._timer is not None, True
        if self._holds:
            return
        if again or not self.patience:
            self.check()
        self._timer = threading.Timer(self.patience, self._press_again)
        self._timer.daemon = True
        self._timer.start()

    def _press_again(self) -> None:
        main = threading.main_thread().ident
        if self.pressed and hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, signal.SIGINT)  # a signal also wakes a thread that waits
        elif self.pressed:
            _thread.interrupt_main()
