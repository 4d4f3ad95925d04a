"""A small model loaded natively and by the library, and the stock KSampler on it: for tests in a real ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

GUIDANCE = 4.0


@dataclass(frozen=True)
class Loaded:
    """A file's outputs of UpFusionLoadModel, the library's model of the same file, and a scene of both."""

    upfusion: Any
    model: Any
    clip: Any
    vae: Any
    library: Any
    scene: Any
    cameras: Any


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def k_sample(model: Any, positive: Any, negative: Any, latent: dict, steps: int = 4, **options: Any) -> Tensor:
    """Latents from the stock KSampler, as scaled latents of the library."""
    import nodes

    chosen = {"seed": 3, "cfg": GUIDANCE, "sampler_name": "ddim", "scheduler": "ddim_uniform"} | options
    (result,) = nodes.common_ksampler(model, steps=steps, positive=positive, negative=negative, latent=latent, **chosen)
    return model.get_model_object("latent_format").process_in(result["samples"])


def conditioned(run_node: Callable, loaded: Loaded, cameras: Any = None, **options: Any) -> tuple[Any, Any, dict]:
    cameras = loaded.cameras if cameras is None else cameras
    return run_node(
        "UpFusionConditioning", upfusion_model=loaded.upfusion, scene=loaded.scene, cameras=cameras, **options
    )
