"""Files: fields and meshes come back the same, and nothing is written or read outside of ComfyUI's folders."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trimesh
from small_models import Pack, Run, a_mesh, refused
from torch import nn

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

SAVE, LOAD, SAVE_MESH = "UpFusionSaveField", "UpFusionLoadField", "UpFusionSaveMesh"


def test_fields_come_back_equal(run_node: Run, ball: nn.Module, folders: Path, node_classes: dict[str, type]) -> None:
    names = [run_node(SAVE, field=ball, filename_prefix="shapes/ball")[0] for _ in range(2)]
    assert names == [f"shapes/ball_0000{number}_.safetensors [output]" for number in (1, 2)]
    (loaded,) = run_node(LOAD, field=names[1])
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in ball.state_dict().items())
    assert loaded.config == ball.config
    ball.save(folders / "input" / "mine.safetensors")
    node = node_classes[LOAD]
    assert node.define_schema().inputs[0].options == ["mine.safetensors", *names]
    assert node.validate_inputs(field=names[0]) is True
    assert "in the input or output folder, got 'gone" in node.validate_inputs(field="gone.safetensors")
    before = node.fingerprint_inputs(field="mine.safetensors")
    assert node.fingerprint_inputs(field="mine.safetensors") == before
    (folders / "input" / "mine.safetensors").touch()
    assert node.fingerprint_inputs(field="mine.safetensors") != before  # a changed file is read again


def test_meshes_are_numbered_in_folders_of_any_name(run_node: Run, folders: Path) -> None:
    for _ in range(2):
        (file,) = run_node(SAVE_MESH, mesh=a_mesh(), format="ply", filename_prefix="\u8336 3d/%year%/corner")
    assert file.format == "ply"
    (path,) = (folders / "output" / "\u8336 3d").glob("*/corner_00002_.ply")
    loaded = trimesh.load(path, process=False)
    assert loaded.bounds.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert loaded.volume == pytest.approx(1 / 6)
    assert loaded.visual.vertex_colors[:, :3].tolist() == [[0, 0, 0], [255, 0, 0], [0, 128, 0], [0, 0, 255]]


def test_glb_with_graph(node_classes: dict[str, type], folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ComfyUI's Save 3D Model writes them: texts of JSON in asset.extras, unless it was told to write none."""
    from comfy.cli_args import args
    from comfy_api.latest import io

    node = node_classes[SAVE_MESH]
    assert {io.Hidden.prompt, io.Hidden.extra_pnginfo} <= set(node.GET_SCHEMA().hidden)
    prompt, graph = {"3": {"class_type": "UpFusionSaveMesh"}}, {"nodes": [], "version": 0.4}
    hidden = SimpleNamespace(prompt=prompt, extra_pnginfo={"workflow": graph})
    monkeypatch.setattr(node, "hidden", hidden, raising=False)
    for disabled, expected in ((False, {"prompt": prompt, "workflow": graph}), (True, {})):
        monkeypatch.setattr(args, "disable_metadata", disabled)
        (entry,) = node.execute(mesh=a_mesh(), format="glb", filename_prefix="m").ui["3d"]
        content = (folders / "output" / entry["filename"]).read_bytes()
        tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
        assert {key: json.loads(text) for key, text in tree["asset"].get("extras", {}).items()} == expected


def test_the_viewer_is_told_of_every_mesh_of_a_batch(node_classes: dict[str, type], folders: Path) -> None:
    """The second mesh is padded to the first one's size."""
    mesh = a_mesh()
    parts = {name: getattr(mesh, name).repeat(2, 1, 1) for name in ("vertices", "faces", "vertex_colors")}
    parts["faces"][1, 1:] = 0
    batch = a_mesh(**parts, vertex_counts=torch.tensor([4, 3]), face_counts=torch.tensor([4, 1]))
    output = node_classes[SAVE_MESH].execute(mesh=batch, format="ply", filename_prefix="pair")
    names = [(entry["filename"], entry["subfolder"], entry["type"]) for entry in output.ui["3d"]]
    assert names == [("pair_00001_.ply", "", "output"), ("pair_00002_.ply", "", "output")]
    assert len(trimesh.load(folders / "output" / "pair_00002_.ply", process=False).vertices) == 3


@pytest.mark.parametrize("prefix", ["a/../../out", "/tmp/out", "..\\out", "", "folder/", "a\0b", "3d/aux.png", "a:b"])
def test_nothing_is_written_elsewhere(run_node: Run, ball: nn.Module, folders: Path, prefix: str) -> None:
    for node_id, inputs in ((SAVE, {"field": ball}), (SAVE_MESH, {"mesh": a_mesh()})):
        refused("filename_prefix must", run_node, node_id, **inputs, filename_prefix=prefix)
    assert not any(path.is_file() for path in folders.rglob("*"))


def test_a_format_of_a_link_leads_nowhere_and_meshes_are_as_large_as_told(run_node: Run, folders: Path) -> None:
    for form in ("glb/../../../ESCAPED.glb", "exe", None):
        refused("format must be one of glb, obj, ply, stl, got", run_node, SAVE_MESH, mesh=a_mesh(), format=form)
    run_node(SAVE_MESH, mesh=a_mesh(), format="stl", filename_prefix="print", size_mm=80.0, up="z")
    (path,) = (path for path in folders.rglob("*") if path.is_file())
    assert trimesh.load(path).extents.max() == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../secret.safetensors [output]", "notes.txt", "", "a\0b", 5])
def test_nothing_is_read_elsewhere(run_node: Run, folders: Path, node_classes: dict[str, type], name: object) -> None:
    (folders / "secret.safetensors").write_bytes(b"secret")
    (folders / "input" / "notes.txt").write_text("no field")
    refused("field must", run_node, LOAD, field=name)
    assert "field must" in node_classes[LOAD].validate_inputs(field=name)
    assert node_classes[LOAD].validate_inputs(field=None) is True  # it comes by a link


def test_absent_weights_of_a_shared_workflow(run_node: Run, node_classes: dict[str, type]) -> None:
    """ComfyUI's own check would say "value not in list"."""
    node = node_classes["UpFusionLoadModel"]
    told = node.validate_inputs(weights="theirs.safetensors")
    assert re.search(r"theirs\.safetensors is not in models/upfusion \(.*6\.1 GB.*https://github\.com/upfusion3d", told)
    assert node.validate_inputs(weights="mini") is True
    assert node.validate_inputs(weights=None) is True  # it comes by a link
    refused("weights must stay inside", run_node, "UpFusionLoadModel", weights="../lost")
    refused("precision must be one of auto", run_node, "UpFusionLoadModel", weights="mini", precision="nn")


def test_the_folder_of_weights(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there from the start, unless it cannot be."""
    import folder_paths

    (tmp_path / "file").touch()
    for place, made in ((tmp_path / "new", True), (tmp_path / "file", False)):
        monkeypatch.setattr(folder_paths, "models_dir", str(place))
        monkeypatch.setattr(folder_paths, "add_model_folder_path", lambda *_: None)
        pack("nodes.files").register_folder()
        assert (place / "upfusion").is_dir() is made


def test_a_texture_keeps_its_place(pack: Pack) -> None:
    """v = 0 is the picture's top row in MESH and its bottom row in the library."""
    convert = pack("nodes.convert")
    texture = torch.zeros(1, 4, 4, 3)
    texture[:, 0, 0] = torch.tensor([1.0, 0.5, 0.0])  # top left
    uvs = torch.full((1, 4, 2), 0.9)
    uvs[0, 1] = 0.1
    (asset,) = convert.assets_from_mesh(a_mesh(uvs=uvs, texture=texture, vertex_colors=None))
    assert asset.texture.shape == (3, 4, 4)
    torch.testing.assert_close(asset.uvs[1], torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(asset.vertex_colors[1], texture[0, 0, 0])  # as formats without textures show it
    assert asset.vertex_colors[0].tolist() == [0, 0, 0]
    back = convert.mesh_from_asset(asset)
    torch.testing.assert_close(back.uvs, uvs)
    assert torch.equal(back.texture, texture)
    assert back.vertex_colors is None


def test_a_mesh_of_another_pack_gets_a_sentence(run_node: Run) -> None:
    for changes, message in (
        ({"vertices": [[0.0, 0, 0]]}, "vertices of a MESH must be a tensor of 3 dimensions, got list"),
        ({"faces": torch.full((1, 2, 3), 0.7)}, "faces of a MESH must hold whole numbers, got torch.float32"),
        ({"vertex_colors": torch.zeros(1, 4, 1)}, r"3 or 4 channels for each of its meshes, got \(1, 4, 1\)"),
        ({"vertex_colors": torch.ones(1, 4, 3, dtype=torch.uint8)}, "floating-point numbers, got torch.uint8"),
        ({"vertex_counts": torch.tensor([torch.nan])}, r"one whole number a mesh, got \(1,\) torch.float32"),
        ({"vertex_counts": torch.tensor([9])}, "vertex_counts of a MESH must be between 0 and 4, got 9"),
    ):
        refused(message, run_node, "UpFusionSaveMesh", mesh=a_mesh(**changes))
    refused("must have vertices", run_node, "UpFusionSaveMesh", mesh=SimpleNamespace(mesh="data"))
