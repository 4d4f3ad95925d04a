"""Devices by name."""

from __future__ import annotations

import pytest
import torch
from refusals import refused

from upfusion_core.support.devices import default_device, existing_device, resolve_device


def test_resolve_device() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto") == default_device()
    refused("device must be one of", resolve_device, "tpu")
    if not torch.cuda.is_available():
        refused("no cuda device", resolve_device, "cuda")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "must hold values"),
        ("nowhere", "one of torch's"),
        ("cpu:1", "no cpu:1 device"),
        ("cuda:99", "no cuda:99 device"),
        ("xla", "no xla device"),
        (3.5, "one of torch's"),
    ],
)
def test_devices_that_are_not_there(device: str, message: str) -> None:
    refused(message, existing_device, device)
