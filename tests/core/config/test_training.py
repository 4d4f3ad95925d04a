import json
from dataclasses import replace
from itertools import product

from refusals import raised, refused
from tiny_training import tiny_config

from upfusion_core.config import STAGES, TrainConfig, mini_model
from upfusion_core.models.checkpoint import build_networks, network_weights
from upfusion_core.support.errors import UpFusionError


def test_presets_and_their_fingerprints() -> None:
    for name, stage in product(("mini", "released"), STAGES):
        config = TrainConfig.preset(name, stage)
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    refused("preset must be one of mini, released, got 'huge'", TrainConfig.preset, "huge", "encoder")
    diffusion = TrainConfig.preset("released", "diffusion")
    assert (diffusion.learning_rate, diffusion.dropout, diffusion.train_unet) == (1e-5, 0.05, "output")
    assert (diffusion.train_upsrt, diffusion.train_dino, diffusion.weight_decay) == (False, False, 0)
    assert TrainConfig.preset("released", "encoder").rays == 7168
    weights = network_weights(mini_model(), build_networks(mini_model(), "meta"))
    text = 2 * 77 * mini_model().diffusion.context_dim * 4
    names = sum(len(name) + 80 for name in weights)
    assert 2 * sum(tensor.numel() for tensor in weights.values()) + text + names <= 40e6
    assert (mini_model().diffusion.num_heads, mini_model().vae.scale_factor) == (8, 0.18215)
    config = tiny_config()
    assert replace(config, save_every=3, validate_every=9, log_every=1).fingerprint == config.fingerprint
    assert "curriculum" not in config.to_dict()  # it came later, and older runs go on
    learning = replace(config, curriculum=(2, 5))
    for changed in (learning, replace(config, seed=1), replace(config, photos=(2, 3))):
        assert changed.fingerprint != config.fingerprint
    assert TrainConfig.from_dict(json.loads(json.dumps(learning.to_dict()))) == learning


def test_what_is_refused() -> None:
    for content, words in (
        ({"curriculum": [5, 2]}, "curriculum must be the steps"),
        ({"photos": [3, 2]}, "within 1 to 6"),
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"dropout": 0.5}, "dropout"),
        ({"stage": "encoder", "train_upsrt": False}, "train_upsrt"),
        ({"stage": "diffusion", "rgb_weight": 1.0}, "rgb_weight"),
        ({"stage": "diffusion", "train_dino": True}, "train_dino"),
        ({"seed": 2**64}, "seed must be between 0 and"),
    ):
        raised(UpFusionError, words, TrainConfig.from_dict, {"stage": "autoencoder"} | content, "train.json")
