"""The stages of the method on given networks: photos -> set latents -> predictions, conditions, views and a field.

`UpFusion` loads the networks itself; a host program that loads them in its own way uses `HostedUpFusion`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES, reference_camera
from ..models.dino import DinoKeys
from ..models.upsrt import UpSRT
from ..support.checks import check_finite, check_range, check_shape, check_type, check_unit_range
from ..support.errors import InputError
from ..types import Cameras, InputViews, NovelViews, OnStep, SceneEncoding, ViewConditioning
from .novel_views import check_text, condition_views, encode_views, predict_views, resize_views
from .prior import DiffusionPrior
from .sampling import denoise_from, sample_views, view_seeds

if TYPE_CHECKING:
    from ..config import DistillConfig
    from ..field.radiance import RadianceField
    from .pose import PhotoCameras


_OTHER_MODEL = "make the conditions with this model"


class Stages(ABC):
    """What every UpFusion model does, wherever its networks come from.

    config: all sizes. dino, upsrt: the networks of the first stage. prior: the diffusion model.
    """

    config: ModelConfig
    dino: DinoKeys
    upsrt: UpSRT
    prior: DiffusionPrior

    @property
    def image_size(self) -> int:
        """Pixels along each side of photos and views."""
        return self.config.image_size

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the networks compute."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that the networks compute in."""

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Fingerprint of sizes and weights, by which a scene knows its model."""

    @abstractmethod
    def text_embeddings(self, prompt: str | None = None) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) embeddings, (77, W) each. None is the released prompt."""

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
        check_type("views", views, InputViews, "make them with prepare_views")
        views = resize_views(views, self.image_size)
        tokens = encode_views(self.dino, self.upsrt, views, self.device, self.dtype)
        return SceneEncoding(tokens, reference_camera(reference_elevation_degrees), views, self.model_id)

    def predict(self, scene: SceneEncoding, cameras: Cameras, size: int = 64, *, pixel_centers: bool = False) -> Tensor:
        """(Q, 3, size, size) UpSRT's own colours in [0, 1]: blurry, immediate.

        Args:
            pixel_centers: for pictures that are compared with others; False asks for the release's rays, whose
                outermost lie on the picture's border.
        """
        return predict_views(self.upsrt, self.own_scene(scene), cameras, size, pixel_centers=pixel_centers).cpu()

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
            self.own_scene(scene),
            cameras,
            latent_size=self.config.latent_size,
            levels=len(self.config.diffusion.channel_mult),
            text=check_text(text, self.config.diffusion.context_dim),
            zero_attention_rays=zero_attention_rays,
        )

    @torch.no_grad()
    def prepare(self, cond: ViewConditioning, guidance: float = 9.0) -> Any:  # noqa: ANN401 - the prior's own constants
        """The constants of `cond` over the sampling steps, for many calls of predict_noise at one kind of guidance."""
        return self.prior.prepare(self._with_text(cond), guided=guidance != 1)

    @torch.no_grad()
    def predict_noise(
        self,
        latents: Tensor,
        timestep: Tensor | int | float,
        cond: ViewConditioning | Any,  # noqa: ANN401 - or the prior's own constants
        guidance: float = 9.0,
    ) -> Tensor:
        """(Q, 4, s, s) latents at `timestep` -> guided noise e_u + s(e_c - e_u), float32, on the model's device.

        Args:
            timestep: 0…999, one number or one a view. cond: from `condition`, or from `prepare` when called often.
        """
        check_finite("latents", latents)
        check_range("guidance", guidance, 0.0, 1000.0)
        _check_timestep(timestep)
        prepared = self.prepare(cond, guidance) if isinstance(cond, ViewConditioning) else cond
        eps = self.prior.predict_noise(latents, timestep, prepared, guidance)
        check_finite("the predicted noise (from these weights in this precision)", eps)
        return eps

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
        check_type("cameras", cameras, Cameras, "make some with orbit_cameras")
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
        cond: ViewConditioning | Any,  # noqa: ANN401 - or the prior's own constants
        index: int,
        *,
        generator: torch.Generator,
        guidance: float = 9.0,
        steps: int = 30,
    ) -> Tensor:
        """(Q, 3, S, S) images noised to entry `index` of the `steps`-step table and denoised in earnest.

        The generator draws first the posterior's noise, then the latents'.
        """
        check_shape("rgb", rgb, ("Q", 3, self.image_size, self.image_size), "pictures of the model's size")
        check_unit_range("rgb", rgb, "divide 8-bit pictures by 255")
        if not len(rgb):
            raise InputError("rgb must hold at least one picture, got none; give one for each camera of cond")
        check_range("guidance", guidance, 0.0, 1000.0)
        check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
        prepared = self.prepare(cond, guidance) if isinstance(cond, ViewConditioning) else cond
        shape = (len(rgb), *self.prior.latent_shape)
        posterior, noise = (
            torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32) for _ in range(2)
        )
        result = denoise_from(
            self.prior, rgb, prepared, index, noise=noise, posterior_noise=posterior, guidance=guidance, steps=steps
        )
        check_finite("the denoised views (from these weights in this precision)", result)
        return result

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
        views: NovelViews | None = None,
        photo_cameras: PhotoCameras | None = None,
    ) -> RadianceField:
        """A radiance field of the object, of `views` too where there are some (see DistillConfig and distill)."""
        from .distill import distill

        return distill(
            self,
            scene,
            config,
            generator=generator,
            on_step=on_step,
            checkpoint=checkpoint,
            prompt=prompt,
            text_embeddings=text_embeddings,
            views=views,
            photo_cameras=photo_cameras,
        )

    def own_scene(self, scene: SceneEncoding) -> SceneEncoding:
        """The scene on this model's device and precision, if this model made it."""
        check_type("scene", scene, SceneEncoding, "make it with encode")
        if scene.model_id is not None and scene.model_id != self.model_id:
            raise InputError(
                f"the scene was encoded by another model (id {scene.model_id}, this one is {self.model_id}); "
                "encode the photos again with this model"
            )
        tokens = scene.tokens.to(self.device, self.dtype)
        return SceneEncoding(tokens, scene.reference, scene.views, scene.model_id)

    def _with_text(self, cond: ViewConditioning) -> ViewConditioning:
        """Conditions made by hand without text get the default prompt's; those of another model are refused."""
        check_type("cond", cond, ViewConditioning, "make it with condition")
        config, size, count = self.config, self.config.latent_size, len(cond)
        check_shape("cond.hint", cond.hint, (count, config.diffusion.hint_channels, size, size), _OTHER_MODEL)
        levels = range(len(config.diffusion.channel_mult))
        found, wanted = [tuple(maps.shape[2:]) for maps in cond.ray_maps], [(size >> level,) * 2 for level in levels]
        if found != wanted:
            raise InputError(f"cond.ray_maps must be of the sizes {wanted}, got {found}; {_OTHER_MODEL}")
        if cond.tokens.shape[-1] != config.diffusion.context_dim:
            raise InputError(
                f"cond.tokens must be {config.diffusion.context_dim} wide, got {cond.tokens.shape[-1]}; {_OTHER_MODEL}"
            )
        for text in (cond.text, cond.unconditional_text):
            if text is not None and text.shape[-1] != config.diffusion.context_dim:
                raise InputError(
                    f"cond.text must be {config.diffusion.context_dim} wide, got {text.shape[-1]}; {_OTHER_MODEL}"
                )
        if cond.text is not None and cond.unconditional_text is not None:
            return cond
        text, unconditional = self.text_embeddings()
        return replace(cond, text=text, unconditional_text=unconditional)


def _check_timestep(timestep: Tensor | int | float) -> None:
    shown = " ".join(repr(timestep).split())[:40]
    try:
        steps = torch.as_tensor(timestep, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"timestep must be 0 to 999, got {shown}; give a number, or one a view") from error
    check_finite("timestep", steps)
    if steps.ndim > 1 or not steps.numel() or float(steps.min()) < 0 or float(steps.max()) > 999:
        raise InputError(f"timestep must be 0 to 999, got {tuple(steps.shape)} {shown}; one, or one a view")


class HostedUpFusion(Stages):
    """The stages on networks that a host program loaded and manages, e.g. those of ComfyUI.

    Args:
        dino, upsrt: built from layers of the host, see load_conditioning_networks.
        prior: the host's diffusion model; None where only photos are encoded, predicted or made conditions of.
        device, dtype: where and in which precision `dino` and `upsrt` compute, wherever their weights lie.
        text: (conditional, unconditional) embeddings of the default prompt, (L, W) each; hosts encode others.
        model_id: see SceneEncoding.
    """

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
        self._prior, self._device, self._dtype = prior, device, dtype
        self._text, self._model_id = text, model_id

    @property
    def prior(self) -> DiffusionPrior:  # type: ignore[override]  # nobody gives a hosted model another one
        """The host's diffusion model."""
        if self._prior is None:
            raise InputError("this model was put together without a diffusion model; give it one to sample or distil")
        return self._prior

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the networks compute in."""
        return self._dtype

    @property
    def model_id(self) -> str:
        """Fingerprint of sizes and weights."""
        return self._model_id

    def text_embeddings(self, prompt: str | None = None) -> tuple[Tensor, Tensor]:
        """The default prompt's embeddings; other prompts come as `text_embeddings` from the host's text encoder."""
        if prompt is not None:
            raise InputError("prompts are encoded by the host program; give text_embeddings instead")
        return self._text
