import zlib

import numpy as np
import torch
from golden_files import golden, sizes, worst
from rule_weights import golden_shapes, rule_state_dict
from torch.nn import functional as F

from upfusion_core.config import DinoConfig
from upfusion_core.models.dino import DinoKeys


def test_preprocessing_and_keys_of_the_release() -> None:
    network = DinoKeys(DinoConfig(**sizes("dino", DinoConfig))).requires_grad_(False)
    weights = rule_state_dict(golden_shapes("dino"))
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    noise = np.random.RandomState(zlib.crc32(b"input:views")).standard_normal((2, 3, 256, 256)).astype(np.float32)
    views = F.avg_pool2d((0.5 * torch.from_numpy(noise)).clamp(-1, 1), 9, 1, 4)
    images = ((6 * views).clamp(-1, 1) + 1) / 2
    stored, ours = golden("dino"), network.preprocess(images)
    assert worst(2 * images[..., ::4, ::4] - 1, stored["views_small"]) < 1e-6  # the input is the release's
    assert worst(ours[..., :8, :8], stored["preprocessed_corner"]) < 1e-5
    assert worst(network.position_embedding((16, 16)), stored["pos_embed_16x16"]) < 1e-5
    assert worst(network.position_embedding((37, 37)), network.pos_embed) == 0
    assert worst(network(images), stored["key_features"]) < 1e-5
    assert network(images, (4, 6)).shape == (2, 24, 48)
    last = {name.removeprefix("blocks.8.") for name in network.state_dict() if name.startswith("blocks.8")}
    assert last == {"attn.qkv.bias", "attn.qkv.weight", "norm1.bias", "norm1.weight"}
