from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from upfusion_core.evaluation.metrics import MEASURES
from upfusion_core.evaluation.summary import (
    Score,
    markdown_table,
    measure_label,
    object_mean,
    paired_difference,
    plot_results,
    results_to_json,
    score,
)
from upfusion_core.support.errors import InputError, MissingPackageError
from upfusion_core.support.files import replacing

RESULTS = {
    "white": {3: {"box_psnr": Score(8.5, 0.2, 10)}},
    "predict": {
        6: {"box_psnr": Score(18.25, 0.31, 10), "iou": Score(0.8124, 0.0106, 10)},
        1: {"box_psnr": Score(14.0, None, 1)},
    },
}


def test_scores_by_hand() -> None:
    three = score([1.0, 2.0, 3.0])
    assert (three.mean, three.objects) == (2.0, 3)
    assert three.stderr == pytest.approx(1 / math.sqrt(3))
    assert score([4.0, 4.0]) == Score(4.0, 0.0, 2)
    assert score([5.0]) == Score(5.0, None, 1)
    assert object_mean([1, 2, 6]) == 3
    assert object_mean(torch.tensor([[1.0, 2.0], [6.0, 7.0]])) == 4


def test_views_are_averaged_within_objects_first() -> None:
    """An object with many views counts as one object."""
    found = score(object_mean(views) for views in (torch.tensor([10.0] * 9), [20.0]))
    assert found.mean == 15  # and not 11
    assert found.objects == 2
    assert found.stderr == pytest.approx(5.0)


def test_scores_agree_with_numpy() -> None:
    values = np.random.default_rng(0).normal(20, 3, 57)
    found = score(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(57))


def test_paired_differences_by_hand() -> None:
    found = paired_difference([10.0, 20.0, 30.0], [11.0, 21.5, 30.5])
    assert found.mean == pytest.approx(1.0)
    assert found.stderr == pytest.approx(0.5 / math.sqrt(3))
    assert paired_difference([11.0, 21.5, 30.5], [10.0, 20.0, 30.0]).mean == pytest.approx(-1.0)


def test_results_as_json() -> None:
    content = results_to_json(RESULTS)
    assert content["predict"]["6"]["iou"] == {"mean": 0.8124, "stderr": 0.0106, "objects": 10}
    assert list(content["predict"]) == ["1", "6"]
    assert content["predict"]["1"]["box_psnr"]["stderr"] is None


def test_table() -> None:
    assert markdown_table(RESULTS, ["box_psnr", "iou"]).splitlines() == [
        "| stage | photos | objects | box PSNR (dB) | mask IoU |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| white | 3 | 10 | 8.500 ± 0.200 |  |",
        "| predict | 1 | 1 | 14.00 |  |",
        "| predict | 6 | 10 | 18.25 ± 0.31 | 0.812 ± 0.011 |",
    ]
    narrow = markdown_table(RESULTS, ["iou"]).splitlines()
    assert narrow[0] == "| stage | photos | objects | mask IoU |"
    assert narrow[-1] == "| predict | 6 | 10 | 0.812 ± 0.011 |"
    mixed = {"field": {3: {"iou": Score(0.5, 0.1, 12), "chamfer": Score(0.1, 0.1, 10)}}}
    assert "| field | 3 | 10–12 |" in markdown_table(mixed, ["iou", "chamfer"])


def test_labels() -> None:
    assert measure_label("psnr") == "PSNR (dB)"
    assert measure_label("box_psnr_affine") == "box PSNR (dB), per-view affine"
    assert measure_label("haarpsi_similarity") == "1 \N{MINUS SIGN} HaarPSI, global similarity"
    assert measure_label("seconds") == "seconds"
    assert all(measure_label(name) == measure.label for name, measure in MEASURES.items())


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    plot_results(RESULTS, lambda name: replacing(tmp_path / name))
    pictures = {}
    for name in ("box_psnr", "iou"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert picture.size == (750, 540)
            pictures[name] = np.asarray(picture.convert("RGB"))
    blue = np.array([31, 119, 180])  # the first stage's colour: white is plotted for box_psnr alone
    assert [int((picture == blue).all(-1).sum()) > 50 for picture in pictures.values()] == [True, True]
    orange = np.array([255, 127, 14])
    assert [int((picture == orange).all(-1).sum()) > 50 for picture in pictures.values()] == [True, False]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["box_psnr.png", "iou.png"]


def test_plots_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="pip install matplotlib"):
        plot_results(RESULTS, lambda name: replacing(tmp_path / name))


def test_refusals() -> None:
    for refused, words in (
        (lambda: object_mean([]), "at least one view's value"),
        (lambda: object_mean([1.0, math.nan]), "a view's value must be finite, got 1 NaN or infinite of 2"),
        (lambda: score([]), "at least one object's value"),
        (lambda: score([math.inf]), "an object's value must be finite"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "got 1 and 2 values"),
        (lambda: markdown_table({}, ["iou"]), "at least one stage"),
    ):
        with pytest.raises(InputError, match=words):
            refused()
