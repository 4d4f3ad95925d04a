"""Saved graphs keep their meaning: what object_info.json has of the nodes, as /object_info tells it, stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RECORD = Path(__file__).with_name("object_info.json")
VALUES = ("default", "min", "max", "step", "options", "control_after_generate", "advanced")
WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
RECORDED: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(RECORD.read_text(encoding="utf-8"))


def described(schema: Any) -> dict[str, Any]:
    """A node's sockets in order, with what a saved graph hangs on."""
    return {
        "output_node": schema.is_output_node,
        "inputs": [described_input(item) for item in schema.inputs],
        "outputs": [{"id": item.id, "type": item.get_io_type()} for item in schema.outputs],
    }


def described_input(item: Any) -> dict[str, Any]:
    values = {name: getattr(item, name, None) for name in VALUES}
    template = getattr(item, "template", None)
    if template is not None:
        values |= {name: getattr(template, name) for name in ("prefix", "min", "max")}
        values["of"] = described_input(template.input)
    values = {name: value for name, value in values.items() if value is not None}
    return {"id": item.id, "type": item.get_io_type(), "optional": bool(item.optional)} | values


def test_a_record_of_every_node(node_classes: dict[str, type]) -> None:
    new = {name: described(node.GET_SCHEMA()) for name, node in node_classes.items() if name not in RECORDED}
    assert not new, f"append to {RECORD.name}: {json.dumps(new)}"


@pytest.mark.parametrize("node_id", RECORDED)
def test_nodes_only_grow(node_classes: dict[str, type], node_id: str) -> None:
    """The recorded sockets come first, unchanged; inputs after them are optional, choices are those and others."""
    before, now = RECORDED[node_id], described(node_classes[node_id].GET_SCHEMA())
    assert now["output_node"] == before["output_node"]
    for kind in ("inputs", "outputs"):
        assert len(now[kind]) >= len(before[kind])
        for one, other in zip(before[kind], now[kind], strict=False):
            if "options" in one:
                other["options"] = [choice for choice in other["options"] if choice in one["options"]]
            assert other == one
    assert all(item["optional"] for item in now["inputs"][len(before["inputs"]) :])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_saved_graphs_set_what_their_nodes_have(node_classes: dict[str, type], path: Path) -> None:
    """Widgets are saved by their place: a value for each one, in its range or among its choices."""
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] not in node_classes:
            continue
        values = list(node["widgets_values"])
        inputs = node_classes[node["type"]].GET_SCHEMA().inputs
        for item in sorted(inputs, key=lambda item: bool(item.optional)):
            kind = item.get_io_type()
            if kind not in ("INT", "FLOAT", "COMBO", "STRING", "BOOLEAN"):
                continue
            value = values.pop(0)
            if kind in ("INT", "FLOAT"):
                assert item.min <= value <= item.max, (node["type"], item.id, value)
            elif kind == "COMBO":
                assert value in item.options or item.id == "field", (node["type"], item.id, value)
            else:
                assert isinstance(value, str if kind == "STRING" else bool), (node["type"], item.id, value)
            if getattr(item, "control_after_generate", None):
                assert values.pop(0) == "fixed"
        assert values == [], (node["type"], values)
