"""DINOv2 patch features: the key vectors of one attention block (arXiv 2304.07193), block 8 of ViT-B/14."""

from collections import OrderedDict
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import DinoConfig
from ..support.errors import CheckpointError
from .controlnet import grouped_attention, split_heads

_HUB_NAMES = {  # parts of Hugging Face's names -> torch hub's, in the order in which they are replaced
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.": "",
    "layernorm.": "norm.",
    "encoder.layer.": "blocks.",
    "attention.attention.query": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def hub_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torch hub's names; Hugging Face's query, key and value are joined into `qkv`."""
    weights = {name.removeprefix("dinov2."): tensor for name, tensor in weights.items()}
    if "embeddings.cls_token" not in weights:
        return weights
    renamed = {}
    for name, tensor in weights.items():
        if ".attention.attention.query." in name:
            parts = [name.replace(".query.", f".{kind}.") for kind in ("query", "key", "value")]
            shapes = {part: tuple(weights[part].shape) for part in parts if part in weights}
            if len(shapes) < 3 or len(set(shapes.values())) > 1 or () in shapes.values():
                wanted = "the DINOv2 file must have query, key and value of one shape"
                raise CheckpointError(f"{wanted}, got {shapes}; download it again")
            tensor = torch.cat([weights[part] for part in parts])
        elif ".attention.attention." in name:
            continue  # joined to its query
        for theirs, ours in _HUB_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed


class DinoKeys(nn.Module):
    """(V, 3, H, W) photos in [0, 1] -> (V, P, C) keys of block `config.layer`, row-major, all heads side by side."""

    def __init__(self, config: DinoConfig, *, ops: ModuleType = nn) -> None:
        super().__init__()
        width, table = config.embed_dim, config.img_size // config.patch_size
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, table * table + 1, width))
        patch_embed = ops.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.patch_embed = nn.Sequential(OrderedDict(proj=patch_embed))
        places = range(config.layer + 1)
        self.blocks = nn.ModuleList(_Block(config, ops, last=index == config.layer) for index in places)

    def forward(self, images: Tensor, patches: tuple[int, int] = (16, 16), dtype: torch.dtype | None = None) -> Tensor:
        """Keys on a grid of `patches` (rows, columns); `dtype` is the precision to compute in, float32 unless given."""
        pixels = self.preprocess(images, patches).to(dtype or torch.float32)
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2)  # (V, P, C)
        x = torch.cat([self.cls_token.to(x).expand(len(x), -1, -1), x], dim=1)
        x = x + self.position_embedding(patches).to(x)
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]

    def preprocess(self, images: Tensor, patches: tuple[int, int] = (16, 16)) -> Tensor:
        """Resized to a whole number of patches and normalised by ImageNet's mean and deviation, float32."""
        size = [count * self.config.patch_size for count in patches]
        # upstream: bicubic without antialiasing (golden: dino.preprocessed_corner)
        resized = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False, antialias=False)
        mean, std = resized.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        return (resized - mean) / std

    def position_embedding(self, patches: tuple[int, int]) -> Tensor:
        """(1, P + 1, C) table resized to the patch grid, float32."""
        table = self.config.img_size // self.config.patch_size
        positions = self.pos_embed.float()
        if patches == (table, table):
            return positions
        grid = positions[:, 1:].unflatten(1, (table, table)).permute(0, 3, 1, 2)
        # upstream: a scale factor with an offset of 0.1, which samples at other places than `size=` (golden: dino)
        scale = tuple((count + 0.1) / table for count in patches)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False, antialias=False)
        return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class _Block(nn.Module):
    """Pre-norm transformer block with scaled branches; the `last` one gives the unscaled keys of its attention."""

    def __init__(self, config: DinoConfig, ops: ModuleType, *, last: bool) -> None:
        super().__init__()
        width, self.heads, self.last = config.embed_dim, config.num_heads, last
        self.norm1 = ops.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": ops.Linear(width, 3 * width)})
        if last:
            return
        self.attn["proj"] = ops.Linear(width, width)
        self.ls1 = nn.ParameterDict({"gamma": torch.full((width,), config.init_values)})
        self.norm2 = ops.LayerNorm(width, eps=1e-6)
        layers = OrderedDict(fc1=ops.Linear(width, 4 * width), act=nn.GELU(), fc2=ops.Linear(4 * width, width))
        self.mlp = nn.Sequential(layers)
        self.ls2 = nn.ParameterDict({"gamma": torch.full((width,), config.init_values)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        if self.last:
            return key
        seen = grouped_attention(query, split_heads(key, self.heads), split_heads(value, self.heads))
        x = x + self.attn["proj"](seen) * self.ls1["gamma"].to(x)
        return x + self.mlp(self.norm2(x)) * self.ls2["gamma"].to(x)
