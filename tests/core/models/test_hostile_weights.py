"""Files of weights that lie: each is refused in one sentence, before memory or time is spent on what it claims."""

import json
import math
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import unfit
from safetensors import safe_open
from safetensors.torch import save_file

from upfusion_core import CheckpointError, load_field
from upfusion_core.models import checkpoint as layout
from upfusion_core.models.checkpoint import load_networks, open_checkpoint, recommended_guidance
from upfusion_core.models.dino import hub_names
from upfusion_core.support.weights import read_metadata, read_weights

CONFIG, FACTS = "upfusion_config", "upfusion_facts"


def entry(shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


ONE = {"a": entry([1], 0, 4)}
LIES: dict[str, tuple[Any, ...]] = {  # header and data; the length that the header is said to have, unless it is true
    "beyond the end of the file": ({"a": entry([2], 0, 8)}, bytes(4)),
    "a size beyond 64 bits": ({"a": entry([2**62, 4], 0, 8)}, bytes(8)),
    "brackets without end": (b"[" * 100_000, b""),
    "no header at all": (b"", b""),
    "a header longer than the file": (ONE, bytes(4), 10**8),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path: Path, lie: str) -> None:
    header, data, *claims = LIES[lie]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", *(claims or [len(text)])) + text + data)
    for read in (read_weights, read_metadata):
        unfit(r"must be a file of weights, but cannot be read .*; it is damaged", read, path)


RENAMED = (
    *(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 6300000000\n", bytes(4096)),
    *(b"<!DOCTYPE html><html>Please log in</html>", b"PK\x03\x04" + bytes(100), b"\x80\x02" + b"(" * 50),
)


@pytest.mark.parametrize("content", RENAMED)
def test_renamed_files(tmp_path: Path, content: bytes) -> None:
    for path in (tmp_path / "weights.pt", tmp_path / "weights.safetensors"):
        path.write_bytes(content)
        unfit(r"must be a file of weights, but cannot be read|must hold", read_weights, path)


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


def spoilt(source: Path, path: Path, change: Callable[[dict, dict], object]) -> Path:
    """A copy whose tensors and metadata `change` was given."""
    with safe_open(source, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


NAME = "upsrt.linear_scene.weight"


@pytest.mark.parametrize(("name", "bad"), [(NAME, math.nan), ("model.diffusion_model.out.2.bias", -math.inf)])
def test_weights_that_are_no_numbers(tiny: Path, tmp_path: Path, name: str, bad: float) -> None:
    path = spoilt(tiny, tmp_path / "a.safetensors", lambda tensors, _: tensors[name].view(-1)[-1:].fill_(bad))
    checkpoint = open_checkpoint(path)  # names and shapes are right, and nothing is read yet
    words = rf"finite numbers, got NaN or infinity in {re.escape(name)};"
    unfit(words, load_networks, checkpoint, "cpu", torch.float32)
    conditioning = partial(layout.load_conditioning_networks, ops=torch.nn, dtype=torch.float32)
    unfit(words, layout.latent_diffusion_weights if name.startswith("model.") else conditioning, checkpoint)


def test_tensors_that_do_not_fit(tiny: Path, tmp_path: Path) -> None:
    for name, value, words in (
        (NAME, torch.ones(32, 80).long(), rf"1 of another kind: {NAME} torch\.int64 instead of"),
        ("x" * 10**6, torch.ones(1), r"1 unexpected: x{200}\.\.\."),  # endless names are cut short
    ):
        path = spoilt(tiny, tmp_path / "a.safetensors", lambda tensors, _: tensors.update({name: value}))  # noqa: B023
        with pytest.raises(CheckpointError, match=words) as error:
            open_checkpoint(path)
        assert len(str(error.value)) < 1000
    spoilt(tiny, path, lambda tensors, _: tensors.update({NAME: tensors[NAME].float() + 1e6}))
    words, checkpoint = rf"must fit into float16, got larger numbers in {NAME}; choose", open_checkpoint(path)
    unfit(words, load_networks, checkpoint, "cpu", torch.float16)
    assert float(load_networks(checkpoint, "cpu", torch.bfloat16).upsrt.linear_scene.weight.min()) > 9e5


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        (CONFIG, '{"upsrt": {"encoder_layers": 65536}}', "encoder_layers must be between 1 and 256, got 65536"),
        (CONFIG, '{"upsrt": {"num_heads": 7}}', "divisible by num_heads"),
        (CONFIG, '{"dino": {"layer": 12}}', "layer 12, depth 12"),
        (CONFIG, '{"diffusion": {"model_channels": 100}}', "diffusion needs"),
        (CONFIG, '{"vae": {"ch": 100}}', "vae needs"),
        (CONFIG, '{"diffusion": {"hint_channels": 60}}', r"transformer_dim \+ 6"),
        (CONFIG, '{"text": {"num_attention_heads": 5}}', "divisible by num_attention_heads"),
        (CONFIG, '{"image_size": 101}', "image_size must be divisible by"),
        (CONFIG, '{"vae": {"scale_factor": 1e999}}', "scale_factor must be above 0 and at most"),
        (CONFIG, r'{"\u001b[2J": {}}', r'got "\\u001b\[2J"'),
        (CONFIG, '{"a":' * 50_000, "nested too deeply"),
        (FACTS, "{", "must be JSON"),
        (FACTS, "[1]", "must be a JSON object"),
        (FACTS, '{"guidance": "9"}', "guidance among its facts must be a number"),
    ],
)
def test_metadata_that_lies(tiny: Path, tmp_path: Path, key: str, text: str, words: str) -> None:
    path = spoilt(tiny, tmp_path / "a.safetensors", lambda _, metadata: metadata.update({key: text}))
    unfit(words, open_checkpoint if key == CONFIG else recommended_guidance, path)


def test_dino_queries_that_do_not_fit_their_keys() -> None:
    key = "encoder.layer.0.attention.attention.key.weight"
    names = {"embeddings.cls_token": torch.ones(1, 1, 4)}
    names |= {key.replace("key", kind): torch.ones(4, 4) for kind in ("query", "key", "value")}
    assert hub_names(names)["blocks.0.attn.qkv.weight"].shape == (12, 4)
    scalars = {name: torch.tensor(1.0) if "attention" in name else value for name, value in names.items()}
    for weights in (names | {key: torch.ones(3, 4)}, {name: names[name] for name in names if name != key}, scalars):
        unfit("query, key and value of one shape, got", hub_names, weights)
