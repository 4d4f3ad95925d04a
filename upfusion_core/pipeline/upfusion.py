"""UpFusion: one object that holds the networks and offers the stages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import check_choice
from ..errors import CheckpointError, InputError
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES, reference_camera
from ..models.checkpoints import (
    Checkpoint,
    build_networks,
    load_networks,
    load_text_encoder,
    network_weights,
    open_checkpoint,
    weights_id,
)
from ..models.config import ModelConfig
from ..models.text import DEFAULT_PROMPT, build_text_encoder, encode_tokens, tokenize
from ..types import Cameras, InputViews, NovelViews, OnStep, SceneEncoding, ViewConditioning
from .novel_views import check_text, condition_views, encode_views, predict_views, resize_views
from .prior import DiffusersPrior, PreparedConditioning
from .sampling import denoise_from, sample_views, view_seeds

if TYPE_CHECKING:
    from ..field.radiance import RadianceField
    from .distill import DistillConfig


class UpFusion:
    """Photos in, set latents, predictions, novel views and a radiance field out.

    Args:
        config: all sizes, or their JSON form. The networks are made with torch's initial weights; `load` reads a file.
        device: where they are made.

    The parts are `dino`, `upsrt`, `controlnet`, `unet`, `vae` and `text` (the text encoder, or None).

    Example:
        model = UpFusion.load("weights.safetensors")
        scene = model.encode(prepare_views(["front.jpg", "back.jpg"]))
        views = model.sample(scene, orbit_cameras([0, 90, 180, 270]))
    """

    def __init__(self, config: ModelConfig | dict[str, Any] | None = None, device: torch.device | str = "cpu") -> None:
        if isinstance(config, dict):
            config = ModelConfig.from_dict(config)
        self.config = config or ModelConfig()
        self._checkpoint: Checkpoint | None = None
        self._embeddings: dict[str, Tensor] = {}
        self._text_encoder: torch.nn.Module | None = None
        self._take(build_networks(self.config, device))
        for part in (self.dino, self.upsrt, self.controlnet, self.unet, self.vae):
            part.requires_grad_(False).eval()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> UpFusion:
        """A model from a folder of weights or a merged `.safetensors` file.

        Args:
            device: None takes CUDA, then MPS, then the CPU, whichever there is.
            dtype: precision of all networks; None takes float32 on a CPU and float16 elsewhere. On a CPU, weights
                stored in this precision stay mapped from the file.

        Raises:
            CheckpointError: see open_checkpoint.
        """
        if str(path) == "mini" and not Path(path).exists():
            raise CheckpointError(
                "this version bundles no model yet; give a folder of weights or a merged .safetensors"
            )
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise InputError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, got {dtype!r}")
        device = torch.device(device) if device is not None else default_device()
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
        checkpoint = open_checkpoint(path)
        model = cls(checkpoint.config, device="meta")
        model._take(load_networks(checkpoint, device, dtype))
        model._checkpoint = checkpoint
        if checkpoint.text_embeddings:
            default, empty = checkpoint.text_embeddings
            model._embeddings = {DEFAULT_PROMPT: default, "": empty}
        return model

    @property
    def image_size(self) -> int:
        """Pixels along each side of photos and views."""
        return self.config.image_size

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.prior.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        return self.prior.dtype

    @property
    def text(self) -> torch.nn.Module | None:
        """The text encoder, loaded at first use; None where the checkpoint has none, or the sizes admit none."""
        if self._text_encoder is None:
            if self._checkpoint is not None and self._checkpoint.has_text_encoder:
                self._text_encoder = load_text_encoder(self._checkpoint)
            elif self._checkpoint is None and self.config.text.hidden_size == self.config.diffusion.context_dim:
                self._text_encoder = build_text_encoder(self.config.text).requires_grad_(False).eval()
        return self._text_encoder

    @property
    def model_id(self) -> str:
        """Fingerprint of sizes and weights, by which a scene knows its model; conversions of a file keep it."""
        if self._checkpoint is not None:
            return self._checkpoint.model_id
        return weights_id(self.config, network_weights(self.config, self.prior.networks))

    def encode(
        self, views: InputViews, reference_elevation_degrees: float = REFERENCE_ELEVATION_DEGREES
    ) -> SceneEncoding:
        """Set latents of 1 to 6 photos.

        Args:
            views: from prepare_views; photos of another size are resized to the model's.
            reference_elevation_degrees: elevation that photo 1 was taken from; the release assumes 22.5.

        Raises:
            InputError: the weights give values that are not finite in this precision.
        """
        views = resize_views(views, self.image_size)
        tokens = encode_views(self.dino, self.upsrt, views)
        return SceneEncoding(tokens, reference_camera(reference_elevation_degrees), views, self.model_id)

    def predict(self, scene: SceneEncoding, cameras: Cameras, size: int = 64) -> Tensor:
        """(Q, 3, size, size) UpSRT's own colours in [0, 1]: blurry, immediate."""
        return predict_views(self.upsrt, self._own(scene), cameras, size).cpu()

    def text_embeddings(self, prompt: str | None = None) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) embeddings, (77, W) each. None is the released prompt.

        A checkpoint without text encoder and stored embeddings works without a prompt: its text is zeros.

        Raises:
            CheckpointError: a prompt is given, but the checkpoint has no text encoder.
            MissingPackageError: CLIP's vocabulary is not installed.
        """
        return self._embedding(DEFAULT_PROMPT if prompt is None else prompt), self._embedding("")

    def condition(
        self,
        scene: SceneEncoding,
        cameras: Cameras,
        prompt: str | None = None,
        text_embeddings: tuple[Tensor, Tensor] | None = None,
        zero_attention_rays: bool = False,
    ) -> ViewConditioning:
        """What the diffusion model needs to paint `cameras`; the scene is decoded, not encoded again.

        Args:
            prompt: None takes the released prompt.
            text_embeddings: (conditional, unconditional) in the prompt's place.
            zero_attention_rays: reproduces the release, whose attention sees no rays under guidance.
        """
        if prompt is not None and text_embeddings is not None:
            raise InputError("give a prompt or text_embeddings, not both")
        text = text_embeddings if text_embeddings is not None else self.text_embeddings(prompt)
        return condition_views(
            self.upsrt,
            self._own(scene),
            cameras,
            latent_size=self.config.latent_size,
            levels=len(self.config.diffusion.channel_mult),
            text=check_text(text, self.config.diffusion.context_dim),
            zero_attention_rays=zero_attention_rays,
        )

    @torch.no_grad()
    def prepare(self, cond: ViewConditioning, guidance: float = 9.0) -> PreparedConditioning:
        """The constants of `cond` over the sampling steps, for many calls of predict_noise at one kind of guidance."""
        return self.prior.prepare(self._with_text(cond), guided=guidance != 1)

    @torch.no_grad()
    def predict_noise(
        self,
        latents: Tensor,
        timestep: Tensor | int | float,
        cond: ViewConditioning | PreparedConditioning,
        guidance: float = 9.0,
    ) -> Tensor:
        """(Q, 4, s, s) latents at `timestep` -> guided noise ε_u + s(ε_c − ε_u), float32, on the model's device.

        Args:
            timestep: 0…999, one number or one a view. cond: from `condition`, or from `prepare` when called often.
        """
        prepared = self.prepare(cond, guidance) if isinstance(cond, ViewConditioning) else cond
        return self.prior.predict_noise(latents, timestep, prepared, guidance)

    def sample(
        self,
        scene: SceneEncoding,
        cameras: Cameras,
        steps: int = 50,
        guidance: float = 9.0,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        *,
        seeds: Sequence[int] | None = None,
        scheduler: str = "ddim",
        prompt: str | None = None,
        text_embeddings: tuple[Tensor, Tensor] | None = None,
        zero_attention_rays: bool = False,
        batch_size: int = 4,
    ) -> NovelViews:
        """Paints the cameras' views. View i depends on its own seed only, not on the batch it is in.

        Args:
            generator: view i draws from the seed generator.initial_seed() + i; None counts from 0.
            seeds: one a view, in the generator's place.
            scheduler: "ddim" as released, or see make_scheduler. Other arguments: see condition and sample_views.
        """
        draws = view_seeds(len(cameras), generator, seeds)
        cond = self.condition(scene, cameras, prompt, text_embeddings, zero_attention_rays)
        rgb = sample_views(
            self.prior,
            cond,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            seeds=draws,
            batch_size=batch_size,
            on_step=on_step,
        )
        return NovelViews(rgb, cameras)

    def denoise_from(
        self,
        rgb: Tensor,
        cond: ViewConditioning | PreparedConditioning,
        index: int,
        *,
        generator: torch.Generator,
        guidance: float = 9.0,
        steps: int = 30,
    ) -> Tensor:
        """(Q, 3, S, S) images noised to entry `index` of the `steps`-step table and denoised in earnest.

        The generator draws first the posterior's noise, then the latents'.
        """
        prepared = self.prepare(cond, guidance) if isinstance(cond, ViewConditioning) else cond
        shape = (len(rgb), *self.prior.latent_shape)
        posterior, noise = (torch.randn(shape, generator=generator, device=generator.device) for _ in range(2))
        options = {"noise": noise, "posterior_noise": posterior, "guidance": guidance, "steps": steps}
        return denoise_from(self.prior, rgb, prepared, index, **options)

    def distill(
        self,
        scene: SceneEncoding,
        config: DistillConfig | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        prompt: str | None = None,
        text_embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> RadianceField:
        """A radiance field of the object (see DistillConfig and distill)."""
        from .distill import distill

        return distill(self, scene, config, generator, on_step, checkpoint, prompt, text_embeddings)

    def _take(self, networks: Any) -> None:  # noqa: ANN401 - Networks, spelled out below
        self.dino, self.upsrt, self.controlnet = networks.dino, networks.upsrt, networks.controlnet
        self.unet, self.vae = networks.unet, networks.vae
        self.prior = DiffusersPrior(networks, self.config.latent_size)

    def _own(self, scene: SceneEncoding) -> SceneEncoding:
        """The scene on this model's device and precision, if this model made it."""
        if scene.model_id is not None and scene.model_id != self.model_id:
            raise InputError(
                f"the scene was encoded by another model (id {scene.model_id}, this one is {self.model_id}); "
                "encode the photos again with this model"
            )
        tokens = scene.tokens.to(self.device, self.dtype)
        return SceneEncoding(tokens, scene.reference, scene.views, scene.model_id)

    def _with_text(self, cond: ViewConditioning) -> ViewConditioning:
        """Conditions made by hand without text get the default prompt's."""
        if cond.text is not None and cond.unconditional_text is not None:
            return cond
        text, unconditional = self.text_embeddings()
        return replace(cond, text=text, unconditional_text=unconditional)

    def _embedding(self, prompt: str) -> Tensor:
        if prompt not in self._embeddings:
            if self.text is not None:
                self._embeddings[prompt] = encode_tokens(self.text, tokenize(prompt))[0]
            elif prompt in ("", DEFAULT_PROMPT):
                self._embeddings[prompt] = self._no_text()
            else:
                raise CheckpointError("these weights hold no text encoder, so they take no prompt; leave it away")
        return self._embeddings[prompt]

    def _no_text(self) -> Tensor:
        warnings.warn(
            "these weights hold neither a text encoder nor stored text embeddings; zeros stand in the prompt's place",
            stacklevel=4,
        )
        return torch.zeros(77, self.config.diffusion.context_dim)


def default_device() -> torch.device:
    """CUDA, then MPS, then the CPU, whichever there is."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_device(name: str) -> torch.device:
    """A device by name: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: this machine has no such device.
    """
    check_choice("device", name, ("auto", "cpu", "cuda", "mps"))
    missing = (name == "cuda" and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise InputError(f"this machine has no {name} device that torch can use; choose cpu, or install another torch")
    return default_device() if name == "auto" else torch.device(name)
