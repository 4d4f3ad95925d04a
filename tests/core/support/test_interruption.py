"""Ctrl-C: raised by the next step if that comes soon, else where it was pressed; never while held."""

import signal
import threading
import time
from contextlib import AbstractContextManager

import pytest

from upfusion_core.cli.console import interruption, progress
from upfusion_core.support.interruption import Interruption


def interrupted() -> AbstractContextManager[object]:
    """What is done inside ends by KeyboardInterrupt, somewhere on its way."""
    return pytest.raises(KeyboardInterrupt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_next_step_raises_it(number: int) -> None:
    before, reached = signal.getsignal(signal.SIGINT), []
    with interrupted(), interruption.taken(), progress("Working") as on_step:
        on_step(1, 10, None)
        signal.raise_signal(number)
        reached.append("the step is done")
        on_step(2, 10, None)
        reached.append("never")
    assert reached == ["the step is done"]
    assert signal.getsignal(signal.SIGINT) is before
    interruption.check()  # nothing waits any more


@pytest.mark.parametrize("patience", [0.0, 0.05])
def test_without_steps_it_is_raised_all_the_same(patience: float) -> None:
    with interrupted(), Interruption(patience).taken():
        signal.raise_signal(signal.SIGINT)
        assert patience
        time.sleep(60)
        pytest.fail("nothing woke it")


def test_pressed_twice_or_held() -> None:
    with interrupted(), Interruption(60.0).taken():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one waits for nothing")
    pressed, reached = Interruption(), []
    with interrupted(), pressed.taken(), pressed.held():
        with pressed.held():
            signal.raise_signal(signal.SIGINT)
        reached.append(pressed.pressed)
    assert reached == [True]


def test_the_delay_ends_with_the_work_and_other_threads_are_left_alone() -> None:
    pressed, before, seen = Interruption(0.05), signal.getsignal(signal.SIGINT), []
    with pressed.taken():
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.15)
    pressed.check()  # what is pressed in a run's last moments does not hit what comes after it

    def work() -> None:
        with Interruption().taken():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
