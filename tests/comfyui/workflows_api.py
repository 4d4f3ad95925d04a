"""Small workflows in API format, as the server takes them."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node; an input that is a (node, output number) pair is a link."""
    return {
        "class_type": class_type,
        "inputs": {name: list(value) if isinstance(value, tuple) else value for name, value in inputs.items()},
    }


def scene(weights: str = "quarter.safetensors", precision: str = "float32", size: int = 64, cameras: int = 4) -> Prompt:
    """A model, a scene of a grey picture, and cameras."""
    return {
        "model": node("UpFusionLoadModel", weights=weights, precision=precision),
        "photo": node("EmptyImage", width=size, height=size, batch_size=1, color=0x808080),
        "scene": node("UpFusionEncodeViews", upfusion_model=("model", 0), images=("photo", 0), elevation=22.5),
        "cameras": node(
            "UpFusionOrbitCameras",
            count=cameras,
            azimuth_from=0.0,
            azimuth_to=360.0,
            elevation_from=10.0,
            elevation_to=10.0,
            distance=1.0,
            zoom=1.0,
        ),
    }


def sampled(steps: int, seed: int = 1, **options: Any) -> Prompt:
    """KSampler on our conditions, decoded and saved; options are those of `scene`."""
    return {
        **scene(**options),
        "conditions": node(
            "UpFusionConditioning",
            upfusion_model=("model", 0),
            scene=("scene", 0),
            cameras=("cameras", 0),
            strength=1.0,
            start=0.0,
            end=1.0,
        ),
        "sampler": node(
            "KSampler",
            model=("model", 1),
            seed=seed,
            steps=steps,
            cfg=4.0,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            positive=("conditions", 0),
            negative=("conditions", 1),
            latent_image=("conditions", 2),
            denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=("sampler", 0), vae=("model", 3)),
        "saved": node("SaveImage", images=("decoded", 0), filename_prefix="views"),
    }


def one_box(steps: int, seed: int = 1, batch_size: int = 4, **options: Any) -> Prompt:
    """UpFusionSampleViews, saved; options are those of `scene`."""
    return {
        **scene(**options),
        "views": node(
            "UpFusionSampleViews",
            upfusion_model=("model", 0),
            model=("model", 1),
            vae=("model", 3),
            scene=("scene", 0),
            cameras=("cameras", 0),
            seed=seed,
            steps=steps,
            guidance=4.0,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            batch_size=batch_size,
        ),
        "saved": node("SaveImage", images=("views", 0), filename_prefix="views"),
    }
