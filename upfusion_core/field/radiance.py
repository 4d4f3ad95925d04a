"""The radiance field: density and colour of every point of a box round the object."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import FieldConfig, RaySampling, from_value
from ..support.checks import check_finite, check_type
from ..support.devices import existing_device
from ..support.errors import CheckpointError, FieldError, InputError, UpFusionError
from ..support.files import check_path, json_text, parse_json, save_safetensors, shown
from ..support.images import saturate
from ..support.weights import misfits, read_metadata, read_safetensors
from ..types import Cameras, OnStep, RenderedViews
from .backends import BackendChoice, HashGrid
from .rendering import render_views

if TYPE_CHECKING:
    from .. import MeshAsset


class _TruncatedExp(torch.autograd.Function):
    """exp, of 60 at most, whose gradient is that of the logit clamped to [-15, 15]: no step blows up or dies out."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(logits)
        return logits.clamp(max=60).exp()  # a density of infinity would make the light behind it NaN

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        (logits,) = ctx.saved_tensors
        return gradient * saturate(logits, -15, 15).exp()


class RadianceField(nn.Module):
    """Density (per scene unit, >= 0, zero outside the box) and colour (sRGB in [0, 1], the same from all sides).

    mlp: what turns the grid's encoding into a density logit and three colour logits.
    """

    aabb: Tensor  # (2, 3) buffer, lowest and highest corner of the box in the world

    def __init__(
        self,
        config: FieldConfig | None = None,
        *,
        ops: Any = nn,  # noqa: ANN401
        generator: torch.Generator | None = None,
    ) -> None:
        """A field before any fitting, of the release's shape unless given; layers come from `ops`, such as a host's."""
        super().__init__()
        self.config = config = FieldConfig() if config is None else config
        check_type("config", config, FieldConfig)
        generator = generator or torch.Generator().manual_seed(0)
        extent = config.half_extent
        self.register_buffer("aabb", torch.tensor([[-extent] * 3, [extent] * 3]), persistent=False)
        self.grid = HashGrid(config.grid, generator=generator, backend=config.backend)
        with torch.random.fork_rng(devices=[]):  # layers draw a start of their own, which is overwritten
            layers = [ops.Linear(inputs, outputs) for inputs, outputs in pairwise(config.widths)]
        self.mlp = nn.ModuleList(layers)
        for layer in layers:  # torch's own start, drawn from `generator` and not from the global one
            bound = 1 / math.sqrt(layer.weight.shape[1])
            for parameter in (layer.weight, layer.bias):
                draw = torch.rand(parameter.shape, generator=generator, device=generator.device)
                with torch.no_grad():
                    parameter.copy_(draw * 2 * bound - bound)

    @property
    def backend(self) -> BackendChoice:
        """What computes the grid on the field's device, and why; e.g. "torch (auto: the field is on the CPU)"."""
        return self.grid.backend

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 3) world points -> density (...,) and colour (..., 3) with one pass of the MLP."""
        density, color_logits = self._evaluate(points)
        return density, color_logits.sigmoid()

    def density(self, points: Tensor) -> Tensor:
        """(..., 3) world points -> (...,) density per scene unit."""
        return self._evaluate(points)[0]

    def color(self, points: Tensor) -> Tensor:
        """(..., 3) world points -> (..., 3) sRGB in [0, 1]; outside the box that of its nearest face."""
        return self._evaluate(points)[1].sigmoid()

    def _evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 3) world points -> density (...,) and colour logits (..., 3)."""
        if points.is_cpu:  # on a GPU the host would wait for the answer: there NaN gives NaN
            check_finite("points", points)
        if points.shape[-1:] != (3,):
            raise InputError(f"points must be (..., 3), got {tuple(points.shape)}; give world coordinates")
        extent, kind = self.config.half_extent, self.aabb.dtype
        if kind not in (torch.float32, torch.float64):  # its densities reach beyond what half precision holds
            raise FieldError(f"a field must be float32 to be asked, got {kind}; bring it back by .float()")
        points = points.float()
        hidden = self.grid((points.reshape(-1, 3) + extent) / (2 * extent))
        for layer in self.mlp[:-1]:
            hidden = torch.relu(layer(hidden))
        logit, color = self.mlp[-1](hidden).reshape(*points.shape[:-1], 4).split((1, 3), dim=-1)
        # as in the release: sigma = exp(logit + 5·exp(-|x|² / (2·0.2²)))
        blob = torch.exp(points.square().sum(-1) / (-2 * self.config.blob_sigma**2))
        density: Tensor = _TruncatedExp.apply(logit.squeeze(-1).add(blob, alpha=self.config.blob_weight))
        return density.masked_fill(points.abs().amax(-1) > extent, 0.0), color

    def render(
        self,
        cameras: Cameras,
        size: int | tuple[int, int],
        *,
        background: Tensor | float = 1.0,
        sampling: RaySampling | None = None,
        chunk: int | None = None,
    ) -> RenderedViews:
        """Pictures of the field from `cameras`, of `size` (one side, or height and width); `chunk` rays at a time.

        background: a number or (3,) colour; a ray that misses the box gets it, opacity 0 and depth 0.
        """
        options: dict[str, Any] = {"background": background, "sampling": sampling, "chunk": chunk}
        return render_views(self, self.aabb, cameras, size, density=self.density, **options)

    def extract_mesh(
        self,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        texture_size: int | None = None,
        faces: int | None = None,
        keep: float = 0.05,
        on_step: OnStep | None = None,
    ) -> "MeshAsset":
        """The field's surface as a mesh; see `surface.extract.extract_mesh`.

        Args:
            resolution: samples along the longest side of the object's own box, 8 to 1024.
            threshold: density of the surface, per scene unit; None lets silhouettes agree with the field's opacity.
            texture_size: side in pixels of a baked texture, 64 to 8192; None colours the vertices.
            faces: most triangles, at least 16; None keeps all. keep: smaller shares of the largest piece's volume go.

        Raises FieldError: nothing is dense enough, or all, or density is not finite.
        """
        from .. import extract_mesh  # by the package's public names: surfaces are made of fields, and import them

        options: dict[str, Any] = {"texture_size": texture_size, "faces": faces, "keep": keep, "on_step": on_step}
        return extract_mesh(self, resolution, threshold, **options)

    def save(
        self, path: str | os.PathLike[str], *, cameras: Cameras | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the field in float32 as `.safetensors`, whole or not at all; `load_field` reads it.

        cameras: those it was fitted to. settings: anything that JSON can hold. FieldError where values are not finite.
        """
        tensors = {name: value.detach().float().cpu().contiguous() for name, value in self.state_dict().items()}
        _check_finite(tensors, FieldError, "the field was not saved: it")
        config = asdict(self.config)
        del config["backend"]  # of the machine that wrote it; every one can read it
        if settings is not None:
            check_type("settings", settings, Mapping, "names and values, as JSON has them")
        described = {"version": 1, "config": config, "cameras": None, "settings": dict(settings or {})}
        if cameras is not None:
            check_type("cameras", cameras, Cameras, "those that the field was fitted to")
            if not len(cameras):
                raise InputError("cameras must hold at least one camera, got none; leave them out")
            described["cameras"] = {name: value.cpu().tolist() for name, value in vars(cameras).items()}
        save_safetensors(tensors, path, {FORMAT: json_text(described, "the field's settings")})


FORMAT = "upfusion_field"  # metadata key under which the JSON stands


@dataclass(frozen=True, eq=False)
class StoredField:
    """What a file of a field holds."""

    field: RadianceField
    cameras: Cameras | None  # that it was fitted to
    settings: dict[str, Any]  # of the run


def load_field(path: str | os.PathLike[str], *, device: torch.device | str = "cpu", ops: Any = nn) -> StoredField:  # noqa: ANN401
    """Reads what `RadianceField.save` wrote; the field is frozen, as `distill` gives it.

    Raises CheckpointError where the file is missing, damaged or another kind, or its values unfit or not finite.
    """
    check_path("path", path)
    path, device = Path(path), existing_device(device)
    metadata = read_metadata(path)
    if FORMAT not in metadata:
        raise CheckpointError(f"{path} is not a field (no {FORMAT!r} in its metadata); weights are loaded elsewhere")
    content = parse_json(metadata[FORMAT], f"{path}: {FORMAT} in its metadata", CheckpointError)
    try:
        config: FieldConfig = from_value(FieldConfig, content["config"], "config")
        stored, settings, cameras = content["cameras"], content["settings"], None
        if not isinstance(stored, dict | None) or not isinstance(settings, dict):
            raise InputError(f"cameras and settings must be JSON objects, got {shown(stored)} and {shown(settings)}")
        if stored is not None:
            cameras = Cameras(**{name: torch.tensor(rows, dtype=torch.float32) for name, rows in stored.items()})
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = error if isinstance(error, UpFusionError) else f"{type(error).__name__}: {error}"
        problem = f"{path} describes a field as this version cannot read it ({reason!s:.300})"
        raise CheckpointError(f"{problem}; make it anew") from error
    tensors = read_safetensors(path)[0]
    # before a field of whatever size it claims is made
    if found := misfits(tensors, config.shapes, dtype=torch.float32):
        raise CheckpointError(f"{path} does not fit its own configuration: {found}; make the field anew")
    _check_finite(tensors, CheckpointError, f"{path}")
    field = RadianceField(config, ops=ops)
    field.load_state_dict(tensors)
    field.requires_grad_(False).eval()
    return StoredField(field.to(device), None if cameras is None else cameras.to(device), settings)


def _check_finite(tensors: dict[str, Tensor], error: type[UpFusionError], subject: str) -> None:
    broken = sorted(name for name, value in tensors.items() if not torch.isfinite(value).all())
    if broken:
        problem = f"{subject} holds NaN or infinite values in {', '.join(broken)}"
        raise error(f"{problem}; the fit has diverged: lower its learning rates and make the field anew")
