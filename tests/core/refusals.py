"""Refusals in one line: for tests of what constructors and functions do not take."""

from collections.abc import Callable

import pytest

from upfusion_core.support.errors import CheckpointError, InputError, OutputError


def refused(words: str, call: Callable[..., object], *args: object, **kwargs: object) -> None:
    """Asserts that a call raises InputError with a message in which the pattern `words` is found."""
    with pytest.raises(InputError, match=words):
        call(*args, **kwargs)


def unfit(words: str, call: Callable[..., object], *args: object, **kwargs: object) -> None:
    """The same of CheckpointError."""
    with pytest.raises(CheckpointError, match=words):
        call(*args, **kwargs)


def denied(words: str, call: Callable[..., object], *args: object, **kwargs: object) -> None:
    """The same of OutputError."""
    with pytest.raises(OutputError, match=words):
        call(*args, **kwargs)
