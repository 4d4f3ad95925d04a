"""Files of weights that lie: each is refused in one sentence, before memory or time is spent on what it claims."""

import json
import math
import os
import re
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import unfit
from safetensors import safe_open
from safetensors.torch import save_file

from upfusion_core import CheckpointError, ModelConfig, convert, load_field
from upfusion_core.models.checkpoint import (
    latent_diffusion_weights,
    load_conditioning_networks,
    load_networks,
    open_checkpoint,
    recommended_guidance,
)
from upfusion_core.models.dino import hub_names
from upfusion_core.support.weights import read_metadata, read_weights

CONFIG, FACTS = "upfusion_config", "upfusion_facts"


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def write_safetensors(path: Path, header: bytes | dict[str, Any], data: bytes = b"", claims: int | None = None) -> Path:
    """A file with any header; `claims` is the length that it says its header has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claims is None else claims) + text + data)
    return path


LIES = {
    "overlapping": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
    "a hole before the first": ({"a": entry("F32", [2], 8, 16)}, bytes(16)),
    "beyond the end of the file": ({"a": entry("F32", [2], 0, 8)}, bytes(4)),
    "more data than named": ({"a": entry("F32", [2], 0, 8)}, bytes(40)),
    "a size that is not the dtype's": ({"a": entry("F16", [2], 0, 8)}, bytes(8)),
    "end before start": ({"a": entry("F32", [2], 8, 0)}, bytes(8)),
    "a negative size": ({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
    "a size beyond 64 bits": ({"a": entry("F32", [2**62, 4], 0, 8)}, bytes(8)),
    "an unknown dtype": ({"a": entry("X7", [2], 0, 8)}, bytes(8)),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "metadata that is no text": ({"__metadata__": {"a": 3}, "a": entry("F32", [1], 0, 4)}, bytes(4)),
    "brackets without end": (b"[" * 100_000, b""),
    "no UTF-8": (b'{"\xff\xfe":1}', b""),
    "no header at all": (b"", b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path: Path, lie: str) -> None:
    path = write_safetensors(tmp_path / "weights.safetensors", *LIES[lie])
    unfit(r"must be a file of weights, but cannot be read .*; it is damaged", read_weights, path)


@pytest.mark.parametrize("length", [0, 3, 10**8, 2**40, 2**63, 2**64 - 1])
def test_headers_of_a_claimed_length(tmp_path: Path, length: int) -> None:
    path = write_safetensors(tmp_path / "weights.safetensors", {"a": entry("F32", [1], 0, 4)}, bytes(4), length)
    for read in (read_weights, read_metadata):
        unfit("must be a file of weights, but cannot be read", read, path)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({}, b"", "must hold named tensors, got dict"),
        ({"a": entry("F8_E4M3", [2], 0, 2)}, bytes(2), r"got one of torch\.float8_e4m3fn for a"),
        ({"a": entry("C64", [1], 0, 8)}, bytes(8), "got a complex one"),
    ],
)
def test_safetensors_of_something_else(tmp_path: Path, header: dict[str, Any], data: bytes, words: str) -> None:
    unfit(words, read_weights, write_safetensors(tmp_path / "weights.safetensors", header, data))


RENAMED = (
    *(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 6300000000\n", b"\x00", bytes(4096)),
    *(b"<!DOCTYPE html><html>Please log in</html>", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    *(b"PK\x03\x04" + bytes(100), b"\x80\x02" + b"(" * 50),
)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", RENAMED)
def test_renamed_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    unfit(r"must be a file of weights, but cannot be read|must hold", read_weights, tmp_path / name)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for name in ("folder.safetensors", "folder.pt"):
        (tmp_path / name).mkdir()
        unfit("got a folder", read_weights, tmp_path / name)
    for name in ("x" * 5000 + ".pt", "a\0b.safetensors", "none/weights.pt"):
        for read in (read_weights, open_checkpoint):
            unfit("does not exist", read, tmp_path / name)
    path = Path("w\udcff.safetensors")  # how Python shows a byte that is no UTF-8
    for read in (read_weights, read_metadata, load_field):
        unfit(r"must have a UTF-8 name, got 'w\\udcff.safetensors'; rename it", read, path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pt")
    for path in (tmp_path / "weights.pt", Path("/dev/zero")):
        unfit("got a device or pipe", read_weights, path)


def spoilt(source: Path, path: Path, change: Callable[[dict, dict], object]) -> Path:
    """A copy whose tensors and metadata `change` was given."""
    with safe_open(source, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


NAME = "upsrt.linear_scene.weight"


@pytest.mark.parametrize(
    ("name", "bad"),
    [(NAME, math.nan), ("model.diffusion_model.out.2.bias", math.inf), ("dino.cls_token", -math.inf)],
)
def test_weights_that_are_no_numbers(tiny: Path, tmp_path: Path, name: str, bad: float) -> None:
    path = spoilt(tiny, tmp_path / "a.safetensors", lambda tensors, _: tensors[name].view(-1)[-1:].fill_(bad))
    checkpoint = open_checkpoint(path)  # names and shapes are right, and nothing is read yet
    words = rf"finite numbers, got NaN or infinity in {re.escape(name)};"
    unfit(words, load_networks, checkpoint, "cpu", torch.float32)
    conditioning = partial(load_conditioning_networks, ops=torch.nn, dtype=torch.float32)
    unfit(words, latent_diffusion_weights if name.startswith("model.") else conditioning, checkpoint)


def test_tensors_that_do_not_fit(tiny: Path, tmp_path: Path) -> None:
    path, values = tmp_path / "a.safetensors", torch.ones(1)
    for name, change, words in (
        (NAME, lambda tensor: tensor.long(), rf"1 of another kind: {NAME} torch\.int64 instead of"),
        ("x" * 10**6, lambda _: values, r"1 unexpected: x{200}\.\.\."),  # endless names are cut short
    ):
        spoilt(tiny, path, lambda tensors, _: tensors.update({name: change(tensors.get(name))}))  # noqa: B023
        with pytest.raises(CheckpointError, match=words) as error:
            open_checkpoint(path)
        assert len(str(error.value)) < 1000
    spoilt(tiny, path, lambda tensors, _: tensors.update({NAME: tensors[NAME].float() + 1e6}))
    words, checkpoint = rf"must fit into float16, got larger numbers in {NAME}; choose", open_checkpoint(path)
    unfit(words, load_networks, checkpoint, "cpu", torch.float16)
    kept = load_networks(checkpoint, "cpu", torch.bfloat16)
    assert float(kept.upsrt.linear_scene.weight.min()) > 9e5


def test_the_metadata_of_another_model(tiny: Path, tmp_path: Path) -> None:
    released = json.dumps(ModelConfig().to_dict())
    path = spoilt(tiny, tmp_path / "a.safetensors", lambda _, metadata: metadata.update({CONFIG: released}))
    for read in (open_checkpoint, partial(convert, destination=tmp_path / "b.safetensors")):
        unfit(r"does not fit its configuration: \d+ missing", read, path)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        ("upsrt", "encoder_layers", 65536, "encoder_layers must be between 1 and 256, got 65536"),
        ("upsrt", "num_heads", 7, "divisible by num_heads"),
        ("dino", "depth", 10**30, "depth must be between 1 and 256, got 10000"),
        ("diffusion", "channel_mult", [1] * 100, "channel_mult must be a list of 2 to 8"),
        ("diffusion", "hint_channels", 60, r"transformer_dim \+ 6"),
        ("vae", "num_res_blocks", 4096, "num_res_blocks must be between 1 and 256"),
        ("text", "num_attention_heads", 5, "divisible by num_attention_heads"),
        ("", "image_size", 2**40, "image_size must be between 1 and 4096"),
        ("", "image_size", 101, "image_size"),
        ("", "\x1b[2J", {}, r'got "\\u001b\[2J"'),
    ],
)
def test_gigantic_sizes(tiny: Path, tmp_path: Path, section: str, name: str, value: object, words: str) -> None:
    def edit(_: dict, metadata: dict) -> None:
        content = json.loads(metadata[CONFIG])
        (content[section] if section else content)[name] = value
        metadata[CONFIG] = json.dumps(content)

    unfit(words, open_checkpoint, spoilt(tiny, tmp_path / "a.safetensors", edit))


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        (CONFIG, '{"vae": {"scale_factor": 1e999}}', "scale_factor must be above 0 and at most"),
        (CONFIG, '{"a":' * 50_000, "nested too deeply"),
        (CONFIG, "null", "must be a JSON object"),
        (FACTS, "{", "must be JSON"),
        (FACTS, "[1]", "must be a JSON object"),
        (FACTS, '{"guidance": "9"}', "guidance among its facts must be a number"),
        (FACTS, '{"guidance": 1e9}', "guidance among its facts must be between 0.0 and 1000.0"),
    ],
)
def test_metadata_edited_by_hand(tiny: Path, tmp_path: Path, key: str, text: str, words: str) -> None:
    path = spoilt(tiny, tmp_path / "a.safetensors", lambda _, metadata: metadata.update({key: text}))
    unfit(words, open_checkpoint if key == CONFIG else recommended_guidance, path)
    if "guidance" not in text:
        unfit(words, open_checkpoint, path)


def test_dino_queries_that_do_not_fit_their_keys() -> None:
    key = "encoder.layer.0.attention.attention.key.weight"
    names = {"embeddings.cls_token": torch.ones(1, 1, 4)}
    names |= {key.replace("key", kind): torch.ones(4, 4) for kind in ("query", "key", "value")}
    assert hub_names(names)["blocks.0.attn.qkv.weight"].shape == (12, 4)
    wrong = [names | {key: value} for value in (torch.ones(3, 4), torch.ones(4), torch.tensor(1.0))]
    wrong.append({name: value for name, value in names.items() if name != key})
    wrong.append({name: torch.tensor(1.0) if "attention" in name else value for name, value in names.items()})
    for weights in wrong:
        unfit("query, key and value of one shape, got", hub_names, weights)
