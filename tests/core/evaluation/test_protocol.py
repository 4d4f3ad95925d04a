"""The protocol on a tiny random model, whose figures mean nothing: structure and arithmetic, and those of reports."""

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
from analytic_fields import AnalyticField
from refusals import refused
from tiny_training import DRAFT, FIELD
from torch import Tensor
from torch.nn.functional import avg_pool2d

from upfusion_core import UpFusion, orbit_cameras
from upfusion_core.config import EVALUATION_STAGES as STAGES
from upfusion_core.config import DistillConfig, EvaluationConfig, RaySampling
from upfusion_core.data.meshes import mesh_folder
from upfusion_core.evaluation import protocol, report
from upfusion_core.evaluation.metrics import MEASURES, psnr
from upfusion_core.evaluation.protocol import BakedField, EvaluatedObject, draw_object, evaluate_object, neighbors
from upfusion_core.evaluation.report import Evaluator, Score, markdown_table, measure_label, paired_difference, score
from upfusion_core.field.rendering import render_views
from upfusion_core.geometry import project
from upfusion_core.procedural import ProceduralObjects, true_mesh
from upfusion_core.support.files import replacing
from upfusion_core.support.images import load_png

BASELINES = EvaluationConfig(photos=(1, 3), views=2, stages=("white", "nearest"), seed=5)
FEW = {"photos": (1, 2), "views": 2, "steps": 1, "mesh_resolution": 24, "mesh_samples": 500}
SMALL = EvaluationConfig(**FEW, alignment="picture", distill=DistillConfig(schedule=DRAFT, field=FIELD))


@pytest.fixture(scope="module")
def dataset(model: UpFusion) -> ProceduralObjects:
    return ProceduralObjects("test", size=model.image_size)


@pytest.fixture(scope="module", autouse=True)
def _quick(rough: None) -> Iterator[None]:
    """As without matplotlib, whose plots take longer than such evaluations; a box is as good a true surface."""
    absent = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "importlib", absent)
        patch.setattr(protocol, "true_mesh", lambda objects: trimesh.creation.box((0.3, 0.2, 0.2)))
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
    centers, given = item.views.cameras.centers, item.photos[:count]
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
    results, items = content["results"], [draw_object(dataset, index, BASELINES) for index in (0, 1)]
    for stage, count in (("white", 1), ("white", 3), ("nearest", 1), ("nearest", 3)):
        means = []
        for item in items:
            found = []
            for target, photo in zip(item.targets, nearest_by_hand(item, count), strict=True):
                truth, mask = item.views.rgb[target].numpy(), item.views.mask[target, 0].numpy()
                painted = np.ones_like(truth) if stage == "white" else item.views.rgb[photo].numpy()
                found.append(box_psnr(painted, truth, mask))
            means.append(statistics.mean(found))
        got = results[stage][str(count)]["box_psnr"]
        assert got["mean"] == pytest.approx(statistics.mean(means), abs=1e-4)
        assert got["stderr"] == pytest.approx(statistics.stdev(means) / math.sqrt(2), abs=1e-4)
    assert results["white"]["1"] == results["white"]["3"]
    assert results["white"]["1"]["iou"]["mean"] == 0
    one, three = (results["nearest"][count]["box_psnr"]["mean"] for count in ("1", "3"))
    assert content["gains"]["nearest"]["1 to 3"]["box_psnr"]["mean"] == pytest.approx(three - one, abs=1e-9)
    other = Evaluator(model, [dataset], tmp_path, dataclasses.replace(BASELINES, seed=6)).evaluate([0, 1])
    assert other["results"] != results


def test_what_a_report_holds(model: UpFusion, dataset: ProceduralObjects, tmp_path: Path) -> None:
    """One object with all stages."""
    content = Evaluator(model, [dataset], tmp_path, SMALL, about={"data": "procedural"}).evaluate([3])
    assert list(content["results"]) == list(STAGES)
    assert content["model_id"] == model.model_id
    assert content["settings"]["distill"]["preset"] == "draft"
    assert "one shared 2D" in content["similarity_alignment"]
    for rows in content["results"].values():
        assert list(rows) == ["1", "2"]
        for measures in rows.values():
            assert {"psnr", "box_psnr_affine", "iou_similarity", "haarpsi"} <= measures.keys()
            assert all(value["stderr"] is None and math.isfinite(value["mean"]) for value in measures.values())
    meshes = set(content["results"]["field"]["1"]) & {"chamfer", "chamfer_similarity", "f_score_2"}
    assert len(meshes) == 3 or "no mesh was measured" in content["notes"][0]
    assert "| sample | 2 | 1 |" in (tmp_path / "report.md").read_text()
    sheet = load_png(tmp_path / "sheet.png")
    # 2 photos, truth, 4 stages without white, of 16 pixels, six times enlarged and framed, below their titles
    assert sheet.shape == (3, 98 + 14, 7 * 98)
    item = draw_object(dataset, 3, SMALL)
    nearest = item.views.rgb[nearest_by_hand(item, 2)[0]]
    for column, picture in ((0, item.views.rgb[0]), (2, item.truth[0]), (3, nearest)):
        shown = sheet[:, 15:111:6, column * 98 + 1 : column * 98 + 97 : 6]
        assert (shown - picture).abs().max() <= 1 / 255


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


def test_killed_later(model: UpFusion, dataset: ProceduralObjects, tmp_path: Path) -> None:
    """Killed in the field of the second number of photos: those of both go on, and leave nothing behind."""
    config, calls, distilled = dataclasses.replace(SMALL, views=1, stages=("field",)), [], []
    whole, parts = (Evaluator(model, [dataset], tmp_path / name, config) for name in ("whole", "parts"))

    def dying(step: int, total: int, preview: object) -> None:
        calls.append(step)
        if calls.count(1) == 4:  # the third step of the field from two photos
            raise KeyboardInterrupt

    whole.evaluate([0])
    with pytest.raises(KeyboardInterrupt):
        parts.evaluate([0], on_step=dying)
    objects = parts.folder / "objects"
    assert [path.suffix for path in objects.iterdir()] == [".state", ".state"]
    parts.evaluate([0], on_step=lambda step, *_: distilled.append(step))
    assert len(distilled) < len(calls)
    assert (parts.folder / "report.json").read_bytes() == (whole.folder / "report.json").read_bytes()
    assert sorted(path.name for path in objects.iterdir()) == ["000000.json", "000000.png"]


def test_true_meshes_lie_in_the_views_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "true_mesh", functools.partial(true_mesh, resolution=64))
    trimesh.creation.box((0.2, 0.3, 0.1)).export(tmp_path / "a.ply")
    for source in (mesh_folder(tmp_path, size=48), ProceduralObjects("test", size=48)):
        item = draw_object(source, 0, BASELINES)
        points = torch.tensor(np.asarray(item.mesh().vertices), dtype=torch.float32)
        columns, rows = ((1 - project(points, item.cameras[0])[0]) * 24).unbind(-1)
        inside = (item.mask[0, 0] > 0.5).nonzero()
        assert float(columns.min()) == pytest.approx(float(inside[:, 1].min()), abs=1.5)
        assert float(rows.max()) == pytest.approx(float(inside[:, 0].max()) + 1, abs=1.5)


def test_frames_are_found_in_3d(model: UpFusion, dataset: ProceduralObjects) -> None:
    config = dataclasses.replace(SMALL, photos=(1,), views=1, stages=("field",), alignment="object")
    item, steps = dataclasses.replace(draw_object(dataset, 0, config), mesh=None), set()
    result = evaluate_object(model, item, config, lambda step, total, preview: steps.add((step, total)))
    values = result.values["field"]["1"]
    assert not {"chamfer", "consistency"} & values.keys()  # there is one view only, and no true surface
    by_hand = -10 * math.log10(float((result.shown["field"][0] - item.truth[0]).square().mean()))
    assert values["psnr"] == pytest.approx([by_hand], abs=1e-4)
    # where nothing comes nearer, the frame stays
    assert values["psnr_similarity"][0] >= values["psnr"][0] - 1e-4
    assert steps == {(0, 1), (1, 1)}


def test_an_object_of_too_few_views_and_settings_that_make_no_sense() -> None:
    refused("name each once", EvaluationConfig, photos=(3, 3))
    batch = ProceduralObjects("test", size=8).batch([0], views=2)
    dataset = SimpleNamespace(draw=lambda index, count, generator: batch.example(0))
    config = EvaluationConfig(photos=(1,), views=2)
    refused(r"must have 3 views \(1 photos and 2 targets\), got 2", draw_object, dataset, 0, config)


CAMERAS = orbit_cameras([10, 120], [30, -5])


def field_of(density: float) -> AnalyticField:
    """A solid ball beside the middle of its box, whose colours run with the place."""

    def solid(points: Tensor) -> Tensor:
        return density * ((points - torch.tensor([0.05, 0.0, -0.03])).norm(dim=-1) < 0.08)

    return AnalyticField(solid, 0.3, lambda points: (0.5 + 3 * points).clamp(0, 1))


@pytest.mark.parametrize("size", [16, 32])
def test_small_pictures_are_nearly_the_field_s_own(size: int) -> None:
    ball = field_of(2000.0)
    baked = BakedField(ball)
    assert (baked.aabb[1] - baked.aabb[0]).max() < 0.25  # only the ball's own box
    ball.asked.clear()
    seen = baked.render(CAMERAS, size)
    assert not ball.asked
    assert seen.shape == (2, 4, size, size)
    true = render_views(ball, ball.aabb, CAMERAS, 4 * size, sampling=RaySampling(200, 0))
    true = avg_pool2d(torch.cat([true.rgb, true.opacity], dim=1), 4)
    assert psnr(seen[:, :3].clamp(0, 1), true[:, :3].clamp(0, 1)).min() > 28
    areas = seen[:, 3].sum((1, 2)) / true[:, 3].sum((1, 2))
    assert areas.tolist() == pytest.approx([1, 1], abs=0.05)


def test_nothing_is_white() -> None:
    seen = BakedField(field_of(0.0)).render(CAMERAS, 8)
    assert torch.equal(seen[:, :3], torch.ones(2, 3, 8, 8))
    assert seen[:, 3].abs().max() == 0


def scored(mean: float, stderr: float | None, objects: int) -> Score:
    return {"mean": mean, "stderr": stderr, "objects": objects}


SIX = {"box_psnr": scored(18.25, 0.31, 10), "iou": scored(0.8124, 0.0106, 10)}
RESULTS = {"white": {"3": {"box_psnr": scored(8.5, 0.2, 10)}}}
RESULTS["predict"] = {"1": {"box_psnr": scored(14.0, None, 1)}, "6": SIX}


def test_scores_tables_and_labels_by_hand() -> None:
    assert score([1.0, 2.0, 3.0]) == scored(2.0, pytest.approx(1 / math.sqrt(3)), 3)
    assert score([4.0, 4.0]) == scored(4.0, 0.0, 2)
    assert score([5.0]) == scored(5.0, None, 1)
    found = paired_difference([10.0, 20.0, 30.0], [11.0, 21.5, 30.5])
    assert found["mean"] == pytest.approx(1.0)
    assert found["stderr"] == pytest.approx(0.5 / math.sqrt(3))
    assert paired_difference([11.0, 21.5, 30.5], [10.0, 20.0, 30.0])["mean"] == pytest.approx(-1.0)
    assert markdown_table(RESULTS, ["box_psnr", "iou"]).splitlines() == [
        "| stage | photos | objects | box PSNR (dB) | mask IoU |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| white | 3 | 10 | 8.500 ± 0.200 |  |",
        "| predict | 1 | 1 | 14.00 |  |",
        "| predict | 6 | 10 | 18.25 ± 0.31 | 0.812 ± 0.011 |",
    ]
    mixed = {"field": {"3": {"iou": scored(0.5, 0.1, 12), "chamfer": scored(0.1, 0.1, 10)}, "6": {}}}
    last = ["| field | 3 | 10–12 | 0.500 ± 0.100 |", "| field | 6 | 0 |  |"]
    assert markdown_table(mixed, ["iou"]).splitlines()[-2:] == last
    assert measure_label("box_psnr_affine") == "box PSNR (dB), per-view affine"
    assert measure_label("haarpsi_similarity") == "1 \N{MINUS SIGN} HaarPSI, global similarity"
    assert all(measure_label(name) == measure.label for name, measure in MEASURES.items())


def test_a_plot_of_each_measure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot_results(RESULTS, lambda name: replacing(tmp_path / name))
    shapes = {path.name: load_png(path).shape for path in (tmp_path / "plots").iterdir()}
    assert shapes == dict.fromkeys(("box_psnr.png", "iou.png"), (3, 540, 750))
