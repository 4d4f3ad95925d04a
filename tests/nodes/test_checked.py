"""Values that come by a link are held against the nodes' schemas."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

ORBIT, CAMERA, TO, FROM = (
    "UpFusionOrbitCameras",
    "UpFusionCamera",
    "UpFusionCameraToLoad3D",
    "UpFusionCameraFromLoad3D",
)
RENDER, EXTRACT = "UpFusionRenderField", "UpFusionExtractMesh"
OWN_CHECKS = {"UpFusionLoadModel", "UpFusionLoadField"}
"""Their lists of files may be older than the files."""


def test_every_node_is_checked(node_classes: dict[str, type]) -> None:
    unchecked = {name for name, node in node_classes.items() if not hasattr(node.execute.__func__, "__wrapped__")}
    assert unchecked == OWN_CHECKS
    for node in node_classes.values():
        assert {item.id for item in node.GET_SCHEMA().inputs} <= set(inspect.signature(node.execute).parameters)
        numbers = [item for item in node.GET_SCHEMA().inputs if item.get_io_type() in ("INT", "FLOAT")]
        assert all(item.min is not None and item.max is not None for item in numbers)


@pytest.mark.parametrize(
    ("node_id", "inputs", "message"),
    [
        (ORBIT, {"count": "3"}, "count must be a whole number, got '3'"),
        (ORBIT, {"count": 2.5}, r"count must be a whole number, got 2\.5"),
        (ORBIT, {"count": None}, "count must be a whole number, got None"),
        (ORBIT, {"count": True}, "count must be a whole number, got True"),
        (ORBIT, {"count": 10**6}, "count must be between 1 and 250, got 1000000"),
        (ORBIT, {"azimuth_from": "1"}, "azimuth_from must be a number, got str"),
        (ORBIT, {"azimuth_to": None}, "azimuth_to must be a number, got NoneType"),
        (ORBIT, {"azimuth_to": 10**400}, r"azimuth_to must be between -720\.0 and 720\.0, got a whole number of more"),
        (ORBIT, {"zoom": "2"}, "zoom must be a number, got str"),
        (CAMERA, {"distance": -1.0}, r"distance must be between 0\.25 and 4\.0, got -1\.0"),
        (CAMERA, {"azimuth": math.nan}, "azimuth must be between .* got nan"),
        (CAMERA, {"cameras": 5}, "cameras must be Cameras, got int; connect UpFusion Orbit Cameras"),
        (RENDER, {"field": None}, "field must be RadianceField, got NoneType; connect UpFusion Distill"),
        (EXTRACT, {"field": {}}, "field must be RadianceField, got dict"),
        ("UpFusionSaveField", {"field": None}, "field must be RadianceField, got NoneType"),
        ("UpFusionPhotoCameras", {"upfusion_model": None, "scene": None}, "upfusion_model must be HostedModel"),
        (FROM, {"camera_info": {}, "take": "foo"}, "take must be one of everything, direction, got 'foo'"),
        (FROM, {"camera_info": {}, "units": "1"}, "units must be a number, got str"),
        (FROM, {"camera_info": {}, "units": -1}, r"units must be between 0\.001 and 1000\.0, got -1"),
        ("UpFusionExampleViews", {"object": 6}, "object must be between 0 and 5, got 6"),
    ],
)
def test_a_value_that_does_not_fit_gets_a_sentence(
    run_node: Callable, node_id: str, inputs: dict[str, Any], message: str
) -> None:
    given = {"cameras": None} if node_id == RENDER else {}
    with pytest.raises(ValueError, match=message):
        run_node(node_id, **given, **inputs)


@pytest.mark.parametrize("value", [None, 5, {}])
def test_what_is_no_camera_gets_a_sentence(run_node: Callable, ball: nn.Module, value: object) -> None:
    with pytest.raises(ValueError, match="cameras must be Cameras, got"):
        run_node(TO, cameras=value)
    with pytest.raises(ValueError, match="cameras must be Cameras, got"):
        run_node(RENDER, field=ball, cameras=value)


def test_no_cameras_get_a_sentence(run_node: Callable, ball: nn.Module) -> None:
    (cameras,) = run_node(ORBIT, count=2)
    with pytest.raises(ValueError, match="cameras must be at least one camera, got none; connect"):
        run_node(RENDER, field=ball, cameras=cameras[:0])
    for index in (1.5, "0", None):
        with pytest.raises(ValueError, match="index must be a whole number, got"):
            run_node(TO, cameras=cameras, index=index)
    for units in (math.nan, math.inf, 0, -1):
        with pytest.raises(ValueError, match=r"units must be between 0\.001 and 1000\.0, got"):
            run_node(TO, cameras=cameras, units=units)


def test_choices_are_not_taken_silently(run_node: Callable, ball: nn.Module) -> None:
    (cameras,) = run_node(CAMERA)
    with pytest.raises(ValueError, match="background must be one of white, grey, black, got 'red'"):
        run_node(RENDER, field=ball, cameras=cameras, background="red")
    with pytest.raises(ValueError, match="coloring must be one of vertex colors, texture, got 'foo'"):
        run_node(EXTRACT, field=ball, coloring="foo")


def test_numbers_of_numpy_are_numbers(run_node: Callable) -> None:
    (cameras,) = run_node(ORBIT, count=np.int64(3), distance=np.float32(2.0), elevation_from=0)
    (expected,) = run_node(ORBIT, count=3, distance=2.0, elevation_from=0.0)
    assert torch.equal(cameras.camera_to_world, expected.camera_to_world)
