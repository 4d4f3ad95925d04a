"""docs/nodes.md says of the nodes what they say of themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_the_nodes_is_what_the_nodes_say(node_classes: dict[str, type]) -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    page = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    assert reference.nodes_page(node_classes) == page, "run python docs/make_reference.py"
