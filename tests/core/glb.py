"""GLB files whose JSON says something else than their arrays."""

import json
import struct
from collections.abc import Callable

import numpy as np


def _glb(tree: str, rest: bytes) -> bytes:
    text = tree.encode()
    text += b" " * (-len(text) % 4)
    return b"glTF" + struct.pack("<IIII", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def edited_glb(data: bytes, change: Callable[[dict], object]) -> bytes:
    """A GLB with its JSON changed in place."""
    length = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    change(tree)
    return _glb(json.dumps(tree), data[20 + length :])


def made_glb(tree: dict, arrays: dict[str, np.ndarray], **changes: dict) -> bytes:
    """A GLB of named arrays; in `tree`, "@name" stands for the number of an accessor, "#name" for that of a view.

    changes: of accessors, by name. Arrays of bytes are no accessors. Without nodes, one shows mesh 0.
    """
    kinds = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
    views, accessors, places, binary = [], [], {}, b""
    for name, values in arrays.items():
        content = values if isinstance(values, bytes) else values.tobytes()
        places[f"#{name}"] = len(views)
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(content)})
        binary += content + b"\0" * (-len(content) % 4)
        if not isinstance(values, bytes):
            places[f"@{name}"] = len(accessors)
            width = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[values[0].size]
            accessor = {"bufferView": places[f"#{name}"], "componentType": kinds[values.dtype.str[1:]]}
            accessor |= {"type": width, "count": len(values)} | changes.get(name, {})
            accessors.append({key: value for key, value in accessor.items() if value is not None})
    whole = {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}], "bufferViews": views}
    whole |= {"accessors": accessors, "buffers": [{"byteLength": len(binary)}], **tree}
    text = json.dumps(whole)
    for name, number in places.items():
        text = text.replace(f'"{name}"', str(number))
    return _glb(text, struct.pack("<II", len(binary), 0x004E4942) + binary)
