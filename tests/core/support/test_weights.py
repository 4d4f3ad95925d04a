"""Files of weights are read whole; saved states come back as they were, or not at all."""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from refusals import unfit
from safetensors.torch import save_file

from upfusion_core.support.errors import UpFusionError
from upfusion_core.support.files import save_tensors
from upfusion_core.support.weights import find_weights, read_metadata, read_saved, read_weights

WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.float16)}


@pytest.mark.parametrize("key", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_tensors(tmp_path: Path, key: str | None, legacy: bool) -> None:
    path = tmp_path / "weights.pt"
    content = {key: WEIGHTS, "epoch": 3} if key else WEIGHTS
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    read = read_weights(path)
    assert read["a"].tolist() == [0, 1, 2, 3]
    assert read["b"].dtype == torch.float16


def test_wrappers_and_copies_of_training(tmp_path: Path) -> None:
    for wrapped, plain in (
        (("module.a", "module.b.c"), ("a", "b.c")),
        (("model.module.a", "_orig_mod.b", "model._orig_mod.c"), ("a", "b", "c")),
        # Stable Diffusion's own names begin with one of the words
        (("module.model.diffusion_model.out.0", "module.betas"), ("model.diffusion_model.out.0", "betas")),
        (("model.model.diffusion_model.a", "model._orig_mod.b"), ("model.diffusion_model.a", "b")),
        (("model.a", "ema_model.module.a", "model_ema.b", "net.ema.c", "d_ema.e", "f.schema.g"), ("a", "f.schema.g")),
    ):
        torch.save({"state_dict": {name: torch.ones(1) for name in wrapped}, "epoch": 3}, tmp_path / "a.ckpt")
        with pytest.warns(UserWarning, match=r"a.ckpt: .*(taken off names|EMA copies were left out)"):
            assert set(read_weights(tmp_path / "a.ckpt")) == set(plain)


@pytest.mark.filterwarnings("error")
def test_names_that_stay(tmp_path: Path) -> None:
    for names in ({"model.diffusion_model.a", "lin0.model.1.weight", "modules.a", "cinema"}, {"ema.a"}):
        save_file({name: torch.ones(1) for name in names}, tmp_path / "a.fp16.safetensors")
        assert read_weights(tmp_path / "a.fp16.safetensors").keys() == names


def test_files_in_parts(tmp_path: Path) -> None:
    parts, index = [f"w-0000{number}-of-00002.safetensors" for number in (1, 2)], tmp_path / "w.safetensors.index.json"
    for name, (key, value) in zip(parts, WEIGHTS.items(), strict=True):
        save_file({key: value}, tmp_path / name, metadata={key: "v"})
    index.write_text(json.dumps({"weight_map": dict(zip(WEIGHTS, parts, strict=True))}))
    for path in (index, tmp_path / parts[1]):
        assert all(torch.equal(value, WEIGHTS[name]) for name, value in read_weights(path).items())
        assert read_metadata(path) == {"a": "v", "b": "v"}
    assert find_weights(tmp_path, "v", "w") == index
    (tmp_path / parts[0]).unlink()
    unfit(rf"{parts[0]} does not exist", read_weights, tmp_path / parts[1])
    for text, words in (("{}", "no weight_map"), ('{"weight_map": {"a": "../b"}}', "must lie in its folder")):
        index.write_text(text)
        with pytest.raises(UpFusionError, match=words):
            read_weights(index)


def test_checkpoints_of_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of its own, numbers of numpy; what else asks to run code stays refused, beside them too."""
    module = ModuleType("pytorch_lightning")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.Hook = type("Hook", (), {"__module__": module.__name__})
    hook = module.Hook()
    hook.best = np.float32(3)
    content = {"state_dict": {"model.a": torch.ones(2)}, "callbacks": {module.Hook: hook}}
    content["hparams"] = Namespace(rate=1, folder=tmp_path, numbers=np.arange(2), of=Any)  # omegaconf names types
    content["ema"] = {"a": torch.zeros(2)}
    torch.save(content, tmp_path / "a.ckpt")
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.warns(UserWarning, match=r"the wrapper model\. was taken off|not what a training program .* and ema$"):
        assert read_weights(tmp_path / "a.ckpt")["a"].tolist() == [1, 1]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    twice = {"state_dict": {"a": torch.ones(1), "model.a": torch.ones(1)}}
    asks = "it asks to run other code or is damaged"
    for wrong, words in (
        *((content | {"code": stranger}, asks) for stranger in (os.getcwd, eval, np.testing.assert_)),
        *(({"state_dict": {"a": hook}}, "must hold named tensors only"), (twice, "got a in two wrappers")),
    ):
        torch.save(wrong, tmp_path / "a.ckpt")
        unfit(words, read_weights, tmp_path / "a.ckpt")


@pytest.mark.parametrize("keep", [0, 10, 2500, 7500])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    torch.save({"a": torch.rand(2000)}, tmp_path / "a.pt")
    save_file({"a": torch.rand(2000)}, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:keep])
        unfit(r"again", read_weights, path)


def test_other_files_and_one_changed_bit(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for content in (b"junk", b"PK\x03\x04", b""):
        path.write_bytes(content)
        unfit(r"must be a state, but cannot be read .*; it is damaged or of", read_saved, path, "a state")
    for other in ([1], {"a": 1}):
        torch.save(other, path)
        unfit("must be a state, but is another kind of file", read_saved, path, "a state")
    torch.save([torch.ones(2)], path)
    unfit("named tensors, got list", read_weights, path)
    values = torch.full((1000,), 0.125)
    save_tensors({"fingerprint": "", "values": values}, path)
    saved = bytearray(path.read_bytes())
    saved[saved.index(values.numpy().tobytes()) + 2001] ^= 1
    path.write_bytes(saved)
    unfit(r"state\.pt was changed or damaged since it was saved; delete it", read_saved, path, "a state")
