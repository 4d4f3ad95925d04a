"""Makes the released UpFusion code importable on a CPU, next to checkouts of pytorch3d and DINOv2.

Nothing of the three is installed or changed: UPFUSION_REFERENCE, PYTORCH3D_REFERENCE and DINOV2_REFERENCE name the
folders. What the comparison never calls (training loops, plotting, CUDA extensions) is replaced by placeholders that
import and do nothing else; what it does call without CUDA (xformers' attention, torchvision's resize) is given here.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VARIABLES = ("UPFUSION_REFERENCE", "PYTORCH3D_REFERENCE", "DINOV2_REFERENCE")

# Imported by the released modules or by pytorch3d, never called on the way to a noise prediction
PLACEHOLDERS = ("xformers", "torchvision", "pytorch_lightning", "omegaconf", "open_clip", "iopath", "pytorch3d._C")


class Placeholder(nn.Module):
    """Stands for a class or function of an absent package: may be subclassed, decorates to itself, refuses to run."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__()

    def __class_getitem__(cls, item: object) -> type:
        return cls

    def forward(self, *arguments: object, **options: object) -> None:
        raise RuntimeError("a placeholder of an absent package was called; the comparison should not need it")


class _PlaceholderModule(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Placeholder,), {})


class _PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `import` for PLACEHOLDERS and everything below them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in PLACEHOLDERS):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def available() -> bool:
    """Whether all three checkouts are named."""
    return all(os.environ.get(name) for name in VARIABLES)


def make_importable() -> None:
    """Puts the three checkouts on the path and the stand-ins in place; harmless when called again."""
    if any(isinstance(finder, _PlaceholderFinder) for finder in sys.meta_path):
        return
    missing = [name for name in VARIABLES if not Path(os.environ.get(name) or "?").is_dir()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} must name a folder: a checkout of the released code")
    os.environ["XFORMERS_DISABLED"] = "1"  # DINOv2 then takes its own plain attention
    sys.meta_path.insert(0, _PlaceholderFinder())
    sys.path.extend(os.environ[name] for name in VARIABLES)
    _give_attention()
    _give_preprocessing()
    _give_backbone()


def _give_attention() -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, attn_bias: None = None, op: None = None) -> Tensor:
        """xformers' calling convention: (B, L, D) or (B, L, heads, D), no mask, no dropout."""
        if query.ndim == 3:  # torch has its fast kernels for four axes only
            return F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return F.scaled_dot_product_attention(*heads_first).transpose(1, 2)

    ops = importlib.import_module("xformers.ops")
    ops.memory_efficient_attention = attend
    importlib.import_module("xformers").ops = ops
    distributed = importlib.import_module("pytorch_lightning.utilities.distributed")
    distributed.rank_zero_only = lambda function: function


class _Resize(nn.Module):
    """Tensors only, and without antialiasing: what torchvision did in the version that the release pins."""

    def __init__(self, size: int, interpolation: str) -> None:
        super().__init__()
        self.size, self.mode = size, interpolation

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images, size=(self.size, self.size), mode=self.mode, align_corners=False)


class _Normalize(nn.Module):
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def _give_preprocessing() -> None:
    transforms = importlib.import_module("torchvision.transforms")
    transforms.Compose = lambda steps: nn.Sequential(*steps)
    transforms.Resize, transforms.Normalize = _Resize, _Normalize
    transforms.InterpolationMode = types.SimpleNamespace(BICUBIC="bicubic")
    importlib.import_module("torchvision").transforms = transforms


def _give_backbone() -> None:
    """Lets the extractor's torch.hub.load take the network from the DINOv2 checkout, without weights."""

    def load(repository: str, model: str) -> nn.Module:
        backbones = importlib.import_module("dinov2.hub.backbones")
        return getattr(backbones, model)(pretrained=False)

    torch.hub.load = load
