"""The prompt: CLIP's text encoder from transformers, and the two prompts that need no tokenizer."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ..errors import InputError, MissingPackageError

DEFAULT_PROMPT = "a high quality image with a white background"
START_TOKEN, END_TOKEN, CONTEXT_LENGTH = 49406, 49407, 77
DEFAULT_TOKENS = (START_TOKEN, 320, 1400, 3027, 2867, 593, 320, 1579, 5994)


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder; the defaults are CLIP ViT-L/14's."""

    hidden_size: int = 768
    num_attention_heads: int = 12
    num_hidden_layers: int = 12
    intermediate_size: int = 3072

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"text needs hidden_size divisible by num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}; correct its configuration"
            )


def build_text_encoder(config: TextConfig) -> CLIPTextModel:
    """The text encoder of these sizes, its weights not yet loaded."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_hidden_layers=config.num_hidden_layers,
            intermediate_size=config.intermediate_size,
            vocab_size=END_TOKEN + 1,
            max_position_embeddings=CONTEXT_LENGTH,
            hidden_act="quick_gelu",
            projection_dim=config.hidden_size,
        )
    )


def encode_tokens(encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """(B, 77) token ids -> (B, 77, W): the last hidden state after the final norm, float32."""
    with torch.no_grad():
        return encoder(tokens.to(encoder.device)).last_hidden_state.float()


def tokenize(prompt: str) -> Tensor:
    """(1, 77) CLIP token ids. The default and the empty prompt need no vocabulary.

    Raises:
        MissingPackageError: another prompt is asked for and no installed library ships CLIP's vocabulary.
        InputError: the prompt is longer than 75 tokens.
    """
    if prompt == DEFAULT_PROMPT:
        ids = list(DEFAULT_TOKENS)
    elif prompt == "":
        ids = [START_TOKEN]
    else:
        ids = [START_TOKEN, *_tokenizer_ids(prompt)]
    if len(ids) > CONTEXT_LENGTH - 1:
        raise InputError(f"the prompt must have at most 75 tokens, got {len(ids) - 1}; shorten it")
    return torch.tensor([ids + [END_TOKEN] * (CONTEXT_LENGTH - len(ids))])


def _tokenizer_ids(prompt: str) -> list[int]:
    from transformers import CLIPTokenizer

    merges = _clip_merges()
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def _clip_merges() -> list[tuple[str, str]]:
    """The byte-pair merges of CLIP's vocabulary, from open_clip's package data; the package itself is not imported."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            "a prompt other than the default needs CLIP's vocabulary, which is not installed; "
            "run pip install open_clip_torch or leave the prompt away"
        )
    path = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    # line 0 names the version; the vocabulary is 2 x 256 bytes, the merges, and the two special tokens
    count = END_TOKEN + 1 - 512 - 2
    pairs = (line.split() for line in lines[1 : 1 + count])
    return [(left, right) for left, right in pairs]


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order of byte-level BPE vocabularies (GPT-2's)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + offset) for offset in range(hidden)]
