"""glTF by its specification: numbers worked out by hand, and files of Blender beside what Blender sees in them."""

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from glb import edited_glb, made_glb
from PIL import Image
from refusals import refused
from scipy.spatial import cKDTree

from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.images import linear_to_srgb
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface, read_surface

BLENDER = Path(__file__).parent / "blender"
Some = dict | None
SQUARE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], "f4")
FACES = np.array([0, 1, 2, 0, 2, 3], "u2")
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "f4")  # v = 0 is the top row
PRIMITIVE = {"attributes": {"POSITION": "@square", "TEXCOORD_0": "@uvs"}, "indices": "@faces"}
ARRAYS = {"square": SQUARE, "faces": FACES, "uvs": UVS}


def stored(colors: list[list[list[int]]], format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array(colors, "u1")).save(stream, format=format, lossless=True)
    return stream.getvalue()


ROW = stored([[[255, 0, 0], [0, 0, 255]]])  # red to the left of blue


def read(
    folder: Path, arrays: Some = None, attributes: Some = None, material: Some = None, primitive: Some = None,
    changes: Some = None, **tree: object,
) -> Surface:  # fmt: skip
    """A square of one primitive, with what is given in place or on top of it, as it is read."""
    shape = {**PRIMITIVE, "attributes": PRIMITIVE["attributes"] | (attributes or {}), **(primitive or {})}
    whole = {"meshes": [{"primitives": [shape]}]}
    if material is not None:
        shape["material"] = 0
        whole |= {"materials": [material], "textures": [{"source": 0}], "images": [{"bufferView": "#picture"}]}
    content = ARRAYS | {"picture": ROW} | (arrays or {})
    (folder / "a.glb").write_bytes(made_glb(whole | tree, content, **(changes or {})))
    return read_surface(folder / "a.glb")


def base(**entries: object) -> dict:
    return {"pbrMetallicRoughness": entries}


def close(found: torch.Tensor, expected: list, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=atol, rtol=0)


def test_texture_transform_of_the_second_coordinates_by_hand(tmp_path: Path) -> None:
    """A quarter turn: (u, v) -> (2 u, 3 v) -> (3 v, -2 u) -> (3 v + 0.5, -2 u + 0.25), from the top; upwards 1 - v."""
    moved = {"offset": [0.5, 0.25], "rotation": math.pi / 2, "scale": [2, 3], "texCoord": 1}
    info = {"index": 0, "texCoord": 0, "extensions": {"KHR_texture_transform": moved}}
    second = np.array([[0.1, 0.2], [0, 0], [1, 0], [0.5, 1]], "f4")
    surface = read(tmp_path, {"second": second}, {"TEXCOORD_1": "@second"}, base(baseColorTexture=info))
    close(surface.uvs, [[1.1, 0.95], [0.5, 0.75], [0.5, 2.75], [3.5, 1.75]])
    assert surface.textures[0][:, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(("kind", "one"), [("u1", 255), ("u2", 65535), ("i1", 127), ("i2", 32767), ("f4", 1)])
def test_whole_numbers_are_normalised_where_they_say_so(tmp_path: Path, kind: str, one: int) -> None:
    arrays = {"uvs": (UVS * one).astype(kind), "colors": np.array([[one, 0, one, 0]] * 4, kind)}
    if kind in ("i1", "i2"):  # KHR_mesh_quantization
        arrays["square"] = (SQUARE * one).astype(kind)
    factor, changes = base(baseColorFactor=[0.5, 1, 1, 1]), {name: {"normalized": kind != "f4"} for name in arrays}
    surface = read(tmp_path, arrays, {"COLOR_0": "@colors"}, factor, changes=changes)
    close(surface.vertices, SQUARE.tolist())
    close(surface.uvs, (UVS * (1, -1) + (0, 1)).tolist())
    close(surface.colors, [[0.7354, 0, 1]] * 4)  # sRGB of 0.5
    plain = {"square": np.array(SQUARE * 3, "i2")}  # quantised, not normalised, two bytes between
    close(read(tmp_path, plain, nodes=[{"mesh": 0, "scale": [0.5] * 3}]).vertices, (SQUARE * 1.5).tolist())


def test_strides_and_sparse_accessors(tmp_path: Path) -> None:
    mixed = np.concatenate([SQUARE, UVS], axis=1).tobytes()
    changes = {"square": {"bufferView": "#mixed"}, "uvs": {"bufferView": "#mixed", "byteOffset": 12}}
    data = made_glb({"meshes": [{"primitives": [PRIMITIVE]}]}, {"mixed": mixed, **ARRAYS}, **changes)
    data = edited_glb(data, lambda tree: tree["bufferViews"][0].update(byteStride=20))
    (tmp_path / "a.glb").write_bytes(data)
    surface = read_surface(tmp_path / "a.glb")
    close(surface.vertices, SQUARE.tolist())
    close(surface.uvs, (UVS * (1, -1) + (0, 1)).tolist())
    arrays = {"at": np.array([1, 3], "u1").tobytes(), "to": np.array([[5, 6, 7], [8, 9, 10]], "f4").tobytes()}
    indices = {"bufferView": "#at", "componentType": 5121}
    sparse = {"sparse": {"count": 2, "indices": indices, "values": {"bufferView": "#to"}}}
    for others, view in ((SQUARE, {}), (0 * SQUARE, {"bufferView": None})):  # without a view, of zeros
        expected = [others[0], [5, 6, 7], others[2], [8, 9, 10]]
        close(read(tmp_path, arrays, changes={"square": sparse | view}).vertices, np.array(expected).tolist())


def test_trees_instances_strips_and_fans(tmp_path: Path) -> None:
    """x = 2 (-x + 3), y = y, z = z of the first; the second is turned by a quarter about z, twice as large, moved."""
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[3, 0] = 3  # by columns
    nodes = [{"children": [1], "scale": [2, 1, 1]}, {"mesh": 0, "matrix": mirror.ravel().tolist()}, {"mesh": 0}]
    surface = read(tmp_path, nodes=nodes)
    close(surface.vertices, (SQUARE * (-2, 1, 1) + (6, 0, 0)).tolist())
    assert surface.faces.tolist() == [[2, 1, 0], [3, 2, 0]]  # still counter-clockwise from the front
    turn = np.array([[0, 0, 0, 127], [0, 0, 90, 90]], "i1")
    places = {"move": np.array([[0, 0, 0], [5, 0, 0]], "f4"), "turn": turn, "size": np.array([[1] * 3, [2] * 3], "f4")}
    given = {"TRANSLATION": "@move", "ROTATION": "@turn", "SCALE": "@size"}
    nodes = [{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": given}}}]
    surface = read(tmp_path, places, changes={"turn": {"normalized": True}}, nodes=nodes)
    close(surface.vertices, SQUARE.tolist() + [[5 - 2 * y, 2 * x, 2 * z] for x, y, z in SQUARE.tolist()])
    hidden = {"mesh": 0, "extensions": {"KHR_node_visibility": {"visible": False}}}
    assert len(read(tmp_path, nodes=[{"mesh": 0}, hidden], scenes=[{"nodes": [0, 1]}]).faces) == 2
    corners = {"square": SQUARE[[0, 1, 3, 2]], "faces": np.arange(4, dtype="u1")}
    assert read(tmp_path, corners, primitive={"mode": 5}).faces.tolist() == [[0, 1, 2], [1, 3, 2]]
    fan = read(tmp_path, primitive={"mode": 6, "indices": "@fan"}, arrays={"fan": corners["faces"]})
    assert fan.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    tree = {"meshes": [{"primitives": [{"attributes": {"POSITION": "@square"}}, {"mode": 1, "attributes": {}}]}]}
    (tmp_path / "a.glb").write_bytes(made_glb(tree, {"square": SQUARE[:3]}))
    surface = read_surface(tmp_path / "a.glb")
    assert surface.faces.tolist() == [[0, 1, 2]]
    assert float(surface.colors.max()) == pytest.approx(0.7)  # no material, no colour


def test_skins_and_morph_targets_at_rest(tmp_path: Path) -> None:
    """The node's own place does not count; half of a joint at (4, 0, 0), twice as large, and half of one at 0."""
    inverse = np.stack([np.eye(4), np.eye(4)]).transpose(0, 2, 1).reshape(2, 16).astype("f4")
    arrays = {"joints": np.array([[0, 1, 0, 0]] * 4, "u1"), "shares": np.array([[128, 128, 0, 0]] * 4, "u1")}
    arrays |= {"inverse": inverse, "more": np.ones((4, 3), "f4")}
    nodes = [{"mesh": 0, "skin": 0, "translation": [9, 9, 9]}, {}, {"translation": [4, 0, 0], "scale": [2, 2, 2]}]
    skins = [{"joints": [1, 2], "inverseBindMatrices": "@inverse"}]
    changes = {"shares": {"normalized": True}}
    attributes = {"JOINTS_0": "@joints", "WEIGHTS_0": "@shares"}
    options = {"nodes": nodes, "skins": skins, "scenes": [{"nodes": [0, 1, 2]}], "changes": changes}
    close(read(tmp_path, arrays, attributes, **options).vertices, (SQUARE * 1.5 + (2, 0, 0)).tolist())
    morph = {"targets": [{"POSITION": "@more"}, {"POSITION": "@more"}]}
    meshes = [{"weights": [0.25, 0.5], "primitives": [PRIMITIVE | morph]}]
    close(read(tmp_path, arrays, meshes=meshes).vertices, (SQUARE + 0.75).tolist())
    close(read(tmp_path, arrays, meshes=meshes, nodes=[{"mesh": 0, "weights": [0, 1]}]).vertices, (SQUARE + 1).tolist())


OLDER = {"extensions": {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0, 0.5, 1, 1]}}}
BLACK = base(baseColorFactor=[0, 0, 0, 1])
GLOW = {"emissiveFactor": [0, 0.25, 1], "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 2}}}


@pytest.mark.parametrize("material", [base(baseColorFactor=[0, 0.5, 1, 0.2]), OLDER, BLACK | GLOW])
def test_colours_of_materials_without_textures(tmp_path: Path, material: dict) -> None:
    surface = read(tmp_path, material=material)
    close(surface.colors, [[0, 0.7354, 1]] * 4)
    assert surface.face_cutoff is None
    unplaced = {"attributes": {"POSITION": "@square"}}  # a texture without coordinates is left out
    assert read(tmp_path, material=base(baseColorTexture={"index": 0}), primitive=unplaced).textures == ()


def seen(surface: Surface, size: int = 8) -> torch.Tensor:
    """(4, size, size): colours and opacity from +Z, the square filling the picture."""
    view = rasterise(surface, orbit_cameras(0.0, 0.0, distance=2.0, focal=2.0), size, supersampling=1)
    return torch.cat([view.rgb[0], view.opacity[0]])


@pytest.mark.parametrize(("wrap", "expected"), [(10497, "rrbbrrbb"), (33071, "rrrrrrbb"), (33648, "bbrrrrbb")])
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_textures_beyond_their_borders(tmp_path: Path, wrap: int, expected: str, form: str) -> None:
    """u from -1 to 1: a texture twice, of nearest texels."""
    source = {"source": 0} if form == "PNG" else {"extensions": {"EXT_texture_webp": {"source": 0}}}
    uvs = UVS * np.array([2, 1], "f4") - np.array([1, 0], "f4")
    arrays = {"uvs": uvs, "picture": stored([[[255, 0, 0], [0, 0, 255]]], form)}
    tree = {"samplers": [{"wrapS": wrap, "magFilter": 9728}], "textures": [{"sampler": 0, **source}]}
    colors = seen(read(tmp_path, arrays, material=base(baseColorTexture={"index": 0}), **tree))[:3, 4].T
    names = {"r": [1, 0, 0], "b": [0, 0, 1]}
    assert colors.round().tolist() == [names[letter] for letter in expected]


def test_colours_are_mixed_in_linear_light(tmp_path: Path) -> None:
    paint = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], "f4")
    row = seen(read(tmp_path, {"paint": paint}, {"COLOR_0": "@paint"}))[:3, 4]
    share = torch.arange(8) / 8 + 1 / 16
    close(row, linear_to_srgb(torch.stack([1 - share, share, 0 * share])).tolist())
    texture = {"picture": stored([[[0, 0, 0], [255, 255, 255]]])}
    material = base(baseColorTexture={"index": 0}, baseColorFactor=[0.5, 1, 1, 1])
    row = seen(read(tmp_path, texture, material=material))[:3, 4]
    between = [float(linear_to_srgb(torch.tensor(share))) for share in (0.1875, 0.375)]  # 3/8 from dark to light
    assert row[:2, 3].tolist() == pytest.approx(between, abs=1e-4)


def test_what_lets_light_through(tmp_path: Path) -> None:
    """A pane of alpha 0.5 before one of 0.25 before nothing, and a mask with holes; alpha counts where it is said."""
    red, blue = base(baseColorFactor=[1, 0, 0, 0.5]), base(baseColorFactor=[0, 0, 1, 0.25])
    meshes = [{"primitives": [PRIMITIVE | {"material": number}]} for number in (0, 1)]
    tree = {"meshes": meshes, "scenes": [{"nodes": [0, 1]}]}
    tree["nodes"] = [{"mesh": 0}, {"mesh": 1, "translation": [0, 0, -0.1], "scale": [2, 2, 1]}]
    for modes, opacity, linear in (
        (("BLEND", "BLEND"), 0.625, [0.875, 0.375, 0.5]),  # 0.5 red, 0.125 blue, 0.375 white
        (("BLEND", "OPAQUE"), 1.0, [0.5, 0, 0.5]),
        (("OPAQUE", "BLEND"), 1.0, [1, 0, 0]),
        (("MASK", "MASK"), 1.0, [1, 0, 0]),  # 0.5 is solid, 0.25 nothing
    ):
        materials = [one | {"alphaMode": mode} for one, mode in zip((red, blue), modes, strict=True)]
        found = seen(read(tmp_path, materials=materials, **tree))[:, 4, 4]
        close(found, [*linear_to_srgb(torch.tensor(linear)).tolist(), opacity])
    assert read(tmp_path, material=base() | {"alphaMode": "BLEND"}).face_cutoff is None  # said, but nothing is
    mask = base(baseColorTexture={"index": 0}) | {"alphaMode": "MASK", "alphaCutoff": 0.9}
    holes = {"picture": stored([[[255, 0, 0, 220], [0, 0, 255, 240]]])}
    for mode, expected in (("MASK", [[1, 1, 1, 0], [0, 0, 1, 1]]), ("OPAQUE", [[1, 0, 0, 1], [0, 0, 1, 1]])):
        sharp = {"samplers": [{"magFilter": 9728}], "textures": [{"source": 0, "sampler": 0}]}
        surface = read(tmp_path, holes, material=mask | {"alphaMode": mode}, **sharp)
        close(seen(surface)[:, 4, [1, 6]].T, expected)


def test_several_files_and_data_within_the_json(tmp_path: Path) -> None:
    data = made_glb({"meshes": [{"primitives": [PRIMITIVE | {"material": 0}]}]}, ARRAYS)
    length = int.from_bytes(data[12:16], "little")
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    tree |= {"materials": [base(baseColorTexture={"index": 0})], "textures": [{"source": 0}]}
    (tmp_path / "the arrays.bin").write_bytes(binary)
    (tmp_path / "skin.png").write_bytes(ROW)
    within = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    skin = "data:image/png;base64," + base64.b64encode(ROW).decode()
    for uri, picture in (("the%20arrays.bin", "skin.png"), (within, skin)):
        tree["buffers"][0]["uri"], tree["images"] = uri, [{"uri": picture}]
        (tmp_path / "a.gltf").write_text(json.dumps(tree))
        surface = read_surface(tmp_path / "a.gltf")
        close(surface.vertices, SQUARE.tolist())
        assert surface.textures[0].shape == (3, 1, 2)
    tree["images"] = [{"uri": "../skin.png"}]
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.gltf").write_text(json.dumps(tree))
    refused(r"skin\.png is not in its folder", read_surface, tmp_path / "inner" / "a.gltf")


MESHOPT = {"extensions": {"EXT_meshopt_compression": {"buffer": 0}}}


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("Draco compression .KHR_draco_mesh_compression.", {"extensionsRequired": ["KHR_draco_mesh_compression"]}),
        ("the extension ACME_holes, which is not read", {"extensionsRequired": ["KHR_materials_unlit", "ACME_holes"]}),
        ("glTF 1.0, not 2.0", {"asset": {"version": "1.0"}}),
        ("the extension KHR_techniques_webgl", {"materials": [{"extensions": {"KHR_techniques_webgl": {}}}]}),
        ("two parents", {"nodes": [{"mesh": 0, "children": [0]}]}),
        ("the extension KHR_texture_basisu", {"textures": [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]}),
        ("must be PNG or JPEG, got image/ktx2", {"images": [{"bufferView": 0, "mimeType": "image/ktx2"}]}),
        ("at most 20,000,000 vertices", {"accessors": [{"componentType": 5126, "type": "VEC3", "count": 10**9}] * 3}),
        ("meshopt compression", {"bufferViews": [{"buffer": 1, "byteLength": 48, **MESHOPT}] * 4, "buffers": [{}, {}]}),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, reason: str, change: dict) -> None:
    refused(reason, read, tmp_path, material=base(baseColorTexture={"index": 0}), **change)


def test_draco_that_says_nowhere_that_it_is_needed(tmp_path: Path) -> None:
    primitive = {"extensions": {"KHR_draco_mesh_compression": {"bufferView": 0}}}
    assert len(read(tmp_path, primitive=primitive).faces) == 2  # the arrays are there as well
    refused("a.glb needs Draco", read, tmp_path, primitive=primitive, changes={"square": {"bufferView": None}})
    refused(r"draco\.glb needs Draco compression", read_surface, BLENDER / "draco.glb")


@pytest.mark.parametrize("name", sorted(path.stem for path in BLENDER.glob("*.glb") if path.stem != "draco"))
def test_files_of_blender_look_as_blender_sees_them(name: str) -> None:
    """Written by Blender 5.0.1, quantised by gltfpack 1.3 where packed; Blender reads them, Cycles shows them unlit.

    seen.npz: rgba (40, 40, 4), linear, times alpha; corners (3 F, 3) of all triangles, modifiers applied, in glTF axes.
    Texels are not mixed, since Cycles does that in sRGB.
    """
    truth = np.load(BLENDER / "seen.npz")
    surface = read_surface(BLENDER / f"{name}.glb")
    ours, theirs = surface.vertices[surface.faces].reshape(-1, 3).numpy(), truth[f"{name}.corners"]
    assert len(ours) == len(theirs)
    for one, other in ((ours, theirs), (theirs, ours)):
        assert cKDTree(one).query(other)[0].max() < 2e-6
    rgba = torch.from_numpy(truth[f"{name}.rgba"].astype(np.float32)).permute(2, 0, 1)
    expected = linear_to_srgb((rgba[:3] + 1 - rgba[3:]).clamp(0, 1))
    camera = orbit_cameras([30.0], 20.0, distance=5.0, focal=2.0)
    sharp = replace(surface, samplers=tuple(replace(sampler, nearest=True) for sampler in surface.samplers))
    view = rasterise(sharp, camera, rgba.shape[-1], supersampling=1)
    wrong = torch.cat([view.rgb[0] - expected, view.opacity[0] - rgba[3:]]).abs().amax(0) > 0.01
    assert int(wrong.sum()) <= 0.03 * int((rgba[3] > 0).sum())  # those on a border of texels, or of the shape
