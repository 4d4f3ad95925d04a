"""Small workflows in API format, as the server takes them; parts of a prompt find each other by their nodes' names."""

from typing import Any

Prompt = dict[str, dict[str, Any]]
MINI: dict[str, Any] = {"weights": "mini", "cameras": 2}
VIEWS = {"upfusion_model": ("model", 0), "scene": ("scene", 0), "cameras": ("cameras", 0)}
DIFFUSION = {"upfusion_model": ("model", 0), "model": ("model", 1), "vae": ("model", 3), "scene": ("scene", 0)}
KSAMPLER = {"sampler_name": "ddim", "scheduler": "ddim_uniform"}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node; an input that is a (node, output number) pair is a link."""
    linked = {name: list(value) if isinstance(value, tuple) else value for name, value in inputs.items()}
    return {"class_type": class_type, "inputs": linked}


def scene(weights: str = "quarter.safetensors", precision: str = "float32", size: int = 64, cameras: int = 4) -> Prompt:
    """A model, a scene of a grey picture, and cameras."""
    orbit = {"azimuth_from": 0.0, "azimuth_to": 360.0, "elevation_from": 10.0, "elevation_to": 10.0}
    return {
        "model": node("UpFusionLoadModel", weights=weights, precision=precision),
        "photo": node("EmptyImage", width=size, height=size, batch_size=1, color=0x808080),
        "scene": node("UpFusionEncodeViews", upfusion_model=("model", 0), images=("photo", 0), elevation=22.5),
        "cameras": node("UpFusionOrbitCameras", count=cameras, **orbit, distance=1.0, zoom=1.0),
    }


def sampled(steps: int, seed: int = 1, **options: Any) -> Prompt:
    """KSampler on our conditions, decoded and saved; options are those of `scene`."""
    made = {"positive": ("conditions", 0), "negative": ("conditions", 1), "latent_image": ("conditions", 2)}
    settings = {"model": ("model", 1), "seed": seed, "steps": steps, "cfg": 4.0, "denoise": 1.0}
    return {
        **scene(**options),
        "conditions": node("UpFusionConditioning", **VIEWS, strength=1.0, start=0.0, end=1.0),
        "sampler": node("KSampler", **settings, **KSAMPLER, **made),
        "decoded": node("VAEDecode", samples=("sampler", 0), vae=("model", 3)),
        "saved": node("SaveImage", images=("decoded", 0), filename_prefix="views"),
    }


def one_box(steps: int, seed: int = 1, batch_size: int = 4, **options: Any) -> Prompt:
    """UpFusionSampleViews, saved; options are those of `scene`."""
    settings = {"seed": seed, "steps": steps, "guidance": 4.0, "batch_size": batch_size}
    return {
        **scene(**options),
        "views": node("UpFusionSampleViews", **(DIFFUSION | VIEWS), **settings, **KSAMPLER),
        "saved": node("SaveImage", images=("views", 0), filename_prefix="views"),
    }


def predicted(size: int, **links: Any) -> Prompt:
    """The scene transformer's own views."""
    ghost = node("UpFusionPredictViews", **(VIEWS | links), size=size)
    return {"ghost": ghost, "shown": node("SaveImage", images=("ghost", 0), filename_prefix="ghost")}


def distilled(seed: int = 0, preset: str = "reference", steps: int = 1) -> Prompt:
    """A field by the bundled model, hardly begun unless there are more steps, and a small picture of it."""
    settings = {"preset": preset, "steps": steps, "guidance": 3.0, "seed": seed}
    return {**scene(**MINI), "field": node("UpFusionDistill", **DIFFUSION, **settings), **rendered(32)}


def rendered(size: int) -> Prompt:
    """Pictures of the node `field`."""
    inputs = {"field": ("field", 0), "cameras": ("cameras", 0), "size": size, "background": "black"}
    seen = node("PreviewImage", images=(f"render{size}", 2))
    return {f"render{size}": node("UpFusionRenderField", **inputs), f"seen{size}": seen}


def extracted(resolution: int, coloring: str = "vertex colors", texture_size: int = 64, faces: int = 0) -> Prompt:
    """The surface of a stored field, written to a file."""
    settings = {"coloring": coloring, "texture_size": texture_size, "faces": faces, "threshold": 12.0}
    return {
        "loaded": node("UpFusionLoadField", field="round.safetensors"),
        "mesh": node("UpFusionExtractMesh", field=("loaded", 0), resolution=resolution, **settings),
        "ours": node("UpFusionSaveMesh", mesh=("mesh", 0), format="ply", filename_prefix="ours"),
    }
