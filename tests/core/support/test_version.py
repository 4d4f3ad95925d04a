"""One source of the version: pyproject.toml. All that repeats it for readers is compared with it here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import upfusion_core
from upfusion_core.support import version

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "pyproject.toml"


def said_by_project() -> str:
    (line,) = [line for line in PROJECT.read_text(encoding="utf-8").splitlines() if line.startswith("version = ")]
    return line.split('"')[1]


def test_a_checkout_says_what_its_project_file_says() -> None:
    assert upfusion_core.__version__ == version.version() == said_by_project()


def test_a_pack_that_is_not_installed_knows_its_version(tmp_path: Path) -> None:
    """As in custom_nodes, where only the files lie; -S and -I hide every installed package."""
    pack = tmp_path / "custom_nodes" / "upfusion"
    pack.mkdir(parents=True)
    shutil.copy(PROJECT, pack)
    (pack / "upfusion_core" / "support").mkdir(parents=True)
    for name in ("__init__.py", "support/__init__.py", "support/version.py"):
        shutil.copy(ROOT / "upfusion_core" / name, pack / "upfusion_core" / name)
    code = f"import sys; sys.path.append({str(pack)!r}); import upfusion_core; print(upfusion_core.__version__)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said_by_project()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('[project]\nname = "upfusion"\nversion = "1.2.3"\n[tool.x]\nversion = "9"\n', "1.2.3"),
        ('[project]\nname = "another"\nversion = "1.2.3"\n', None),  # site-packages of somebody who put a file there
        ('[tool.x]\nname = "upfusion"\nversion = "9"\n', None),
        (None, None),
    ],
)
def test_only_our_own_project_file_counts(tmp_path: Path, text: str | None, answer: str | None) -> None:
    path = tmp_path / "pyproject.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert version._of_checkout(path) == answer


def test_an_installed_package_asks_its_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(version, "PROJECT_FILE", tmp_path / "pyproject.toml")
    monkeypatch.setattr(metadata, "version", {"upfusion": "7.8.9"}.__getitem__)
    version.version.cache_clear()
    try:
        assert version.version() == "7.8.9"
    finally:
        version.version.cache_clear()


def test_changelog_citation_and_workflows_say_the_same() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+)", changes, re.MULTILINE)
    assert released[0] == said_by_project()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [said_by_project()]
    for path in (ROOT / "workflows").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        said = {node["properties"]["ver"] for node in nodes if node["type"].startswith("UpFusion")}
        assert said == {said_by_project()}, path.name
