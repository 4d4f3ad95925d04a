import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from golden_files import worst
from refusals import denied
from safetensors import safe_open

from upfusion_core import convert
from upfusion_core.models.checkpoint import load_text_encoder, open_checkpoint
from upfusion_core.models.stable_diffusion import DEFAULT_PROMPT, encode_tokens, tokenize


@pytest.fixture(scope="module")
def merged(small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("merged") / "model.safetensors"
    assert convert(small_weights, path, dtype=torch.float16) == [path]
    return path


def test_a_merged_file_is_plain_safetensors(merged: Path, small_weights: Path) -> None:
    original = open_checkpoint(small_weights)
    with safe_open(merged, framework="pt") as file:
        assert {*file.keys()} == {*original.weights, "text_embeddings.default", "text_embeddings.empty"}
        assert json.loads(file.metadata()["upfusion_config"])["image_size"] == 16
        assert file.get_tensor("model.diffusion_model.out.2.bias").dtype == torch.float16
    encoder = load_text_encoder(original)
    for stored, prompt in zip(open_checkpoint(merged).text_embeddings, (DEFAULT_PROMPT, ""), strict=True):
        assert worst(stored, encode_tokens(encoder, tokenize(prompt))[0]) < 1e-6


def test_there_and_back_in_half_precision(merged: Path, small_weights: Path, tmp_path: Path) -> None:
    steps, target = [], tmp_path / "folder"
    files = convert(merged, target, dtype=torch.bfloat16, on_step=lambda step, total, _: steps.append((step, total)))
    assert steps == [(step, len(steps)) for step in range(1, len(steps) + 1)]
    names = ["config.json", "dinov2_vitb14_pretrain.pth", "upfusion2d.pt", "upsrt.pt"]
    assert sorted(path.name for path in files) == sorted(path.name for path in target.iterdir()) == names
    back, original = open_checkpoint(target), open_checkpoint(small_weights)
    assert back.weights.keys() == original.weights.keys()
    tolerance = 2**-8 + 2**-11  # it was rounded to float16 before
    for name, value in original.weights.items():
        if value.is_floating_point():
            assert back.weights[name].dtype == torch.bfloat16
            assert ((back.weights[name].float() - value).abs() <= tolerance * value.abs() + 1e-7).all()


def test_merged_to_merged_and_cancelling(small_weights: Path, tiny: Path, tmp_path: Path) -> None:
    convert(small_weights, tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "back")
    back = open_checkpoint(tmp_path / "back").weights
    assert all(torch.equal(back[name], value) for name, value in open_checkpoint(small_weights).weights.items())
    convert(tiny, tmp_path / "again.safetensors", dtype=torch.bfloat16)
    again = open_checkpoint(tmp_path / "again.safetensors")
    assert again.weights["upsrt.linear_scene.weight"].dtype == torch.bfloat16
    assert worst(again.text_embeddings[0], open_checkpoint(tiny).text_embeddings[0]) == 0
    for target in (tmp_path / "a" / "cancelled.safetensors", tmp_path / "b"):
        cancel = Mock(side_effect=[None] * 99 + [KeyboardInterrupt])
        with pytest.raises(KeyboardInterrupt):
            convert(tiny, target, dtype=torch.float16, on_step=cancel)
    assert not [path for part in "ab" for path in (tmp_path / part).rglob("*") if path.name != "upsrt.pt"]


def test_what_stands_under_the_name(small_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.safetensors").mkdir()
    denied("is a folder", convert, small_weights, tmp_path / "taken.safetensors")
    (tmp_path / "file").write_text("")
    denied("is a file", convert, small_weights, tmp_path / "file")
