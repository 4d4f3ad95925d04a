"""The released sizes on a CPU: loads, predicts what the released code predicts, samples, converts, within its memory.

`pytest -m full`; UPFUSION_FULL_WEIGHTS names a folder to keep the 6.5 GB of weights in. The stored numbers came from
`benchmarks/reference.py`, i.e. the released code on the same weights and photos.
"""

import shutil
from functools import partial
from pathlib import Path

import full_size_worker
import pytest
import rule_weights
import torch
from full_size_worker import alone
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from upfusion_core import convert

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures memory through Linux's /proc"),
]

GIGABYTE = 1e9


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def test_a_guided_step_is_that_of_the_released_code(full_weights: Path) -> None:
    found, report = alone(full_size_worker.step, full_weights)
    golden = load_file(rule_weights.GOLDEN / "full_guided.safetensors")
    assert torch.equal(torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)), golden["latents"])
    for name in ("eps_guided", "eps", "eps_unconditional", "eps_guided_zero_rays"):
        assert difference(found[name], golden[name]) <= 1e-3, name  # wrong rays differ by 7e-3
    for name in ("tokens", "hint", "text", "unconditional_text"):  # benchmarks/reference.py stores 512 numbers of each
        flat = found[name].flatten()
        spread = torch.linspace(0, len(flat) - 1, 512, dtype=torch.float64).long()
        assert difference(flat[spread], golden[f"{name}_sample"]) <= 1e-4, name
    assert 0 <= found["views"].min() < found["views"].max() <= 1
    assert (found["views"][0] - found["views"][1]).abs().mean() > 1e-2
    assert report["resident_bytes"] <= 9 * GIGABYTE


def test_merging_to_half_precision_and_back_streams(full_weights: Path, tmp_path: Path) -> None:
    merged, back = tmp_path / "merged.safetensors", tmp_path / "back"
    try:
        _, report = alone(partial(convert, dtype=torch.float16), full_weights, merged)
        assert report["anonymous_bytes"] <= max(file.stat().st_size for file in full_weights.iterdir()) + GIGABYTE
        with safe_open(merged, "pt") as stored:
            assert {"text_embeddings.default", "text_embeddings.empty", "dino.cls_token"} <= set(stored.keys())
            assert stored.get_slice("control_model.input_hint_block.0.weight").get_dtype() == "F16"
        _, report = alone(partial(convert, dtype=torch.float32), merged, back)
        assert report["anonymous_bytes"] <= merged.stat().st_size + GIGABYTE
        for name, shapes in rule_weights.full_shapes().items():
            files = (torch.load(folder / name, mmap=True, weights_only=True) for folder in (full_weights, back))
            before, after = (content.get("model_state_dict", content) for content in files)
            kept = [key for key in shapes if key in after]
            assert len(kept) >= 0.7 * len(shapes)  # DINO's last three blocks and head have no use
            for key in kept:
                # float16 keeps 11 bits, and below its smallest normal number steps of 6e-8
                wrong = (after[key].float() - before[key]).abs() > 2**-11 * before[key].abs() + 6e-8
                assert not wrong.any(), key
    finally:
        shutil.rmtree(tmp_path)  # pytest keeps temporary folders of three runs


def test_one_step_of_training_in_twenty_gigabytes(full_weights: Path) -> None:
    """AdamW, float32, batch 1, no averaging, gradient checkpointing, from an SD 1.5-layout checkpoint."""
    found, report = alone(full_size_worker.optimiser_step, full_weights)
    print(found, report)
    assert found["steps"] == 1
    assert found["zero_conv_moved"] == pytest.approx(1e-5, rel=1e-2)  # Adam's first step is the rate
    assert found["unet_moved"] == pytest.approx(1e-5, rel=1e-2)
    assert 0.8e9 < found["trained"] < 1.0e9
    assert report["anonymous_bytes"] <= 20 * GIGABYTE
