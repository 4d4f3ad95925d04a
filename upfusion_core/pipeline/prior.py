"""The diffusion prior: predicted noise, and the way between images and latents.

Sampling and distillation see only the protocol; the library's implementation stands on diffusers' networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..models.controlnet import ControlConstants, KeysValues
from ..models.networks import Networks
from ..models.stable_diffusion import decode_latents, encode_images, predict, prompt_keys_values
from ..support.checks import check_shape, check_type
from ..support.errors import InputError
from ..types import ViewConditioning
from .cuda_graphs import CapturedCalls


class DiffusionPrior(Protocol):
    """What sampling and distillation ask of a diffusion model. Latents and images are float32 outside."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one view's latents."""
        ...

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> Any:  # noqa: ANN401 - each prior's own constants
        """What is constant over the sampling steps, for the unconditional and the conditional pass, or one."""
        ...

    def predict_noise(self, latents: Tensor, timestep: Tensor | int | float, prepared: Any, guidance: float) -> Tensor:  # noqa: ANN401
        """(Q, 4, s, s) latents at `timestep` (one, or one a view) -> guided noise of the same shape."""
        ...

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        """(Q, 3, S, S) images in [0, 1] -> (Q, 4, s, s) latents; `noise` samples the posterior, None takes its mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(Q, 4, s, s) latents -> (Q, 3, S, S) images in [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class PreparedConditioning:
    """Constants of Q views over the sampling steps.

    guided: whether the batch holds two passes, unconditional first. text: (G, L, W), G divides the batch.
    """

    views: int
    guided: bool
    control: ControlConstants
    text: Tensor
    text_keys_values: tuple[KeysValues, ...]


class DiffusersPrior:
    """UNet and VAE of diffusers, steered by our ControlNet."""

    def __init__(self, networks: Networks, latent_size: int) -> None:
        self.networks = networks
        self.latent_shape = (4, latent_size, latent_size)
        self._captured: CapturedCalls | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks.controlnet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        return next(self.networks.controlnet.parameters()).dtype

    def capture_graphs(self) -> None:
        """From now on the networks' kernels are captured as CUDA graphs and replayed; see `cuda_graphs.CapturedCalls`.

        The networks must not be moved after the first captured call.
        """
        self._captured = CapturedCalls(self._networks_noise)

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> PreparedConditioning:
        """Hint convolution, ray maps, and the keys and values of set latents and text, once for all steps."""
        parts = [cond.unconditional(), cond] if guided else [cond]
        texts = [part.text for part in parts if part.text is not None]
        assert len(texts) == len(parts), "ViewSynthesizer gives every condition its text"
        text = self._placed([_grouped(text) for text in texts])
        hint = self._placed([part.hint for part in parts])
        ray_maps = tuple(self._placed(maps) for maps in zip(*(part.ray_maps for part in parts), strict=True))
        return PreparedConditioning(
            views=len(cond),
            guided=guided,
            control=self.networks.controlnet.constants(
                hint, ray_maps, self._placed([_grouped(cond.tokens)]), blank=len(cond) if guided else 0
            ),
            text=text,
            text_keys_values=prompt_keys_values(self.networks.unet, text),
        )

    def predict_noise(
        self, latents: Tensor, timestep: Tensor | int | float, prepared: PreparedConditioning, guidance: float
    ) -> Tensor:
        """Both passes run in one batch: e = e_u + s(e_c - e_u); scale 1 needs the conditional one only."""
        check_type("cond", prepared, PreparedConditioning, "make it with condition or prepare")
        check_shape("latents", latents, (prepared.views, *self.latent_shape), "one a conditioned camera")
        if prepared.guided == (guidance == 1):
            wanted = "without" if prepared.guided else "with"
            raise InputError(
                f"guidance is {guidance}, but these conditions were not prepared {wanted} guidance; prepare them again"
            )
        steps = torch.as_tensor(timestep, device=self.device, dtype=torch.float32)
        if steps.numel() not in (1, prepared.views):
            raise InputError(
                f"timestep must be one number or one a view, got {steps.numel()} for {prepared.views} views"
            )
        copies = 2 if prepared.guided else 1
        batch = latents.to(self.device, self.dtype).repeat(copies, 1, 1, 1)
        steps = steps.expand(prepared.views).repeat(copies)
        eps = (self._captured or self._networks_noise)(batch, steps, prepared).float()
        if not prepared.guided:
            return eps
        unconditional, conditional = eps.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def _networks_noise(self, latents: Tensor, steps: Tensor, prepared: PreparedConditioning) -> Tensor:
        residuals = self.networks.controlnet(latents, steps, prepared.control)
        return predict(self.networks.unet, latents, steps, prepared.text, prepared.text_keys_values, residuals)

    def _placed(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(parts)).to(self.device, self.dtype)

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images to scaled latents; differentiable with respect to `rgb`."""
        return encode_images(self.networks.vae, rgb.to(self.device), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images, clipped to [0, 1]."""
        return decode_latents(self.networks.vae, latents.to(self.device))


def _grouped(value: Tensor) -> Tensor:
    """(N, C), shared by all views, becomes one group."""
    return value[None] if value.ndim == 2 else value
