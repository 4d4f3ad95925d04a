"""Refusals in one line: for tests of what constructors and functions do not take."""

from collections.abc import Callable
from functools import partial

import pytest

from upfusion_core.support.errors import CheckpointError, InputError, OutputError, PhotoError


def raised(error: type[Exception], words: str, call: Callable[..., object], *args: object, **kwargs: object) -> None:
    """Asserts that a call raises this error with a message in which the pattern `words` is found."""
    with pytest.raises(error, match=words):
        call(*args, **kwargs)


refused, unfit, denied, unusable = (
    partial(raised, error) for error in (InputError, CheckpointError, OutputError, PhotoError)
)
