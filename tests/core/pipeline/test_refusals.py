"""What a model refuses before it computes anything."""

from collections.abc import Callable
from dataclasses import replace

import tiny_training
import torch
from refusals import refused
from torch import Tensor

from upfusion_core import NovelViews, RadianceField, SceneEncoding, UpFusion, convert, estimate_mask, orbit_cameras
from upfusion_core.config import FieldConfig, GridConfig, RaySampling

SIZE, WIDTH = tiny_training.SIZE, tiny_training.WIDTH
CAMERA = orbit_cameras(0)
NOTHING = NovelViews(torch.zeros(0, 3, 8, 8), CAMERA[:0])
TEXT = (torch.zeros(77, WIDTH),) * 2


LATENTS = torch.zeros(1, 4, 8, 8)
Ask = Callable[[UpFusion, SceneEncoding], object]


def noise(latents: Tensor = LATENTS, timestep: object = 5, guidance: float = 1.0, **changes: Callable) -> Ask:
    """Asks for the noise under changed conditions."""

    def ask(model: UpFusion, scene: SceneEncoding) -> object:
        cond = model.condition(scene, CAMERA, text_embeddings=TEXT)
        cond = replace(cond, **{name: change(getattr(cond, name)) for name, change in changes.items()})
        return model.predict_noise(latents, timestep, cond, guidance)

    return ask


def test_values_that_mean_nothing(model: UpFusion, scene: SceneEncoding) -> None:
    refused("views must be InputViews, got NoneType; make them with", model.encode, None)
    refused("scene must be SceneEncoding, got NoneType", model.predict, None, CAMERA)
    refused("cameras must be Cameras, got list", model.predict, scene, [CAMERA])
    refused("at least one camera, got none", model.predict, scene, CAMERA[:0])
    refused("not both", model.condition, scene, CAMERA, "a", TEXT)
    refused("text_embeddings must be two tensors", model.condition, scene, CAMERA, None, TEXT[:1])
    refused("must be finite", model.condition, scene, CAMERA, None, (TEXT[0] / 0, TEXT[0]))
    refused("generator must be Generator", model.sample, scene, CAMERA, generator=3)
    refused("seeds must be between 0 and", model.sample, scene, CAMERA, seeds=[2**64])
    refused("config must be DistillConfig", model.distill, scene, 3)
    refused("views must hold one picture or more, got 0", model.distill, scene, views=NOTHING)
    refused("checkpoint must be a path, got 3", model.distill, scene, checkpoint=3)
    refused("dtype must be float16, bfloat16 or float32", convert, "mini", "a.safetensors", dtype=torch.int8)
    refused("config must be ModelConfig, got int; or its JSON form", UpFusion, 3)
    refused("device must be one of torch's", UpFusion.load, "mini", device="toaster")
    refused("no hpu device that torch can use", UpFusion, tiny_training.tiny_model(), device="hpu")
    refused("device must hold values, got meta", UpFusion.load, "mini", device="meta")
    refused("must hold pixels", estimate_mask, torch.ones(3, 0, 4))
    refused(r"in \[0, 1\], got \[255, 255\]; divide", estimate_mask, torch.full((3, 4, 4), 255.0))
    refused("77 rows, both as long", model.condition, scene, CAMERA, None, (TEXT[0], TEXT[0][:5]))
    refused("must be PreparedConditioning, got NoneType; ", model.predict_noise, LATENTS, 5, None)
    refused(r"cond\.hint must be \(1, 38, 8, 8\), got \(1, 37, ", noise(hint=lambda hint: hint[:, 1:]), model, scene)
    refused("latents must be finite", noise(torch.full((1, 4, 8, 8), torch.nan)), model, scene)
    refused(r"latents must be \(1, 4, 8, 8\)", noise(torch.zeros(2, 4, 8, 8)), model, scene)
    refused("timestep must be 0 to 999, .*got nan", noise(timestep=torch.nan), model, scene)
    refused(r"one number or one a view, got tensor\(\[1, 2\]\)", noise(timestep=torch.tensor([1, 2])), model, scene)
    refused("guidance must be between", noise(guidance=-1), model, scene)


def test_a_model_of_initial_weights_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (UpFusion(tiny_training.tiny_model()) for _ in range(2))
    assert first.text is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert first.model_id == second.model_id  # both from the same state


def test_renders_of_nothing() -> None:
    grid = GridConfig(levels=2, coarsest=4, finest=8, table_size=256)
    field = RadianceField(FieldConfig(grid=grid, hidden=8, half_extent=0.4))
    refused(r"size must be one number of pixels or \(height, width\)", field.render, CAMERA, (1, 2, 3))
    refused("at least one camera", field.render, CAMERA[:0], 4)
    refused("points must be finite", field.density, torch.full((2, 3), torch.nan))
    assert field.render(CAMERA, 4, sampling=RaySampling(2, 0)).rgb.shape == (1, 3, 4, 4)
    assert field.density(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float32
