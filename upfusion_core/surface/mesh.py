"""A coloured triangle mesh, and the files it becomes: GLB, OBJ, PLY and STL, in glTF's axes; Gaussian splats."""

import io
import math
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from ..field.radiance import RadianceField
from ..support.checks import check_choice, check_finite, check_range, check_shape
from ..support.errors import InputError, OutputError
from ..support.files import check_path, replacing
from ..support.images import srgb_to_linear, to_8bit
from ..types import OnStep

Axis = Literal["y", "z"]
FORMATS = ("glb", "obj", "ply", "stl")
TEXTURED = ("glb", "obj")  # those that hold a texture
UNLIT = "KHR_materials_unlit"  # glTF extension that shows colours as they are: the photos' light is in them already
_AS_THEY_ARE = {"_COLOR": "COLOR_0", "_UV": "TEXCOORD_0"}  # attributes that trimesh is to write so, and glTF's names


@dataclass(frozen=True, eq=False)
class MeshAsset:
    """A triangle mesh in world axes (+Y up, +Z towards photo 1) and scene units."""

    vertices: Tensor  # (P, 3) float32
    faces: Tensor  # (F, 3) int64, counter-clockwise seen from outside
    vertex_colors: Tensor  # (P, 3) in [0, 1], sRGB
    uvs: Tensor | None = None  # (P, 2), v = 0 at the bottom, as in OBJ; in [0, 1] where there is a texture
    texture: Tensor | None = None  # (3, H, W) in [0, 1], sRGB, first row at the top
    normals: Tensor | None = None  # (P, 3) unit vectors, outward; None leaves them to be made from the faces

    def __post_init__(self) -> None:
        check_triangles("MeshAsset", self.vertices, self.faces)
        if self.uvs is None and self.texture is not None:
            raise InputError("MeshAsset.texture needs uvs, got none; give both, or uvs alone, or neither")
        count = len(self.vertices)
        shapes: dict[str, tuple[int | str, ...]] = {"vertices": (count, 3), "vertex_colors": (count, 3)}
        shapes |= {"uvs": (count, 2), "texture": (3, "H", "W"), "normals": (count, 3)}
        for name, shape in shapes.items():
            label, value = f"MeshAsset.{name}", getattr(self, name)
            if value is None and name in ("uvs", "texture", "normals"):
                continue
            check_shape(label, value, shape, "one row a vertex" if name != "texture" else "")
            if not value.is_floating_point() or not value.numel():
                found = f"{tuple(value.shape)} {value.dtype}"
                raise InputError(f"{label} must hold floating-point numbers, got {found}; call .float() on it")
            check_finite(label, value)
            value = value.float()  # as files have it
            check_finite(f"{label} in float32", value)
            low, high = (float(end) for end in value.detach().aminmax())
            bounded = name in ("vertex_colors", "texture") or (name == "uvs" and self.texture is not None)
            if bounded and (low < 0 or high > 1):
                raise InputError(f"{label} must be in [0, 1], got [{low:.3g}, {high:.3g}]; clamp it")
            object.__setattr__(self, name, value)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        size_mm: float | None = None,
        up: Axis = "y",
        extras: Mapping[str, str] | None = None,
    ) -> list[Path]:
        """Writes `.glb`, `.obj`, `.ply` or `.stl` by the suffix, whole or not at all, and gives the files.

        A textured `.obj` has an `.mtl` and a `.png` beside it. All are complete before any of them gets its name.
        size_mm, up, extras: as `mesh_files` takes them.
        """
        check_path("path", path)
        path = Path(path)
        files = mesh_files(self, path.name, size_mm=size_mm, up=up, extras=extras)
        with ExitStack() as stack:
            for name, content in reversed(files.items()):  # renamed the other way round: the mesh comes last
                stack.enter_context(replacing(path.with_name(name))).write_bytes(content)
        return [path.with_name(name) for name in files]


def check_triangles(name: str, vertices: Tensor, faces: Tensor) -> None:
    """Raises InputError unless there are vertices (P, 3) and faces (F, 3), int64, that number them."""
    check_shape(f"{name}.vertices", vertices, ("P", 3))
    check_shape(f"{name}.faces", faces, ("F", 3), "triangles only")
    count = len(vertices)
    if not count or not len(faces):
        raise InputError(f"a mesh needs vertices and faces, got {count} and {len(faces)}; make or export it again")
    if faces.dtype != torch.int64:
        raise InputError(f"{name}.faces must be int64, got {faces.dtype}; call .long() on them")
    first, last = int(faces.min()), int(faces.max())
    if first < 0 or last >= count:
        got = first if first < 0 else last
        raise InputError(f"{name}.faces must number vertices 0 to {count - 1}, got {got}")


def mesh_files(
    mesh: MeshAsset, name: str, *, size_mm: float | None = None, up: Axis = "y", extras: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """The files that the mesh `name` consists of, by their names, those that it refers to first.

    `.glb` shows the texture if there is one, else the vertex colours, unlit; `.obj` the texture by an MTL file and a
    PNG, else vertex colours; `.ply` carries vertex colours, `.stl` no colour. OutputError for another suffix.

    Args:
        size_mm: length of the longest side of the mesh's box in millimetres, the unit of programs for printing; a GLB
            has it in metres, its own unit. None: scene units.
        up: the axis that points up in `.obj`, `.ply` and `.stl`, with the front at +Z or, "z", -Y; in `.glb` it is +Y.
        extras: texts that a `.glb` carries along by their names, as `asset.extras`.
    """
    kind = _kind(name)
    check_choice("up", up, get_args(Axis))
    turn = torch.eye(3) if up == "y" or kind == "glb" else torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    normals, scale = None if mesh.normals is None else mesh.normals.cpu() @ turn.T, 1.0
    if size_mm is not None:
        check_range("size_mm", size_mm, 1e-3)
        longest = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
        scale = size_mm / max(longest, 1e-12) / (1000 if kind == "glb" else 1)
    mesh = replace(mesh, vertices=mesh.vertices.detach().cpu() @ turn.T * scale, normals=normals)
    picture = None
    if mesh.texture is not None and kind in TEXTURED:
        picture = Image.fromarray(to_8bit(mesh.texture.permute(1, 2, 0)))
    if mesh.uvs is not None and kind == "obj":
        return _unwrapped_obj(mesh, name, picture)
    if mesh.uvs is not None and kind not in TEXTURED:
        mesh = unsplit(mesh)[0]
    arrays = mesh.vertices, mesh.faces, mesh.normals
    vertices, faces, bent = (None if values is None else values.numpy(force=True) for values in arrays)
    # process: merging vertices would part them from their colours
    solid = trimesh.Trimesh(vertices, faces, vertex_normals=bent, process=False)
    if kind == "glb":
        if mesh.uvs is not None and picture is not None:
            material = PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
            solid.visual = TextureVisuals(uv=mesh.uvs.numpy(force=True), material=material)
        else:  # floats: eight bits of linear light are too few for dark
            solid.vertex_attributes["_COLOR"] = srgb_to_linear(mesh.vertex_colors).numpy(force=True)
            if mesh.uvs is not None:
                from_top = torch.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], dim=1)
                solid.vertex_attributes["_UV"] = from_top.numpy(force=True)
        scene, export = trimesh.Scene(solid), trimesh.exchange.gltf.export_glb
        completed = partial(_completed, extras=dict(extras or {}))
        return {name: export(scene, include_normals=normals is not None, tree_postprocessor=completed)}
    solid.visual = ColorVisuals(vertex_colors=to_8bit(mesh.vertex_colors))
    if kind == "obj":
        text = trimesh.exchange.obj.export_obj(solid, include_normals=normals is not None, header=None)
        return {name: text.encode("utf-8")}
    return {name: solid.export(file_type=kind)}


def unsplit(mesh: MeshAsset) -> tuple[MeshAsset, Tensor]:
    """The mesh without texture, one vertex for all that only their uvs tell apart, and (P,) which each has become."""
    parts = [mesh.vertices, mesh.vertex_colors, *([] if mesh.normals is None else [mesh.normals])]
    _, group = torch.cat([values.cpu() for values in parts], dim=1).unique(dim=0, return_inverse=True)
    first = torch.full_like(group, len(group)).scatter_reduce_(0, group, torch.arange(len(group)), "amin")
    kept = first[first < len(group)].sort().values  # in their order
    became = torch.searchsorted(kept, first[group])
    vertices, colors, *normals = (values.cpu()[kept] for values in parts)
    return MeshAsset(vertices, became[mesh.faces.cpu()], colors, normals=normals[0] if normals else None), became


def _unwrapped_obj(mesh: MeshAsset, name: str, picture: Image.Image | None) -> dict[str, bytes]:
    """The OBJ, which has the vertices of cuts of the atlas once, after its PNG and MTL, or with colours of vertices."""
    whole, became = unsplit(mesh)
    text, points, files = io.StringIO(), whole.vertices, {}
    if picture is None:
        points = torch.cat([points, whole.vertex_colors], dim=1)
    else:
        library, png = _library_name(name), io.BytesIO()
        picture.save(png, format="PNG")
        material = f"newmtl {library}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nNs 1\nmap_Kd {library}.png\n"
        text.write(f"mtllib {library}.mtl\nusemtl {library}\n")
        files = {f"{library}.png": png.getvalue(), f"{library}.mtl": material.encode("utf-8")}
    numbers = [became[mesh.faces.cpu()], mesh.faces.cpu()]
    for kind, values in (("v", points), ("vt", mesh.uvs), ("vn", whole.normals)):
        if values is not None:
            np.savetxt(text, values.numpy(force=True), fmt=f"{kind}{values.shape[1] * ' %.8f'}")
    numbers += [] if whole.normals is None else numbers[:1]
    np.savetxt(text, torch.stack(numbers, -1).flatten(1) + 1, fmt="f" + 3 * (" %d" + (len(numbers) - 1) * "/%d"))
    return {**files, name: text.getvalue().encode("utf-8")}


def mesh_names(name: str, *, textured: bool) -> list[str]:
    """The names that `mesh_files` gives, for a mesh that is still to be made; raises OutputError as it does."""
    beside = _library_name(name) if _kind(name) == "obj" and textured else None
    return [name] if beside is None else [f"{beside}.png", f"{beside}.mtl", name]


def _kind(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if suffix.lower() not in FORMATS or not stem:
        known = ", ".join(f".{format}" for format in FORMATS)
        raise OutputError(f"a mesh is written as one of {known}, got {name!r}; change the suffix")
    return suffix.lower()


def _library_name(name: str) -> str:
    """Of the files beside an OBJ, without their suffixes: readers end a file's name at a space."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition(".")[0])


def _completed(tree: dict[str, Any], extras: dict[str, str]) -> None:
    """Marks every material of a glTF tree as unlit; primitives without one get it, and attributes standard names."""
    materials = tree.setdefault("materials", [])
    if not materials:
        materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}})
    for material in materials:
        material.setdefault("extensions", {})[UNLIT] = {}
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive.setdefault("material", 0)
            attributes = primitive["attributes"].items()
            primitive["attributes"] = {_AS_THEY_ARE.get(key, key): number for key, number in attributes}
    if extras:
        tree["asset"]["extras"] = extras
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), UNLIT})


HARMONIC = 0.28209479177387814  # the first spherical harmonic: 1 / (2 sqrt(pi))
WIDE, THIN = 0.6, 0.06  # least standard deviations along the surface and across it, in distances of samples
REACH, LOOKS = 0.1, 49  # of the longest side, outwards and inwards, in which light is followed, and at how many places
SPLAT_FRAME = (1.0, -1.0, -1.0)  # our axes in the frame of splats, and back
SPLAT_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


@dataclass(frozen=True, eq=False)
class Splats:
    """N flat Gaussians on a field's surface, in the frame of splats: (x, -y, -z) of our world, in scene units.

    scales: standard deviations along their own axes, the third across the surface. rotations: unit quaternions w, x, y,
    z. opacities: in [0, 1]. colors: sRGB in [0, 1], the same from all sides.
    """

    positions: Tensor  # (N, 3)
    scales: Tensor  # (N, 3)
    rotations: Tensor  # (N, 4)
    opacities: Tensor  # (N,)
    colors: Tensor  # (N, 3)

    @classmethod
    @torch.no_grad()
    def of(cls, field: RadianceField, resolution: int = 192, on_step: OnStep | None = None) -> "Splats":
        """One a vertex of the field's surface: where along the normal the field stops light and, in fog, as widely.

        Those that cover each other stop as much as the field does. resolution, on_step: as extract_mesh takes them.
        """
        mesh, frame = field.extract_mesh(resolution, on_step=on_step), torch.tensor(SPLAT_FRAME)
        assert mesh.normals is not None, "extract_mesh makes them"
        corners, longest = mesh.vertices[mesh.faces], float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
        across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        depths, step = torch.linspace(-REACH, REACH, LOOKS) * longest, 2 * REACH * longest / (LOOKS - 1)
        found = []
        for points, normals in zip(mesh.vertices.split(2**12), mesh.normals.split(2**12), strict=True):
            column = points[:, None] - normals[:, None] * depths[:, None]
            density = field.density(column.to(field.aabb.device)).cpu()
            outside = density[:, : LOOKS // 2 + 1].flip(1)  # as far as it grows thinner: what is denser is another part
            density[:, : LOOKS // 2 + 1] *= (outside <= outside.cummin(1).values).cumprod(1).flip(1)
            depth = density * step
            weights = torch.exp(depth - depth.cumsum(1)) * -torch.expm1(-depth)
            stopped = weights.sum(1).clamp(min=1e-9)
            middle = (weights * depths).sum(1) / stopped
            spread = ((weights * (depths - middle[:, None]) ** 2).sum(1) / stopped).sqrt()
            found.append(torch.stack([stopped, middle, spread], dim=1))
        stopped, middle, spread = torch.cat(found).unbind(1)
        spacing = longest / (resolution - 1)
        wide, thin = spread.clamp(min=WIDE * spacing), spread.clamp(min=THIN * spacing)
        # so many lie over each other, and together they are to stop what the field does
        overlap = 2 * math.pi * wide**2 * len(wide) / (across.norm(dim=1).sum() / 2)
        opacities = 1 - (1 - stopped.clamp(max=0.999)) ** (1 / overlap.clamp(min=1))
        x, y, z = (mesh.normals * frame).unbind(-1)
        rotations = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)  # takes (0, 0, 1) to the normal
        rotations[z < -1 + 1e-6] = torch.tensor([0.0, 1, 0, 0])
        scales = torch.stack([wide, wide, thin], dim=-1)
        places = (mesh.vertices - mesh.normals * middle[:, None]) * frame
        return cls(places, scales, normalize(rotations, dim=-1), opacities, mesh.vertex_colors)

    @property
    def places(self) -> Tensor:
        """(N, 3) the positions in our world."""
        return self.positions * torch.tensor(SPLAT_FRAME)

    @property
    def harmonics(self) -> Tensor:
        """(N, 3) the colours as coefficients of the first spherical harmonic."""
        return (self.colors - 0.5) / HARMONIC

    def ply(self) -> bytes:
        """A `.ply` as programs for Gaussian splats have it: a record of numbers a splat, of logits and logarithms."""
        opacity, flat = self.opacities.clamp(1e-6, 1 - 1e-6).logit()[:, None], torch.zeros_like(self.positions)
        parts = (self.positions, flat, self.harmonics, opacity, self.scales.log(), self.rotations)
        fields = [f"property float {name}" for name in SPLAT_FIELDS]
        head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(opacity)}", *fields, "end_header", ""]
        return "\n".join(head).encode("ascii") + torch.cat(parts, dim=1).cpu().numpy().astype("<f4").tobytes()
