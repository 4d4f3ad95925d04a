"""Refusals that need an unlikely file, system or caller, asked for directly: each is a sentence of ours."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from analytic_fields import AnalyticField, ball
from typer.testing import CliRunner

from upfusion_core import __version__
from upfusion_core.cli import datasets
from upfusion_core.cli.app import app
from upfusion_core.config import EvaluationConfig
from upfusion_core.data import shards
from upfusion_core.data.shards import decoded_depth
from upfusion_core.evaluation.protocol import draw_object
from upfusion_core.models import convert
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.procedural.render import albedo
from upfusion_core.support.errors import CheckpointError, FieldError, InputError, OutputError
from upfusion_core.support.weights import read_weights
from upfusion_core.surface.extract import extract_mesh
from upfusion_core.surface.mesh import MeshAsset


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, __version__)


def test_packing_that_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold objects, got none"):
        datasets.object_count("folder", 0, None)
    state = tmp_path / shards.UNFINISHED_NAME
    run = SimpleNamespace(folder=tmp_path, resumed=True)
    state.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"packing\.json must be JSON"):
        datasets._state(run)
    gone = {"name": "gone.tar", "objects": 1, "bytes": 2048}
    state.write_text(json.dumps({"place": 1, "shards": [gone], "skipped": []}), encoding="utf-8")
    with pytest.raises(InputError, match=r"lacks gone\.tar, which was packed before"):
        datasets._state(run)


def test_shards_of_senseless_sizes(tmp_path: Path) -> None:
    sample = shards.Sample(tmp_path / "a.tar", {"json": (0, shards._LARGEST_MEMBER + 1), "png": (0, 4)})
    with pytest.raises(InputError, match="more than anything that is packed"):
        sample.read("json")
    with pytest.raises(InputError, match=r"a\.tar cannot be read"):
        sample.read("png")


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (np.zeros((2, 2), dtype=np.int64), r"must hold 2 x 2 floating-point numbers, got int64"),
        (np.zeros((2, 3), dtype=np.float32), r"must hold 2 x 2 floating-point numbers"),
        (np.full((2, 2), -1, dtype=np.float32), "must be at least 0"),
        (np.full((2, 2), np.nan, dtype=np.float32), "must hold 2 x 2 finite numbers"),
    ],
)
def test_depths_of_another_kind(depth: np.ndarray, words: str) -> None:
    content = io.BytesIO()
    np.save(content, depth)
    with pytest.raises(InputError, match=words):
        decoded_depth(SimpleNamespace(size=2), 0, SimpleNamespace(read=lambda name: content.getvalue()), 2)


def test_too_few_views_and_no_objects() -> None:
    batch = ProceduralObjects("test", size=8).batch([0, 1], views=2)
    with pytest.raises(InputError, match="albedo takes one object, got 2"):
        albedo(batch.objects, torch.zeros(1, 3))
    dataset = SimpleNamespace(draw=lambda index, count, generator: batch.example(0))
    with pytest.raises(InputError, match=r"must have 3 views \(1 photos and 2 targets\), got 2"):
        draw_object(dataset, 0, EvaluationConfig(photos=(1,), views=2))


@pytest.mark.parametrize(("peak", "threshold"), [(20.0, 50.0), (0.01, 50.0)])
def test_a_threshold_that_nothing_reaches(peak: float, threshold: float) -> None:
    with pytest.raises(FieldError, match="no density above 50 per scene unit was found"):
        extract_mesh(AnalyticField(ball(peak=peak)), 32, threshold)


def test_meshes_of_whole_numbers() -> None:
    places = torch.zeros(3, 3)
    with pytest.raises(InputError, match="must hold floating-point numbers"):
        MeshAsset(places, torch.tensor([[0, 1, 2]]), places, normals=places.long())


def test_weights_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "save_tensors", full)
    with pytest.raises(OutputError, match=r"could not be written \(No space left on device\)"):
        convert._write_folder(SimpleNamespace(weights={}), tmp_path / "new", None, None)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(convert, "save_safetensors", full)
    with pytest.raises(OutputError, match=r"m\.safetensors could not be written \(No space left on device\)"):
        convert._write_merged(tmp_path / "new" / "m.safetensors", {}, {"a": torch.ones(1)}, torch.float16, None)
    assert not (tmp_path / "new").exists()


def test_pickles_and_zips_that_torch_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        read_weights(path)

    def damaged(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError("invalid load key")

    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(torch, "load", damaged)
    with pytest.raises(CheckpointError, match="invalid load key"):
        read_weights(path)
