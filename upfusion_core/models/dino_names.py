"""The two layouts in which DINOv2 is published: torch hub's names, which we use, and Hugging Face's."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..errors import CheckpointError

_OUTER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_BLOCK = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_QUERY = re.compile(r"(encoder\.layer\.(\d+)\.attention\.attention\.)query\.(weight|bias)")


def hub_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torch hub's names; told apart by their keys.

    Hugging Face stores query, key and value apart; they are joined into `qkv`, the only tensors that are copied.

    Raises:
        CheckpointError: a query without its key or value.
    """
    weights = {name.removeprefix("dinov2."): tensor for name, tensor in weights.items()}
    if "embeddings.cls_token" not in weights:
        return weights
    renamed = {}
    for name, tensor in weights.items():
        query = _QUERY.fullmatch(name)
        if query:
            parts = [query[1] + kind + "." + query[3] for kind in ("query", "key", "value")]
            absent = [part for part in parts if part not in weights]
            if absent:
                raise CheckpointError(f"the DINOv2 file lacks {', '.join(absent)}; download it again")
            shapes = {tuple(weights[part].shape) for part in parts}
            if len(shapes) > 1 or shapes == {()}:
                raise CheckpointError(
                    f"the DINOv2 file must have query, key and value of one shape, got {sorted(shapes)} for {name}; "
                    "download it again"
                )
            renamed[f"blocks.{query[2]}.attn.qkv.{query[3]}"] = torch.cat([weights[part] for part in parts])
        elif ".attention.attention." not in name:
            renamed[_renamed(name)] = tensor
    return renamed


def _renamed(name: str) -> str:
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return _OUTER.get(name, name)
    rest = layer[2]
    for theirs, ours in _BLOCK.items():
        rest = rest.replace(theirs, ours)
    return f"blocks.{layer[1]}.{rest}"
