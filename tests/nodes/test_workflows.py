"""The shipped workflows as files: complete, reproducible, explained, and fitting the nodes as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def ours(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["type"].startswith("UpFusion")]


def test_there_are_five_and_no_other_folder_of_templates() -> None:
    assert len(WORKFLOWS) == 5
    for name in ("example_workflows", "example", "examples", "templates"):
        assert not (ROOT / name).exists()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_links_join_what_they_say(path: Path) -> None:
    graph = content(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    for number, source, output, target, place, kind in graph["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == kind
    assert sum(slot["link"] is not None for node in nodes.values() for slot in node["inputs"]) == len(graph["links"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_are_known_and_nothing_changes_by_itself(path: Path, node_classes: dict[str, type]) -> None:
    graph = content(path)
    for node in ours(graph):
        assert node["properties"]["cnr_id"] == "upfusion"
        assert node["properties"]["ver"]
        schema = node_classes[node["type"]].GET_SCHEMA()
        named = {slot["name"].split(".")[0] for slot in node["inputs"]}
        assert named == {item.id for item in schema.inputs}, node["type"]
        assert [slot["name"] for slot in node["outputs"]] == [item.id for item in schema.outputs]
    for node in graph["nodes"]:
        assert not {"randomize", "increment", "decrement"} & {str(value) for value in node["widgets_values"]}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_bundled_model_and_photos_are_used(path: Path) -> None:
    """Nothing has to be fetched: what would be is bypassed, and says where it comes from."""
    graph = content(path)
    assert [node["widgets_values"][0] for node in ours(graph) if node["type"] == "UpFusionLoadModel"] == ["mini"]
    assert any(node["type"] == "UpFusionExampleViews" for node in graph["nodes"])
    for node in graph["nodes"]:
        if node["type"] in ("LoadBackgroundRemovalModel", "LoraLoaderModelOnly"):
            assert node["mode"] == 4
        if node["type"] == "LoadBackgroundRemovalModel":
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert model["url"].startswith("https://")
            assert model["directory"] == "background_removal"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_has_notes_and_a_picture(path: Path) -> None:
    notes = [node["widgets_values"][0] for node in content(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) >= 2
    assert notes[0].startswith("# ")
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 256


def test_the_workflows_show_the_nodes() -> None:
    """Those that no workflow shows have tests of their own: files, the way back of cameras."""
    shown = {node["type"] for path in WORKFLOWS for node in ours(content(path))}
    assert len(shown) >= 13
