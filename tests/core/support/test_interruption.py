"""Ctrl-C: raised by the next step if that comes soon, else where it was pressed; never while held."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from upfusion_core.cli.console import interruption, progress
from upfusion_core.support.interruption import Interruption


def test_the_next_step_raises_it() -> None:
    before, reached = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruption.taken(), progress("Working") as on_step:
            on_step(1, 10, None)
            signal.raise_signal(signal.SIGINT)
            reached.append("the step is done")
            on_step(2, 10, None)
            reached.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the step is done"]
    assert signal.getsignal(signal.SIGINT) is before
    interruption.check()  # nothing waits any more


@pytest.mark.parametrize("patience", [0.0, 0.05])
def test_without_steps_it_is_raised_all_the_same(patience: float) -> None:
    start = time.monotonic()

    def work() -> None:
        with Interruption(patience).taken():
            signal.raise_signal(signal.SIGINT)
            assert patience
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - start < 30


def test_pressed_twice_it_is_raised_at_once() -> None:
    def work() -> None:
        with Interruption(60.0).taken():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one waits for nothing")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_held_it_comes_at_the_end_of_the_hold() -> None:
    pressed, reached = Interruption(), []

    def work() -> None:
        with pressed.taken(), pressed.held():
            with pressed.held():
                signal.raise_signal(signal.SIGINT)
            reached.append(pressed.pressed)
        reached.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [True]


def test_the_delay_ends_with_the_work() -> None:
    """What is pressed in a run's last moments does not hit what comes after it."""
    pressed = Interruption(0.05)
    with pressed.taken():
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.15)
    pressed.check()


def test_another_thread_is_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interruption().taken():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
