"""The manifests and the rule that all golden tests stand on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rule_weights
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel


def test_rule_by_hand() -> None:
    noise = np.random.RandomState(0x352441C2).standard_normal(6)  # crc32 of "abc"
    np.testing.assert_allclose(rule_weights.rule_array("abc", (2, 3)).ravel(), noise / math.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(rule_weights.rule_array("abc", (6,)), 0.1 * noise, rtol=1e-6)
    weight = rule_weights.rule_tensor("norm.weight", [1000])
    assert weight.dtype == torch.float32
    assert abs(weight.mean() - 1) < 0.02
    assert abs(weight.std() - 0.1) < 0.01
    chosen = rule_weights.rule_state_dict({"a.x": (3,), "b.x": (3,)}, "b.")
    assert list(chosen) == ["x"]
    assert torch.equal(chosen["x"], rule_weights.rule_tensor("b.x", (3,)))


def test_manifests_are_the_golden_ones_and_the_released_ones() -> None:
    config, names = rule_weights.golden_config(), ("transformer_dim", "image_feature_dim", "encoder_layers")
    sizes = {name: config["upsrt"][name] for name in (*names, "decoder_layers", "ff_dim", "num_freqs")}
    assert rule_weights.upsrt_shapes(**sizes) == rule_weights.golden_shapes("upsrt")
    dino = {name: config["dino"][name] for name in ("embed_dim", "depth", "patch_size")}
    assert rule_weights.dino_shapes(**dino) == rule_weights.golden_shapes("dino")
    upsrt = rule_weights.upsrt_shapes()
    assert len(upsrt) == 154
    assert round(sum(map(math.prod, upsrt.values())) / 1e6, 1) == 48.4
    stored, prefixes = rule_weights.full_shapes()["upfusion2d.pt"], ("model.diffusion_model.", "control_model.")
    counts = [
        sum(name.startswith(prefix) for name in stored)
        for prefix in (*prefixes, "first_stage_model.", rule_weights.TEXT_PREFIX)
    ]
    assert counts == [686, 326, 248, 196]


@pytest.mark.parametrize("layers", [2, 12])
def test_text_manifest_is_that_of_transformers(layers: int) -> None:
    with torch.device("meta"):
        config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        config.num_hidden_layers = layers
        theirs = CLIPTextModel(config).state_dict()
    names = {
        f"{rule_weights.TEXT_PREFIX}{name.removeprefix('text_model.')}": tuple(tensor.shape)
        for name, tensor in theirs.items()
        if not name.endswith("position_ids")
    }
    assert names == rule_weights.text_shapes(num_hidden_layers=layers)


def test_photos_differ_and_survive_their_files(tmp_path: Path) -> None:
    photos = rule_weights.rule_photos(3, 64)
    assert photos.shape == (3, 3, 64, 64)
    assert (photos[:, :, 0, 0] == 1).all()
    assert (photos[0] - photos[1]).abs().mean() > 0.1
    stored = [np.asarray(Image.open(path)) for path in rule_weights.write_photos(tmp_path, 3, 64)]
    assert torch.equal(torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2) / 255, photos)


def test_small_folder_is_consistent(small_weights: Path) -> None:
    config = json.loads((small_weights / "config.json").read_text())
    assert config["upsrt"]["image_feature_dim"] == config["dino"]["embed_dim"]
    assert config["diffusion"]["context_dim"] == config["upsrt"]["transformer_dim"] == config["text"]["hidden_size"]
    assert config["diffusion"]["hint_channels"] == config["upsrt"]["transformer_dim"] + 6
    for name, shapes in rule_weights.small_shapes().items():
        stored = torch.load(small_weights / name, weights_only=True)
        stored = stored.get("model_state_dict", stored)
        stored.pop(f"{rule_weights.TEXT_PREFIX}embeddings.position_ids", None)
        assert {key: tuple(tensor.shape) for key, tensor in stored.items()} == shapes
    key = "ray_decoder.rgb_mlp.4.weight"
    upsrt = torch.load(small_weights / "upsrt.pt", weights_only=True)["model_state_dict"]
    assert torch.equal(upsrt[key], rule_weights.rule_tensor(key, (3, 64)))
