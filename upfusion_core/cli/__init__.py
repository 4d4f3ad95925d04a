"""The command `upfusion`."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Any


def main() -> None:
    """Entry point of the installed command; ends the process with its exit code."""
    try:
        from .app import app

        streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
        for stream in streams:  # consoles that know few letters (cp1252) are to replace the others
            with suppress(AttributeError, ValueError):  # replaced by a test or a host, or already closed
                stream.reconfigure(errors="replace")
        # the library's warnings as sentences, without the place in the source
        warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
        app()
    except KeyboardInterrupt:  # before or after the command itself
        sys.stderr.write("interrupted\n")
        sys.exit(130)
