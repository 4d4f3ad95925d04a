"""Between the released folder and one merged file, in either direction."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import MODEL_ID, ModelConfig
from ..support.checks import check_type
from ..support.errors import InputError, OutputError
from ..support.files import check_path, json_text, made_folder, save_safetensors, save_tensors, write_json
from ..types import OnStep
from . import checkpoint as layout
from .checkpoint import load_text_encoder, open_checkpoint, weights_id
from .stable_diffusion import DEFAULT_PROMPT, encode_tokens, tokenize


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    dtype: torch.dtype | None = None,
    facts: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> list[Path]:
    """Writes `source` (folder or merged file) as a merged file or as a folder, and returns the files written.

    A merged file also gets the embeddings of the two prompts that need no tokenizer, if there is a text encoder.
    Tensors are mapped from the source; another precision goes through a temporary file beside the destination, as large
    as the weights.

    Args:
        destination: a name that ends in `.safetensors` for a merged file, any other for a folder.
        dtype: precision of all floating-point weights but schedule buffers and stored text embeddings; None keeps it.
        facts: how the weights were made, as JSON, for a merged file's metadata; None keeps the source's.

    Raises CheckpointError: the source is not a whole checkpoint. OutputError: the destination cannot be written.
    """
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"dtype must be float16, bfloat16 or float32, got {dtype}")
    if facts is not None:
        check_type("facts", facts, Mapping, "names and values, as JSON has them")
    check_path("destination", destination)
    checkpoint = open_checkpoint(source)
    destination = Path(destination)
    if destination.suffix == ".safetensors":
        if destination.is_dir():
            raise OutputError(f"{destination} is a folder; give a file name that ends in .safetensors")
        metadata = _metadata(checkpoint.config, checkpoint.model_id, checkpoint.facts if facts is None else facts)
        weights = dict(checkpoint.weights)
        if checkpoint.has_text_encoder and checkpoint.text_embeddings is None:
            encoder = load_text_encoder(checkpoint)
            for name, prompt in ((layout.DEFAULT_EMBEDDING, DEFAULT_PROMPT), (layout.EMPTY_EMBEDDING, "")):
                weights[name] = encode_tokens(encoder, tokenize(prompt))[0]
        return [_write_merged(destination, metadata, weights, dtype, on_step)]
    if destination.is_file():
        raise OutputError(f"{destination} is a file; give a folder, or a name that ends in .safetensors")
    dino_file = layout.DINO_FILES[0]
    files = {"upsrt.pt": layout.UPSRT_PREFIX, dino_file: layout.DINO_PREFIX, "upfusion2d.pt": ""}
    stored = (layout.DEFAULT_EMBEDDING, layout.EMPTY_EMBEDDING) if checkpoint.has_text_encoder else ()
    weights = {name: tensor for name, tensor in checkpoint.weights.items() if name not in stored}
    # beside its place first, so that a failure leaves the folder as it was
    with _scratch(destination, destination) as scratch, _converted(weights, dtype, scratch, on_step) as state:
        for file_name, prefix in files.items():
            group = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
            save_tensors(group if file_name == dino_file else {"model_state_dict": group}, scratch / file_name)
            group.clear()  # see _converted
        write_json(scratch / "config.json", {**checkpoint.config.to_dict(), MODEL_ID: checkpoint.model_id})
        return [(scratch / name).replace(destination / name) for name in (*files, "config.json")]


def write_networks(
    path: Path, config: ModelConfig, weights: Mapping[str, Tensor], text_embeddings: tuple[Tensor, Tensor]
) -> Path:
    """Writes a merged file: all weights of networks in memory and the (default, empty) prompt's embeddings."""
    named = {**weights, layout.DEFAULT_EMBEDDING: text_embeddings[0], layout.EMPTY_EMBEDDING: text_embeddings[1]}
    return _write_merged(path, _metadata(config, weights_id(config, weights), {}), named, None, None)


def _metadata(config: ModelConfig, model_id: str, facts: Mapping[str, Any]) -> dict[str, str]:
    metadata = {layout.CONFIG_KEY: json.dumps({**config.to_dict(), MODEL_ID: model_id}), "format": "pt"}
    return metadata | ({layout.FACTS_KEY: json_text(dict(facts), "facts")} if facts else {})


def _write_merged(
    path: Path, metadata: dict[str, str], weights: Mapping[str, Tensor], dtype: torch.dtype | None, hook: OnStep | None
) -> Path:
    with _scratch(path.parent, path) as scratch, _converted(weights, dtype, scratch, hook) as state:
        save_safetensors(state, path, metadata)
    return path


@contextmanager
def _scratch(folder: Path, output: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, which is made; what the disk says about `output` becomes a sentence."""
    try:
        with made_folder(folder), tempfile.TemporaryDirectory(prefix=".upfusion-", dir=folder) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise OutputError(f"{output} could not be written ({error.strerror or error}); choose another place") from error


@contextmanager
def _converted(
    weights: Mapping[str, Tensor], dtype: torch.dtype | None, scratch: Path, hook: OnStep | None
) -> Iterator[dict[str, Tensor]]:
    """The weights in `dtype` on the CPU, as they lie or mapped from a file in `scratch`, to be written all at once."""
    kept = (*layout.SCHEDULE_BUFFERS, layout.DEFAULT_EMBEDDING, layout.EMPTY_EMBEDDING)
    state, places, storages = dict(weights), {}, set()
    path = scratch / "converted"
    with path.open("wb") as file:
        for step, (name, tensor) in enumerate(weights.items(), 1):
            same = dtype is None or name in kept or not tensor.is_floating_point()
            value = tensor.detach().to("cpu", tensor.dtype if same else dtype).contiguous()
            storage = value.untyped_storage().data_ptr()
            if value.data_ptr() != tensor.data_ptr() or (storage and storage in storages):
                places[name] = file.tell(), value.dtype, value.shape
                file.write(value.reshape(-1).view(torch.uint8).numpy().data)
                file.write(bytes(-file.tell() % 64))
            else:
                storages.add(storage)
                state[name] = value
            if hook is not None:
                hook(step, len(weights), None)
    space = np.memmap(path, np.uint8, "c") if path.stat().st_size else np.zeros(0, np.uint8)
    for name, (start, kind, shape) in places.items():
        stop = start + shape.numel() * kind.itemsize
        state[name] = torch.from_numpy(space[start:stop]).view(kind).view(shape)
    try:
        yield state
    finally:
        state.clear()
        del space  # Windows cannot remove a file that is still mapped
        path.unlink()
