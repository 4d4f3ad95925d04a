"""Devices by name, and whether this machine has them."""

from __future__ import annotations

import torch

from .checks import check_choice
from .errors import InputError


def default_device() -> torch.device:
    """CUDA, then MPS, then the CPU, whichever there is."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_device(name: str) -> torch.device:
    """A device by name: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: this machine has no such device.
    """
    check_choice("device", name, ("auto", "cpu", "cuda", "mps"))
    return default_device() if name == "auto" else existing_device(name)


def existing_device(device: torch.device | str) -> torch.device:
    """One of torch's devices, such as "cuda:1", on which tensors can be made.

    Raises:
        InputError: it is no device, holds no values (meta), or this machine or this torch has none.
    """
    try:
        device = torch.device(device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"device must be one of torch's, such as cpu or cuda, got {device!r:.40}") from error
    if device.type == "meta":
        raise InputError("device must hold values, got meta; choose cpu or cuda")
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 1):
        raise InputError(
            f"this machine has no {device} device that torch can use; choose cpu, or install another torch"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:  # torch is built without it
        raise InputError(f"this machine has no {device} device that torch can use; choose cpu") from error
    return device
