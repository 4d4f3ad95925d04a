"""Weights that nobody has to store: every tensor follows from its name and shape alone.

From the command line: `python tests/core/rule_weights.py weights FOLDER` makes a full-size folder in the released
layout, `photos FOLDER` six photos to go with it.
"""

import json
import math
import sys
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_files import GOLDEN
from PIL import Image
from torch import Tensor

from upfusion_core.config import ModelConfig, TextConfig, UpSRTConfig, to_dict
from upfusion_core.models.checkpoint import build_networks, network_weights
from upfusion_core.models.stable_diffusion import TEXT_PREFIX, build_text_encoder, text_names
from upfusion_core.models.upsrt import UpSRT

STAMP = "made_by_rule.json"

Shapes = dict[str, tuple[int, ...]]


def rule_tensor(name: str, shape: tuple[int, ...] | list[int]) -> Tensor:
    """The float32 values of parameter `name`, the checkpoint's full name."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(math.prod(shape))
    values = noise.astype(np.float32).reshape(shape)
    if len(shape) >= 2:
        return torch.from_numpy(values / np.float32(math.sqrt(math.prod(shape[1:]))))
    return torch.from_numpy(values * np.float32(0.1) + np.float32(name.endswith("weight")))


def rule_state_dict(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, under their names without it; values follow from the full names."""
    chosen = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): rule_tensor(name, shape) for name, shape in chosen.items()}


def golden_shapes(name: str) -> Shapes:
    """A stored manifest: "dino", "upsrt", "diffusion", "vae" or "upfusion2d_full"."""
    stored = json.loads((GOLDEN / f"{name}_shapes.json").read_text())
    return {key: tuple(shape) for key, shape in stored.items()}


def dino_shapes(embed_dim: int = 768, depth: int = 12, patch_size: int = 14, image_size: int = 518) -> Shapes:
    """Torch-hub names of a DINOv2 network; the defaults are ViT-B/14, trained on 37 x 37 patches."""
    width, hidden = embed_dim, 4 * embed_dim
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (image_size // patch_size) ** 2 + 1, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, patch_size, patch_size),
        "patch_embed.proj.bias": (width,),
    }
    for index in range(depth):
        block = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        block |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        for name, shape in block.items():
            shapes |= {f"blocks.{index}.{name}.weight": shape, f"blocks.{index}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{index}.{name}"] = (width,)
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def upsrt_shapes(**sizes: Any) -> Shapes:  # noqa: ANN401 - fields of the configuration
    """Names of `upsrt.pt`, the released network's unless told."""
    with torch.device("meta"):
        state = UpSRT(UpSRTConfig(**sizes)).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def text_shapes(**sizes: Any) -> Shapes:  # noqa: ANN401 - fields of the configuration
    """Names of the CLIP text encoder inside `upfusion2d.pt`, prefix included, ViT-L/14's unless told."""
    with torch.device("meta"):
        state = build_text_encoder(TextConfig(**sizes)).state_dict()
    return {name: tuple(state[own].shape) for own, name in text_names(state).items()}


def full_shapes() -> dict[str, Shapes]:
    """Manifests of the released files, by file name: 1.6 thousand million numbers."""
    return {
        "upsrt.pt": upsrt_shapes(),
        "upfusion2d.pt": golden_shapes("upfusion2d_full") | text_shapes(),
        "dinov2_vitb14_pretrain.pth": dino_shapes(),
    }


def write_folder(path: Path | str, config: ModelConfig) -> Path:
    """Writes a folder of these sizes in the released layout, with its config.json and a text encoder."""
    folder, dino = Path(path), config.dino
    folder.mkdir(parents=True, exist_ok=True)
    weights = network_weights(config, build_networks(config, "meta")).items()
    shapes = {name: tuple(value.shape) for name, value in weights} | text_shapes(**to_dict(config.text))
    _save(folder / "upsrt.pt", rule_state_dict(shapes, "upsrt."))
    latent = {name: shape for name, shape in shapes.items() if not name.startswith(("upsrt.", "dino."))}
    _save(folder / "upfusion2d.pt", rule_state_dict(latent))
    whole = dino_shapes(dino.embed_dim, dino.depth, dino.patch_size, dino.img_size)
    _save(folder / "dinov2_vitb14_pretrain.pth", rule_state_dict(whole))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def write_full_folder(path: Path | str, *, workers: int = 2) -> Path:
    """Writes the released files at their real sizes, 6.5 GB, unless `path` already holds them.

    One file at a time is in memory, at most 6 GB. About two minutes on two cores.
    """
    folder, shapes = Path(path), full_shapes()
    stamp = {name: zlib.crc32(json.dumps(sizes).encode()) for name, sizes in shapes.items()}
    if (folder / STAMP).is_file() and json.loads((folder / STAMP).read_text()) == stamp:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, sizes in shapes.items():
        with ThreadPoolExecutor(workers) as pool:  # numpy draws without holding the interpreter's lock
            tensors = pool.map(rule_tensor, sizes, sizes.values())
            _save(folder / name, dict(zip(sizes, tensors, strict=True)))
    (folder / STAMP).write_text(json.dumps(stamp))
    return folder


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes `tensors` as the release does: bare for DINO's file, else under `model_state_dict`."""
    if any(name.startswith(TEXT_PREFIX) for name in tensors):
        tensors = tensors | {f"{TEXT_PREFIX}embeddings.position_ids": torch.arange(77)[None]}
    torch.save(tensors if path.suffix == ".pth" else {"model_state_dict": tensors}, path)


def rule_photo(index: int, size: int = 256) -> np.ndarray:
    """(size, size, 3) uint8: photo `index` (1-based), a disc of coloured squares on white; integers only, so exact."""
    generator = np.random.RandomState(zlib.crc32(f"photo {index}".encode()))
    squares = generator.randint(0, 256, (8, 8, 3)).astype(np.uint8)
    picture = squares.repeat(size // 8, axis=0).repeat(size // 8, axis=1)
    row, column = np.indices((size, size)) * 2 + 1 - size  # pixel centres, in half pixels from the middle
    picture[row**2 + column**2 > (size * (5 + index % 3) // 8) ** 2] = 255
    return picture


def rule_photos(count: int = 6, size: int = 256) -> Tensor:
    """(count, 3, size, size) in [0, 1]."""
    stacked = np.stack([rule_photo(index, size) for index in range(1, count + 1)])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255


def write_photos(path: Path | str, count: int = 6, size: int = 256) -> list[Path]:
    """Writes `rule_photos` as PNG files, without loss, and returns their paths in order."""
    Path(path).mkdir(parents=True, exist_ok=True)
    paths = [Path(path) / f"{index:03d}.png" for index in range(1, count + 1)]
    for index, photo in enumerate(paths, 1):
        Image.fromarray(rule_photo(index, size)).save(photo)
    return paths


if __name__ == "__main__":
    {"weights": write_full_folder, "photos": write_photos}[sys.argv[1]](sys.argv[2])
