"""Names of files in nodes: nothing is written or read outside of ComfyUI's folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from known_shapes import a_mesh
from torch import nn

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

SAVE, LOAD, SAVE_MESH = "UpFusionSaveField", "UpFusionLoadField", "UpFusionSaveMesh"


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
