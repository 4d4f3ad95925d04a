"""The released sizes on a CPU: loads, predicts what the released code predicts, samples, converts, within its memory.

`pytest -m full`; UPFUSION_FULL_WEIGHTS names a folder to keep the 6.5 GB of weights in. The stored numbers came from
`benchmarks/reference.py`, i.e. the released code on the same weights and photos; with UPFUSION_REFERENCE,
PYTORCH3D_REFERENCE and DINOV2_REFERENCE set it runs again and its whole tensors are compared.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rule_weights
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures memory through Linux's /proc"),
]

GIGABYTE = 1e9
REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("full_size_worker.py")
REFERENCES = ("UPFUSION_REFERENCE", "PYTORCH3D_REFERENCE", "DINOV2_REFERENCE")

Report = dict[str, dict[str, float]]


def run(*arguments: object) -> str:
    """The last line that a Python program prints, run in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def work(*arguments: object) -> Report:
    report = json.loads(run(WORKER, *arguments))
    print(arguments[0], report)
    return report


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def spread_sample(tensor: Tensor, count: int = 512) -> Tensor:
    """`count` numbers at even distances, as benchmarks/reference.py stores them of large tensors."""
    flat = tensor.flatten()
    return flat[torch.linspace(0, len(flat) - 1, count, dtype=torch.float64).long()]


@pytest.fixture(scope="module")
def stepped(full_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Report]:
    out = tmp_path_factory.mktemp("step") / "step.safetensors"
    report = work("step", full_weights, out)
    return load_file(out), report


@pytest.fixture(scope="module")
def merged(full_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Report]]:
    path = tmp_path_factory.mktemp("merged") / "merged.safetensors"
    yield path, work("convert", full_weights, path, "float16")
    path.unlink()  # pytest keeps temporary folders of three runs


def test_latents_are_those_of_the_reference() -> None:
    golden = load_file(rule_weights.GOLDEN / "full_guided.safetensors")
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents, golden["latents"])


def test_a_guided_step_is_that_of_the_released_code(stepped: tuple[dict[str, Tensor], Report]) -> None:
    golden = load_file(rule_weights.GOLDEN / "full_guided.safetensors")
    for name in ("eps_guided", "eps", "eps_unconditional", "eps_guided_zero_rays"):
        assert difference(stepped[0][name], golden[name]) <= 1e-3, name  # wrong rays differ by 7e-3
    for name in ("tokens", "hint", "text", "unconditional_text"):
        assert difference(spread_sample(stepped[0][name]), golden[f"{name}_sample"]) <= 1e-4, name
    for stage, measured in stepped[1].items():
        assert measured["resident_bytes"] <= 9 * GIGABYTE, stage


@pytest.mark.skipif(not all(map(os.environ.get, REFERENCES)), reason=f"runs with {', '.join(REFERENCES)} set")
def test_live(full_weights: Path, stepped: tuple[dict[str, Tensor], Report], tmp_path: Path) -> None:
    photos = rule_weights.write_photos(tmp_path / "photos")
    run("-W", "ignore", REPOSITORY / "benchmarks" / "reference.py", full_weights, *photos, "--out", tmp_path)
    theirs = load_file(tmp_path / "steps.safetensors") | load_file(tmp_path / "conditioning.safetensors")
    for name in ("tokens", "hint", "eps", "eps_unconditional", "eps_guided", "eps_guided_zero_rays"):
        error = difference(stepped[0][name], theirs[name])
        print(f"{name}: relative error {error:.2e}")
        assert error <= 1e-3, name


def test_two_views_in_two_steps(full_weights: Path, tmp_path: Path) -> None:
    report = work("views", full_weights, tmp_path / "views.safetensors")
    pictures = load_file(tmp_path / "views.safetensors")
    together, alone = pictures["together"], pictures["alone"]
    assert together.shape == (2, 3, 256, 256)
    assert 0 <= together.min() < together.max() <= 1
    assert (together[0] - together[1]).abs().mean() > 1e-2
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-4)
    assert report["sampling"]["resident_bytes"] <= 9 * GIGABYTE


def test_merging_to_half_precision_streams(full_weights: Path, merged: tuple[Path, Report]) -> None:
    path, report = merged
    largest = max(file.stat().st_size for file in full_weights.iterdir())
    assert report["convert"]["anonymous_bytes"] <= largest + GIGABYTE
    with safe_open(path, "pt") as stored:
        names = set(stored.keys())
        assert {"text_embeddings.default", "text_embeddings.empty", "dino.cls_token"} <= names
        assert stored.get_slice("control_model.input_hint_block.0.weight").get_dtype() == "F16"


def test_folder_made_from_the_merged_file_agrees_to_half_precision(
    full_weights: Path, merged: tuple[Path, Report], tmp_path: Path
) -> None:
    try:
        report = work("convert", merged[0], tmp_path / "back", "float32")
        assert report["convert"]["anonymous_bytes"] <= merged[0].stat().st_size + GIGABYTE
        for name, shapes in rule_weights.full_shapes().items():
            files = (
                torch.load(folder / name, mmap=True, weights_only=True) for folder in (full_weights, tmp_path / "back")
            )
            before, after = (content.get("model_state_dict", content) for content in files)
            kept = [key for key in shapes if key in after]
            assert len(kept) >= 0.7 * len(shapes)  # DINO's last three blocks and head have no use
            for key in kept:
                # float16 keeps 11 bits, and below its smallest normal number steps of 6e-8
                wrong = (after[key].float() - before[key]).abs() > 2**-11 * before[key].abs() + 6e-8
                assert not wrong.any(), key
    finally:
        shutil.rmtree(tmp_path)
