"""What comfy-test, the public checker of ComfyUI packs, asks of every source file; here without installing it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("upfusion_core", "nodes", "tests", "benchmarks")
SOURCES = [ROOT / "__init__.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
_LAYERS = "Linear|Conv[123]d|ConvTranspose[12]d|LayerNorm|GroupNorm|Embedding"
FORBIDDEN = re.compile(
    rf"""\.cuda\s*\(|\.to\s*\(\s*(torch\.device\s*\(\s*)?["']cuda|torch\.(cuda\.)?(amp\.)?autocast"""
    rf"""|(?<![\w.])(torch\.)?nn\.({_LAYERS})\s*\("""
)


def test_every_character_is_known_to_windows() -> None:
    """Python on Windows reads and prints cp1252 where nobody says otherwise."""
    wrong = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            bad = [letter for letter in line if not _is_known(letter)]
            wrong += [f"{path.relative_to(ROOT)}:{number}: {', '.join(map(ascii, bad))}"] * bool(bad)
    assert not wrong, "\n".join(wrong)


def test_devices_and_layers_are_the_host_s() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN.search(line) and not line.lstrip().startswith("#")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_are_able_to_fail() -> None:
    assert FORBIDDEN.search("x." + "cuda()")
    assert FORBIDDEN.search("layer = nn." + "Linear(2, 3)")
    assert not FORBIDDEN.search("layer = ops." + "Linear(2, 3)")
    assert not _is_known("\N{GREEK SMALL LETTER SIGMA}")


def _is_known(letter: str) -> bool:
    try:
        letter.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True
