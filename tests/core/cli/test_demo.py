"""`demo` with a tiny random model: everything it should write, interrupted and continued."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
import trimesh
from command_runs import read_run, small_distillation
from typer.testing import CliRunner, Result

from upfusion_core.cli import reconstruct
from upfusion_core.cli.app import app
from upfusion_core.cli.reconstruct import labelled_sheet, sampled_by
from upfusion_core.config.options import Surface
from upfusion_core.field.radiance import load_field
from upfusion_core.pipeline.examples import example_views

WRITTEN = {"photos.png", "truth.png", "prediction.png", "views.png", "sheet.png", "turntable.gif", "mesh.glb",
           "field.safetensors", "run.json"}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_and_bundled(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field of a few steps, small pictures."""

    monkeypatch.setattr(reconstruct, "sampled_by", small_distillation(sampled_by))
    monkeypatch.setattr(reconstruct, "SHEET_SIZE", 32)
    monkeypatch.setattr(reconstruct, "DEMO_TURNTABLE_SIZE", 16)
    monkeypatch.setattr(reconstruct, "DEMO_SURFACE", Surface(resolution=24, texture_size=0))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments), "--device", "cpu"])


def test_all_of_it_interrupted_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ("--object", 2, "--photos", 2, "--steps", 1)
    result = run(*common, "-o", whole)
    assert result.exit_code == 0, result.output
    assert "no --model given, so this takes mini" in result.stderr
    assert "First picture after" in result.stderr
    assert str(whole / "sheet.png") in result.stdout
    numbered = {f"{kind}/{index:03d}.png" for kind in ("views", "predictions") for index in range(8)}
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert names == WRITTEN | numbered | {"inputs/001.png", "inputs/002.png"}
    assert imageio.imread(whole / "turntable.gif", index=None).shape == (32, 16, 16, 3)
    assert len(trimesh.load_mesh(whole / "mesh.glb").faces) > 0
    assert read_run(whole)["example"] == example_views(2).name
    assert read_run(whole)["settings"]["model"] == "mini"
    assert read_run(whole)["settings"]["guidance"] == 9.0

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reconstruct, "save_turntable", press)
        result = run(*common, "-o", parts)
    assert result.exit_code == 130
    assert f"upfusion demo --resume -o {parts}" in result.output
    assert run("--resume", "-o", parts, "--object", 1).exit_code == 2
    result = run("--resume", "-o", parts)
    assert result.exit_code == 0, result.output
    assert (parts / "sheet.png").read_bytes() == (whole / "sheet.png").read_bytes()
    fields = [load_field(folder / "field.safetensors").field.state_dict() for folder in (whole, parts)]
    assert all(torch.equal(fields[0][name], fields[1][name]) for name in fields[0])
    assert "finished already" in run("--resume", "-o", parts).output
    assert "--force" in run("-o", parts).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--object", 6], "number must be between 0 and 5, got 6"),
        (["--photos", 7], "--photos"),
        (["--model", "nothing"], "does not exist"),
    ],
)
def test_what_is_refused(arguments: list[object], words: str, tmp_path: Path) -> None:
    result = run("-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_a_sheet_by_hand() -> None:
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 4)
    sheet = labelled_sheet({"one": red[None], "two": torch.stack([1 - red, red])}, ["a", "b"], 20)
    head, left, step = 4, 12, 22
    assert sheet.shape == (3, head + 2 * step, left + 2 * step)

    def cell(row: int, column: int) -> torch.Tensor:
        top, start = head + row * step, left + column * step
        return sheet[:, top : top + 20, start : start + 20].mean((1, 2))

    assert torch.allclose(cell(0, 0), torch.tensor([1.0, 0, 0]))
    assert torch.allclose(cell(1, 0), torch.ones(3))
    assert torch.allclose(cell(0, 1), torch.tensor([0.0, 1, 1]))
    assert torch.allclose(cell(1, 1), torch.tensor([1.0, 0, 0]))
    assert sheet[:, :, :left].min() < 0.5  # the labels are there
