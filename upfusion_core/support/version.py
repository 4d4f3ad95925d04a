"""The version of this package: pyproject.toml says it, and nothing else does."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path

NAME = "upfusion"
PROJECT_FILE = Path(__file__).resolve().parents[2] / "pyproject.toml"


@lru_cache(maxsize=1)
def version() -> str:
    """The version, such as "0.1.0".

    A checkout, which the folder of a ComfyUI pack is too, answers from its own pyproject.toml, as another version may
    be installed beside it; an installed package from what was recorded when it was installed.

    Raises:
        importlib.metadata.PackageNotFoundError: the package lies in neither.
    """
    return _of_checkout(PROJECT_FILE) or metadata.version(NAME)


def _of_checkout(path: Path) -> str | None:
    """What [project] of our own pyproject.toml says; Python 3.10 has no reader of TOML."""
    if not path.is_file():
        return None
    section = re.search(r"^\[project\]$(.*?)(?=^\[|\Z)", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    values = dict(re.findall(r'^(name|version) = "([^"]+)"$', section[1], re.MULTILINE)) if section else {}
    return values.get("version") if values.get("name") == NAME else None
