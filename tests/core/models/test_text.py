import gzip
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import refused

from upfusion_core.models import stable_diffusion as text
from upfusion_core.models.stable_diffusion import DEFAULT_PROMPT, tokenize
from upfusion_core.support.errors import MissingPackageError


def test_the_two_prompts_that_need_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    default = tokenize(DEFAULT_PROMPT)[0].tolist()
    assert default == [49406, 320, 1400, 3027, 2867, 593, 320, 1579, 5994] + [49407] * 68
    assert tokenize("")[0].tolist() == [49406] + [49407] * 76
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install open_clip_torch"):
        tokenize("a red mug")


def test_merges_are_read_from_the_package_that_ships_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in vocabulary: one merge, so "mug" is m + ug</w> and every token id follows by counting."""
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]  # as GPT-2 spells bytes
    letters += [chr(256 + offset) for offset in range(256 - len(letters))]
    pairs = [f"{first} {second}" for first in letters for second in letters]
    lines = ["#version", "u g</w>", *pairs[:48893]]
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: spec)
    assert tokenize("Mug")[0, :3].tolist() == [49406, ord("m") - ord("!"), 512]
    refused("at most 75 tokens, got 100", tokenize, "m " * 100)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="the extra `prompts` is not installed")
def test_the_default_prompt_through_the_real_vocabulary() -> None:
    assert text._tokenizer_ids(DEFAULT_PROMPT) == [320, 1400, 3027, 2867, 593, 320, 1579, 5994]
