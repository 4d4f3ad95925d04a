"""Numbers of a distillation that mean nothing are refused where they are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from upfusion_core.config import DraftSchedule, FastSchedule, FitConfig, PhotoSearch, ReferenceSchedule
from upfusion_core.support.errors import InputError


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (FastSchedule, {"levels": ("a",)}),
        (FastSchedule, {"levels": 0.5}),
        (FastSchedule, {"levels": None}),
        (FastSchedule, {"levels": torch.ones(2)}),
        (FastSchedule, {"levels": (0.0,)}),
        (FastSchedule, {"guided": (0,)}),
        (FastSchedule, {"guided": None}),
        (FastSchedule, {"fit": None}),
        (FastSchedule, {"scheduler": 3}),
        (DraftSchedule, {"predicted_fit": None}),
        (ReferenceSchedule, {"lowest_index": "a"}),
        (ReferenceSchedule, {"steps": "30"}),
        (ReferenceSchedule, {"steps": 30.5}),
        (ReferenceSchedule, {"steps": 2000}),
        (ReferenceSchedule, {"sampling": None}),
        (ReferenceSchedule, {"grid_lr": float("nan")}),
        (ReferenceSchedule, {"mlp_lr": -1}),
        (ReferenceSchedule, {"silhouette_weight": "x"}),
        (FitConfig, {"rays": 2.5}),
        (FitConfig, {"iterations": 4.5}),
        (FitConfig, {"sampling": None}),
        (PhotoSearch, {"elevations_degrees": 5}),
    ],
)
def test_what_is_refused(kind: type, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"(?i){next(iter(changes)).split('_')[0]}"):
        kind(**changes)
