from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_files import sizes
from random_vgg import heads, lpips_by_hand, vgg_weights
from rule_weights import golden_shapes, rule_state_dict
from torch import Tensor
from torch.nn import functional as F

from upfusion_core.config import DinoConfig
from upfusion_core.models.dino import DinoKeys
from upfusion_core.models.perceptual import dino_distance, load_lpips
from upfusion_core.support.errors import CheckpointError


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, 3, 32, 32, generator=generator) for _ in range(2))


def test_lpips_by_hand(tmp_path: Path, pictures: tuple[Tensor, Tensor]) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "vgg16.pth")
    network = load_lpips(tmp_path / "vgg16.pth")
    assert float(network(*pictures)) == pytest.approx(lpips_by_hand(vgg_weights(), *pictures), rel=1e-4)
    assert float(network(pictures[0], pictures[0])) == 0


def test_weights_are_told_apart(tmp_path: Path) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "one.pth")
    torch.save(vgg_weights() | heads() | {"features.28.bias": torch.full((512,), 1e-3)}, tmp_path / "two.pth")
    one, again, two = (load_lpips(tmp_path / name).weights_id() for name in ("one.pth", "one.pth", "two.pth"))
    assert one == again != two


def test_lpips_in_the_names_of_its_own_package(tmp_path: Path, pictures: tuple[Tensor, Tensor]) -> None:
    renamed = {}
    for name, value in vgg_weights().items():
        _, index, kind = name.split(".")
        block = sum(int(index) >= first for first in (5, 10, 17, 24)) + 1
        renamed[f"net.slice{block}.{index}.{kind}"] = value
    torch.save(renamed | heads(), tmp_path / "lpips.pth")
    assert float(load_lpips(tmp_path / "lpips.pth")(*pictures)) == pytest.approx(
        lpips_by_hand(vgg_weights(), *pictures), 1e-4
    )


def test_heads_beside_the_file(tmp_path: Path, pictures: tuple[Tensor, Tensor]) -> None:
    torch.save(vgg_weights(), tmp_path / "vgg16.pth")
    torch.save(heads(), tmp_path / "vgg.pth")
    assert float(load_lpips(tmp_path / "vgg16.pth")(*pictures)) > 0


def test_lpips_moves_the_picture_towards_the_target(tmp_path: Path, pictures: tuple[Tensor, Tensor]) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "vgg16.pth")
    network = load_lpips(tmp_path / "vgg16.pth")
    picture = pictures[0].clone().requires_grad_()
    before = network(picture, pictures[1])
    before.backward()
    step = 1e-3 * picture.grad / picture.grad.norm()
    assert float(network((picture - step).detach(), pictures[1])) < float(before.detach())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": torch.ones(1)}, "VGG-16's convolutions"),
        (vgg_weights() | {name: value for name, value in heads().items() if "lin3" not in name}, "lin3.model.1.weight"),
        (vgg_weights() | heads() | {"features.0.bias": torch.full((64,), torch.nan)}, "got NaN or infinite values"),
        (vgg_weights() | heads() | {"features.0.bias": torch.ones(64, dtype=torch.int64)}, "got torch.int64"),
        (vgg_weights() | heads() | {"features.0.bias": torch.ones(3)}, "blocks.0.0.bias must be"),
    ],
)
def test_other_files_get_a_sentence(tmp_path: Path, content: dict[str, Tensor], words: str) -> None:
    torch.save(content, tmp_path / "vgg16.pth")
    with pytest.raises(CheckpointError, match=words):
        load_lpips(tmp_path / "vgg16.pth")


def test_missing_heads_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch.save(vgg_weights(), tmp_path / "vgg16.pth")
    with pytest.raises(CheckpointError, match="not the LPIPS heads"):
        load_lpips(tmp_path / "vgg16.pth")


def test_dino_distance_is_the_squared_chord_between_keys(pictures: tuple[Tensor, Tensor]) -> None:
    network = DinoKeys(DinoConfig(**sizes("dino", DinoConfig)))
    weights = rule_state_dict(golden_shapes("dino"))
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    network.requires_grad_(False)
    distance = dino_distance(network, (4, 4))
    keys = [network(picture, (4, 4)) for picture in pictures]
    cosine = F.cosine_similarity(*keys, dim=-1)
    assert float(distance(*pictures)) == pytest.approx(float((2 - 2 * cosine).mean()), rel=1e-4)
    assert float(distance(pictures[0], pictures[0])) == 0
    picture = pictures[0].clone().requires_grad_()
    distance(picture, pictures[1]).backward()
    assert float(picture.grad.abs().max()) > 0
