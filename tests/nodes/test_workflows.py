"""Saved graphs keep their meaning: what object_info.json has of the nodes stays, and the shipped workflows fit them."""

import cmath
import json
import math
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

Point = tuple[float, float]

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
    """Nothing has to be fetched: what would be is bypassed or muted and says where it is from. No value changes."""
    assert {node["widgets_values"][0] for node in ours(graph) if node["type"] == "UpFusionLoadModel"} <= {"mini"}
    assert any(node["type"] == "UpFusionExampleViews" for node in graph["nodes"])
    for node in graph["nodes"]:
        assert not {"randomize", "increment", "decrement"} & {str(value) for value in node["widgets_values"]}
        if node["type"] in ("LoadBackgroundRemovalModel", "LoraLoaderModelOnly", "LoadDA3Model"):
            assert node["mode"] in (2, 4)
        for model in node["properties"].get("models", ()):
            # ComfyUI asks for a model where its name is chosen: the released weights, in a graph made from this one
            assert model["name"] in node["widgets_values"] or node["type"] == "UpFusionLoadModel"
            assert model["url"].startswith("https://")
            assert model["directory"]


@each_workflow
def test_fields_are_saved_and_only_fitted_to_views_that_agree(graph: dict[str, Any]) -> None:
    """Sampled views contradict each other: given to Distill they make fog. Weights have an address."""
    kinds = {node["id"]: node["type"] for node in graph["nodes"]}
    joined = {(kinds[source], kinds[target], output) for _, source, output, target, _, _ in graph["links"]}
    assert ("UpFusionSampleViews", "UpFusionDistill", 0) not in joined
    if "UpFusionDistill" in kinds.values() and not graph["extra"].get("linearMode"):
        assert "UpFusionSaveField" in kinds.values()
    assert all(node["properties"]["models"] for node in ours(graph) if node["type"] == "UpFusionLoadModel")


def test_the_views_are_shown_before_distill_runs_and_the_viewport_begins_near() -> None:
    """It gets the scene from Sample Views, and the preview, larger than the model's pictures, is behind these."""
    graph = WORKFLOWS["upfusion_1_quick_start"]
    kinds = {node["id"]: node["type"] for node in graph["nodes"]}
    joined = {(kinds[source], kinds[target], kind) for _, source, _, target, _, kind in graph["links"]}
    assert ("UpFusionSampleViews", "UpFusionDistill", "UPFUSION_SCENE") in joined
    assert {("UpFusionSampleViews", "ImageScale", "IMAGE"), ("ImageScale", "PreviewImage", "IMAGE")} < joined
    nodes = WORKFLOWS["upfusion_4_aim_with_the_viewport"]["nodes"]
    (viewer,) = [node["properties"] for node in nodes if node["type"] == "Preview3DAdvanced"]
    reach = math.hypot(*viewer["Camera Config"]["state"]["position"].values())  # a mesh is 1 unit large
    assert reach == pytest.approx(2.4, abs=0.01)
    assert viewer["Last Time Model File"] == "none"  # the position is read beside a last file only, or "none"


@each_workflow
def test_nodes_do_not_overlap_and_stand_in_groups(graph: dict[str, Any]) -> None:
    """Titles of 30 pixels are above what a node's pos and size say; notes stand outside of the groups."""

    def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

    boxes = {}  # left, top, right, bottom
    for node in graph["nodes"]:
        (left, top), (width, height) = node["pos"], node["size"]
        boxes[node["id"]] = (left, top - 30, left + width, top + height)
    frames = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in graph["groups"])]
    assert graph["groups"][0]["title"] == "1 Photos"
    for placed in (boxes.values(), frames):
        assert not any(overlap(*pair) for pair in combinations(placed, 2))
    for node in graph["nodes"]:
        inside = sum(overlap(boxes[node["id"]], frame) for frame in frames)
        assert inside == (node["type"] != "MarkdownNote"), node["type"]


@each_workflow
def test_no_link_runs_behind_a_node(graph: dict[str, Any]) -> None:
    """Links leave a node to the right of its slot, and come to one from the left of its slot."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, points, ends in drawn_links(graph, nodes):
        for x, y in points:
            for node in nodes.values():
                (left, top), (width, height) = node["pos"], node["size"]
                inside = left + 2 < x < left + width - 2 and top - 28 < y < top + height - 2
                near = node["id"] in ends and math.dist((x, y), points[0 if node["id"] == ends[0] else -1]) < 30
                assert not inside or near, (number, node["type"], ends)


def drawn_links(graph: dict[str, Any], nodes: dict[int, Any]) -> Iterator[tuple[int, list[Point], tuple[int, int]]]:
    """Number, points of its line, and ends of each link: slots are 20 pixels apart, and a line goes through its
    reroutes, of which each knows the one before."""
    reroutes = {reroute["id"]: reroute for reroute in graph["extra"].get("reroutes", ())}
    last = {link["id"]: link["parentId"] for link in graph["extra"].get("linkExtensions", ())}
    for number, source, output, target, place, _ in graph["links"]:
        (x, y), (width, _), (left, top) = nodes[source]["pos"], nodes[source]["size"], nodes[target]["pos"]
        row = sum("widget" not in slot for slot in nodes[target]["inputs"][:place])
        stops, reroute = [(left + 10, top + 20 * row + 14)], last.get(number)
        while reroute is not None:
            stops.insert(0, tuple(reroutes[reroute]["pos"]))
            reroute = reroutes[reroute].get("parentId")
        yield number, spline([(x + width - 9, y + 20 * output + 14), *stops]), (source, target)


def spline(stops: list[Point]) -> list[Point]:
    """As ComfyUI's frontend draws a link: cubic, level at the slots, at a reroute along the mean of both directions;
    control points are a quarter of the way off, at reroutes 80 pixels at most."""
    angles = [math.atan2(y - top, x - left) for (left, top), (x, y) in pairwise(stops)]
    turns = [(before - after) / 2 for before, after in pairwise(angles)]
    means = [angle - turn - math.pi * (abs(turn) > math.pi / 2) for angle, turn in zip(angles, turns, strict=False)]
    heads, points = [0.0, *means, 0.0], []
    for place, (one, other) in enumerate(pairwise(stops)):
        quarter = math.dist(one, other) / 4
        first = quarter if place == 0 else min(80, quarter)
        second = quarter if place == len(stops) - 2 else min(80, quarter)
        start, end = complex(*one), complex(*other)
        knots = start, start + cmath.rect(first, heads[place]), end - cmath.rect(second, heads[place + 1]), end
        for t in (step / 64 for step in range(65)):
            weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
            point = sum(weight * knot for weight, knot in zip(weights, knots, strict=True))
            points.append((point.real, point.imag))
    return points


def test_every_node_is_in_a_workflow_and_each_has_notes_and_a_picture(node_classes: dict[str, Any]) -> None:
    assert not any((ROOT / name).exists() for name in ("example_workflows", "example", "examples", "templates"))
    for name, graph in WORKFLOWS.items():
        assert sum(node["type"] == "MarkdownNote" for node in graph["nodes"]) >= 2
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
            assert picture.format == "JPEG"
            assert min(picture.size) >= 256
    assert {node["type"] for graph in WORKFLOWS.values() for node in ours(graph)} == set(node_classes)
