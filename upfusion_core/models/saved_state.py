"""Files of tensors that a run goes on from: whole or not at all, and as they were saved."""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import save_tensors
from .weight_files import UNREADABLE

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
