"""The scripts that put a trained model into the package: its file, and its card."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import documented_programs
import pytest
import torch
from PIL import Image
from tiny_training import TinySource, tiny_config

from upfusion_core.models.checkpoint import open_checkpoint
from upfusion_core.training.loop import train


def script(name: str) -> ModuleType:
    return documented_programs.loaded(Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py")


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    module.main()


def report(data: str = "procedural") -> dict[str, Any]:
    def score(value: float) -> dict[str, Any]:
        return {"mean": value, "stderr": 0.25, "objects": 2}

    rows = {"1": {"box_psnr": score(15.5), "iou": score(0.7)}, "3": {"box_psnr": score(16.25), "iou": score(0.75)}}
    settings = {
        "photos": [1, 3], "views": 4, "stages": ["predict"], "seed": 0, "steps": 20, "guidance": 3.0,
        "scheduler": "ddim", "alignment": "object",
    }  # fmt: skip
    return {
        "data": data, "split": "test", "objects": 2, "settings": settings, "evaluated": ["a", "b"],
        "results": {"predict": rows}, "gains": {"predict": {"1 to 3": {"box_psnr": score(0.75)}}},
        "groups": {"held_out_pattern": {"title": "a pattern", "evaluated": ["c", "d"]}},
        "results_by_group": {"held_out_pattern": {"predict": {"1": {"box_psnr": score(14.0)}}}},
    }  # fmt: skip


def test_a_run_becomes_the_bundled_file_and_card(rough: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("encoder", steps=3)
    trained = train(config, TinySource(), TinySource(fixed=True), tmp_path / "encoder", device="cpu")
    evaluation = tmp_path / "report of tests"
    evaluation.mkdir()
    (evaluation / "report.json").write_text(json.dumps(report()))
    made = tmp_path / "mini.safetensors"
    arguments = (trained.model, "--runs", tmp_path / "encoder", "--machine", "two cores", "-o", made)
    call(script("bundle_mini"), monkeypatch, *arguments, "--report", evaluation / "report.json")
    checkpoint = open_checkpoint(made)
    assert checkpoint.model_id == open_checkpoint(trained.model).model_id
    assert {tensor.dtype for name, tensor in checkpoint.weights.items() if "text" not in name} == {torch.float16}
    assert checkpoint.facts["figures"]["predict"]["3"] == {"box_psnr": 16.25, "iou": 0.75}
    with pytest.raises(SystemExit, match="exists already"):
        call(script("bundle_mini"), monkeypatch, *arguments)

    Image.new("RGB", (32, 16), "red").save(evaluation / "sheet.png")
    card = tmp_path / "MODEL_CARD.md"
    (tmp_path / "scans.json").write_text(json.dumps(report("/data/objects")))
    call(script("model_card"), monkeypatch, evaluation, tmp_path / "scans.json", "--model", made, "-o", card)
    text = card.read_text(encoding="utf-8")
    for words in (
        "Pictures of 16 x 16 pixels", "| encoder | 3 | 2 | 2 | 0.001 | 0.00 |", "Machine: two cores",
        "| predict | 3 | 2 | 16.25 ± 0.25 | 0.750 ± 0.250 |", "| predict | 1 to 3 | +0.75 ± 0.25 |",
        "Apart, a pattern (2 objects)", "`objects`, never trained on", "--photos 1,3 --views 4 --stages predict",
        "(sheet_1_report_of_tests.png)", "It takes no prompt",
    ):  # fmt: skip
        assert words in text, words
    with Image.open(tmp_path / "sheet_1_report_of_tests.png") as sheet:
        assert sheet.size == (32, 16)
