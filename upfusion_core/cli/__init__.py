"""The command `upfusion`."""

from __future__ import annotations


def main() -> None:
    """Entry point of the installed command; ends the process with its exit code."""
    from .app import app
    from .console import plain_warnings, tolerate_narrow_encodings

    tolerate_narrow_encodings()
    plain_warnings()
    app()
