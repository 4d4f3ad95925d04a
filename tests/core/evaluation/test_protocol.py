"""The protocol on a tiny random model. Its figures mean nothing: only structure and arithmetic are looked at."""

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from refusals import refused
from tiny_training import DRAFT, FIELD
from torch import Tensor

from upfusion_core import UpFusion, orbit_cameras
from upfusion_core.config import EVALUATION_STAGES as STAGES
from upfusion_core.config import DistillConfig, EvaluationConfig
from upfusion_core.data.meshes import mesh_folder
from upfusion_core.evaluation import protocol
from upfusion_core.evaluation import report as report_module
from upfusion_core.evaluation.protocol import EvaluatedObject, draw_object, evaluate_object, neighbors
from upfusion_core.evaluation.report import Evaluator
from upfusion_core.procedural import ProceduralObjects

DISTILL = DistillConfig(schedule=DRAFT, field=FIELD)
BASELINES = EvaluationConfig(photos=(1, 3), views=2, stages=("white", "nearest"), seed=5)


@pytest.fixture(scope="module")
def dataset(model: UpFusion) -> ProceduralObjects:
    return ProceduralObjects("test", size=model.image_size)


@pytest.fixture(scope="module")
def everything(model: UpFusion, dataset: ProceduralObjects, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one object with all stages."""
    few = {"photos": (1, 2), "views": 2, "steps": 1, "mesh_resolution": 24, "mesh_samples": 500}
    config = EvaluationConfig(alignment="picture", distill=DISTILL, **few)
    folder = tmp_path_factory.mktemp("everything")
    with pytest.MonkeyPatch.context() as patch:  # a box is as good a true surface
        patch.setattr(protocol, "true_mesh", lambda objects: trimesh.creation.box((0.3, 0.2, 0.2)))
        Evaluator(model, [dataset], folder, config, about={"data": "procedural"}).evaluate([3])
    return folder


@pytest.fixture(scope="module", autouse=True)
def _without_plots(rough: None) -> Iterator[None]:
    """They take longer than such small evaluations, and test_report draws some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "plot_results", lambda results, writing: None)
        yield


def box_psnr(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """(3, S, S), (3, S, S), (S, S): by hand, inside the rectangle of the silhouette."""
    rows, columns = np.nonzero(mask > 0.5)
    place = (slice(None), slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    return -10 * math.log10(float(((prediction - truth)[place].astype(np.float64) ** 2).mean()))


def angle(first: Tensor, second: Tensor) -> float:
    return math.acos(float(first.double() @ second.double() / (first.double().norm() * second.double().norm())))


def nearest_by_hand(item: EvaluatedObject, count: int) -> list[int]:
    """For each target the view that is its nearest photo."""
    centers = item.views.cameras.centers
    given = item.photos[:count]
    return [min(given, key=lambda photo: angle(centers[photo], centers[target])) for target in item.targets]


def test_photos_are_nested_and_targets_are_none_of_them(dataset: ProceduralObjects) -> None:
    few, many = (draw_object(dataset, 4, dataclasses.replace(BASELINES, photos=photos)) for photos in ((1,), (6, 2)))
    assert many.photos == (0, 3, 4, 5, 6, 7)
    assert many.targets == few.targets == (1, 2)
    torch.testing.assert_close(few.truth, many.truth, rtol=0, atol=0)
    torch.testing.assert_close(few.cameras.camera_to_world, many.cameras.camera_to_world, rtol=0, atol=0)
    for smaller, larger in ((1, 3), (3, 6)):
        torch.testing.assert_close(many.given(smaller).rgb, many.given(larger).rgb[:smaller], rtol=0, atol=0)
    centers = many.views.cameras.centers
    assert min(angle(centers[photo], centers[target]) for photo in many.photos for target in many.targets) > 1e-3
    assert many.elevation_degrees == pytest.approx(22.5, abs=1e-4)
    other = draw_object(dataset, 4, dataclasses.replace(BASELINES, seed=6))
    assert (other.cameras.camera_to_world - few.cameras.camera_to_world).abs().max() > 0.01
    assert neighbors(orbit_cameras([0.0, 100.0, 30.0, 110.0], 0.0)) == [(0, 2), (1, 3)]


def test_baselines_recomputed_by_hand(model: UpFusion, dataset: ProceduralObjects, tmp_path: Path) -> None:
    Evaluator(model, [dataset], tmp_path, BASELINES).evaluate([0, 1])
    content = json.loads((tmp_path / "report.json").read_text())
    items = [draw_object(dataset, index, BASELINES) for index in (0, 1)]
    for stage in ("white", "nearest"):
        for count in (1, 3):
            means = []
            for item in items:
                found = []
                for target, photo in zip(item.targets, nearest_by_hand(item, count), strict=True):
                    truth, mask = item.views.rgb[target].numpy(), item.views.mask[target, 0].numpy()
                    painted = np.ones_like(truth) if stage == "white" else item.views.rgb[photo].numpy()
                    found.append(box_psnr(painted, truth, mask))
                means.append(statistics.mean(found))
            got = content["results"][stage][str(count)]["box_psnr"]
            assert got["mean"] == pytest.approx(statistics.mean(means), abs=1e-4)
            assert got["stderr"] == pytest.approx(statistics.stdev(means) / math.sqrt(2), abs=1e-4)
    assert content["results"]["white"]["1"] == content["results"]["white"]["3"]
    assert content["results"]["white"]["1"]["iou"]["mean"] == 0
    gain = content["gains"]["nearest"]["1 to 3"]["box_psnr"]
    rows = content["results"]["nearest"]
    assert gain["mean"] == pytest.approx(rows["3"]["box_psnr"]["mean"] - rows["1"]["box_psnr"]["mean"], abs=1e-9)
    Evaluator(model, [dataset], tmp_path, dataclasses.replace(BASELINES, seed=6)).evaluate([0, 1])  # other values
    assert json.loads((tmp_path / "report.json").read_text())["results"] != content["results"]


def test_what_a_report_holds(everything: Path, model: UpFusion, dataset: ProceduralObjects) -> None:
    content = json.loads((everything / "report.json").read_text())
    assert list(content["results"]) == list(STAGES)
    assert content["model_id"] == model.model_id
    assert content["settings"]["distill"]["preset"] == "draft"
    assert "one shared 2D" in content["similarity_alignment"]
    for rows in content["results"].values():
        assert list(rows) == ["1", "2"]
        for measures in rows.values():
            assert {"psnr", "box_psnr_affine", "iou_similarity", "haarpsi"} <= measures.keys()
            for value in measures.values():
                assert value["stderr"] is None
                assert math.isfinite(value["mean"])
    meshes = set(content["results"]["field"]["1"]) & {"chamfer", "chamfer_similarity", "f_score_2"}
    assert len(meshes) == 3 or "no mesh was measured" in content["notes"][0]
    text = (everything / "report.md").read_text()
    assert "| sample | 2 | 1 |" in text
    with Image.open(everything / "sheet.png") as sheet:
        # 2 photos, truth, 4 stages without white, of 16 pixels, six times enlarged and framed
        assert sheet.size == (7 * 98, 98 + 14)
        pixels = np.array(sheet)[14:]
    item = draw_object(dataset, 3, EvaluationConfig(photos=(1, 2), views=2))
    nearest = item.views.rgb[nearest_by_hand(item, 2)[0]]
    for column, picture in ((0, item.views.rgb[0]), (2, item.truth[0]), (3, nearest)):
        shown = pixels[1:97:6, column * 98 + 1 : column * 98 + 97 : 6]
        expected = (picture.permute(1, 2, 0).numpy() * 255).round()
        assert np.abs(shown - expected).max() <= 1


def test_the_models_get_the_photos_and_the_true_elevation(model: UpFusion, dataset: ProceduralObjects) -> None:
    config = dataclasses.replace(BASELINES, photos=(2,), stages=("predict",), alignment="object")
    item = draw_object(dataset, 0, config)
    result = evaluate_object(model, item, config)
    scene = model.encode(item.given(2), reference_elevation_degrees=item.elevation_degrees)
    torch.testing.assert_close(scene.reference.camera_to_world, item.views.cameras.camera_to_world[:1])
    expected = model.predict(scene, item.cameras, size=model.image_size, pixel_centers=True)
    torch.testing.assert_close(result.shown["predict"], expected)
    by_hand = -10 * (expected - item.truth).square().mean((1, 2, 3)).log10()
    assert result.values["predict"]["2"]["psnr"] == pytest.approx(by_hand.tolist(), abs=1e-4)


def test_killed_later(
    model: UpFusion, dataset: ProceduralObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the field of the second number of photos: those of both go on, and leave nothing behind."""
    config = EvaluationConfig(photos=(1, 2), views=1, stages=("field",), alignment="picture", distill=DISTILL)
    whole, parts, calls = tmp_path / "whole", tmp_path / "parts", []
    monkeypatch.setattr(  # surfaces take longer than fields
        report_module, "draw_object", lambda *drawn: dataclasses.replace(draw_object(*drawn), mesh=None)
    )

    def dying(step: int, total: int, preview: object) -> None:
        calls.append(step)
        if calls.count(1) == 4:  # the third step of the field from two photos
            raise KeyboardInterrupt

    Evaluator(model, [dataset], whole, config).evaluate([0])
    with pytest.raises(KeyboardInterrupt):
        Evaluator(model, [dataset], parts, config).evaluate([0], on_step=dying)
    assert [path.suffix for path in (parts / "objects").iterdir()] == [".state", ".state"]
    distilled = []
    Evaluator(model, [dataset], parts, config).evaluate([0], on_step=lambda step, *_: distilled.append(step))
    assert len(distilled) < len(calls)
    assert (parts / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    assert sorted(path.name for path in (parts / "objects").iterdir()) == ["000000.json", "000000.png"]


def test_true_meshes_lie_in_the_views_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "true_mesh", functools.partial(protocol.true_mesh, resolution=64))
    trimesh.creation.box((0.2, 0.3, 0.1)).export(tmp_path / "a.ply")
    sources = (mesh_folder(tmp_path, size=48), ProceduralObjects("test", size=48))
    for item in (draw_object(source, 0, BASELINES) for source in sources):
        assert item.mesh is not None
        points = torch.tensor(np.asarray(item.mesh().vertices), dtype=torch.float32)
        camera = item.cameras[0]
        local = (points - camera.centers[0]) @ camera.camera_to_world[0, :3, :3]
        size = item.truth.shape[-1]
        columns = (local[:, 0] / -local[:, 2] * camera.focal[0, 0] + 1) * size / 2
        rows = (1 - local[:, 1] / -local[:, 2] * camera.focal[0, 1]) * size / 2
        inside = (item.mask[0, 0] > 0.5).nonzero()
        assert float(columns.min()) == pytest.approx(float(inside[:, 1].min()), abs=1.5)
        assert float(rows.max()) == pytest.approx(float(inside[:, 0].max()) + 1, abs=1.5)


def test_without_matplotlib_plots_are_left_out(
    model: UpFusion, dataset: ProceduralObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(report_module, "plot_results", None)
    Evaluator(model, [dataset], tmp_path, BASELINES).evaluate([0])
    assert (tmp_path / "report.md").is_file()


def test_frames_are_found_in_3d(model: UpFusion, dataset: ProceduralObjects) -> None:
    config = EvaluationConfig(photos=(1,), views=1, stages=("field",), steps=1, distill=DISTILL, mesh_samples=500)
    item = dataclasses.replace(draw_object(dataset, 0, config), mesh=None)
    steps = []
    result = evaluate_object(model, item, config, lambda step, total, preview: steps.append((step, total)))
    values = result.values["field"]["1"]
    assert "chamfer" not in values
    assert "consistency" not in values  # there is one view only
    by_hand = -10 * math.log10(float((result.shown["field"][0] - item.truth[0]).square().mean()))
    assert values["psnr"] == pytest.approx([by_hand], abs=1e-4)
    # where nothing comes nearer, the frame stays
    assert values["psnr_similarity"][0] >= values["psnr"][0] - 1e-4
    assert set(steps) == {(0, 1), (1, 1)}


def test_an_object_of_too_few_views_and_settings_that_make_no_sense() -> None:
    refused("name each once", EvaluationConfig, photos=(3, 3))
    batch = ProceduralObjects("test", size=8).batch([0], views=2)
    dataset = SimpleNamespace(draw=lambda index, count, generator: batch.example(0))
    config = EvaluationConfig(photos=(1,), views=2)
    refused(r"must have 3 views \(1 photos and 2 targets\), got 2", draw_object, dataset, 0, config)
