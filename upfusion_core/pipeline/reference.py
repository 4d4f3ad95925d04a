"""The release's distillation: every render is denoised in earnest and becomes the next target (paper section 3.3)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import DistillConfig, ReferenceSchedule
from ..field.fitting import finite_gradient, not_finite
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..models.perceptual import PerceptualDistance, dino_distance, load_lpips
from ..support.errors import FieldError
from ..types import ViewConditioning
from .novel_views import ViewSynthesizer
from .sampling import alphas_cumprod, ddim_timesteps, denoise_latents


def loss_terms(
    rgb: Tensor, opacity: Tensor, target: Tensor, perceptual: PerceptualDistance | None
) -> dict[str, Tensor]:
    """The release's unweighted terms by name: color, perceptual if there is one, and silhouette.

    silhouette is mean sqrt(opacity² + 0.01), which prefers empty space.
    """
    terms = {"color": F.mse_loss(rgb, target), "silhouette": (opacity.square() + 0.01).sqrt().mean()}
    return terms if perceptual is None else terms | {"perceptual": perceptual(rgb, target)}


def term_weights(schedule: ReferenceSchedule, iteration: int, index: int) -> dict[str, float]:
    """Weights of the terms: the colour's is 1 in the bootstrap, then 1 - a_t of the noise index."""
    alpha = float(alphas_cumprod()[ddim_timesteps(schedule.steps)[index]])
    color = 1.0 if iteration < schedule.bootstrap else 1 - alpha
    return {"color": color, "perceptual": schedule.perceptual_weight, "silhouette": schedule.silhouette_weight}


def reference_order(schedule: ReferenceSchedule, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(iterations,) camera of each, shuffled anew when all were seen, and (iterations,) noise index of each."""
    laps = -(-schedule.iterations // schedule.cameras)
    order = torch.cat([torch.randperm(schedule.cameras, generator=generator) for _ in range(laps)])
    low = torch.full((schedule.iterations,), schedule.lowest_index)
    low[: schedule.bootstrap] = schedule.bootstrap_index
    draws = torch.rand(schedule.iterations, generator=generator)
    return order[: schedule.iterations], low + (draws * (schedule.highest_index - low + 1)).long()


class ReferenceFitter:
    """The release's optimisation of `field`, in place, with the handles of a FieldFitter.

    cond: of all cameras, photo 1's first. order: see reference_order. generator: of rays and noise.
    """

    def __init__(
        self,
        field: RadianceField,
        model: ViewSynthesizer,
        cond: ViewConditioning,
        config: DistillConfig,
        *,
        order: tuple[Tensor, Tensor],
        generator: torch.Generator,
    ) -> None:
        assert isinstance(config.schedule, ReferenceSchedule)
        self.field, self.model, self.cond, self.config, self.schedule = field, model, cond, config, config.schedule
        self.order, self.generator, self.iteration = order, generator, 0
        self._begun: Tensor | None = None  # the generator where a step that was broken off began
        self.perceptual: PerceptualDistance | None = None
        if config.perceptual == "lpips":
            assert config.perceptual_weights is not None, "DistillConfig asks for them"
            self.perceptual = load_lpips(config.perceptual_weights, model.device)
        elif config.perceptual == "dino":
            self.perceptual = dino_distance(model.dino, model.config.upsrt.patches)
        rates = ((field.grid, self.schedule.grid_lr), (field.mlp, self.schedule.mlp_lr))
        self.optimizer = torch.optim.Adam([{"params": list(part.parameters()), "lr": rate} for part, rate in rates])

    def state_dict(self) -> dict[str, Any]:
        parts = {"field": self.field.state_dict(), "optimizer": self.optimizer.state_dict()}
        generator = self.generator.get_state() if self._begun is None else self._begun
        return {**parts, "generator": generator, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.field.load_state_dict(state["field"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.iteration = state["iteration"]

    def step(self) -> None:
        """Renders a view at half the image size, doubles it as upstream does, and goes towards its denoised version."""
        self._begun = self.generator.get_state()
        view, index = (int(values[self.iteration]) for values in self.order)
        field, size, cond = self.field, self.model.image_size // 2, self.cond[view]
        # of so many rays the activations are in memory at a time
        options: dict[str, Any] = {"sampling": self.schedule.sampling, "chunk": 2**11}
        small = render_views(field, field.aabb, cond.cameras, size, generator=self.generator, **options)
        rgb, opacity = (F.interpolate(value, scale_factor=2, mode="bilinear") for value in (small.rgb, small.opacity))
        prior, guidance = self.model.prior, self.config.guidance
        with torch.no_grad():
            prepared, shape = self.model.prepare(cond, guidance), (1, *prior.latent_shape)
            posterior, noise = (torch.randn(shape, generator=self.generator, dtype=torch.float32) for _ in range(2))
            options = {"noise": noise, "guidance": guidance, "steps": self.schedule.steps}
            latents = denoise_latents(prior, prior.encode(rgb, posterior), prepared, index, **options)
            target = prior.decode(latents)
        terms = loss_terms(rgb, opacity, target, self.perceptual)
        weights = term_weights(self.schedule, self.iteration, index)
        loss: Any = sum(weights[name] * value for name, value in terms.items())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._begun = None
        if not bool(finite_gradient(loss, self.optimizer.param_groups[-1]["params"])):
            raise FieldError(not_finite(f"iteration {self.iteration + 1}", terms))
        self.optimizer.step()
        self.iteration += 1

    @torch.no_grad()
    def preview(self) -> Tensor:
        """The field from photo 1."""
        return self.field.render(self.cond.cameras[0], min(64, self.model.image_size)).rgb[0].cpu()
