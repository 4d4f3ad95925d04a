"""What the Comfy Registry asks of pyproject.toml, and ComfyUI's users of requirements.txt."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("tomllib needs Python 3.11", allow_module_level=True)
import tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")


def test_the_project_section() -> None:
    project = PROJECT["project"]
    assert re.fullmatch(r"[a-z]([a-z0-9]|[-_.](?![-_.]))*", project["name"])
    assert "comfyui" not in project["name"]
    assert len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == "MIT"
    assert project["urls"]["Repository"].startswith("https://github.com/")
    systems = [item.split(" :: ", 1)[1] for item in project["classifiers"] if item.startswith("Operating System")]
    assert systems
    assert all(system.startswith(SYSTEMS) for system in systems)


def test_the_comfy_section() -> None:
    comfy = PROJECT["tool"]["comfy"]
    assert comfy["PublisherId"]
    assert comfy["DisplayName"] == "UpFusion"
    assert (ROOT / comfy["Icon"].split("/main/")[1]).exists()
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert "web" not in comfy  # WEB_DIRECTORY says it; both load scripts twice


def test_requirements_never_change_the_user_s_torch() -> None:
    """What ComfyUI installs is what pyproject asks, and no version above what a user of 2024 had is asked of torch."""
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    asked = {line for line in lines if line and not line.startswith("#")}
    assert asked == set(PROJECT["project"]["dependencies"])
    assert not any(re.search("==|<|~=|!=", line) for line in asked)
    assert "torch>=2.4" in asked
    assert not any(line.startswith(("torchvision", "torchaudio", "comfyui", "xformers", "triton")) for line in asked)


def test_every_version_tag_is_published() -> None:
    action = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert 'tags:\n      - "v[0-9]+.[0-9]+.[0-9]+"' in action
    assert "Comfy-Org/publish-node-action" in action
