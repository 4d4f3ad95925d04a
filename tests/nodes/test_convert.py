"""ComfyUI's values and the library's: pictures, and MESH of this pack and of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import Pack, Run, a_mesh

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")


def test_a_small_overshoot_is_clamped(pack: Pack) -> None:
    """Nodes that resize leave [0, 1] a little."""
    rgb = pack("nodes.convert").rgb_from_image(torch.tensor([-0.3, 0.5, 1.4]).reshape(1, 1, 1, 3))
    assert rgb.flatten().tolist() == [0.0, 0.5, 1.0]


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vertices": None}, "must have vertices"),
        ({"vertices": [[0.0, 0, 0]]}, "vertices of a MESH must be a tensor of 3 dimensions, got list"),
        ({"faces": torch.zeros(4, 3)}, r"faces of a MESH must be a tensor of 3 dimensions, got \(4, 3\)"),
        ({"faces": torch.full((1, 2, 3), 9)}, "must number vertices 0 to 3, got 9"),
        ({"faces": torch.tensor([[[0, 1, -1]]])}, "must number vertices 0 to 3, got -1"),
        ({"faces": torch.full((1, 2, 3), 0.7)}, "faces of a MESH must hold whole numbers, got torch.float32"),
        ({"vertex_colors": torch.zeros(1, 4, 1)}, r"3 or 4 channels for each of its meshes, got \(1, 4, 1\)"),
        ({"vertex_colors": torch.ones(1, 4, 3, dtype=torch.uint8)}, "floating-point numbers, got torch.uint8"),
        ({"uvs": torch.zeros(1, 4, 1), "texture": torch.zeros(1, 4, 4, 3)}, "uvs of a MESH must hold values of 2"),
        ({"uvs": torch.zeros(1, 4, 2), "texture": torch.zeros(0, 4, 4, 3)}, r"texture .* got \(0, 4, 4, 3\)"),
        ({"vertex_counts": 5}, "vertex_counts of a MESH must be one whole number a mesh, got int"),
        ({"vertex_counts": torch.tensor([torch.nan])}, r"one whole number a mesh, got \(1,\) torch.float32"),
        ({"vertex_counts": torch.tensor([9])}, "vertex_counts of a MESH must be between 0 and 4, got 9"),
        ({"face_counts": torch.tensor([-1])}, "face_counts of a MESH must be between 0 and 4, got -1"),
    ],
)
def test_a_mesh_of_another_pack_gets_a_sentence(run_node: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_node("UpFusionSaveMesh", mesh=a_mesh(**changes))
    with pytest.raises(ValueError, match="must have vertices"):
        run_node("UpFusionSaveMesh", mesh=SimpleNamespace(mesh="data"))
