"""The command `upfusion`."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the installed command; ends the process with its exit code."""
    try:
        from .app import app
        from .console import plain_warnings, tolerate_narrow_encodings

        tolerate_narrow_encodings()
        plain_warnings()
        app()
    except KeyboardInterrupt:  # before or after the command itself
        sys.stderr.write("interrupted\n")
        sys.exit(130)
