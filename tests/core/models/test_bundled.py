"""The name "mini": the bundled file wherever weights are named, and what it says of itself."""

from pathlib import Path

import pytest
import torch
from command_runs import done
from refusals import unfit

from upfusion_core import UpFusion, convert
from upfusion_core.models.checkpoint import open_checkpoint, recommended_guidance, weights_path
from upfusion_core.support import files
from upfusion_core.support.weights import read_weights


def test_mini_is_the_bundled_file(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # a folder of that name does not come between
    model = UpFusion.load("mini", device="cpu")
    assert model.image_size == 16
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
    facts, copy = {"trained_on": "nothing: random weights", "steps": {"encoder": 0}}, tmp_path / "copy.safetensors"
    assert open_checkpoint("mini").facts == facts
    convert("mini", copy, dtype=torch.float32)
    assert open_checkpoint(copy).facts == facts
    convert("mini", copy, facts={"guidance": 2})
    assert open_checkpoint(copy).facts == {"guidance": 2}
    assert open_checkpoint(copy).model_id == open_checkpoint("mini").model_id
    assert recommended_guidance(copy) == 2.0
    assert recommended_guidance("mini") == recommended_guidance(small_weights) == recommended_guidance("none") == 9
    weights = read_weights(tiny_bundle / "mini.safetensors")
    kept = {name for name, tensor in weights.items() if tensor.dtype != torch.half}
    assert kept == {"text_embeddings.default", "text_embeddings.empty"}
