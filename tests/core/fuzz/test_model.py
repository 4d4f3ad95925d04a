"""The stages of a model of 16 x 16 pixels: views, cameras, scenes, prompts and options that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_training
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import JUNK, assert_finite, numbers, odd_tensors, or_junk, refused_or_finite

from upfusion_core import (
    Cameras,
    DistillConfig,
    HostedUpFusion,
    InputViews,
    ModelConfig,
    NovelViews,
    SceneEncoding,
    UpFusion,
    UpFusionError,
    ViewConditioning,
    look_at,
    orbit_cameras,
)

SIZE, WIDTH = tiny_training.SIZE, tiny_training.WIDTH


@pytest.fixture(scope="module")
def model() -> UpFusion:
    """Random weights; its previews are no pictures of anything."""
    return tiny_training.random_upfusion(seed=5)


@pytest.fixture(scope="module")
def scene(model: UpFusion) -> SceneEncoding:
    return model.encode(VIEWS)


PHOTO = 1 - torch.eye(SIZE).expand(1, 3, SIZE, SIZE)
VIEWS = InputViews(PHOTO, 1 - PHOTO[:, :1], torch.full((1, 2), 4.5))
AWAY = look_at(torch.tensor([[0.0, 0, 1]]), (0, 0, 5))
CAMERAS = (orbit_cameras([0, 90], 10), AWAY, orbit_cameras(0, 0, 1e6), orbit_cameras(0, focal=1e-3), AWAY[:0])
TEXT = torch.zeros(77, WIDTH)


@given(or_junk(VIEWS, InputViews(torch.ones(6, 3, 40, 40), torch.ones(6, 1, 40, 40), torch.ones(6, 2))), numbers())
def test_encode(model: UpFusion, views: object, elevation: object) -> None:
    made = refused_or_finite(model.encode, views, elevation)
    assert made is None or made.tokens.shape == (16 * len(views), WIDTH)


@given(or_junk(*CAMERAS), or_junk(4, 2, 1, numbers()), or_junk(True, False))
def test_predict(model: UpFusion, scene: SceneEncoding, cameras: object, size: object, centers: bool) -> None:
    picture = refused_or_finite(model.predict, scene, cameras, size, pixel_centers=bool(centers))
    assert picture is None or picture.shape == (len(cameras), 3, size, size)


@given(
    or_junk(None, "no such token", "word " * 100),
    or_junk(None, (TEXT, TEXT), (TEXT,), st.tuples(odd_tensors((77, WIDTH), (2, 77, WIDTH)), st.just(TEXT))),
    or_junk(*CAMERAS),
)
def test_condition(model: UpFusion, scene: SceneEncoding, prompt: object, text: object, cameras: object) -> None:
    refused_or_finite(model.condition, scene, cameras, prompt, text)


@given(
    or_junk(torch.rand(1, 4, 8, 8), odd_tensors((1, 4, 8, 8), low=-2, high=2)),
    or_junk(500, 0, 999, torch.tensor(3), torch.tensor([5.0]), odd_tensors((1,), (2,)), numbers()),
    or_junk(1.0, 9.0, numbers()),
    or_junk("right", "other"),
)
def test_predict_noise(
    model: UpFusion, scene: SceneEncoding, latents: object, timestep: object, guidance: object, which: object
) -> None:
    cond = model.condition(scene, CAMERAS[0][:1], text_embeddings=(TEXT, TEXT))
    if which == "other":
        cond = replace(cond, hint=cond.hint[:, :-1])
    refused_or_finite(model.predict_noise, latents, timestep, cond if which in ("right", "other") else which, guidance)


@given(
    or_junk(1, 2, numbers()),
    or_junk(1.0, numbers()),
    or_junk(None, [1], [1, 2], ["a"], [2**70]),
    or_junk("ddim", "euler", "nothing", "AutoencoderKL"),
    or_junk(4, numbers()),
)
def test_sample(
    model: UpFusion, scene: SceneEncoding, steps: object, guidance: object, seeds: object, scheduler: object,
    batch_size: object,
) -> None:  # fmt: skip
    few = not isinstance(steps, int) or isinstance(steps, bool) or steps <= 3
    if few:
        options = {"seeds": seeds, "scheduler": scheduler, "batch_size": batch_size, "text_embeddings": (TEXT, TEXT)}
        views = refused_or_finite(model.sample, scene, CAMERAS[0][:1], steps, guidance, **options)
        assert views is None or views.rgb.shape == (1, 3, SIZE, SIZE)


@given(or_junk("scene"), or_junk("config"), or_junk(None, "generator"), or_junk(None, "views"), or_junk(None))
def test_distill_refuses_what_is_none(
    model: UpFusion,
    scene: SceneEncoding,
    given_scene: object,
    config: object,
    draw: object,
    views: object,
    path: object,
) -> None:
    """Only refusals: a fit takes seconds, and has tests of its own."""
    arguments = {
        "scene": scene if given_scene == "scene" else given_scene,
        "config": DistillConfig.draft() if config == "config" else config,
        "generator": torch.Generator() if draw == "generator" else draw,
        "views": NovelViews(PHOTO, CAMERAS[0][:1]) if views == "views" else views,
        "checkpoint": path,
    }
    stop = _Stop()
    good = (given_scene == "scene") and config in ("config", None) and draw in ("generator", None)
    if good and views in ("views", None) and path is None:
        with pytest.raises(_Stopped):
            model.distill(**arguments, on_step=stop)
    else:
        with pytest.raises((UpFusionError, _Stopped)):
            model.distill(**arguments, on_step=stop)


class _Stopped(Exception):  # noqa: N818 - no error
    """Raised from the hook."""


class _Stop:
    def __call__(self, step: int, total: int, preview: object) -> None:
        raise _Stopped


@given(
    or_junk(
        *({}, {"image_size": 32}, {"vae": {}}, {"vae": {"ch": 33}}, {"upsrt": {"num_heads": 5}}, {"unknown": 1}),
        st.dictionaries(st.sampled_from(("upsrt", "dino", "diffusion", "vae", "text", "image_size")), numbers()),
        st.dictionaries(
            st.sampled_from(("upsrt", "dino")),
            st.dictionaries(st.sampled_from(("num_heads", "patches", "layer", "depth", "start_freq")), numbers()),
        ),
    )
)
def test_model_config(content: object) -> None:
    config = refused_or_finite(ModelConfig.from_dict, content)
    assert config is None or ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_junk_in_each_place(model: UpFusion, scene: SceneEncoding, value: object) -> None:
    camera = CAMERAS[0][:1]
    for ask in (
        lambda: model.encode(value),
        lambda: model.predict(value, camera),
        lambda: model.predict(scene, value),
        lambda: model.condition(value, camera),
        lambda: model.condition(scene, value),
        lambda: model.sample(value, camera),
        lambda: model.sample(scene, value),
        lambda: model.predict_noise(torch.rand(1, 4, 8, 8), 5, value),
        lambda: ModelConfig(upsrt=value),
        lambda: UpFusion.load("mini", dtype=value if value is not None else 3),
        lambda: UpFusion.load("mini", device=value if value is not None else 3),
    ):
        with pytest.raises(UpFusionError):
            ask()


def test_a_scene_of_another_model(model: UpFusion, scene: SceneEncoding) -> None:
    for wrong in (replace(scene, model_id="another"), replace(scene, tokens=scene.tokens[:, :-1])):
        with pytest.raises(UpFusionError):
            model.predict(wrong, CAMERAS[0])


def test_networks_of_a_host(model: UpFusion, scene: SceneEncoding) -> None:
    hosted = HostedUpFusion(
        model.config, dino=model.dino, upsrt=model.upsrt, prior=None, device=torch.device("cpu"), dtype=torch.float32,
        text=(TEXT, TEXT), model_id=model.model_id,
    )  # fmt: skip
    assert_finite(hosted.predict(scene, CAMERAS[0], 4))
    assert isinstance(hosted.condition(scene, CAMERAS[0]), ViewConditioning)
    assert isinstance(scene.reference, Cameras)
    for ask in (lambda: hosted.sample(scene, CAMERAS[0], steps=1), lambda: hosted.condition(scene, CAMERAS[0], "cup")):
        with pytest.raises(UpFusionError):
            ask()
