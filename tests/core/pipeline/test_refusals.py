"""What a model refuses before it computes anything."""

import tiny_training
import torch
from refusals import refused

from upfusion_core import NovelViews, SceneEncoding, UpFusion, estimate_mask, orbit_cameras

CAMERA = orbit_cameras(0)
TEXT = (torch.zeros(77, tiny_training.WIDTH),) * 2


def test_values_that_mean_nothing(model: UpFusion, scene: SceneEncoding) -> None:
    nothing = NovelViews(torch.zeros(0, 3, 8, 8), CAMERA[:0])
    refused("views must be InputViews, got NoneType; make them with", model.encode, None)
    refused("at least one camera, got none", model.predict, scene, CAMERA[:0])
    refused("not both", model.condition, scene, CAMERA, "a", TEXT)
    refused("must be finite", model.condition, scene, CAMERA, None, (TEXT[0] / 0, TEXT[0]))
    refused("77 rows, both as long", model.condition, scene, CAMERA, None, (TEXT[0], TEXT[0][:5]))
    refused("seeds must be between 0 and", model.sample, scene, CAMERA, seeds=[2**64])
    refused("views must hold one picture or more, got 0", model.distill, scene, views=nothing)
    refused("device must be one of torch's", UpFusion.load, "mini", device="toaster")
    refused(r"in \[0, 1\], got \[255, 255\]; divide", estimate_mask, torch.full((3, 4, 4), 255.0))
    cond, latents = model.condition(scene, CAMERA, text_embeddings=TEXT), torch.zeros(1, 4, 8, 8)
    refused("latents must be finite", model.predict_noise, latents / 0, 5, cond)
    refused(r"latents must be \(1, 4, 8, 8\)", model.predict_noise, torch.zeros(2, 4, 8, 8), 5, cond)
    refused("timestep must be 0 to 999, .*got nan", model.predict_noise, latents, torch.nan, cond)
    refused("one number or one a view", model.predict_noise, latents, torch.tensor([1, 2]), cond)
    refused("guidance must be between", model.predict_noise, latents, 5, cond, -1)


def test_a_model_of_initial_weights_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (UpFusion(tiny_training.tiny_model()) for _ in range(2))
    assert first.text is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert first.model_id == second.model_id  # both from the same state
