from pathlib import Path

import pytest
import torch
from golden_files import sizes
from random_vgg import heads, lpips_by_hand, vgg_weights
from refusals import unfit
from rule_weights import golden_shapes, rule_state_dict
from torch import Tensor
from torch.nn import functional as F

from upfusion_core.config import DinoConfig
from upfusion_core.models.dino import DinoKeys
from upfusion_core.models.perceptual import dino_distance, load_lpips


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, 3, 32, 32, generator=generator) for _ in range(2))


def saved(path: Path, content: dict[str, Tensor]) -> Path:
    torch.save(content, path)
    return path


def test_lpips_by_hand(tmp_path: Path, pictures: tuple[Tensor, Tensor]) -> None:
    network = load_lpips(saved(tmp_path / "vgg16.pth", vgg_weights() | heads()))
    wanted = pytest.approx(lpips_by_hand(vgg_weights(), *pictures), rel=1e-4)
    assert float(network(*pictures)) == wanted
    assert float(network(pictures[0], pictures[0])) == 0
    renamed = {}
    for name, value in vgg_weights().items():
        _, index, kind = name.split(".")
        block = sum(int(index) >= first for first in (5, 10, 17, 24)) + 1
        renamed[f"net.slice{block}.{index}.{kind}"] = value
    assert float(load_lpips(saved(tmp_path / "lpips.pth", renamed | heads()))(*pictures)) == wanted
    other = vgg_weights() | heads() | {"features.28.bias": torch.full((512,), 1e-3)}
    two = load_lpips(saved(tmp_path / "two.pth", other))
    assert network.weights_id() == load_lpips(tmp_path / "vgg16.pth").weights_id() != two.weights_id()
    picture = pictures[0].clone().requires_grad_()
    network(picture, pictures[1]).backward()
    moved = (picture - 1e-3 * picture.grad / picture.grad.norm()).detach()
    assert float(network(moved, pictures[1])) < float(network(*pictures))
    saved(tmp_path / "vgg.pth", heads())
    assert float(load_lpips(saved(tmp_path / "alone.pth", vgg_weights()))(*pictures)) == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": torch.ones(1)}, "VGG-16's convolutions"),
        (vgg_weights(), "not the LPIPS heads"),
        (vgg_weights() | {name: value for name, value in heads().items() if "lin3" not in name}, "lin3.model.1.weight"),
        (vgg_weights() | heads() | {"features.0.bias": torch.full((64,), torch.nan)}, "got NaN or infinity"),
        (vgg_weights() | heads() | {"features.0.bias": torch.ones(3)}, "blocks.0.0.bias .* instead of"),
    ],
)
def test_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Tensor], words: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    unfit(words, load_lpips, saved(tmp_path / "vgg16.pth", content))


def test_dino_distance_is_the_squared_chord_between_keys(pictures: tuple[Tensor, Tensor]) -> None:
    network = DinoKeys(DinoConfig(**sizes("dino", DinoConfig))).requires_grad_(False)
    network.load_state_dict(rule_state_dict(golden_shapes("dino")), strict=False)
    distance = dino_distance(network, (4, 4))
    cosine = F.cosine_similarity(*([network(picture, (4, 4)) for picture in pictures]), dim=-1)
    assert float(distance(*pictures)) == pytest.approx(float((2 - 2 * cosine).mean()), rel=1e-4)
    picture = pictures[0].clone().requires_grad_()
    assert float(distance(picture.detach(), pictures[0])) == 0
    distance(picture, pictures[1]).backward()
    assert float(picture.grad.abs().max()) > 0
