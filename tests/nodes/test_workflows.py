"""Saved graphs keep their meaning: what object_info.json has of the nodes stays, and the shipped workflows fit them."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads(Path(__file__).with_name("object_info.json").read_text(encoding="utf-8"))
FILES = sorted((ROOT / "workflows").glob("*.json"))
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}
each_workflow = pytest.mark.parametrize("graph", WORKFLOWS.values(), ids=WORKFLOWS)


@pytest.mark.parametrize("node_id", RECORDED)
def test_nodes_only_grow(node_classes: dict[str, Any], reference: ModuleType, node_id: str) -> None:
    """The recorded sockets come first, unchanged; inputs after them are optional, choices are those and others."""
    before, now = RECORDED[node_id], reference.described(node_classes[node_id].GET_SCHEMA())
    assert now["output_node"] == before["output_node"]
    for kind in ("inputs", "outputs"):
        assert len(now[kind]) >= len(before[kind])
        for one, other in zip(before[kind], now[kind], strict=False):
            if "options" in one:
                other["options"] = [choice for choice in other["options"] if choice in one["options"]]
            assert other == one
    assert all(item["optional"] for item in now["inputs"][len(before["inputs"]) :])


@each_workflow
def test_saved_graphs_set_what_their_nodes_have(node_classes: dict[str, Any], graph: dict[str, Any]) -> None:
    """Widgets are saved by their place: a value for each one, in its range or among its choices."""
    for node in ours(graph):
        assert node["properties"]["cnr_id"] == "upfusion"
        schema, values = node_classes[node["type"]].GET_SCHEMA(), list(node["widgets_values"])
        assert {slot["name"].split(".")[0] for slot in node["inputs"]} == {item.id for item in schema.inputs}
        assert [slot["name"] for slot in node["outputs"]] == [item.id for item in schema.outputs]
        for item in sorted(schema.inputs, key=lambda item: bool(item.optional)):
            kind, where = item.get_io_type(), (node["type"], item.id)
            if kind in ("INT", "FLOAT"):
                assert item.min <= values.pop(0) <= item.max, where
            elif kind == "COMBO":
                assert values.pop(0) in item.options or item.id == "field", where
            elif kind in ("STRING", "BOOLEAN"):
                assert isinstance(values.pop(0), str if kind == "STRING" else bool), where
            if getattr(item, "control_after_generate", None):
                assert values.pop(0) == "fixed"
        assert values == [], node["type"]


def ours(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["type"].startswith("UpFusion")]


@each_workflow
def test_links_join_what_they_say(graph: dict[str, Any]) -> None:
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    for number, source, output, target, place, kind in graph["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == kind
    assert sum(slot["link"] is not None for node in nodes.values() for slot in node["inputs"]) == len(graph["links"])


@each_workflow
def test_the_bundled_model_and_photos_are_used(graph: dict[str, Any]) -> None:
    """Nothing has to be fetched: what would be is bypassed and says where it is from. No value changes by itself."""
    assert [node["widgets_values"][0] for node in ours(graph) if node["type"] == "UpFusionLoadModel"] == ["mini"]
    assert any(node["type"] == "UpFusionExampleViews" for node in graph["nodes"])
    for node in graph["nodes"]:
        assert not {"randomize", "increment", "decrement"} & {str(value) for value in node["widgets_values"]}
        if node["type"] in ("LoadBackgroundRemovalModel", "LoraLoaderModelOnly"):
            assert node["mode"] == 4
        if node["type"] == "LoadBackgroundRemovalModel":
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert model["url"].startswith("https://")
            assert model["directory"] == "background_removal"


def test_there_are_five_with_notes_and_pictures_that_show_the_nodes() -> None:
    """Those that no workflow shows have tests of their own: files, the way back of cameras."""
    assert len(WORKFLOWS) == 5
    assert not any((ROOT / name).exists() for name in ("example_workflows", "example", "examples", "templates"))
    for name, graph in WORKFLOWS.items():
        notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
        assert len(notes) >= 2
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
            assert picture.format == "JPEG"
            assert min(picture.size) >= 256
    assert len({node["type"] for graph in WORKFLOWS.values() for node in ours(graph)}) >= 13
