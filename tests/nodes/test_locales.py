"""The languages in locales/ name every node, input and output, with all tooltips."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("de", "fr", "ja", "ko", "zh")


def english(schema: Any) -> dict[str, Any]:
    """What a node shows, as ComfyUI's locale files have it; an input without a tooltip has a name only."""
    named = {"inputs": {item.id: item for item in schema.inputs}, "outputs": dict(enumerate(schema.outputs))}
    shown = {
        kind: {
            str(key): {"name": item.id} | ({"tooltip": item.tooltip} if item.tooltip else {})
            for key, item in sockets.items()
        }
        for kind, sockets in named.items()
    }
    return {"display_name": schema.display_name, "description": schema.description, **shown}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, of paths such as "inputs.seed.tooltip"."""
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, part in value.items() for name, leaf in leaves(part, f"{path}/{key}").items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_key_and_says_something_else(node_classes: dict[str, Any], language: str) -> None:
    text = (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
    told = leaves(json.loads(text))
    wanted = leaves({node_id: english(node.GET_SCHEMA()) for node_id, node in node_classes.items()})
    assert told.keys() == wanted.keys()
    for path, words in told.items():
        assert isinstance(words, str)
        assert words.strip() == words != ""
        assert "{" not in words
        if path.endswith(("tooltip", "description", "display_name")):
            assert words != wanted[path], path


def test_leaves_by_hand() -> None:
    assert leaves({"a": {"b": "x", "c": {"d": "y"}}, "e": "z"}) == {"/a/b": "x", "/a/c/d": "y", "/e": "z"}
