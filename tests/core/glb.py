"""GLB files whose JSON says something else than their arrays."""

import json
import struct
from collections.abc import Callable


def edited_glb(data: bytes, change: Callable[[dict], object]) -> bytes:
    """A GLB with its JSON changed in place."""
    length = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    return b"glTF" + struct.pack("<IIII", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest
