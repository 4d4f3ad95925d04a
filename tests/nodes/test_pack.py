"""The pack as a whole: its nodes are described, in all languages; blueprints; an unfit ComfyUI; the Comfy Registry."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_models import Pack

ROOT = Path(__file__).resolve().parents[2]
BLUEPRINTS = ("Photos to Canonical Views", "Photos to Mesh", "Photos to Views", "True pixels onto a mesh")
LANGUAGES = ("de", "fr", "ja", "ko", "zh")


def test_every_node_and_socket_is_described_with_a_picture(node_classes: dict[str, Any]) -> None:
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        assert node_id == schema.node_id == node.__name__ == schema.display_name.replace(" ", "")
        assert len(schema.description) > 40, node_id
        assert len(schema.search_aliases) >= 2, node_id
        for socket in [*schema.inputs, *schema.outputs]:
            assert re.fullmatch(r".{10,}\.", socket.tooltip or ""), f"{node_id}.{socket.id}"
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert page.startswith("# "), node_id
        picture = page.split("](")[1].split(")")[0]
        assert (ROOT / "web" / "docs" / Path(picture).name).exists(), f"{node_id}: {picture}"


def test_sides_are_the_viewer_s(node_classes: dict[str, Any]) -> None:
    """And whose other side that is. Canonical Views name the object's own, as the nodes that they are for want them."""
    paths = [*(ROOT / "web" / "docs").glob("*.md"), *(ROOT / "workflows").glob("*.json")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        texts[node_id] = " ".join([schema.description, *(str(socket.tooltip) for socket in schema.inputs)])
    plain = {name: re.sub(r"[\s*]+", " ", text) for name, text in texts.items() if "anonical" not in name.lower()}
    assert not [name for name, text in plain.items() if re.search("(object's|its) (right|left)|to the right", text)]
    sides = {name: text for name, text in plain.items() if "viewer's right" in re.sub(r"!\[.*?\]", "", text)}
    assert {"UpFusionCamera", "UpFusionOrbitCameras", "UpFusionCamera.md", "upfusion_1_quick_start.json"} <= set(sides)
    assert all("left side of anything with a face" in text for text in sides.values())


def test_every_socket_of_the_pack_has_a_colour(node_classes: dict[str, Any]) -> None:
    script = (ROOT / "web" / "colors.js").read_text(encoding="utf-8")
    schemas = [node.GET_SCHEMA() for node in node_classes.values()]
    kinds = {socket.get_io_type() for schema in schemas for socket in [*schema.inputs, *schema.outputs]}
    colors = dict(re.findall(r"(UPFUSION_\w+): \"(#\w{6})\"", script))
    assert colors.keys() == {kind for kind in kinds if kind.startswith("UPFUSION_")}
    assert len(set(colors.values())) == len(colors)


@pytest.mark.usefixtures("node_classes")
def test_no_heavy_library_is_imported_at_first(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what asks for a GPU: on a host that has none and was not told so, that raises."""
    for name in [name for name in sys.modules if name.split(".")[0] == "upfusion_pack"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("comfy", "latent_preview", "diffusers", "transformers", "skimage", "trimesh", "kornia", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises
    assert reference.load_nodes().keys() == json.loads(reference.RECORD.read_text(encoding="utf-8")).keys()


def test_an_old_comfyui_gets_a_sentence(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths
    from comfy_api.latest import io

    require = pack("nodes").require_comfyui
    require()
    for owner, name in ((folder_paths, "get_save_image_path"), (io, "Autogrow")):
        message = rf"0\.22\.0 or newer, this one lacks a part \(.*{name}.*; update ComfyUI"
        with monkeypatch.context() as patch:
            patch.delattr(owner, name)
            with pytest.raises(ImportError, match=message):
                require()


def test_page_and_record_have_every_node(node_classes: dict[str, Any], reference: ModuleType) -> None:
    page, record = ((path.read_text(encoding="utf-8")) for path in (ROOT / "docs" / "nodes.md", reference.RECORD))
    assert reference.nodes_page(node_classes) == page, "run python docs/make_reference.py"
    assert reference.with_new_sockets(record, node_classes) == record, "run python docs/make_reference.py"
    schemas = {name: reference.described(node.GET_SCHEMA()) for name, node in node_classes.items()}
    name, node = next(iter(schemas.items()))
    first, *others = node["inputs"]
    shorter = {name: node | {"inputs": [first | {"max": 3}], "outputs": []}}
    grown = json.loads(reference.with_new_sockets(json.dumps(shorter), node_classes))
    assert grown == schemas | {name: node | {"inputs": [first | {"max": 3}, *others]}}


def test_what_the_registry_reads_and_pip_installs() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    comfy = project["tool"]["comfy"]
    assert (ROOT / comfy["Icon"].split("/main/")[1]).exists()
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert "web" not in comfy  # WEB_DIRECTORY says it; both load scripts twice
    # what ComfyUI installs is what pyproject asks, and no version of torch above that of early 2025
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    asked = {line for line in lines if line and not line.startswith("#")}
    assert asked == set(project["project"]["dependencies"])
    assert not any(re.search("==|<|~=|!=", line) for line in asked)
    assert "torch>=2.6" in asked  # the first that reads weights as tensors only and runs no code of theirs
    assert not any(line.startswith(("torchvision", "torchaudio", "comfyui", "xformers", "triton")) for line in asked)


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
