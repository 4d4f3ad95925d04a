"""One source of the version: pyproject.toml. All that repeats it for readers is compared with it here."""

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from command_runs import done

import upfusion_core

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "pyproject.toml"
(SAID,) = re.findall(r'^version = "(.+)"', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)


def test_a_pack_that_is_not_installed_knows_its_version(tmp_path: Path) -> None:
    """As in custom_nodes, where only the files lie; -S and -I hide every installed package."""
    pack = tmp_path / "custom_nodes" / "upfusion"
    pack.mkdir(parents=True)
    shutil.copy(PROJECT, pack)
    (pack / "upfusion_core").mkdir()
    shutil.copy(ROOT / "upfusion_core" / "__init__.py", pack / "upfusion_core")
    code = f"import sys; sys.path.append({str(pack)!r}); import upfusion_core; print(upfusion_core.__version__)"
    asked = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == SAID


def test_without_our_file_the_record_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a pyproject.toml believed that somebody else left in site-packages."""
    path = tmp_path / "pyproject.toml"
    monkeypatch.setattr(upfusion_core, "_PROJECT_FILE", path)
    monkeypatch.setattr(metadata, "version", {"upfusion": "7.8.9"}.__getitem__)
    assert upfusion_core._version.__wrapped__() == "7.8.9"
    path.write_text('[project]\nname = "another"\nversion = "1.2.3"\n', encoding="utf-8")
    assert upfusion_core._version.__wrapped__() == "7.8.9"


def test_changelog_citation_and_workflows_say_the_same() -> None:
    assert upfusion_core.__version__ == SAID
    assert done("--version") == SAID
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d+\.\d+\.\d+)", changes, re.MULTILINE)[1] == SAID
    assert f"\nversion: {SAID}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for path in (ROOT / "workflows").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        said = {node["properties"]["ver"] for node in nodes if node["type"].startswith("UpFusion")}
        assert said == {SAID}, path.name
