"""UpFusion: one object that holds the networks and goes all the way from photos to a field."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..models import checkpoint
from ..models.dino import DinoKeys
from ..models.stable_diffusion import DEFAULT_PROMPT, build_text_encoder, encode_tokens, tokenize
from ..models.upsrt import UpSRT
from ..support.checks import check_type
from ..support.devices import existing_device
from ..support.errors import CheckpointError, InputError
from .distill import distill as distill_field
from .novel_views import ViewSynthesizer
from .prior import DiffusersPrior, DiffusionPrior


class UpFusion(ViewSynthesizer):
    """Photos in, set latents, predictions, novel views and a radiance field out.

    Args:
        config: all sizes, or their JSON form. The networks are made with torch's initial weights; `load` reads a file.
        device: where they are made.

    The parts are `dino`, `upsrt`, `controlnet`, `unet`, `vae` and `text` (the text encoder, or None).

    Example:
        model = UpFusion.load("mini")
        scene = model.encode(prepare_views(["front.jpg", "back.jpg"]))
        views = model.sample(scene, orbit_cameras([0, 90, 180, 270]))
    """

    prior: DiffusersPrior
    distill = distill_field

    def __init__(self, config: ModelConfig | dict[str, Any] | None = None, device: torch.device | str = "cpu") -> None:
        config = ModelConfig() if config is None else config
        given = ModelConfig.from_dict(config) if isinstance(config, dict) else config
        check_type("config", given, ModelConfig, "or its JSON form")
        self.config = given
        self._checkpoint: checkpoint.Checkpoint | None = None
        self._embeddings: dict[str, Tensor] = {}
        self._text_encoder: torch.nn.Module | None = None
        place = torch.device("meta") if str(device) == "meta" else existing_device(device)
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            self._take(checkpoint.build_networks(self.config, place))
        for part in (self.dino, self.upsrt, self.controlnet, self.unet, self.vae):
            part.requires_grad_(False).eval()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "UpFusion":
        """A model from a folder of weights or a merged `.safetensors` file; CheckpointError as `open_checkpoint`.

        Args:
            path: where it is; the text "mini" is the small model that comes with the package.
            device: None takes CUDA, then MPS, then the CPU, whichever there is.
            dtype: precision of all networks; None takes float32 on a CPU and float16 elsewhere. On a CPU, weights
                stored in this precision stay mapped from the file.
        """
        if not isinstance(path, str | os.PathLike):
            raise InputError(f'path must name weights, got {path!r:.40}; give a file, a folder or "mini"')
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise InputError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, got {dtype!r}")
        device = existing_device(device)
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
        opened = checkpoint.open_checkpoint(path if isinstance(path, str) else Path(path))  # a Path is no "mini"
        model = cls(opened.config, device="meta")
        model._take(checkpoint.load_networks(opened, device, dtype))
        model._checkpoint = opened
        if opened.text_embeddings:
            model._embeddings = dict(zip((DEFAULT_PROMPT, ""), opened.text_embeddings, strict=True))
        return model

    def _take(self, networks: checkpoint.Networks) -> None:
        self.dino, self.upsrt, self.controlnet = networks.dino, networks.upsrt, networks.controlnet
        self.unet, self.vae = networks.unet, networks.vae
        self.prior = DiffusersPrior(networks, self.config.latent_size)

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # read only
        """Where the networks are."""
        return self.prior.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The networks' precision."""
        return self.prior.dtype

    @property
    def model_id(self) -> str:  # type: ignore[override]
        """Fingerprint of sizes and weights, by which a scene knows its model; conversions of a file keep it."""
        if self._checkpoint is not None:
            return self._checkpoint.model_id
        return checkpoint.weights_id(self.config, checkpoint.network_weights(self.config, self.prior.networks))

    @property
    def text(self) -> torch.nn.Module | None:
        """The text encoder, loaded at first use; None where the checkpoint has none, or the sizes admit none."""
        if self._text_encoder is None:
            if self._checkpoint is not None and self._checkpoint.has_text_encoder:
                self._text_encoder = checkpoint.load_text_encoder(self._checkpoint)
            elif self._checkpoint is None and self.config.text.hidden_size == self.config.diffusion.context_dim:
                with torch.random.fork_rng(devices=[]):
                    self._text_encoder = build_text_encoder(self.config.text).requires_grad_(False).eval()
        return self._text_encoder

    def text_embeddings(self, prompt: str | None = None) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) embeddings, (77, W) each. None is the released prompt.

        A checkpoint without text encoder and stored embeddings works without a prompt: its text is zeros.

        Raises CheckpointError: the checkpoint has no text encoder. MissingPackageError: CLIP's vocabulary is not there.
        """
        prompt = DEFAULT_PROMPT if prompt is None else prompt
        check_type("prompt", prompt, str)
        for text in [each for each in (prompt, "") if each not in self._embeddings]:
            if self.text is not None:
                self._embeddings[text] = encode_tokens(self.text, tokenize(text))[0]
            elif text in ("", DEFAULT_PROMPT):
                lacking = "these weights hold neither a text encoder nor stored text embeddings"
                warnings.warn(f"{lacking}; zeros stand in the prompt's place", stacklevel=2)
                self._embeddings[text] = torch.zeros(77, self.config.diffusion.context_dim)
            else:
                raise CheckpointError("these weights hold no text encoder, so they take no prompt; leave it away")
        return self._embeddings[prompt], self._embeddings[""]


class HostedUpFusion(ViewSynthesizer):
    """The same on networks that a host program loaded and manages, e.g. those of ComfyUI.

    Args:
        dino, upsrt: built from layers of the host, see load_conditioning_networks.
        prior: the host's diffusion model; None where none is needed, as for encoding and predicting.
        device, dtype: where and in which precision `dino` and `upsrt` compute, wherever their weights lie.
        text: (conditional, unconditional) embeddings of the default prompt, (L, W) each; hosts encode others.
        model_id: see SceneEncoding.
    """

    distill = distill_field

    def __init__(
        self,
        config: ModelConfig,
        *,
        dino: DinoKeys,
        upsrt: UpSRT,
        prior: DiffusionPrior | None,
        device: torch.device,
        dtype: torch.dtype,
        text: tuple[Tensor, Tensor],
        model_id: str,
    ) -> None:
        self.config, self.dino, self.upsrt = config, dino, upsrt
        self.device, self.dtype, self.model_id, self._text = device, dtype, model_id, text
        if prior is not None:
            self.prior = prior

    def text_embeddings(self, prompt: str | None = None) -> tuple[Tensor, Tensor]:
        """The default prompt's embeddings; other prompts come as `text_embeddings` from the host's text encoder."""
        if prompt is not None:
            raise InputError("prompts are encoded by the host program; give text_embeddings instead")
        return self._text
