"""Between the released folder and one merged file, in either direction, a tensor at a time."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import MODEL_ID, ModelConfig
from ..support.checks import check_type
from ..support.errors import InputError, OutputError
from ..support.files import check_path, made_folder, replacing, save_tensors, write_json
from ..support.json_text import to_json
from ..types import OnStep
from .checkpoint import (
    CONFIG_KEY,
    DEFAULT_EMBEDDING,
    DINO_FILES,
    EMPTY_EMBEDDING,
    FACTS_KEY,
    SCHEDULE_BUFFERS,
    Checkpoint,
    load_text_encoder,
    open_checkpoint,
    weights_id,
)
from .networks import DINO_PREFIX, UPSRT_PREFIX
from .stable_diffusion import DEFAULT_PROMPT, encode_tokens, tokenize

_SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    dtype: torch.dtype | None = None,
    facts: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> list[Path]:
    """Writes `source` (folder or merged file) as a merged file or as a folder, and returns the files written.

    Args:
        destination: a name ending in `.safetensors` makes a merged file, any other a folder in the released layout.
        dtype: precision of all floating-point weights; None keeps each as it is. Schedule buffers and stored text
            embeddings stay as they are: they are small, and rounding them would serve nobody.
        facts: how the weights were made, as JSON, for a merged file's metadata; None keeps the source's.
        on_step: called after each tensor.

    Memory: tensors are mapped from the source and written one by one. A folder in another precision goes through a
    temporary file beside the destination, as large as the weights.

    Raises:
        CheckpointError: the source is not a whole checkpoint. OutputError: the destination cannot be written.
        InputError: `dtype` is not a floating-point precision.
    """
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"dtype must be float16, bfloat16 or float32, got {dtype}")
    if facts is not None:
        check_type("facts", facts, Mapping, "names and values, as JSON has them")
        to_json(dict(facts), "facts")
    check_path("destination", destination)
    checkpoint = open_checkpoint(source)
    destination = Path(destination)
    if destination.suffix == ".safetensors":
        if destination.is_dir():
            raise OutputError(f"{destination} is a folder; give a file name that ends in .safetensors")
        if facts is not None:
            checkpoint = replace(checkpoint, facts=dict(facts))
        return [_write_merged(checkpoint, destination, dtype, on_step)]
    if destination.is_file():
        raise OutputError(f"{destination} is a file; give a folder, or a name that ends in .safetensors")
    return _write_folder(checkpoint, destination, dtype, on_step)


def write_networks(
    path: str | Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    text_embeddings: tuple[Tensor, Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Writes a merged file from weights in memory, e.g. after training.

    Args:
        path: a name that ends in `.safetensors`.
        weights: of all networks, by merged names (see networks.network_weights).
        text_embeddings: of the default and the empty prompt, (77, W) each.
        dtype: precision of the weights in the file; None keeps each as it is.

    Raises:
        InputError: `path` has another ending. OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"a merged file's name must end in .safetensors, got {path.name}; correct it")
    named = {**weights, DEFAULT_EMBEDDING: text_embeddings[0], EMPTY_EMBEDDING: text_embeddings[1]}
    return _write_tensors(path, _metadata(config, weights_id(config, weights), {}), named, dtype, None)


def _write_merged(checkpoint: Checkpoint, path: Path, dtype: torch.dtype | None, on_step: OnStep | None) -> Path:
    metadata = _metadata(checkpoint.config, checkpoint.model_id, checkpoint.facts)
    return _write_tensors(path, metadata, _with_embeddings(checkpoint), dtype, on_step)


def _metadata(config: ModelConfig, model_id: str, facts: Mapping[str, Any]) -> dict[str, str]:
    metadata = {CONFIG_KEY: json.dumps({**config.to_dict(), MODEL_ID: model_id}), "format": "pt"}
    return metadata | ({FACTS_KEY: to_json(dict(facts), "facts")} if facts else {})


def _write_tensors(
    path: Path,
    metadata: dict[str, str],
    weights: dict[str, Tensor],
    dtype: torch.dtype | None,
    on_step: OnStep | None,
) -> Path:
    total = len(weights)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(_safetensors_header(weights, dtype, metadata))
        for count, (name, tensor) in enumerate(weights.items(), start=1):
            file.write(_bytes(tensor.to(_target(name, tensor, dtype))))
            if on_step:
                on_step(count, total, None)
    return path


def _write_folder(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, on_step: OnStep | None
) -> list[Path]:
    """Everything is written beside its place first, so that a failure leaves the folder as it was."""
    try:
        with made_folder(folder), tempfile.TemporaryDirectory(prefix=".upfusion-", dir=folder) as scratch:
            names = _write_parts(checkpoint, Path(scratch), dtype, on_step)
            for name in names:
                os.replace(Path(scratch) / name, folder / name)
    except OSError as error:
        raise OutputError(f"{folder} could not be written ({error.strerror or error}); choose another place") from error
    return [folder / name for name in names]


def _write_parts(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, on_step: OnStep | None) -> list[str]:
    """Writes the released layout's files and returns their names."""
    groups: dict[str, dict[str, Tensor]] = {"upsrt.pt": {}, DINO_FILES[0]: {}, "upfusion2d.pt": {}}
    for name, tensor in checkpoint.weights.items():
        if name.startswith(UPSRT_PREFIX):
            groups["upsrt.pt"][name.removeprefix(UPSRT_PREFIX)] = tensor
        elif name.startswith(DINO_PREFIX):
            groups[DINO_FILES[0]][name.removeprefix(DINO_PREFIX)] = tensor
        elif name not in (DEFAULT_EMBEDDING, EMPTY_EMBEDDING) or not checkpoint.has_text_encoder:
            groups["upfusion2d.pt"][name] = tensor
    steps = _counter(sum(len(group) for group in groups.values()), on_step)
    for file_name, weights in groups.items():
        with _converted(weights, dtype, folder, steps) as state:
            content = state if file_name == DINO_FILES[0] else {"model_state_dict": state}
            save_tensors(content, folder / file_name)
    write_json(folder / "config.json", {**checkpoint.config.to_dict(), MODEL_ID: checkpoint.model_id})
    return [*groups, "config.json"]


def _with_embeddings(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights and the embeddings of the two prompts that need no tokenizer, computed where they are not stored."""
    weights = dict(checkpoint.weights)
    if checkpoint.has_text_encoder and checkpoint.text_embeddings is None:
        encoder = load_text_encoder(checkpoint)
        for name, prompt in ((DEFAULT_EMBEDDING, DEFAULT_PROMPT), (EMPTY_EMBEDDING, "")):
            weights[name] = encode_tokens(encoder, tokenize(prompt))[0]
    return weights


def _target(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    kept = name in SCHEDULE_BUFFERS or name in (DEFAULT_EMBEDDING, EMPTY_EMBEDDING)
    return tensor.dtype if dtype is None or kept or not tensor.is_floating_point() else dtype


def _safetensors_header(weights: dict[str, Tensor], dtype: torch.dtype | None, metadata: dict[str, str]) -> bytes:
    """Length and JSON of the safetensors format: it stands before all data, so it is made from shapes alone."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in weights.items():
        target = _target(name, tensor, dtype)
        if target not in _SAFETENSORS_TYPES:
            raise InputError(f"{name} has precision {target}, which a merged file cannot hold; convert it first")
        size = tensor.numel() * target.itemsize
        header[name] = {
            "dtype": _SAFETENSORS_TYPES[target],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    return struct.pack("<Q", len(text)) + text


def _bytes(tensor: Tensor) -> memoryview:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(content)  # type: ignore[arg-type]  # numpy's arrays are buffers from Python 3.12 on, to types


@contextmanager
def _converted(
    weights: dict[str, Tensor], dtype: torch.dtype | None, folder: Path, step: Callable[[], None]
) -> Iterator[dict[str, Tensor]]:
    """The weights in `dtype`, in memory mapped from a temporary file, so that torch.save can take them all at once."""
    changed = [name for name, tensor in weights.items() if _target(name, tensor, dtype) != tensor.dtype]
    size = sum(_aligned(weights[name].numel() * dtype.itemsize) for name in changed if dtype)
    with tempfile.TemporaryDirectory(prefix=".upfusion-", dir=folder) as scratch:
        space = _mapped_space(Path(scratch) / "weights", size) if size else None
        state, offset = {}, 0
        for name, tensor in weights.items():
            target = _target(name, tensor, dtype)
            if target == tensor.dtype:
                state[name] = tensor
            else:
                length = tensor.numel() * target.itemsize
                assert space is not None, "something changes"
                room = torch.from_numpy(space[offset : offset + length]).view(target).view(tensor.shape)
                state[name] = room.copy_(tensor)
                offset += _aligned(length)
            step()
        yield state
        state.clear()
        del space, state  # Windows cannot remove a file that is still mapped


def _mapped_space(path: Path, size: int) -> np.ndarray:
    """`size` bytes of memory that lie in a file; a disk without room for them is noticed now, not as a crash later."""
    block = bytes(2**20)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
    return np.memmap(path, np.uint8, "r+", shape=(size,))


def _aligned(length: int) -> int:
    return (length + 63) // 64 * 64


def _counter(total: int, on_step: OnStep | None) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_step:
            on_step(done, total, None)

    return step
