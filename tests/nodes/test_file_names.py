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
