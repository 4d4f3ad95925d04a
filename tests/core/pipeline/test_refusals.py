"""What a model refuses before it computes anything."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny_training
import torch
from refusals import refused
from torch import Tensor

from upfusion_core import NovelViews, SceneEncoding, UpFusion, convert, orbit_cameras
from upfusion_core.config import FieldConfig, GridConfig, RaySampling
from upfusion_core.field.radiance import RadianceField
from upfusion_core.pipeline.photos import estimate_mask
from upfusion_core.pipeline.sampling import make_scheduler

SIZE, WIDTH = tiny_training.SIZE, tiny_training.WIDTH
CAMERA = orbit_cameras(0)
NOTHING = NovelViews(torch.zeros(0, 3, 8, 8), CAMERA[:0])
TEXT = (torch.zeros(77, WIDTH),) * 2


@pytest.fixture(scope="module")
def model(tiny_upfusion: UpFusion) -> UpFusion:
    return tiny_upfusion


LATENTS = torch.zeros(1, 4, 8, 8)
Ask = Callable[[UpFusion, SceneEncoding], object]


def noise(latents: Tensor = LATENTS, timestep: object = 5, guidance: float = 1.0, **changes: Callable) -> Ask:
    """Asks for the noise under changed conditions."""

    def ask(model: UpFusion, scene: SceneEncoding) -> object:
        cond = model.condition(scene, CAMERA, text_embeddings=TEXT)
        cond = replace(cond, **{name: change(getattr(cond, name)) for name, change in changes.items()})
        return model.predict_noise(latents, timestep, cond, guidance)

    return ask


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda model, scene: model.encode(None), "views must be InputViews, got NoneType; make them with"),
        (lambda model, scene: model.predict(None, CAMERA), "scene must be SceneEncoding, got NoneType"),
        (lambda model, scene: model.predict(scene, [CAMERA]), "cameras must be Cameras, got list"),
        (lambda model, scene: model.predict(scene, CAMERA[:0]), "at least one camera, got none"),
        (lambda model, scene: model.condition(scene, CAMERA, 3), "prompt must be str, got int"),
        (lambda model, scene: model.condition(scene, CAMERA, "a", TEXT), "not both"),
        (lambda model, scene: model.condition(scene, CAMERA, None, TEXT[:1]), "text_embeddings must be two tensors"),
        (
            lambda model, scene: model.condition(scene, CAMERA, None, 3),
            "two tensors.*got 3",
        ),
        (lambda model, scene: model.condition(scene, CAMERA, None, (TEXT[0] / 0, TEXT[0])), "must be finite"),
        (lambda model, scene: model.sample(scene, CAMERA, generator=3), "generator must be Generator"),
        (lambda model, scene: model.sample(scene, CAMERA, seeds=["a"]), "seeds must be a whole number"),
        (lambda model, scene: model.sample(scene, CAMERA, seeds=[2**64]), "seeds must be between 0 and"),
        (lambda model, scene: model.distill(scene, 3), "config must be DistillConfig"),
        (lambda model, scene: model.distill(scene, views=3), "views must be NovelViews"),
        (lambda model, scene: model.distill(scene, views=NOTHING), "views must hold one picture or more, got 0"),
        (lambda model, scene: model.distill(scene, checkpoint=3), "checkpoint must be a path, got 3"),
        (lambda *_: convert("mini", "a.safetensors", dtype=torch.int8), "dtype must be float16, bfloat16 or float32"),
        (lambda *_: UpFusion(3), "config must be ModelConfig, got int; or its JSON form"),
        (lambda *_: UpFusion.load(3), "path must name weights, got 3"),
        (lambda *_: UpFusion.load("mini", device="toaster"), "device must be one of torch's"),
        (lambda *_: UpFusion(tiny_training.tiny_model(), device="hpu"), "no hpu device that torch can use"),
        (lambda *_: UpFusion.load("mini", device="meta"), "device must hold values, got meta"),
        (lambda *_: make_scheduler(3, 1), "scheduler must be str"),
        (lambda *_: estimate_mask(torch.ones(3, 4, 4, dtype=torch.uint8)), "divide 8-bit values by 255"),
        (lambda *_: estimate_mask(torch.ones(3, 0, 4)), "must hold pixels"),
        (lambda *_: estimate_mask(torch.full((3, 4, 4), 255.0)), r"in \[0, 1\], got \[255, 255\]; divide"),
        (
            lambda model, scene: model.condition(scene, CAMERA, None, (TEXT[0], TEXT[0][:5])),
            "77 rows, both as long",
        ),
        (lambda model, scene: model.distill(scene, prompt=[]), "prompt must be str, got list"),
        (
            lambda model, scene: model.predict_noise(LATENTS, 5, None),
            "cond must be PreparedConditioning, got NoneType; make it with condition",
        ),
        (noise(hint=lambda hint: hint[:, 1:]), r"cond\.hint must be \(1, 38, 8, 8\), got \(1, 37, 8, 8\)"),
        (noise(torch.full((1, 4, 8, 8), torch.nan)), "latents must be finite"),
        (noise(torch.zeros(2, 4, 8, 8)), r"latents must be \(1, 4, 8, 8\)"),
        (noise(timestep=1000), "timestep must be 0 to 999"),
        (noise(timestep=torch.nan), "timestep must be 0 to 999, .*got nan"),
        (noise(timestep=torch.ones(2, 1)), r"one number or one a view, got tensor\(\[\[1.\]"),
        (noise(timestep=torch.tensor([1, 2])), r"one number or one a view, got tensor\(\[1, 2\]\)"),
        (noise(guidance=-1), "guidance must be between"),
    ],
)
def test_values_that_mean_nothing(model: UpFusion, scene: SceneEncoding, ask: Ask, words: str) -> None:
    refused(words, ask, model, scene)


def test_a_model_of_initial_weights_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (UpFusion(tiny_training.tiny_model()) for _ in range(2))
    assert first.text is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert first.model_id == second.model_id  # both from the same state


def test_renders_of_nothing() -> None:
    grid = GridConfig(levels=2, coarsest=4, finest=8, table_size=256)
    field = RadianceField(FieldConfig(grid=grid, hidden=8, half_extent=0.4))
    for words, *given in (
        (r"size must be one number of pixels or \(height, width\)", CAMERA, (1, 2, 3)),
        ("size must be between 1 and 16384", CAMERA, 10**6),
        ("cameras must be Cameras", None, 4),
        ("at least one camera", CAMERA[:0], 4),
    ):
        refused(words, field.render, *given)
    refused("background must be a number", field.render, CAMERA, 4, background="white")
    refused("points must be finite", field.density, torch.full((2, 3), torch.nan))
    assert field.render(CAMERA, 4, sampling=RaySampling(2, 0)).rgb.shape == (1, 3, 4, 4)
    assert field.density(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float32
