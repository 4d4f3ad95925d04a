"""glTF 2.0, in one file or several: the triangles of its scene at rest with their base colours, by the specification.

Skins and morph targets are applied as they rest. What only light shows (metal, gloss, glass, emission on top of a
colour) is left out, as are points, lines, cameras and animations. All else is applied, or the file refused.
"""

import base64
import io
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..support.decoding import any_size
from ..support.errors import InputError
from ..support.images import linear_to_srgb

GRAY = 0.7  # colour of a mesh that has none
BLENDED = -1.0  # the cutoff of what lets light through

_KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_NEAREST = 9728
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MOST = 20_000_000  # vertices, with those of instances; a few bytes can claim more than there is memory
_PLACES = {"translation": [0, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1]}
_PICTURES = ("EXT_texture_webp", "EXT_texture_avif")
_OLDER, _OLDEST = "KHR_materials_pbrSpecularGlossiness", "KHR_techniques_webgl"
_INSTANCES, _VISIBILITY = "EXT_mesh_gpu_instancing", "KHR_node_visibility"
_KNOWN = {"KHR_texture_transform", "KHR_mesh_quantization", "KHR_lights_punctual", _INSTANCES, _VISIBILITY, *_PICTURES}
_COMPRESSIONS = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}


@dataclass(frozen=True)
class Sampler:
    """How a texture goes on outside [0, 1], across and along ("repeat", "clamp" or "mirror"), and between texels."""

    across: str = "repeat"
    along: str = "repeat"
    nearest: bool = False  # the nearest texel, not a mixture of four


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles of one material, as `Surface` has them."""

    vertices: Tensor  # (P, 3) float32
    faces: Tensor  # (F, 3) int64
    colors: Tensor  # (P, 4) in [0, 1]: sRGB and alpha
    uvs: Tensor  # (P, 2)
    image: Image.Image | None = None  # not decoded yet
    sampler: Sampler = Sampler()
    cutoff: float | None = None  # alpha from which it is solid, below which nothing; BLENDED; None: solid everywhere


def read_gltf(name: str, data: bytes, companion: Callable[[str], bytes]) -> Iterator[Part]:
    """The parts of the default scene of a .glb or .gltf file's content, in world axes and the file's unit.

    companion: gives the content of a file that this one names. Raises InputError for what the specification allows
    but is not read; other exceptions where it is not followed.
    """
    document = _Document(name, data, companion)
    tree, world, count = document.tree, document.world(), 0
    for number, matrix in world.items():
        node = tree["nodes"][number]
        mesh = tree["meshes"][node["mesh"]] if "mesh" in node else {"primitives": []}
        instances = node.get("extensions", {}).get(_INSTANCES, {}).get("attributes", {})
        places = matrix @ _placed({key.lower(): document.values(accessor) for key, accessor in instances.items()})
        for primitive in mesh["primitives"]:
            if primitive.get("mode", _TRIANGLES) not in (_TRIANGLES, _STRIP, _FAN):
                continue
            points, part = document.part(primitive, node.get("weights", mesh.get("weights", [])))
            if "skin" in node:  # whose joints alone say where it is
                places = document.skinning(tree["skins"][node["skin"]], primitive["attributes"], world)[None]
            count += len(places) * len(points)
            if count > _MOST:
                raise InputError(f"a mesh must have at most {_MOST:,} vertices, got more in {name}; simplify it")
            for place in places:  # (4, 4), or (P, 4, 4) of a skin
                moved = (place[..., :3, :3] @ points[:, :, None])[..., 0] + place[..., :3, 3]
                mirrored = place.ndim == 2 and np.linalg.det(place[:3, :3]) < 0
                faces = part.faces.flip(1) if mirrored else part.faces
                yield replace(part, vertices=torch.from_numpy(moved.astype(np.float32)), faces=faces)


class _Document:
    """The JSON of a glTF file with what it refers to; numbers of its arrays are those of the JSON."""

    def __init__(self, name: str, data: bytes, companion: Callable[[str], bytes]) -> None:
        self.name, self._companion = name, companion
        self._buffers: dict[int, bytes | memoryview] = {}
        self._images: dict[int, Image.Image] = {}
        text: bytes | memoryview = data
        if data[:4] == b"glTF":
            length, size = struct.unpack("<8xI I", data[:16])
            if length > len(data):
                raise ValueError("it is cut short")
            text, rest = memoryview(data)[20 : 20 + size], memoryview(data)[20 + size :]
            if bytes(rest[4:8]) == b"BIN\0":
                self._buffers[0] = rest[8 : 8 + int.from_bytes(rest[:4], "little")]
        self.tree: Any = json.loads(bytes(text))
        if not str(self.tree["asset"]["version"]).startswith("2."):
            raise ValueError(f"glTF {self.tree['asset']['version']}, not 2.0")
        for extension in self.tree.get("extensionsRequired", []):
            if extension not in _KNOWN and not extension.startswith("KHR_materials_"):
                self._refuse(extension)

    def _refuse(self, extension: str) -> NoReturn:
        scheme = _COMPRESSIONS.get(extension)
        needed = f"{scheme} compression ({extension})" if scheme else f"the extension {extension}"
        raise InputError(f"{self.name} needs {needed}, which is not read; export it again without")

    def world(self) -> dict[int, np.ndarray]:
        """(4, 4) to world axes of each node of the scene that is visible, in the order of the tree."""
        nodes = self.tree.get("nodes", [])
        if self.tree.get("scenes"):
            roots = self.tree["scenes"][self.tree.get("scene", 0)].get("nodes", [])
        else:
            roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get("children", [])})
        found: dict[int, np.ndarray] = {}
        waiting = [(root, np.eye(4)) for root in roots]
        for number, above in waiting:
            node = nodes[number]
            if number in found:
                raise ValueError("a node has two parents")
            if not node.get("extensions", {}).get(_VISIBILITY, {}).get("visible", True):
                continue
            own = np.reshape(node["matrix"], (4, 4)).T if "matrix" in node else _placed(node)[0]
            found[number] = above @ own
            waiting += [(child, found[number]) for child in node.get("children", [])]
        return found

    def skinning(self, skin: dict[str, Any], attributes: dict[str, int], world: dict[int, np.ndarray]) -> np.ndarray:
        """(P, 4, 4) what the joints of a skin do to each vertex of a primitive."""
        joints = np.stack([world[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            joints = joints @ self.values(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        moved, total = 0, 0
        for key in [key for key in attributes if key.startswith("WEIGHTS_")]:
            chosen = self.values(attributes[key.replace("WEIGHTS", "JOINTS")]).astype(int)
            for share, joint in zip(self.values(attributes[key]).T[..., None, None], chosen.T, strict=True):
                moved, total = moved + share * joints[joint], total + share
        return np.asarray(moved / total)

    def part(self, primitive: dict[str, Any], weights: list[float]) -> tuple[np.ndarray, Part]:
        """(P, 3) positions of a primitive in its own axes, and all else of it."""
        attributes = primitive["attributes"]
        for extension in primitive.get("extensions", {}).keys() & _COMPRESSIONS.keys():
            if "bufferView" not in self.tree["accessors"][attributes["POSITION"]]:
                self._refuse(extension)

        def read(key: str) -> np.ndarray:
            values = self.values(attributes[key]).astype(float)
            for weight, target in zip(weights, primitive.get("targets", []), strict=False):
                values += weight * self.values(target[key]) if weight and key in target else 0
            return values

        points = read("POSITION")
        colors, info, cutoff = self._material(primitive, len(points))
        if "COLOR_0" in attributes:
            vertex = read("COLOR_0")
            colors[:, : vertex.shape[1]] *= vertex
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        uvs, image, sampler = np.zeros((len(points), 2)), None, Sampler()
        key = f"TEXCOORD_{moved.get('texCoord', info.get('texCoord', 0))}"
        if key in attributes:
            turn = moved.get("rotation", 0)
            matrix = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
            uvs = read(key) * moved.get("scale", (1, 1)) @ matrix + moved.get("offset", (0, 0))  # v = 0 is the top row
            image, sampler = self._texture(info) if info else (None, sampler)
        if len(uvs) != len(points):
            raise ValueError(f"texture coordinates of {len(uvs)} vertices, not {len(points)}")
        rgba = torch.from_numpy(colors.astype(np.float32)).clamp(0, 1)
        bare = "material" not in primitive and "COLOR_0" not in attributes
        rgba[:, :3] = GRAY if bare else linear_to_srgb(rgba[:, :3])
        up = torch.from_numpy((uvs * (1, -1) + (0, 1)).astype(np.float32))
        return points, Part(torch.empty(0), self._faces(primitive, len(points)), rgba, up, image, sampler, cutoff)

    def _faces(self, primitive: dict[str, Any], count: int) -> Tensor:
        """(F, 3) of triangles, a strip or a fan."""
        given = primitive.get("indices")
        corner = np.arange(count) if given is None else self.values(given)[:, 0].astype(np.int64)
        mode = primitive.get("mode", _TRIANGLES)
        if mode == _TRIANGLES:
            return torch.from_numpy(corner.reshape(-1, 3))
        first = np.arange(max(len(corner) - 2, 0))
        odd = first % 2
        rows = (first, first + 1 + odd, first + 2 - odd) if mode == _STRIP else (0 * first, first + 1, first + 2)
        return torch.from_numpy(corner[np.stack(rows, axis=1)])

    def _material(self, primitive: dict[str, Any], count: int) -> tuple[np.ndarray, dict[str, Any], float | None]:
        """(count, 4) base colour and alpha, linear; its texture's reference, or nothing; the cutoff, as Part has it."""
        material = self.tree["materials"][primitive["material"]] if "material" in primitive else {}
        base, keys = material.get("pbrMetallicRoughness", {}), ("baseColorFactor", "baseColorTexture")
        extensions = material.get("extensions", {})
        if _OLDEST in extensions:
            self._refuse(_OLDEST)
        if _OLDER in extensions:
            base, keys = extensions[_OLDER], ("diffuseFactor", "diffuseTexture")
        color, texture = np.array(base.get(keys[0], [1, 1, 1, 1]), dtype=float), base.get(keys[1], {})
        emitted = np.array(material.get("emissiveFactor", [0, 0, 0]), dtype=float)
        if emitted.any() and not color[:3].any():  # black but for what it emits: that is its colour
            strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1.0)
            color[:3], texture = (emitted * strength).clip(0, 1), material.get("emissiveTexture", {})
        mode = material.get("alphaMode", "OPAQUE")
        color[3] = 1 if mode == "OPAQUE" else color[3]
        cutoff = {"OPAQUE": None, "MASK": material.get("alphaCutoff", 0.5), "BLEND": BLENDED}[mode]
        return np.tile(color, (count, 1)), texture, cutoff

    def _texture(self, info: dict[str, Any]) -> tuple[Image.Image, Sampler]:
        texture = self.tree["textures"][info["index"]]
        extensions = texture.get("extensions", {})
        sources = [texture, *(extensions[key] for key in _PICTURES if key in extensions)]
        source = next((given["source"] for given in sources if "source" in given), None)
        if source is None:
            self._refuse(next(iter(extensions)))
        if source not in self._images:
            image = self.tree["images"][source]
            data = self._file(image["uri"]) if "uri" in image else self._view(image["bufferView"])
            try:
                with any_size():
                    self._images[source] = Image.open(io.BytesIO(data))
            except UnidentifiedImageError as error:
                wanted, found = f"a texture of {self.name} must be PNG or JPEG", image.get("mimeType", "something else")
                raise InputError(f"{wanted}, got {found}; export it again") from error
        given = self.tree["samplers"][texture["sampler"]] if "sampler" in texture else {}
        across, along = (_WRAPS[given.get(key, 10497)] for key in ("wrapS", "wrapT"))
        return self._images[source], Sampler(across, along, given.get("magFilter") == _NEAREST)

    def values(self, accessor: int) -> np.ndarray:
        """(count, components) of an accessor, normalised ones as floats."""
        given = self.tree["accessors"][accessor]
        kind, width, count = np.dtype(_KINDS[given["componentType"]]), _WIDTHS[given["type"]], given["count"]
        if count > _MOST:
            raise InputError(f"a mesh must have at most {_MOST:,} vertices, got {count:,} in {self.name}; simplify it")
        found = self._array(given, kind, count, width) if "bufferView" in given else np.zeros((count, width), kind)
        if sparse := given.get("sparse"):
            found, rows = found.copy(), sparse["count"]
            places = self._array(sparse["indices"], np.dtype(_KINDS[sparse["indices"]["componentType"]]), rows, 1)[:, 0]
            found[places] = self._array(sparse["values"], kind, rows, width)
        normalized = given.get("normalized") and kind.kind != "f"
        return np.maximum(found / np.float64(np.iinfo(kind).max), -1) if normalized else found

    def _array(self, given: dict[str, Any], kind: np.dtype[Any], count: int, width: int) -> np.ndarray:
        stride = self.tree["bufferViews"][given["bufferView"]].get("byteStride", width * kind.itemsize)
        data, strides = self._view(given["bufferView"]), (stride, kind.itemsize)
        return np.ndarray((count, width), kind, data, given.get("byteOffset", 0), strides)  # within data, or ValueError

    def _view(self, number: int) -> memoryview:
        view = self.tree["bufferViews"][number]
        index, start = view["buffer"], view.get("byteOffset", 0)
        if index not in self._buffers:
            uri = self.tree["buffers"][index].get("uri")
            for extension in view.get("extensions", {}).keys() & _COMPRESSIONS.keys():
                if uri is None:
                    self._refuse(extension)
            self._buffers[index] = self._file(uri)
        return memoryview(self._buffers[index])[start : start + view["byteLength"]]

    def _file(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            kind, _, text = uri.partition(",")
            return base64.b64decode(text) if kind.endswith(";base64") else unquote_to_bytes(text)
        return self._companion(unquote_to_bytes(uri).decode("utf-8"))


def _placed(given: dict[str, Any]) -> np.ndarray:
    """(I, 4, 4) of "translation", "rotation" (quaternions, the real part last) and "scale": one each, or I of them."""
    move, turn, scale = (np.atleast_2d(np.asarray(given.get(key, one), dtype=float)) for key, one in _PLACES.items())
    found = np.tile(np.eye(4), (max(len(move), len(turn), len(scale)), 1, 1))
    found[:, :3, :3] = Rotation.from_quat(turn).as_matrix() * scale[:, None, :]
    found[:, :3, 3] = move
    return found
