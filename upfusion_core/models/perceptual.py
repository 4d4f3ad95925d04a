"""Perceptual distances between pictures: LPIPS with the user's VGG file, or the keys of the model's own DINO."""

import hashlib
import importlib.util
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..support.errors import CheckpointError
from ..support.weights import check_finite_weights, misfits, read_weights
from .dino import DinoKeys

# (B, 3, H, W) picture and target in [0, 1] -> scalar; differentiable with respect to the picture
PerceptualDistance = Callable[[Tensor, Tensor], Tensor]

# VGG-16: convolutions by their index in the published file, grouped by the block that LPIPS reads after
_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_WIDTHS = (64, 128, 256, 512, 512)
_HEADS = tuple(f"lin{block}.model.1.weight" for block in range(len(_BLOCKS)))


class Lpips(nn.Module):
    """LPIPS on VGG-16 (arXiv 1801.03924): weighted squared differences of unit features after five blocks."""

    shift: Tensor
    scale: Tensor

    def __init__(self, *, ops: ModuleType = nn) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        channels = 3
        for indices, width in zip(_BLOCKS, _WIDTHS, strict=True):
            inputs = [channels] + [width] * (len(indices) - 1)
            self.blocks.append(nn.ModuleList(ops.Conv2d(count, width, 3, padding=1) for count in inputs))
            channels = width
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(1, width, 1, 1)) for width in _WIDTHS])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def forward(self, picture: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], twice -> the mean distance over the batch."""
        total = picture.new_zeros(())
        for ours, theirs, head in zip(self._features(picture), self._features(target), self.heads, strict=True):
            total = total + ((ours - theirs).square() * head).sum(1).mean()
        return total

    def weights_id(self) -> str:
        digest = hashlib.sha256()
        for value in self.state_dict().values():
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _features(self, picture: Tensor) -> list[Tensor]:
        x = (2 * picture - 1 - self.shift) / self.scale
        features = []
        for index, block in enumerate(self.blocks):
            x = F.max_pool2d(x, 2) if index else x
            for layer in block.children():
                x = F.relu(layer(x))
            features.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return features


def load_lpips(path: str | Path, device: torch.device | str = "cpu") -> Lpips:
    """LPIPS from the user's file: a saved `lpips.LPIPS(net="vgg")`, or torchvision's VGG-16.

    The five linear heads stand in the same file, in a `vgg.pth` beside it, or in the installed package `lpips`.
    """
    path = Path(path)
    weights = read_weights(path)
    state: dict[str, Tensor] = {}
    layers = [(block, place, index) for block, indices in enumerate(_BLOCKS) for place, index in enumerate(indices)]
    for (block, place, index), kind in product(layers, ("weight", "bias")):
        names = (f"features.{index}.{kind}", f"net.slice{block + 1}.{index}.{kind}", f"{index}.{kind}")
        name = next((name for name in names if name in weights), None)
        if name is None:
            raise CheckpointError(f"{path} must hold VGG-16's convolutions, but {names[0]} is missing; see README")
        state[f"blocks.{block}.{place}.{kind}"] = weights[name]
    package = importlib.util.find_spec("lpips")
    folders = package.submodule_search_locations or [] if package else []
    places = [path.with_name("vgg.pth"), *(Path(folder) / "weights" / "v0.1" / "vgg.pth" for folder in folders)]
    others = (read_weights(place) for place in places if place != path and place.is_file())
    heads = next((found for found in (weights, *others) if _HEADS[0] in found), None)
    if heads is None:
        problem = f"{path} holds VGG-16 but not the LPIPS heads (lin0.model.1.weight, ...)"
        raise CheckpointError(f"{problem}; put the lpips package's vgg.pth beside it, or pip install lpips")
    for index, name in enumerate(_HEADS):
        if name not in heads:
            raise CheckpointError(f"{path} must hold all five LPIPS heads, but {name} is missing; get it again")
        state[f"heads.{index}"] = heads[name]
    network = Lpips()
    state |= {"shift": network.shift, "scale": network.scale}
    if faults := misfits(state, {name: value.shape for name, value in network.state_dict().items()}):
        raise CheckpointError(f"{path} must hold VGG-16 and the LPIPS heads, got {faults}; get it again")
    check_finite_weights(state, torch.float32)
    network.load_state_dict(state)
    return network.float().requires_grad_(False).eval().to(device)


def dino_distance(dino: DinoKeys, patches: tuple[int, int]) -> PerceptualDistance:
    """Mean squared difference of unit key vectors, 0 for equal pictures and at most 4."""

    def distance(picture: Tensor, target: Tensor) -> Tensor:
        dtype = dino.cls_token.dtype
        ours, theirs = (F.normalize(dino(image, patches, dtype).float(), dim=-1) for image in (picture, target))
        return (ours - theirs).square().sum(-1).mean()

    return distance
