"""Files: fields and meshes come back the same, and nothing is written or read outside of ComfyUI's folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trimesh
from safetensors.torch import save_file
from small_models import a_mesh
from torch import nn

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

SAVE, LOAD, SAVE_MESH = "UpFusionSaveField", "UpFusionLoadField", "UpFusionSaveMesh"


def test_fields_are_numbered_and_come_back_the_same(run_node: Callable, ball: nn.Module, folders: Path) -> None:
    (first,) = run_node(SAVE, field=ball, filename_prefix="shapes/ball")
    (second,) = run_node(SAVE, field=ball, filename_prefix="shapes/ball")
    assert (first, second) == ("shapes/ball_00001_.safetensors [output]", "shapes/ball_00002_.safetensors [output]")
    assert (folders / "output" / "shapes" / "ball_00002_.safetensors").is_file()
    (loaded,) = run_node(LOAD, field=second)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in ball.state_dict().items())
    assert loaded.config == ball.config


def test_fields_are_listed_and_a_changed_one_is_read_again(
    run_node: Callable, ball: nn.Module, folders: Path, node_classes: dict[str, type]
) -> None:
    node = node_classes[LOAD]
    ball.save(folders / "input" / "mine.safetensors")
    (saved,) = run_node(SAVE, field=ball)
    assert node.define_schema().inputs[0].options == ["mine.safetensors", saved]
    assert node.validate_inputs(field=saved) is True
    assert node.validate_inputs(field="gone.safetensors") == (
        "field must name a .safetensors file in the input or output folder, got 'gone.safetensors'; choose another"
    )
    before = node.fingerprint_inputs(field="mine.safetensors")
    assert node.fingerprint_inputs(field="mine.safetensors") == before
    (folders / "input" / "mine.safetensors").touch()
    assert node.fingerprint_inputs(field="mine.safetensors") != before


def hostile_files(ball: nn.Module, folder: Path) -> dict[str, str]:
    """Files that are no fields -> a part of the sentence each of them must get."""
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "junk.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "long.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    torch.save({"a": torch.zeros(2)}, folder / "pickle.safetensors")
    save_file({"weight": torch.zeros(3)}, folder / "weights.safetensors")
    ball.save(folder / "whole.safetensors")
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.safetensors").unlink()
    described = {"version": 1, "config": {"grid": {"table_size": 2**62}}, "cameras": None, "settings": {}}
    for name, content in (
        ("huge", json.dumps(described)),
        ("nojson", "{"),
        ("list", "[]"),
        ("deep", "[" * 5000 + "]" * 5000),
    ):
        save_file({"weight": torch.zeros(3)}, folder / f"{name}.safetensors", metadata={"upfusion_field": content})
    unreadable = "must be a whole .safetensors file, but cannot be read"
    undescribed = "cannot read|must be JSON"
    return {
        **dict.fromkeys(("empty", "junk", "long", "pickle", "cut"), unreadable),
        "weights": "is not a field",
        **dict.fromkeys(("huge", "nojson", "list", "deep"), undescribed),
    }


def test_files_that_are_no_fields_get_a_sentence(run_node: Callable, ball: nn.Module, folders: Path) -> None:
    for name, message in hostile_files(ball, folders / "input").items():
        with pytest.raises(ValueError, match=message) as caught:
            run_node(LOAD, field=f"{name}.safetensors")
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_meshes_are_written_in_each_format(run_node: Callable, folders: Path, kind: str) -> None:
    for _ in range(2):
        (file,) = run_node(SAVE_MESH, mesh=a_mesh(), format=kind, filename_prefix="3d/%year%/corner")
        assert file.format == kind
    (path,) = (folders / "output" / "3d").glob(f"*/corner_00002_.{kind}")
    loaded = trimesh.load(path, force="mesh", process=False)
    assert loaded.bounds.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert loaded.volume == pytest.approx(1 / 6)
    if kind in ("obj", "ply"):
        assert loaded.visual.vertex_colors[:, :3].tolist() == [[0, 0, 0], [255, 0, 0], [0, 128, 0], [0, 0, 255]]


def test_the_viewer_is_told_of_every_mesh_of_a_batch(node_classes: dict[str, type], folders: Path) -> None:
    """The second mesh is padded to the first one's size."""
    mesh = a_mesh()
    small = mesh.faces.clone()
    small[:, 1:] = 0
    batch = a_mesh(
        vertices=mesh.vertices.repeat(2, 1, 1),
        faces=torch.cat([mesh.faces, small]),
        vertex_colors=mesh.vertex_colors.repeat(2, 1, 1),
        vertex_counts=torch.tensor([4, 3]),
        face_counts=torch.tensor([4, 1]),
    )
    output = node_classes[SAVE_MESH].execute(mesh=batch, format="ply", filename_prefix="pair")
    assert output.ui["3d"] == [
        {"filename": f"pair_0000{number}_.ply", "subfolder": "", "type": "output"} for number in (1, 2)
    ]
    assert len(trimesh.load(folders / "output" / "pair_00002_.ply", process=False).vertices) == 3


@pytest.mark.parametrize(
    "prefix",
    [
        *("../out", "a/../../out", "/tmp/out", "..\\out", "", "folder/", " ", "a\0b"),
        *("CON", "nul/mesh", "3d/aux.png", "COM1.txt/mesh", "mesh.", "mesh ", "a /mesh", "a:b", "a\nb", "x" * 300),
    ],
)
def test_nothing_is_written_outside_the_output_folder(
    run_node: Callable, ball: nn.Module, folders: Path, prefix: str
) -> None:
    for node_id, inputs in ((SAVE, {"field": ball}), (SAVE_MESH, {"mesh": a_mesh()})):
        with pytest.raises(ValueError, match="filename_prefix must"):
            run_node(node_id, **inputs, filename_prefix=prefix)
    assert [path for path in folders.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("prefix", ["\u8336\u7897/\u0447\u0430\u0439", "a b", "console", "%year%-%month%_mesh"])
def test_names_in_every_script_are_written(run_node: Callable, folders: Path, prefix: str) -> None:
    run_node(SAVE_MESH, mesh=a_mesh(), filename_prefix=prefix)
    assert len([path for path in folders.rglob("*.glb") if path.is_file()]) == 1


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors [output]", "notes.txt", "", "a\0b"]
)
def test_nothing_is_read_outside_the_folders(
    run_node: Callable, folders: Path, node_classes: dict[str, type], name: str
) -> None:
    (folders / "secret.safetensors").write_bytes(b"secret")
    (folders / "input" / "notes.txt").write_text("no field")
    with pytest.raises(ValueError, match="field must"):
        run_node(LOAD, field=name)
    assert isinstance(node_classes[LOAD].validate_inputs(field=name), str)


@pytest.mark.parametrize("form", ["glb/../../../ESCAPED.glb", "../glb", "exe", "", None, 5])
def test_a_format_that_comes_by_a_link_leads_nowhere(
    run_node: Callable, pack: Callable, folders: Path, form: object
) -> None:
    with pytest.raises(ValueError, match="format must be one of glb, obj, ply, stl, got"):
        run_node(SAVE_MESH, mesh=a_mesh(), format=form)
    assert [path for path in folders.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", [5, [], {}])
def test_a_name_that_is_no_text_gets_a_sentence(
    run_node: Callable, node_classes: dict[str, type], ball: nn.Module, name: object
) -> None:
    with pytest.raises(ValueError, match="field must be str, got"):
        run_node(LOAD, field=name)
    assert "field must be str" in node_classes[LOAD].validate_inputs(field=name)
    with pytest.raises(ValueError, match="field must be str"):
        node_classes[LOAD].fingerprint_inputs(field=name)
    assert node_classes[LOAD].validate_inputs(field=None) is True  # it comes by a link
    with pytest.raises(ValueError, match="filename_prefix must be str, got"):
        run_node(SAVE, field=ball, filename_prefix=name)
    with pytest.raises(ValueError, match="weights must be str, got"):
        run_node("UpFusionLoadModel", weights=name)


@pytest.mark.parametrize("precision", ["foo", "complex64", "float64", "nn", "int8", None])
def test_a_precision_must_be_one_of_the_list(run_node: Callable, precision: object) -> None:
    with pytest.raises(ValueError, match="precision must be one of auto, float32, float16, bfloat16, got"):
        run_node("UpFusionLoadModel", weights="mini", precision=precision)
