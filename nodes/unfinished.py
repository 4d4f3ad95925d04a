"""States of distillations that were cancelled or that crashed, in ComfyUI's user folder, to go on from.

ComfyUI empties its temporary folder whenever it starts or ends; the user folder stays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ..upfusion_core import OnStep, __version__

LIMIT = 2_000_000_000
"""Bytes that all states together may take; the oldest go first."""


def folder() -> Path:
    """Where the states lie."""
    return Path(folder_paths.get_user_directory(), "upfusion", "unfinished")


@contextmanager
def resumed(on_step: OnStep, *inputs: Any) -> Iterator[tuple[Path | None, OnStep]]:
    """The file of the state that belongs to `inputs`, and the hook that keeps all states below LIMIT.

    A file that is there is whole. When the block ends well, it is removed. None where the folder cannot be written.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.warning("UpFusion cannot keep unfinished distillations (%s)", error)
    if not os.access(folder(), os.W_OK):
        yield None, on_step
        return
    digest = hashlib.sha256(__version__.encode())
    _feed(digest.update, inputs)
    path = folder() / f"{digest.hexdigest()[:32]}.pt"
    whole = False
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        whole = archive.testzip() is None
    if path.exists() and not whole:
        logging.warning("UpFusion begins a distillation anew, because its state %s is damaged", path)
        path.unlink()
    _make_room()

    def watched(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
        try:
            on_step(step, total, preview)
        finally:
            _make_room()

    try:
        yield path, watched
    finally:
        _make_room()
    path.unlink(missing_ok=True)


def graph_before(prompt: Mapping[str, Any] | None, node_id: str | None) -> dict[str, Any]:
    """The nodes of an API prompt that lead to a node, with their values: what no tensor tells of MODEL, such as LoRAs.

    Nothing without a prompt. The node's own values are not among them.
    """
    nodes, found = prompt or {}, dict[str, Any]()
    waiting = [str(node_id)]
    while waiting:
        inputs = nodes.get(name := waiting.pop(), {}).get("inputs", {})
        if name != str(node_id):
            found[name] = [nodes.get(name, {}).get("class_type"), inputs]
        links = [value[0] for value in inputs.values() if isinstance(value, list) and len(value) == 2]
        waiting += [str(link) for link in links if str(link) in nodes and str(link) not in found]
    return found


def _make_room() -> None:
    """Removes the oldest states until as much is left as the newest one needs, which is written anew beside itself."""
    known = [(path.stat(), path) for path in folder().iterdir() if path.is_file()]
    known.sort(key=lambda entry: entry[0].st_mtime, reverse=True)
    together = known[0][0].st_size if known else 0
    for status, path in known:
        together += status.st_size
        if together > LIMIT:
            path.unlink(missing_ok=True)


def _feed(into: Callable[[bytes], object], value: Any) -> None:
    """Feeds all that a value holds to a digest: tensors, texts and numbers in containers, dataclasses, LoRA weights.

    Of other objects only the class counts; `graph_before` knows where they come from.
    """
    into(type(value).__qualname__.encode())
    if isinstance(value, Tensor):
        into(f"{value.dtype} {tuple(value.shape)}".encode())
        into(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _feed(into, (str(key), value[key]))
    elif isinstance(value, list | tuple):
        into(f"{len(value)}".encode())
        for part in value:
            _feed(into, part)
    elif dataclasses.is_dataclass(value):
        _feed(into, [getattr(value, field.name) for field in dataclasses.fields(value)])
    elif value is None or isinstance(value, bool | int | float | str):
        into(repr(value).encode())
    elif hasattr(value, "weights"):
        _feed(into, value.weights)
