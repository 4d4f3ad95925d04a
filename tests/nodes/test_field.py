"""Fields: renders, meshes and files of a field whose shape and colour are known by hand."""

from __future__ import annotations

import inspect
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import trimesh
from safetensors.torch import save_file
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("lines")

RENDER, EXTRACT, SAVE_MESH = "UpFusionRenderField", "UpFusionExtractMesh", "UpFusionSaveMesh"
SAVE, LOAD = "UpFusionSaveField", "UpFusionLoadField"
COLOR = (0.8, 0.4, 0.2)
"""sRGB of the field, the same everywhere."""


class PlainMesh:
    """ComfyUI's MESH as far as the nodes use it, for hosts that have a stub only."""

    def __init__(
        self,
        vertices: Tensor,
        faces: Tensor,
        uvs: Tensor | None = None,
        vertex_colors: Tensor | None = None,
        **others: object,
    ) -> None:
        self.vertices, self.faces, self.uvs, self.vertex_colors = vertices, faces, uvs, vertex_colors
        self.texture, self.unlit = others.get("texture"), others.get("unlit", False)
        self.vertex_counts, self.face_counts = others.get("vertex_counts"), others.get("face_counts")


@pytest.fixture(autouse=True)
def types(comfyui: str, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> object:
    """ComfyUI's own types, or plain ones where the host has stubs."""
    from comfy_api.latest import Types

    if "vertices" in inspect.signature(Types.MESH).parameters:
        return Types
    plain = SimpleNamespace(MESH=PlainMesh, File3D=lambda source, kind: SimpleNamespace(source=source, format=kind))
    monkeypatch.setattr(pack("nodes.convert_mesh"), "Types", plain)
    monkeypatch.setattr(pack("nodes.files"), "Types", plain)
    return plain


@pytest.fixture(autouse=True)
def folders(comfyui: str, tmp_path: Path) -> Path:
    """ComfyUI's input and output folders for one test."""
    import folder_paths

    before = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    for name, place in (("input", folder_paths.set_input_directory), ("output", folder_paths.set_output_directory)):
        (tmp_path / name).mkdir()
        place(str(tmp_path / name))
    yield tmp_path
    folder_paths.set_input_directory(before[0])
    folder_paths.set_output_directory(before[1])


@pytest.fixture(scope="module")
def ball(pack: Callable[[str], ModuleType]) -> nn.Module:
    """A field of one colour whose density is exp(5·exp(-|x|² / 0.02)) in the box ±0.3."""
    core = pack("upfusion_core")
    field = core.RadianceField(core.DistillConfig.draft().field)
    with torch.no_grad():
        field.mlp[-1].weight.zero_()
        field.mlp[-1].bias.copy_(torch.tensor([0.0, *(math.log(value / (1 - value)) for value in COLOR)]))
    return field.requires_grad_(False).eval()


def radius_at(density: float) -> float:
    """Where the ball's density has fallen to this value."""
    return math.sqrt(-0.02 * math.log(math.log(density) / 5))


def kept(field: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in field.state_dict().items()}


def test_renders_show_the_ball_over_each_background(run_node: Callable, ball: nn.Module) -> None:
    (cameras,) = run_node("UpFusionOrbitCameras", count=2)
    before = kept(ball)
    for background, value in (("white", 1.0), ("grey", 0.5), ("black", 0.0)):
        images, masks, depth = run_node(RENDER, field=ball, cameras=cameras, size=32, background=background)
        assert images.shape == depth.shape == (2, 32, 32, 3)
        assert masks.shape == (2, 32, 32)
        torch.testing.assert_close(images[0, 16, 16], torch.tensor(COLOR), atol=0.01, rtol=0)
        over = masks[..., None] * torch.tensor(COLOR) + (1 - masks[..., None]) * value
        torch.testing.assert_close(images, over, atol=1e-4, rtol=0)
        assert masks[0, 16, 16] > 0.99
        assert masks[0, 0, 0] < 0.5
        assert torch.equal(depth[..., 0], depth[..., 1])
        # light stops before the middle of the ball, which is half way between nearest and furthest
        assert 0.5 < float(depth[0, 16, 16, 0]) < 0.5 + 0.3 / (2 * 0.3 * math.sqrt(3))
    assert all(torch.equal(value, before[name]) for name, value in ball.state_dict().items())
    assert not ball._forward_pre_hooks  # the cached field does not get what its working copy gets


def test_a_view_does_not_depend_on_its_company(run_node: Callable, ball: nn.Module, lines: list[str]) -> None:
    (cameras,) = run_node("UpFusionOrbitCameras", count=3, distance=1.2)
    together = run_node(RENDER, field=ball, cameras=cameras, size=24)
    assert lines[-1] == "rendering: step 3/3"
    for index in range(3):
        alone = run_node(RENDER, field=ball, cameras=cameras[index], size=24)
        assert all(torch.equal(one[0], many[index]) for one, many in zip(alone, together, strict=True))


def test_less_memory_makes_the_same_picture(
    run_node: Callable, ball: nn.Module, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = pack("upfusion_core").orbit_cameras(0.0)
    expected = run_node(RENDER, field=ball, cameras=camera, size=16)
    forward = type(ball).forward

    def short_of_memory(self: nn.Module, points: torch.Tensor) -> object:
        if points[..., 0].numel() > 20_000:
            raise torch.cuda.OutOfMemoryError
        return forward(self, points)

    monkeypatch.setattr(type(ball), "forward", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory with 256 rays at a time; going on with 128"):
        found = run_node(RENDER, field=ball, cameras=camera, size=16)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))


def test_cancel_comes_between_the_rays_of_one_view(
    run_node: Callable, ball: nn.Module, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class CancelledError(BaseException):
        pass

    calls = []

    def cancel() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise CancelledError

    monkeypatch.setattr(pack("nodes.rendering"), "check_interrupted", cancel)
    with pytest.raises(CancelledError):
        run_node(RENDER, field=ball, cameras=pack("upfusion_core").orbit_cameras(0.0), size=128)
    assert len(calls) == 3


def test_the_mesh_lies_in_comfyui_s_frame(run_node: Callable, ball: nn.Module) -> None:
    mesh, _ = run_node(EXTRACT, field=ball, resolution=48, threshold=12.0)
    assert mesh.vertices.shape[0] == mesh.faces.shape[0] == 1
    assert mesh.vertices.dtype == torch.float32
    assert mesh.faces.dtype == torch.int64
    assert mesh.unlit
    assert mesh.uvs is None
    torch.testing.assert_close(
        mesh.vertices[0].norm(dim=-1), torch.full((mesh.vertices.shape[1],), 0.5), atol=0.02, rtol=0
    )
    assert float(mesh.vertices.abs().max()) <= 0.5 + 1e-6
    linear = torch.tensor([((value + 0.055) / 1.055) ** 2.4 for value in COLOR])
    torch.testing.assert_close(mesh.vertex_colors[0], linear.expand_as(mesh.vertex_colors[0]), atol=2e-3, rtol=0)
    corners = mesh.vertices[0][mesh.faces[0]]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert float(volume) == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.03)  # positive: counter-clockwise outside


def test_the_glb_is_the_same_mesh(run_node: Callable, ball: nn.Module) -> None:
    mesh, file = run_node(EXTRACT, field=ball, resolution=32, threshold=12.0)
    assert file.format == "glb"
    source = file.get_source() if hasattr(file, "get_source") else file.source
    loaded = trimesh.load(io.BytesIO(source.read()), file_type="glb", force="mesh", process=False)
    torch.testing.assert_close(torch.tensor(loaded.vertices).float(), mesh.vertices[0], atol=1e-6, rtol=0)
    assert len(loaded.faces) == mesh.faces.shape[1]


def test_a_texture_is_srgb_and_has_its_own_places(run_node: Callable, ball: nn.Module) -> None:
    options = {"coloring": "texture", "texture_size": 64}
    mesh, _ = run_node(EXTRACT, field=ball, resolution=24, threshold=12.0, **options)
    assert mesh.texture.shape == (1, 64, 64, 3)
    assert mesh.uvs.shape == (1, mesh.vertices.shape[1], 2)
    assert mesh.vertex_colors is None  # glTF would multiply them with the texture
    columns = (mesh.uvs[0, :, 0] * 64).long().clamp(0, 63)
    lines = (mesh.uvs[0, :, 1] * 64).long().clamp(0, 63)  # v = 0 is the top row
    found = mesh.texture[0, lines, columns]
    torch.testing.assert_close(found.median(0).values, torch.tensor(COLOR), atol=0.01, rtol=0)


def test_a_textured_mesh_has_a_number_of_faces_by_itself(
    run_node: Callable, ball: nn.Module, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack("nodes.field"), "TEXTURED_FACES", 300)
    settings = {"field": ball, "resolution": 24, "threshold": 12.0, "texture_size": 64}
    colored, _ = run_node(EXTRACT, **settings)
    textured, _ = run_node(EXTRACT, **settings, coloring="texture")
    more, _ = run_node(EXTRACT, **settings, coloring="texture", faces=600)
    assert textured.faces.shape[1] <= 300 < more.faces.shape[1] <= 600 < colored.faces.shape[1]


def test_faces_are_at_most_so_many(run_node: Callable, ball: nn.Module) -> None:
    pytest.importorskip("fast_simplification")
    mesh, _ = run_node(EXTRACT, field=ball, resolution=24, threshold=12.0, faces=200)
    assert 16 <= mesh.faces.shape[1] <= 200


def test_no_surface_gets_a_sentence(run_node: Callable, ball: nn.Module) -> None:
    with pytest.raises(ValueError, match="no density above 900"):
        run_node(EXTRACT, field=ball, resolution=32, threshold=900.0)


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
    unreadable = "could not be read as .safetensors"
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


def a_mesh(**changes: object) -> SimpleNamespace:
    """A MESH of a tetrahedron with a linear colour at each corner."""
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    faces = torch.tensor([[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]])
    colors = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0.2142, 0], [0, 0, 1]]])  # 0.2142 is 0.5 in sRGB
    values = {"vertices": vertices, "faces": faces, "uvs": None, "vertex_colors": colors, "texture": None}
    counts = {"vertex_counts": None, "face_counts": None, "unlit": False}
    return SimpleNamespace(**(values | counts | changes))


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


def test_a_texture_keeps_its_place(pack: Callable[[str], ModuleType], run_node: Callable, folders: Path) -> None:
    """v = 0 is the picture's top row in MESH and its bottom row in the library."""
    convert = pack("nodes.convert_mesh")
    texture = torch.zeros(1, 4, 4, 3)
    texture[:, 0, 0] = torch.tensor([1.0, 0.5, 0.0])  # top left
    uvs = torch.full((1, 4, 2), 0.9)
    uvs[0, 1] = 0.1
    (asset,) = convert.assets_from_mesh(a_mesh(uvs=uvs, texture=texture, vertex_colors=None))
    assert asset.texture.shape == (3, 4, 4)
    torch.testing.assert_close(asset.uvs[1], torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(
        asset.vertex_colors[1], torch.tensor([1.0, 0.5, 0.0])
    )  # as formats without textures show it
    assert asset.vertex_colors[0].tolist() == [0, 0, 0]
    back = convert.mesh_from_asset(asset)
    torch.testing.assert_close(back.uvs, uvs)
    assert torch.equal(back.texture, texture)
    assert back.vertex_colors is None


def test_a_mesh_of_another_pack_gets_a_sentence(run_node: Callable) -> None:
    for mesh, message in (
        (SimpleNamespace(mesh="data"), "must have vertices"),
        (a_mesh(vertices=[[0.0, 0, 0]]), "vertices of a MESH must be a tensor of 3 dimensions, got list"),
        (a_mesh(faces=torch.zeros(4, 3)), r"faces of a MESH must be a tensor of 3 dimensions, got \(4, 3\)"),
        (a_mesh(faces=torch.full((1, 2, 3), 9)), "must number vertices 0 to 3, got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            run_node(SAVE_MESH, mesh=mesh)


def test_a_field_at_work_notices_cancel_however_it_is_asked(
    pack: Callable[[str], ModuleType], run_node: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, rendering = pack("upfusion_core"), pack("nodes.rendering")
    field = core.RadianceField(pack("upfusion_core.field.radiance").FieldConfig.draft())
    asked: list[bool] = []

    def cancel() -> None:
        asked.append(True)
        raise InterruptedError

    monkeypatch.setattr(rendering, "check_interrupted", cancel)
    own = rendering.working_copy(field)
    points = torch.zeros(1, 3)
    for question in (own.density, own.color, own):
        with pytest.raises(InterruptedError):
            question(points)
    field.density(points)  # the one in the socket stays as it is
    assert len(asked) == 3
