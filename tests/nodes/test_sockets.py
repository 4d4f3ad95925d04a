"""What comes by a link: values against the nodes' schemas, a MODEL of other sizes, prompts of another text encoder."""

import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import Loaded, Pack, Run, conditioned, k_sample, quarter_model, refused
from torch import nn

ORBIT, CAMERA, RENDER = "UpFusionOrbitCameras", "UpFusionCamera", "UpFusionRenderField"
FROM, SAMPLE = "UpFusionCameraFromLoad3D", "UpFusionSampleViews"
SIZES = {"model_channels": 32, "channel_mult": [1, 1, 2, 2], "context_dim": 48}


def test_every_node_is_checked(node_classes: dict[str, type]) -> None:
    unchecked = {name for name, node in node_classes.items() if not hasattr(node.execute.__func__, "__wrapped__")}
    assert unchecked == {"UpFusionLoadModel", "UpFusionLoadField"}  # whose lists of files may be older than the files
    for node in node_classes.values():
        assert {item.id for item in node.GET_SCHEMA().inputs} <= set(inspect.signature(node.execute).parameters)
        numbers = [item for item in node.GET_SCHEMA().inputs if item.get_io_type() in ("INT", "FLOAT")]
        assert all(item.min is not None and item.max is not None for item in numbers)


def test_values_unfit_and_of_numpy(run_node: Run, ball: nn.Module) -> None:
    (cameras,) = run_node(ORBIT, count=2)
    for node_id, inputs, message in (
        (ORBIT, {"count": "3"}, "count must be a whole number, got '3'"),
        (CAMERA, {"azimuth": math.nan}, "azimuth must be between .* got nan"),
        (CAMERA, {"cameras": 5}, "cameras must be Cameras, got int; connect UpFusion Orbit Cameras"),
        (FROM, {"camera_info": {}, "take": "foo"}, "take must be one of everything, direction, got 'foo'"),
        (RENDER, {"field": ball, "cameras": cameras[:0]}, "cameras must be at least one camera, got none; connect"),
    ):
        refused(message, run_node, node_id, **inputs)
    (cameras,) = run_node(ORBIT, count=np.int64(3), distance=np.float32(2.0), elevation_from=0)
    (expected,) = run_node(ORBIT, count=3, distance=2.0, elevation_from=0.0)
    assert torch.equal(cameras.camera_to_world, expected.camera_to_world)


def test_unets_and_prompts_must_fit_the_model(pack: Pack) -> None:
    check, config = pack("nodes.sockets").check_unet, quarter_model()
    check(config, SimpleNamespace(model_config=SimpleNamespace(unet_config=SIZES)))
    for change in ({"model_channels": 64}, {"channel_mult": [1, 2, 4]}, {"context_dim": 768}, {"context_dim": None}):
        network = SimpleNamespace(model_config=SimpleNamespace(unet_config=SIZES | change))
        refused(r"MODEL must be a UNet of 32 channels times \(1, 1, 2, 2\) for text of", check, config, network)
    refused("take both from one UpFusion Load Model", check, config, object())
    for prompt, message in (
        ("abc", "positive must be a CONDITIONING, got str"),
        ([(1,)], r"positive must hold pairs of an embedding and its options, got \(1,\)"),
        ([[torch.zeros(1, 77, 768), {}]], r"embeddings \(B, L, 48\), got \(1, 77, 768\); encode the prompt"),
    ):
        refused(message, pack("nodes.sockets").check_prompt, "positive", prompt, 48)
    pack("nodes.sockets").check_prompt("positive", [[torch.zeros(2, 154, 48), {}]], 48)


@pytest.mark.comfyui
@pytest.mark.usefixtures("as_in_a_prompt")
def test_nodes_refuse_these_too(run_node: Run, loaded: Loaded, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = loaded.inputs() | {"cameras": loaded.cameras}
    refused("model must be a MODEL of ComfyUI; .* got VAE", run_node, SAMPLE, **(inputs | {"model": loaded.vae}))
    refused("negative must hold embeddings", run_node, SAMPLE, **inputs, negative=[[torch.zeros(1, 77, 768), {}]])
    four = conditioned(run_node, loaded)
    other = SimpleNamespace(unet_config=SIZES | {"model_channels": 64})
    monkeypatch.setattr(loaded.model.model, "model_config", other)
    words, prior = "MODEL must be a UNet of 32 channels", pack("nodes.control").NativePrior
    refused(words, k_sample, loaded.model, *four, steps=1)
    refused(words, run_node, SAMPLE, **inputs)
    refused(words, prior, loaded.upfusion, loaded.model, loaded.vae, ([], []))
