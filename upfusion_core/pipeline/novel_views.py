"""Photos -> set latents; set latents and cameras -> predictions, conditions and novel views."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..config import ModelConfig
from ..geometry import patch_rays, plucker, reference_plucker
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES, networks_reference, reference_camera
from ..models.dino import DinoKeys
from ..models.upsrt import UpSRT
from ..support.checks import check_count, check_finite, check_range, check_shape, check_type
from ..support.devices import Chunk
from ..support.errors import InputError
from ..support.images import resize_pictures
from ..types import REFERENCE_FOCAL, Cameras, InputViews, NovelViews, OnStep, SceneEncoding, ViewConditioning
from .frames import choose_views
from .prior import DiffusionPrior
from .sampling import sample_views, view_seeds


def _check_cameras(cameras: Cameras) -> None:
    check_type("cameras", cameras, Cameras, "make some with orbit_cameras")
    if not len(cameras):
        raise InputError("expected at least one camera, got none; make some with orbit_cameras")
    off = (cameras.focal / REFERENCE_FOCAL).log().abs()
    if off.max() > math.log(1.2):
        worst = float(cameras.focal.flatten()[off.argmax()])
        trained = f"the networks were trained at focal length {REFERENCE_FOCAL} (field of view 25 degrees)"
        advice = "the view may be off: move the camera instead of zooming"
        # of who called the method that is decorated by no_grad
        warnings.warn(f"{trained}, a camera has {worst:.2f}; {advice}", stacklevel=4)


class ViewSynthesizer(ABC):
    """What every UpFusion model does, wherever its networks come from.

    device, dtype: where and in which precision the networks compute. model_id: by which a scene knows its model.
    """

    config: ModelConfig
    dino: DinoKeys
    upsrt: UpSRT
    prior: DiffusionPrior
    device: torch.device
    dtype: torch.dtype
    model_id: str

    @property
    def image_size(self) -> int:
        """Pixels along each side of photos and views."""
        return self.config.image_size

    @abstractmethod
    def text_embeddings(self, prompt: str | None = None) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) embeddings, (77, W) each. None is the released prompt."""

    def encode(
        self, views: InputViews, reference_elevation_degrees: float = REFERENCE_ELEVATION_DEGREES
    ) -> SceneEncoding:
        """Set latents of photos from prepare_views, which are resized to the model's size.

        Of more than 6 the networks see those that `choose_views` takes, unless others were taken before.
        `reference_elevation_degrees` is photo 1's, unless its camera is known; the release assumes 22.5. InputError:
        the weights give values that are not finite in this precision.
        """
        check_type("views", views, InputViews, "make them with prepare_views")
        views = views.with_sources()
        rgb, mask = (resize_pictures(pictures, self.image_size) for pictures in (views.rgb, views.mask))
        views = replace(choose_views(views), rgb=rgb, mask=mask)
        reference = reference_camera(reference_elevation_degrees)
        if views.cameras is not None:
            reference = networks_reference(views.cameras.cameras[0])
        return SceneEncoding(self.set_latents(views), reference, views, self.model_id)

    @torch.no_grad()
    def set_latents(self, views: InputViews) -> Tensor:
        """(V·P, C) of photos of the model's size: DINO and the scene encoder run once; errors as of `encode`."""
        rows, columns = self.config.upsrt.patches
        rgb = views.rgb[views.seen].to(self.device)
        photos = Chunk(len(rgb), "photo")
        parts = photos.map(lambda part: self.dino(rgb[part], (rows, columns), self.dtype), len(rgb))
        keys = torch.cat(list(parts))
        if keys.shape[-1] != (width := self.config.upsrt.image_feature_dim):
            advice = "make dino.embed_dim and upsrt.image_feature_dim of the configuration agree"
            raise InputError(f"the DINO features must be {width} wide for this UpSRT, got {keys.shape[-1]}; {advice}")
        tokens = self.upsrt.encode(keys[None], plucker(patch_rays(rows, columns, self.device)))[0]
        check_finite("the set latents (from these weights in this precision)", tokens)
        return tokens

    @torch.no_grad()
    def predict(self, scene: SceneEncoding, cameras: Cameras, size: int = 64, *, pixel_centers: bool = False) -> Tensor:
        """(Q, 3, size, size) UpSRT's own colours in [0, 1]: blurry, immediate.

        Args:
            pixel_centers: rays go through the pixels' centres, as in pictures and renders; else they are the release's,
                the outermost on the picture's border.
        """
        scene = self.own_scene(scene)
        check_count("size", size, 2, 4096)
        _check_cameras(cameras)
        if pixel_centers:  # the centres of pixels are the corner-aligned grid of NDC x (size - 1) / size
            share = (size - 1) / size
            cameras = Cameras(cameras.camera_to_world, cameras.focal / share, cameras.principal / share)
        tokens = scene.tokens[None]
        views = []
        reference = scene.reference.to("cpu")
        for camera in cameras.to("cpu"):  # one at a time: the features of a large picture are larger than the picture
            rays = reference_plucker(camera, reference, size).to(tokens.device)
            plucker = rearrange(rays, "q h w c -> 1 (q h w) c")
            rgb = self.upsrt.decode(tokens, plucker, read=self.upsrt.read_rgb).float()
            views.append(rearrange(rgb, "1 (h w) c -> c h w", h=size))
        result = torch.stack(views)
        check_finite("the predicted views (from these weights in this precision)", result)
        return result.cpu()

    @torch.no_grad()
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
            zero_attention_rays: as in the release, whose attention sees no rays under guidance (golden: eps_zero_rays).
        """
        scene, text = self.own_scene(scene), self.chosen_text(prompt, text_embeddings)
        _check_cameras(cameras)
        here, reference, device = cameras.to("cpu"), scene.reference.to("cpu"), scene.tokens.device
        cameras, size = cameras.to(device), self.config.latent_size
        levels = range(len(self.config.diffusion.channel_mult))
        grids = [reference_plucker(here, reference, size // 2**level) for level in levels]
        rays = rearrange(grids[0], "q h w c -> 1 (q h w) c").to(device)
        # all lies on the CPU, in float32 until a network reads it: of 250 cameras it is 0.8 GB
        features = self.upsrt.decode(scene.tokens[None], rays, read=lambda features: features.float().cpu())
        ray_maps = tuple(rearrange(grid, "q h w c -> q c h w").contiguous() for grid in grids)
        features = rearrange(features, "1 (q h w) c -> q c h w", h=size, w=size)
        hint = torch.cat([features, ray_maps[0]], dim=1).contiguous()
        if zero_attention_rays:
            ray_maps = tuple(torch.zeros_like(ray_map) for ray_map in ray_maps)
        return ViewConditioning(hint, ray_maps, scene.tokens, cameras, *text)

    def chosen_text(self, prompt: str | None, text_embeddings: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The embeddings that are given, checked, or else those of the prompt."""
        if prompt is not None and text_embeddings is not None:
            raise InputError("give a prompt or text_embeddings, not both")
        text = text_embeddings if text_embeddings is not None else self.text_embeddings(prompt)
        if not isinstance(text, Sequence) or len(text) != 2:
            raise InputError(f"text_embeddings must be two tensors, conditional and unconditional, got {text!r:.60}")
        for value in text:
            check_finite("text_embeddings", value)
            shape = (text[0].shape[-2], self.config.diffusion.context_dim)  # both run in one batch
            check_shape("text_embeddings", value, shape if value.ndim == 2 else ("Q", *shape), "77 rows, both as long")
        return text

    @torch.no_grad()
    def prepare(self, cond: ViewConditioning, guidance: float = 9.0) -> Any:  # noqa: ANN401 - the prior's own constants
        """The constants of `cond` over the sampling steps, for many calls of predict_noise at one kind of guidance."""
        check_type("cond", cond, ViewConditioning, "make it with condition")
        shape = (len(cond), self.config.diffusion.hint_channels, *[self.config.latent_size] * 2)
        check_shape("cond.hint", cond.hint, shape, "make the conditions with this model")
        return self.prior.prepare(cond, guided=guidance != 1)

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
        steps = timestep if isinstance(timestep, Tensor | int | float) else torch.nan
        steps = torch.as_tensor(steps, dtype=torch.float32)
        if steps.ndim > 1 or steps.numel() not in (1, len(latents)) or not ((steps >= 0) & (steps <= 999)).all():
            raise InputError(f"timestep must be 0 to 999, one number or one a view, got {timestep!r:.60}")
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
        options: dict[str, Any] = {"steps": steps, "guidance": guidance, "scheduler": scheduler, "on_step": on_step}
        return NovelViews(sample_views(self.prior, cond, seeds=draws, batch_size=batch_size, **options), cameras)

    def own_scene(self, scene: SceneEncoding) -> SceneEncoding:
        """The scene on this model's device and precision, if this model made it."""
        check_type("scene", scene, SceneEncoding, "make it with encode")
        if scene.model_id is not None and scene.model_id != self.model_id:
            problem = f"the scene was encoded by another model (id {scene.model_id}, this one is {self.model_id})"
            raise InputError(f"{problem}; encode the photos again with this model")
        return replace(scene, tokens=scene.tokens.to(self.device, self.dtype))
