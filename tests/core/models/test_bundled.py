"""The name "mini": the bundled file wherever weights are named, and what it says of itself."""

import json
from pathlib import Path

import pytest
import torch
from command_runs import done
from refusals import unfit

from upfusion_core import UpFusion, convert
from upfusion_core.models.checkpoint import FACTS_KEY, open_checkpoint, recommended_guidance, weights_path
from upfusion_core.support import files
from upfusion_core.support.weights import read_metadata, read_weights


def test_mini_is_the_bundled_file(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # a folder of that name does not come between
    model = UpFusion.load("mini", device="cpu")
    assert model.image_size == 16
    conditional, empty = model.text_embeddings()
    assert conditional.shape == empty.shape == (77, 32)
    unfit("take no prompt", model.text_embeddings, "a red cup")
    assert weights_path("mini") == tiny_bundle / "mini.safetensors"
    assert weights_path(Path("mini")) == Path("mini")
    unfit("mini", UpFusion.load, Path("mini"), device="cpu")
    told = done("info", "mini")
    assert "trained on: nothing: random weights" in told
    assert 'steps: {"encoder": 0}' in told
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
    unfit("bundles no model yet; give a folder of weights", UpFusion.load, "mini")


def test_facts_and_guidance(tiny_bundle: Path, tmp_path: Path, small_weights: Path) -> None:
    facts = {"trained_on": "nothing: random weights", "steps": {"encoder": 0}}
    assert open_checkpoint("mini").facts == facts
    convert("mini", tmp_path / "copy.safetensors", dtype=torch.float32)
    assert open_checkpoint(tmp_path / "copy.safetensors").facts == facts
    convert("mini", tmp_path / "other.safetensors", facts={"trained_on": "cups"})
    assert open_checkpoint(tmp_path / "other.safetensors").facts == {"trained_on": "cups"}
    assert open_checkpoint(tmp_path / "other.safetensors").model_id == open_checkpoint("mini").model_id
    assert json.loads(read_metadata(tiny_bundle / "mini.safetensors")[FACTS_KEY]) == facts
    weights = read_weights(tiny_bundle / "mini.safetensors")
    kept = {name for name, tensor in weights.items() if tensor.dtype != torch.half}
    assert kept == {"text_embeddings.default", "text_embeddings.empty"}
    assert recommended_guidance("mini") == recommended_guidance(small_weights) == recommended_guidance("none") == 9
    convert("mini", tmp_path / "a.safetensors", facts={"guidance": 2})
    assert recommended_guidance(tmp_path / "a.safetensors") == 2.0
