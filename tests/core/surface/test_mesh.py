import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from refusals import denied, refused

from upfusion_core.surface.mesh import UNLIT, MeshAsset
from upfusion_core.surface.reading import read_surface

# a corner of a cube, with red, green, blue and mid-grey vertices
MESH = MeshAsset(
    vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]),
    faces=torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    vertex_colors=torch.tensor([[0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl", "GLB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_format_keeps_shape_and_winding_in_float32(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    path, vertices = tmp_path / f"mesh.{suffix}", MESH.vertices.to(dtype, copy=True).requires_grad_()
    MeshAsset(vertices, MESH.faces, MESH.vertex_colors.to(dtype), normals=vertices + 1).save(path)
    found = trimesh.load(path, force="mesh")
    assert found.is_watertight
    assert found.volume == pytest.approx(1.0)
    np.testing.assert_allclose(found.bounds, [[0, 0, 0], [1, 2, 3]], atol=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_bad_meshes_are_refused() -> None:
    """Whatever else there may be is drawn at random in test_public_doors.py."""
    good = {"vertices": torch.eye(3), "faces": torch.tensor([[0, 1, 2]]), "vertex_colors": torch.full((3, 3), 0.5)}
    for message, values in {
        "needs vertices and faces": {"faces": torch.zeros(0, 3, dtype=torch.int64)},
        "number vertices 0 to 2, got 3": {"faces": torch.tensor([[0, 1, 3]])},
        r"in \[0, 1\]": {"vertex_colors": torch.full((3, 3), 128.0)},
        "texture needs uvs": {"texture": torch.zeros(3, 4, 4)},
        "vertices in float32 must be finite": {"vertices": torch.full((3, 3), 1e300, dtype=torch.float64)},
    }.items():
        refused(message, MeshAsset, **(good | values))


def _textured(texture: torch.Tensor) -> MeshAsset:
    uvs = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    normals = torch.nn.functional.normalize(torch.tensor([[-1.0, -1, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), dim=-1)
    return MeshAsset(MESH.vertices, MESH.faces, MESH.vertex_colors, uvs, texture, normals)


def _glb(path: Path) -> tuple[dict, set[str]]:
    """The JSON of a GLB, and the names of its one primitive's attributes; their values: read_surface."""
    content = path.read_bytes()
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    (primitive,) = tree["meshes"][0]["primitives"]
    return tree, set(primitive["attributes"])


def test_glb_with_colours_by_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "mesh.glb"
    MESH.save(path)
    content, (tree, attributes) = path.read_bytes(), _glb(path)
    assert content[:12] == b"glTF\2\0\0\0" + len(content).to_bytes(4, "little")
    assert tree["asset"]["version"] == "2.0"
    assert tree["extensionsUsed"] == list(tree["materials"][0]["extensions"]) == [UNLIT]
    assert "extensionsRequired" not in tree  # viewers without it show it lit, which is better than nothing
    assert attributes == {"POSITION", "COLOR_0"}
    for colors in (MESH.vertex_colors, torch.linspace(0, 0.08, 12).reshape(4, 3)):  # of both parts of sRGB's curve
        MeshAsset(MESH.vertices, MESH.faces, colors).save(path)
        found = read_surface(path)
        assert torch.equal(found.vertices, MESH.vertices)
        assert torch.equal(found.faces, MESH.faces)
        torch.testing.assert_close(found.colors, colors, atol=1e-6, rtol=0)


def test_glb_with_a_texture_by_the_letter(tmp_path: Path) -> None:
    _textured(torch.zeros(3, 4, 8)).save(tmp_path / "mesh.glb")
    tree, attributes = _glb(tmp_path / "mesh.glb")
    assert attributes == {"POSITION", "NORMAL", "TEXCOORD_0"}  # a colour would be multiplied in
    (material,) = tree["materials"]
    assert UNLIT in material["extensions"]
    shown = material["pbrMetallicRoughness"]
    assert shown.get("baseColorFactor", [1, 1, 1, 1]) == [1, 1, 1, 1]
    assert tree["images"][tree["textures"][shown["baseColorTexture"]["index"]]["source"]]["mimeType"] == "image/png"


def test_uvs_without_a_texture_stay_beside_the_colours(tmp_path: Path) -> None:
    """Also those beyond [0, 1], of tiles; formats without UVs have no cuts of theirs."""
    uvs = torch.tensor([[0.0, 0.25], [1, 0], [2.5, 1], [0, 1]])
    mesh = MeshAsset(MESH.vertices, MESH.faces, MESH.vertex_colors, uvs)
    names = ["mesh.glb", "mesh.obj", "mesh.ply"]
    for name in names:
        mesh.save(tmp_path / name, extras={"prompt": '{"1": {}}'})
    assert sorted(path.name for path in tmp_path.iterdir()) == names  # no picture, no material
    tree, attributes = _glb(tmp_path / "mesh.glb")
    assert tree["asset"]["extras"] == {"prompt": '{"1": {}}'}
    assert attributes == {"POSITION", "COLOR_0", "TEXCOORD_0"}
    assert torch.equal(read_surface(tmp_path / "mesh.glb").uvs, uvs)
    lines = (tmp_path / "mesh.obj").read_text().splitlines()
    corners, places = ([list(map(float, x.split()[1:])) for x in lines if x.startswith(kind)] for kind in ("v ", "vt "))
    assert corners[:2] == [[0, 0, 0, 0.5, 0.5, 0.5], [1, 0, 0, 1, 0, 0]]  # grey, red
    assert places == uvs.tolist()
    assert next(line for line in lines if line.startswith("f ")) == "f 1/1 3/3 2/2"


def test_readers_see_the_texture_the_right_way_up(tmp_path: Path) -> None:
    texture = torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(0))
    mesh = _textured(texture)
    for name in ("mesh.glb", "my mesh.obj"):
        mesh.save(tmp_path / name)
        surface = read_surface(tmp_path / name)
        torch.testing.assert_close(surface.uvs, mesh.uvs)
        torch.testing.assert_close(surface.textures[0], texture, atol=0.5 / 255 + 1e-4, rtol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"mesh.glb", "my mesh.obj", "my_mesh.mtl", "my_mesh.png"}


@pytest.mark.parametrize("kind", ["ply", "stl", "obj"])
def test_cuts_of_the_atlas_double_no_vertices(tmp_path: Path, kind: str) -> None:
    """Of the corner of a cube, three vertices of which an atlas has doubled: each face has its own."""
    uvs, whole = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)), _textured(torch.zeros(3, 4, 4))
    values = [getattr(whole, name)[MESH.faces.flatten()] for name in ("vertices", "vertex_colors", "normals")]
    mesh = MeshAsset(values[0], torch.arange(12).reshape(4, 3), values[1], uvs, torch.zeros(3, 4, 4), values[2])
    mesh.save(tmp_path / f"a.{kind}")
    found = trimesh.load(tmp_path / f"a.{kind}", force="mesh", process=kind == "stl")
    assert abs(found.volume) == pytest.approx(1.0)
    if kind == "obj":
        lines = [line.split() for line in (tmp_path / "a.obj").read_text().splitlines()]
        assert [sum(line[0] == word for line in lines) for word in ("v", "vt", "vn", "f")] == [4, 12, 4, 4]
        assert lines[-1] == ["f", "3/10/3", "2/11/2", "4/12/4"]  # in the order of their first use
        surface = read_surface(tmp_path / "a.obj")
        torch.testing.assert_close(surface.uvs[surface.faces], mesh.uvs[mesh.faces], atol=1e-6, rtol=0)
        torch.testing.assert_close(surface.vertices[surface.faces], mesh.vertices[mesh.faces], atol=1e-6, rtol=0)
    else:
        assert found.is_watertight
        assert len(found.vertices) == 4
    if kind == "ply":
        reds = [tuple(color[:3]) for color in found.visual.vertex_colors.tolist()]
        assert sorted(reds) == [(0, 0, 255), (0, 255, 0), (128, 128, 128), (255, 0, 0)]


def test_sizes_and_axes_for_printing(tmp_path: Path) -> None:
    """Sides of 1, 2 and 3 become 20, 40 and 60 mm; up +Y becomes up +Z, the front +Z becomes -Y."""
    for mesh in (MESH, _textured(torch.zeros(3, 4, 4))):
        for kind in ("obj", "ply", "stl", "glb"):
            mesh.save(tmp_path / f"a.{kind}", size_mm=60, up="z")
            bounds = trimesh.load(tmp_path / f"a.{kind}", force="mesh").bounds
            expected = [[0, 0, 0], [0.02, 0.04, 0.06]] if kind == "glb" else [[0, -60, 0], [20, 0, 40]]
            np.testing.assert_allclose(bounds, expected, atol=1e-5)
    mesh.save(tmp_path / "a.obj", up="z")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert [line for line in lines if line.startswith("vn")][2] == "vn 0.00000000 0.00000000 1.00000000"
    assert [line for line in lines if line.startswith("v ")][3] == "v 0.00000000 -3.00000000 0.00000000"
    refused("size_mm must be at least 0.001, got 0", mesh.save, tmp_path / "b.stl", size_mm=0)
    refused("up must be one of y, z, got 'x'", mesh.save, tmp_path / "b.stl", up="x")


def test_several_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = _textured(torch.zeros(3, 4, 4))
    (tmp_path / "mesh.obj").write_text("older")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if ".obj" in path.name or ".mtl" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    denied("the disk is full", mesh.save, tmp_path / "mesh.obj")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mesh.obj", "older")]
    denied(r"one of \.glb, \.obj, \.ply, \.stl, got 'mesh\.fbx'", MESH.save, tmp_path / "mesh.fbx")
    denied("could not be written", MESH.save, tmp_path / "mesh.obj" / "mesh.glb")
