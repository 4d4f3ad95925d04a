"""The photos that come with the package: what they are, and that the script still makes them."""

from pathlib import Path

import pytest
import torch
from documented_programs import ROOT, loaded
from refusals import refused
from torch.nn.functional import avg_pool2d

from upfusion_core.config import Demo
from upfusion_core.evaluation.metrics import mask_iou
from upfusion_core.geometry import orbit_cameras, reference_camera
from upfusion_core.pipeline.examples import example_count, example_views
from upfusion_core.support import files
from upfusion_core.support.images import load_png


def test_an_object_with_its_photos_and_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert example_count() == 6
    views = example_views(3, photos=2)
    assert views.name == "procedural-2-test-3"
    assert views.photos.shape == (2, 3, 128, 128)
    assert views.truth.shape == (8, 3, 128, 128)
    around = orbit_cameras([22.5 + 45 * place for place in range(8)])
    assert torch.allclose(views.cameras.camera_to_world, around.camera_to_world, atol=1e-6)
    assert torch.allclose(views.photo_cameras[0].camera_to_world, reference_camera().camera_to_world, atol=1e-6)
    assert torch.equal(views.photos[:, :, 0, 0], torch.ones(2, 3))  # on white
    assert torch.equal(example_views(3, photos=6).photos[:2], views.photos)
    views = example_views(4, photos=1)
    assert float(mask_iou(views.prepared(32).mask, avg_pool2d(views.masks, 4))) > 0.9  # not cropped
    refused("between 0 and 5, got 6", example_views, 6, 1)
    refused("between 1 and 6", example_views, 0, 7)
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
    refused(r"about.json must have come with the package.*install it again", example_views)


def test_the_script_makes_the_same_files_and_large_photos() -> None:
    script, examples = loaded(ROOT / "benchmarks" / "example_views.py"), files.BUNDLED / "examples"
    made = script.example_files(1, 128)
    assert len(made) == 2 + 2 * (6 + 8)
    assert script.differing(examples, made) == []
    example = example_views(Demo.object, 2)
    large = torch.stack(list(map(load_png, example.large)))
    assert float((avg_pool2d(large, 4) - example.photos).abs().mean()) < 0.003  # edges are sampled elsewhere
    assert example_views(0).large == ()
