"""The languages in locales/ name every node, input and output, with all tooltips; blueprints hold known nodes."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINTS = ("Photos to Canonical Views", "Photos to Mesh", "Photos to Views", "True pixels onto a mesh")
LANGUAGES = ("de", "fr", "ja", "ko", "zh")


def english(schema: Any) -> dict[str, Any]:
    """What a node shows, as ComfyUI's locale files have it; an input without a tooltip has a name only."""

    def told(item: Any) -> dict[str, str]:
        return {"name": item.id} | ({"tooltip": item.tooltip} if item.tooltip else {})

    shown = {"inputs": {item.id: told(item) for item in schema.inputs}}
    shown["outputs"] = {str(place): told(item) for place, item in enumerate(schema.outputs)}
    return {"display_name": schema.display_name, "description": schema.description, **shown}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, of paths such as "inputs.seed.tooltip"."""
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, part in value.items() for name, leaf in leaves(part, f"{path}/{key}").items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_all_keys_and_says_something_else(node_classes: dict[str, Any], language: str) -> None:
    told = leaves(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")))
    wanted = leaves({node_id: english(node.GET_SCHEMA()) for node_id, node in node_classes.items()})
    assert told.keys() == wanted.keys()
    for path, words in told.items():
        assert words.strip() == words != ""
        assert "{" not in words
        if path.endswith(("tooltip", "description", "display_name")):
            assert words != wanted[path], path
    told = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
    assert told.keys() == {node.GET_SCHEMA().category.removeprefix("UpFusion/") for node in node_classes.values()}
    assert all(told.values())


def test_templates_have_titles_and_the_quick_start_is_first() -> None:
    """ComfyUI shows a template by the texts under the pack's folder and the file's name."""
    text = (ROOT / "locales" / "en" / "main.json").read_text(encoding="utf-8")
    told = json.loads(text)["templateWorkflows"]
    names = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    assert names == sorted(told["template"]["upfusion"]) == sorted(told["templateDescription"]["upfusion"])
    assert min(told["template"]["upfusion"].items(), key=lambda item: item[1])[0] == "upfusion_1_quick_start"


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_is_one_box_of_nodes_that_there_are(node_classes: dict[str, Any], name: str) -> None:
    """Its sockets are those of the box; all links join what they say."""
    assert {path.stem for path in (ROOT / "subgraphs").glob("*.json")} == set(BLUEPRINTS)
    graph = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    ((box,), (inside,)) = graph["nodes"], graph["definitions"]["subgraphs"]
    assert box["type"] == inside["id"]
    assert inside["name"] == box["title"] == name
    assert len(graph["extra"]["BlueprintDescription"]) > 40
    for kind in ("inputs", "outputs"):
        assert [slot["name"] for slot in box[kind]] == [slot["name"] for slot in inside[kind]]
    nodes = {node["id"]: node for node in inside["nodes"]}
    assert {node["type"] for node in nodes.values()} <= node_classes.keys()
    for link in inside["links"]:
        source = inside["inputs"] if link["origin_id"] == -10 else nodes[link["origin_id"]]["outputs"]
        assert source[link["origin_slot"]]["type"] == link["type"]
        if link["target_id"] == -20:
            assert link["id"] in inside["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
