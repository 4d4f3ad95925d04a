"""What comfy-test, the public checker of ComfyUI packs, asks of every source file; here without installing it."""

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


def faults(line: str) -> bool:
    """Python on Windows reads and prints cp1252 where nobody says otherwise; devices and layers are the host's."""
    forbidden = FORBIDDEN.search(line) and not line.lstrip().startswith("#")
    return bool(forbidden) or line.encode("cp1252", "ignore").decode("cp1252") != line


def test_sources_are_as_comfy_test_wants_them() -> None:
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not faults(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()!a}"
    bad = ["x." + "cuda()", "layer = nn." + "Linear(2, 3)", "\N{GREEK SMALL LETTER SIGMA}"]
    assert [faults(line) for line in (*bad, "layer = ops." + "Linear(2, 3)", "déjà vu?")] == [True] * 3 + [False] * 2
