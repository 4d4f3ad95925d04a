"""Colour profiles by hand (ICC.1:2001), what colours mean in them, and PNGs: for tests of what reads pictures."""

import struct
import zlib
from pathlib import Path

import numpy as np

WHITE = np.array([0.9642, 1.0, 0.8249])  # D50, in which profiles speak
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _to_d50(*chromaticities: tuple[float, float]) -> np.ndarray:
    """Of red, green, blue and white -> (3, 3), linear RGB to XYZ under D50, by Bradford."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
    gains = (_BRADFORD @ WHITE) / (_BRADFORD @ xyz[:, 3])
    matrix = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    return np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ matrix


_D65 = (0.3127, 0.3290)
SRGB = _to_d50((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
SPACES = {  # matrix and gamma
    "p3": (_to_d50((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65), 2.19921875),
    "adobe": (_to_d50((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65), 2.19921875),
    "prophoto": (_to_d50((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585)), 1.80078125),
}
INKS = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # (16, 4): cyan, magenta, yellow and black, none or all of each
INK_COLORS = np.round(255 * (1 - 0.9 * INKS[:, :3]) * (1 - 0.8 * INKS[:, 3:]))  # sRGB that they are to have


def encoded(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def meant(values: np.ndarray, space: str) -> np.ndarray:
    """(..., 3) in [0, 1] of a space, or "lab": L*, a*, b* under D50 -> sRGB in [0, 1]; what is outside of it is cut."""
    if space != "lab":
        matrix, gamma = SPACES[space]
        return encoded(values**gamma @ (np.linalg.inv(SRGB) @ matrix).T)
    y = (values[..., 0] + 16) / 116
    root = np.stack([y + values[..., 1] / 500, y, y - values[..., 2] / 200], -1)
    return encoded(WHITE * np.where(root > 6 / 29, root**3, (116 * root - 16) * 27 / 24389) @ np.linalg.inv(SRGB).T)


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + struct.pack(">I3i", 0, *(round(float(value) * 65536) for value in values))


def _profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    tags = {b"wtpt": _xyz(WHITE), **tags}
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI", start + len(data), 0x02400000) + kind + space + pcs + bytes(12) + b"acsp"
    return (head + bytes(28) + _xyz(WHITE)[8:]).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def rgb_profile(space: str) -> bytes:
    matrix, gamma = SPACES[space]
    columns = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    curve = b"curv" + struct.pack(">IIHH", 0, 1, round(gamma * 256), 0)
    return _profile(b"RGB ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def gray_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": b"curv" + struct.pack(">IIHH", 0, 1, round(gamma * 256), 0)})


def _lab_profile(space: bytes, kind: bytes, linear: np.ndarray, side: int) -> bytes:
    """By a table of 16-bit L*a*b*, `side` nodes along each channel, the last of which changes fastest; (N, 3) XYZ."""
    channels = round(np.log(len(linear)) / np.log(side))
    ratio = linear / WHITE
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    lab = [116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])]
    nodes = np.stack([lab[0] * 652.8, (lab[1] + 128) * 256, (lab[2] + 128) * 256], 1)
    numbers = [0, 65535] * channels + nodes.round().clip(0, 65535).astype(int).ravel().tolist() + [0, 65535] * 3
    identity = struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    table = b"mft2" + bytes(4) + bytes([channels, 3, side, 0]) + identity + struct.pack(">HH", 2, 2)
    return _profile(space, {b"A2B0": table + struct.pack(f">{len(numbers)}H", *numbers)}, kind, b"Lab ")


def cmyk_profile() -> bytes:
    """A printer whose INKS have INK_COLORS."""
    srgb = INK_COLORS / 255
    light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return _lab_profile(b"CMYK", b"prtr", light @ SRGB.T, 2)


def scanner_profile(space: str, side: int = 33) -> bytes:
    """The colours of a space by a table instead of its matrix."""
    matrix, gamma = SPACES[space]
    values = np.indices((side, side, side)).reshape(3, -1).T / (side - 1)
    return _lab_profile(b"RGB ", b"scnr", values**gamma @ matrix.T, side)


def png16(path: Path, values: np.ndarray, transparent: tuple[int, ...]) -> None:
    """(H, W, 3) uint16 as a PNG with a transparent colour, which Pillow does not write."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)),
        (b"tRNS", struct.pack(">3H", *transparent)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + line.astype(">u2").tobytes() for line in values))),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(chunks)
