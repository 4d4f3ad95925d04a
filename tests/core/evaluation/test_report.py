import math
from pathlib import Path

import numpy as np
import pytest

from upfusion_core.evaluation.metrics import MEASURES
from upfusion_core.evaluation.report import Score, markdown_table, measure_label, paired_difference, plot_results, score
from upfusion_core.support.files import replacing


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
    assert measure_label("psnr") == "PSNR (dB)"
    assert measure_label("box_psnr_affine") == "box PSNR (dB), per-view affine"
    assert measure_label("haarpsi_similarity") == "1 \N{MINUS SIGN} HaarPSI, global similarity"
    assert all(measure_label(name) == measure.label for name, measure in MEASURES.items())


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    plot_results(RESULTS, lambda name: replacing(tmp_path / name))
    paths = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in paths] == ["box_psnr.png", "iou.png"]
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    assert {picture.shape for picture in pictures} == {(540, 750, 3)}
    # the colours of two stages: white is plotted for box_psnr alone
    for color, expected in (([31, 119, 180], [True, True]), ([255, 127, 14], [True, False])):
        assert [int((picture == color).all(-1).sum()) > 50 for picture in pictures] == expected
