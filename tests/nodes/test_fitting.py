"""A MODEL of other sizes and a CONDITIONING of another text encoder get a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from native_models import Loaded, conditioned, k_sample
from small_models import quarter_model

SIZES = {"model_channels": 32, "channel_mult": [1, 1, 2, 2], "context_dim": 48}
OTHER = SimpleNamespace(model_config=SimpleNamespace(unet_config=SIZES | {"model_channels": 64}))


def test_a_unet_must_have_the_sizes_of_the_controlnet(pack: Callable[[str], ModuleType]) -> None:
    check, config = pack("nodes.sockets").check_unet, quarter_model()
    check(config, SimpleNamespace(model_config=SimpleNamespace(unet_config=SIZES)))
    for change in ({"model_channels": 64}, {"channel_mult": [1, 2, 4]}, {"context_dim": 768}, {"context_dim": None}):
        network = SimpleNamespace(model_config=SimpleNamespace(unet_config=SIZES | change))
        with pytest.raises(ValueError, match=r"MODEL must be a UNet of 32 channels times \(1, 1, 2, 2\) for text of"):
            check(config, network)
    with pytest.raises(ValueError, match="take both from one UpFusion Load Model"):
        check(config, object())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("abc", "positive must be a CONDITIONING, got str"),
        (5, "positive must be a CONDITIONING, got int"),
        ([(1,)], r"positive must hold pairs of an embedding and its options, got \(1,\)"),
        ([[torch.zeros(1, 77, 48), None]], "must hold pairs of an embedding"),
        ([[torch.zeros(1, 77, 768), {}]], r"embeddings \(B, L, 48\), got \(1, 77, 768\); encode the prompt"),
        ([[torch.zeros(1, 0, 48), {}]], r"got \(1, 0, 48\)"),
        ([[torch.zeros(77, 48), {}]], r"got \(77, 48\)"),
        ([[torch.full((1, 77, 48), math.nan), {}]], "positive's embedding must be finite, got 3696 NaN"),
    ],
)
def test_a_prompt_must_fit_the_model(pack: Callable[[str], ModuleType], prompt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack("nodes.sockets").check_prompt("positive", prompt, 48)
    pack("nodes.sockets").check_prompt("positive", [[torch.zeros(2, 154, 48), {}]], 48)


@pytest.mark.comfyui
@pytest.mark.usefixtures("as_in_a_prompt")
def test_nodes_refuse_what_does_not_fit(
    run_node: Callable, loaded: Loaded, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = [[torch.zeros(1, 77, 768), {}]]
    with pytest.raises(ValueError, match=r"negative must hold embeddings \(B, L, 48\)"):
        conditioned(run_node, loaded, negative=wide)
    for change in ({"strength": math.nan}, {"strength": -5}, {"strength": "1"}, {"start": "0"}, {"end": math.inf}):
        with pytest.raises(ValueError, match=r"must be (a number|between)"):
            conditioned(run_node, loaded, **change)
    inputs = {"upfusion_model": loaded.upfusion, "model": loaded.model, "vae": loaded.vae, "scene": loaded.scene}
    inputs |= {"cameras": loaded.cameras}
    for change, message in (
        ({"batch_size": 0}, "batch_size must be between 1 and 64, got 0"),
        ({"steps": -1}, "steps must be between 1 and 1000, got -1"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"seed": 2**64}, "seed must be between 0 and"),
        ({"guidance": math.nan}, "guidance must be between"),
        ({"sampler_name": "foo"}, "sampler_name must be one of"),
        ({"scheduler": "foo"}, "scheduler must be one of"),
        ({"model": loaded.vae}, "model must be a MODEL of ComfyUI; .* got VAE"),
        ({"vae": loaded.model}, "vae must be a VAE of ComfyUI"),
        ({"upfusion_model": loaded.model}, "upfusion_model must be HostedModel"),
        ({"cameras": loaded.cameras[:0]}, "cameras must be at least one camera"),
    ):
        with pytest.raises(ValueError, match=message):
            run_node("UpFusionSampleViews", **(inputs | change))
    four = conditioned(run_node, loaded)
    monkeypatch.setattr(loaded.model.model, "model_config", OTHER.model_config)
    for run in (
        lambda: k_sample(loaded.model, *four, steps=1),
        lambda: run_node("UpFusionSampleViews", **inputs),
        lambda: pack("nodes.control").NativePrior(loaded.upfusion, loaded.model, loaded.vae, [], []),
    ):
        with pytest.raises(ValueError, match="MODEL must be a UNet of 32 channels"):
            run()
