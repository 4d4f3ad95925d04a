"""The command `upfusion`."""

import sys
import warnings
from contextlib import suppress


def main() -> None:
    """Entry point of the installed command; ends the process with its exit code."""
    try:
        from .app import app

        for stream in (sys.stdout, sys.stderr):  # consoles that know few letters (cp1252) are to replace the others
            with suppress(AttributeError, ValueError):  # replaced by a test or a host, or already closed
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"  # without the place in the source
        app()
    except KeyboardInterrupt:  # before or after the command itself
        sys.stderr.write("interrupted\n")
        sys.exit(130)
