"""The scripts that put a trained model into the package: its file, and its card."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from documented_programs import ROOT, loaded
from PIL import Image
from tiny_training import run_tiny, tiny_config

from upfusion_core.models.checkpoint import open_checkpoint


def call(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    loaded(ROOT / "benchmarks" / f"{name}.py").main()


def report(data: str = "procedural") -> dict[str, Any]:
    def score(value: float) -> dict[str, Any]:
        return {"mean": value, "stderr": 0.25, "objects": 2}

    rows = {"1": {"box_psnr": score(15.5), "iou": score(0.7)}, "3": {"box_psnr": score(16.25), "iou": score(0.75)}}
    settings = {"photos": [1, 3], "views": 4, "stages": ["predict"], "seed": 0, "steps": 20, "guidance": 3.0}
    settings |= {"scheduler": "ddim", "alignment": "object"}
    found = {"data": data, "split": "test", "objects": 2, "settings": settings, "evaluated": ["a", "b"]}
    found |= {"results": {"predict": rows}, "gains": {"predict": {"1 to 3": {"box_psnr": score(0.75)}}}}
    found |= {"groups": {"held_out_pattern": {"title": "a pattern", "evaluated": ["c", "d"]}}}
    return found | {"results_by_group": {"held_out_pattern": {"predict": {"1": {"box_psnr": score(14.0)}}}}}


def test_a_run_becomes_the_bundled_file_and_card(rough: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = run_tiny(tiny_config("encoder", steps=3), tmp_path / "encoder")
    evaluation = tmp_path / "report of tests"
    evaluation.mkdir()
    (evaluation / "report.json").write_text(json.dumps(report()))
    made = tmp_path / "mini.safetensors"
    arguments = (trained.model, "--runs", tmp_path / "encoder", "--machine", "two cores", "-o", made)
    call("bundle_mini", monkeypatch, *arguments, "--report", evaluation / "report.json")
    checkpoint = open_checkpoint(made)
    assert checkpoint.model_id == open_checkpoint(trained.model).model_id
    assert {tensor.dtype for name, tensor in checkpoint.weights.items() if "text" not in name} == {torch.float16}
    assert checkpoint.facts["figures"]["predict"]["3"] == {"box_psnr": 16.25, "iou": 0.75}
    with pytest.raises(SystemExit, match="exists already"):
        call("bundle_mini", monkeypatch, *arguments)

    Image.new("RGB", (32, 16), "red").save(evaluation / "sheet.png")
    card = tmp_path / "MODEL_CARD.md"
    (tmp_path / "scans.json").write_text(json.dumps(report("/data/objects")))
    call("model_card", monkeypatch, evaluation, tmp_path / "scans.json", "--model", made, "-o", card)
    text = card.read_text(encoding="utf-8")
    assert "| encoder | 3 | 2 | 2 | 0.001 | 0.00 |" in text
    assert "| predict | 3 | 2 | 16.25 ± 0.25 | 0.750 ± 0.250 |" in text
    assert "| predict | 1 to 3 | +0.75 ± 0.25 |" in text
    assert "--photos 1,3 --views 4 --stages predict" in text
    assert "(sheet_1_report_of_tests.png)" in text
    with Image.open(tmp_path / "sheet_1_report_of_tests.png") as sheet:
        assert sheet.size == (32, 16)
