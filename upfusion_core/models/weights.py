"""Files of tensors that a run goes on from: whole or not at all, and as they were saved."""

from __future__ import annotations

import functools
import json
import math
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..support.checks import peak, unusual_kind
from ..support.errors import CheckpointError
from ..support.files import check_weights_name, save_tensors

UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    MemoryError,
    zipfile.BadZipFile,
)
"""What torch.load raises on damaged files, as byte damage and fuzzing have shown."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors`, `.pt`, `.pth` or `.bin` file by name, mapped from the file, not copied.

    A state dict may stand at the top of a pickle or under `model_state_dict` or `state_dict`.

    Raises:
        CheckpointError: the file is missing, truncated, of another kind, or holds anything but plain tensors.
    """
    _check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file; empty where it has none."""
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(_broken(path, error)) from error


def check_finite_weights(weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Raises CheckpointError if any weights are NaN, infinite, or too large for the precision `dtype`."""
    peaks = {name: peak(value) for name, value in weights.items() if value.is_floating_point() and value.numel()}
    broken = [name for name, peak in peaks.items() if not math.isfinite(peak)]
    if broken:
        raise CheckpointError(
            f"the weights must be finite numbers, got NaN or infinity in {listed(broken, 5)}; "
            "the file is damaged or its training went wrong: get it again"
        )
    large = [name for name, peak in peaks.items() if peak > torch.finfo(dtype).max]
    if large:
        raise CheckpointError(
            f"the weights must fit into {str(dtype).removeprefix('torch.')}, got larger numbers in {listed(large, 5)}; "
            "choose bfloat16 or float32"
        )


def listed(names: list[str], most: int = 20) -> str:
    """Names for a message, not too many and none too long."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if len(name) <= 200 else f"{name[:200]}..." for name in names[:most]) + more


def _check_file(path: Path) -> None:
    check_weights_name(path)
    if not os.path.exists(path):  # unlike pathlib's, also false for names that no file can have
        raise CheckpointError(f"{path} does not exist; check the path or download the weights again")
    if path.is_dir():
        raise CheckpointError(f"{path} must be a file of weights, got a folder; check the path")
    if not path.is_file():
        raise CheckpointError(f"{path} must be a file of weights, got a device or pipe; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; download or convert it again")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, struct.error, json.JSONDecodeError) as error:
        raise CheckpointError(_broken(path, error)) from error
    return _plain(path, weights)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        zipped = zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, ValueError, struct.error) as error:
        raise CheckpointError(_broken(path, error)) from error
    if zipped:
        _refuse_zip_bomb(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} must hold tensors only, but it asks to run other code or is damaged, so it was not opened; "
                "get it from its authors, preferably as .safetensors"
            ) from error
        raise CheckpointError(_broken(path, error)) from error
    except UNREADABLE as error:
        raise CheckpointError(_broken(path, error)) from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    return _plain(path, content)


def _refuse_zip_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(_broken(path, error)) from error
    if compressed or unpacked > 2 * path.stat().st_size + 2**20:
        raise CheckpointError(
            f"{path} must be a file that torch.save wrote (stored, not compressed), got one that unpacks to "
            f"{unpacked:,} bytes; get it from its authors"
        )


def _plain(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} must hold named tensors, got {type(content).__name__}; it is not a state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} must hold named tensors only, got {type(value).__name__} under {name!r:.60}; "
                "is it another kind of checkpoint?"
            )
        fault = _fault(value)
        if fault:
            raise CheckpointError(
                f"{path} must hold plain float16, bfloat16 or float32 weights, got {fault} for {name:.200}; "
                "use a file that is not quantised, or get it again"
            )
    return content


def _fault(value: Tensor) -> str:
    """What is wrong with a tensor of a checkpoint, in words; empty for a good one."""
    kind = unusual_kind(value)
    if kind:
        return kind
    if (
        value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ):  # a stride of 0 makes terabytes of bytes
        return f"{tuple(value.shape)} numbers of which the file holds only a part"
    return ""


def _broken(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return (
        f"{path} cannot be read as weights ({reason[0][:160] if reason else type(error).__name__}); "
        "it is damaged, cut short or another kind of file: download or convert it again"
    )


_SUM = "checksum"


def write_saved(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers, texts and containers of them, with their checksum.

    Raises:
        OutputError: the disk is full; the last file stays as it was.
    """
    save_tensors(content | {_SUM: checksum(content)}, path)


def read_saved(path: Path, what: str, *, mapped: bool = False) -> dict[str, Any]:
    """What `write_saved` wrote.

    Args:
        what: the file is to be, in words, e.g. "the saved state of a distillation".
        mapped: tensors stay in the file; but not on Windows, which replaces no file that is mapped.

    Raises:
        CheckpointError: the file is damaged, was changed, or is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and sys.platform != "win32")
        found = content.pop(_SUM, None) if isinstance(content, dict) else None
        whole = type(found) is int and found == checksum(content)  # torch does not find what was changed in the values
    except UNREADABLE as error:  # also of tensors that are not plain ones
        raise CheckpointError(
            f"{path} must be {what}, but it is damaged or of another kind; delete it to begin anew"
        ) from error
    if found is None:
        raise CheckpointError(f"{path} must be {what}, but is another kind of file; delete it to begin anew")
    if not whole:
        raise CheckpointError(f"{path} was changed or damaged since it was saved; delete it to begin anew")
    return content


def checksum(value: object, before: int = 0) -> int:
    """CRC-32 of tensors, numbers, texts and containers of them, going on from another; it keeps no attacker away."""
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return zlib.crc32(content, zlib.crc32(f"{value.dtype} {list(value.shape)}".encode(), before))
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        return functools.reduce(lambda total, part: checksum(part, total), value, zlib.crc32(b"(", before))
    return zlib.crc32(repr(value).encode(), before)
