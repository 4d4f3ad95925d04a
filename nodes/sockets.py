"""The pack's own sockets, what flows through them, and whether what comes by a link fits.

ComfyUI checks what is typed into a node against its schema, not what other nodes give it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from comfy_api.latest import io
from torch import Tensor

from ..upfusion_core import (
    Cameras,
    InputError,
    InputViews,
    PhotoCameras,
    RadianceField,
    SceneEncoding,
    check_choice,
    check_count,
    check_finite,
    check_range,
    check_type,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..upfusion_core import HostedUpFusion, ModelConfig

Execute = TypeVar("Execute", bound=Callable[..., io.NodeOutput])
Conditioning = list[Any]  # ComfyUI's CONDITIONING: a list of [embedding, options]
Prompts = tuple[Conditioning, Conditioning]  # positive and negative


@dataclass(frozen=True, eq=False)
class HostedModel:
    """DINO, UpSRT and ControlNet, each in a model patcher, so that ComfyUI moves, streams and frees them.

    text: (default prompt, empty prompt) embeddings, (77, W) float32.
    dtype: what the networks compute in; their weights may be stored in less.
    """

    config: ModelConfig
    model_id: str
    dino: ModelPatcher
    upsrt: ModelPatcher
    controlnet: ModelPatcher
    text: tuple[Tensor, Tensor]
    dtype: torch.dtype

    def get_models(self) -> list[ModelPatcher]:
        """All patchers; ComfyUI asks values in sockets for them."""
        return [self.dino, self.upsrt, self.controlnet]

    def stages(self, prior: Any = None) -> HostedUpFusion:
        """The stages on these networks, DINO and UpSRT brought to their device; `prior` samples and distils."""
        from comfy.model_management import load_models_gpu

        from ..upfusion_core import HostedUpFusion

        load_models_gpu([self.dino, self.upsrt])
        networks = {"dino": self.dino.model, "upsrt": self.upsrt.model, "prior": prior, "text": self.text}
        place = {"device": self.upsrt.load_device, "dtype": self.dtype}
        return HostedUpFusion(self.config, model_id=self.model_id, **networks, **place)

    def prompts(self, positive: Conditioning | None = None, negative: Conditioning | None = None) -> Prompts:
        """The given ones, checked; the default and the empty prompt where None is given."""
        for name, conditioning in (("positive", positive), ("negative", negative)):
            if conditioning is not None:
                check_prompt(name, conditioning, self.config.diffusion.context_dim)
        default, empty = ([[text[None].clone(), {}]] for text in self.text)
        return positive or default, negative or empty


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a mesh that was centred lies in photo 1's frame: its points times `scale`, then moved by `center` (3,)."""

    center: Tensor
    scale: float

    @classmethod
    def over(cls, points: Tensor, others: Tensor) -> Placement:
        """Lays the box of `points` (P, 3) over that of `others` (Q, 3), unturned: middles and sizes agree."""
        (low, high), (least, most) = points.aminmax(dim=0), others.aminmax(dim=0)
        scale = float(((high - low) * (most - least)).sum() / (high - low).square().sum().clamp(min=1e-12))
        return cls((least + most) / 2 - scale * (low + high) / 2, scale)

    def to_world(self, points: Tensor) -> Tensor:
        """(N, 3) points of the mesh in photo 1's frame."""
        return points * self.scale + self.center.to(points)

    def to_mesh(self, points: Tensor) -> Tensor:
        """The opposite."""
        return (points - self.center.to(points)) / self.scale


class FoundCameras(Cameras):
    """Cameras of photos that were looked for; `photos` says which of them are sure."""

    __slots__ = ("photos",)  # no field, which parts of the cameras would have, too
    photos: PhotoCameras

    @classmethod
    def of(cls, found: PhotoCameras) -> FoundCameras:
        made = cls(**vars(found.cameras))
        object.__setattr__(made, "photos", found)
        return made


ModelSocket = io.Custom("UPFUSION_MODEL")
SceneSocket = io.Custom("UPFUSION_SCENE")
CamerasSocket = io.Custom("UPFUSION_CAMERAS")
FieldSocket = io.Custom("UPFUSION_FIELD")
ViewsSocket = io.Custom("UPFUSION_VIEWS")
PlacementSocket = io.Custom("UPFUSION_PLACEMENT")

_VALUES: dict[str, tuple[type, str]] = {
    "UPFUSION_MODEL": (HostedModel, "connect UpFusion Load Model"),
    "UPFUSION_SCENE": (SceneEncoding, "connect UpFusion Encode Views"),
    "UPFUSION_CAMERAS": (Cameras, "connect UpFusion Orbit Cameras or another node of cameras"),
    "UPFUSION_VIEWS": (InputViews, "connect UpFusion Prepare Views"),
    "UPFUSION_PLACEMENT": (Placement, "connect UpFusion Extract Mesh"),
    "UPFUSION_FIELD": (RadianceField, "connect UpFusion Distill or UpFusion Load Field"),
    "STRING": (str, ""),
    "BOOLEAN": (bool, ""),
}
"""The class of what flows through a socket, and what to do about another one."""
_HOST_VALUES = {
    "MODEL": ("get_model_object", "a MODEL of ComfyUI; connect the MODEL of UpFusion Load Model"),
    "VAE": ("decode", "a VAE of ComfyUI; connect the VAE of UpFusion Load Model"),
    "BACKGROUND_REMOVAL": ("encode_image", "a background removal model; connect Load Background Removal Model"),
}
"""What a socket of ComfyUI's own must be able to do; other packs bring classes of their own."""


def checked(execute: Execute) -> Execute:
    """A node's `execute` that refuses what its inputs' types, ranges and options do not allow.

    Pictures, masks, meshes and the viewer's cameras are checked where they are converted (convert.py).

    Raises:
        InputError: a value is not allowed; the sentence names the input.
    """
    signature = inspect.signature(execute)

    @wraps(execute)
    def run(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
        given, schema = signature.bind(cls, *args, **kwargs), cls.define_schema()
        for item in schema.inputs:
            name = item.id
            if schema.is_input_list and isinstance(values := given.arguments.get(name), list):
                if len(values) != 1:
                    raise InputError(f"{name} must be one value, got a list of {len(values)}; connect one")
                given.arguments[name] = values[0]
            if name in given.arguments and not (item.optional and given.arguments[name] is None):
                given.arguments[name] = _checked(item, given.arguments[name])
        return execute(*given.args, **given.kwargs)

    return run  # type: ignore[return-value]


def _checked(item: Any, value: Any) -> Any:
    """The value, numbers of other libraries as Python's own."""
    kind = item.get_io_type()
    if kind == "INT":
        value = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
        check_count(item.id, value, item.min, item.max)
    elif kind == "FLOAT":
        value = float(value) if isinstance(value, Real) and not isinstance(value, int) else value
        check_range(item.id, value, item.min, item.max)
    elif kind == "COMBO":
        check_choice(item.id, value, item.options)
    elif kind in _HOST_VALUES:
        ability, wanted = _HOST_VALUES[kind]
        if not hasattr(value, ability):
            raise InputError(f"{item.id} must be {wanted}, got {type(value).__name__}")
    elif kind in _VALUES:
        check_type(item.id, value, *_VALUES[kind])
        if isinstance(value, Cameras) and not len(value):
            raise InputError(f"{item.id} must be at least one camera, got none; connect UpFusion Orbit Cameras")
    return value


def check_unet(config: ModelConfig, network: Any) -> None:
    """Raises InputError unless ComfyUI's `network` has the sizes that the ControlNet's residuals are for.

    ComfyUI only logs that residuals of other sizes were left out.
    """
    sizes = getattr(getattr(network, "model_config", None), "unet_config", {})
    found = (sizes.get("model_channels"), tuple(sizes.get("channel_mult") or ()), sizes.get("context_dim"))
    wanted = (config.diffusion.model_channels, config.diffusion.channel_mult, config.diffusion.context_dim)
    if found != wanted:
        raise InputError(
            f"MODEL must be a UNet of {wanted[0]} channels times {wanted[1]} for text of width {wanted[2]}, as "
            f"upfusion_model needs it, got {found[0]} times {found[1]} and {found[2]}; take both from one UpFusion "
            "Load Model"
        )


def check_prompt(name: str, conditioning: Any, width: int) -> None:
    """Raises InputError unless `conditioning` is a CONDITIONING of finite embeddings (B, L, `width`)."""
    if not isinstance(conditioning, list | tuple):
        raise InputError(f"{name} must be a CONDITIONING, got {type(conditioning).__name__}; connect CLIP Text Encode")
    for entry in conditioning:
        is_pair = isinstance(entry, list | tuple) and len(entry) == 2
        if not (is_pair and isinstance(entry[0], Tensor) and isinstance(entry[1], dict)):
            raise InputError(
                f"{name} must hold pairs of an embedding and its options, got {entry!r:.60}; connect CLIP Text Encode"
            )
        embedding = entry[0]
        if embedding.ndim != 3 or not embedding.numel() or embedding.shape[-1] != width:
            raise InputError(
                f"{name} must hold embeddings (B, L, {width}), got {tuple(embedding.shape)}; encode the prompt by the "
                f"text encoder that belongs to upfusion_model, or leave {name} open"
            )
        check_finite(f"{name}'s embedding", embedding)
