"""The pack as a whole: every node is described, and an unfit ComfyUI gets a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_node_is_described(node_classes: dict[str, type]) -> None:
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        assert node_id.startswith("UpFusion")
        assert schema.display_name.startswith("UpFusion ")
        assert schema.category.split("/")[0] == "UpFusion"
        assert len(schema.description) > 40, node_id
        assert len(schema.search_aliases) >= 2, node_id


def test_every_socket_has_a_tooltip(node_classes: dict[str, type]) -> None:
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        for socket in [*schema.inputs, *schema.outputs]:
            assert len(socket.tooltip or "") > 10, f"{node_id}.{socket.id}"
            assert socket.tooltip.endswith("."), f"{node_id}.{socket.id}"


def test_every_node_has_a_help_page_with_a_picture(node_classes: dict[str, type]) -> None:
    for node_id in node_classes:
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert page.startswith("# "), node_id
        picture = page.split("](")[1].split(")")[0]
        assert (ROOT / "web" / "docs" / Path(picture).name).exists(), f"{node_id}: {picture}"


def test_an_old_comfyui_gets_a_sentence(pack: Callable[[str], ModuleType]) -> None:
    require = pack("nodes").require_comfyui
    require()
    with pytest.raises(ImportError, match=r"0\.22\.0 or newer, this one lacks comfy_api\.latest\.io\.Autoplant"):
        require({"comfy_api.latest.io": ("Autogrow", "Autoplant")})
    with pytest.raises(ImportError, match="lacks no_such_module"):
        require({"no_such_module": ("anything",)})
