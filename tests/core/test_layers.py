"""Imports point down the list of layers, and each foreign library has its place."""

import ast
import importlib

from source_trees import ROOT, imported, parsed, sources

import upfusion_core

LAYERS = (
    *({"support"}, {"config"}, {"types"}, {"geometry"}, {"models", "field"}, {"surface"}, {"data"}, {"procedural"}),
    *({"pipeline"}, {"evaluation"}, {"training"}, {"cli"}, {"__main__"}),
)
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}
HOMES = {name: {"models", "pipeline"} for name in ("diffusers", "transformers")} | {"typer": {"cli"}, "rich": {"cli"}}
HOMES |= {"xatlas": {"surface"}, "trimesh": {"surface", "data", "procedural", "evaluation"}}


def test_imports_are_relative_and_point_down() -> None:
    for path in sources("upfusion_core"):
        here = path.relative_to(ROOT).parts[1].removesuffix(".py")
        if here == "__init__":
            continue  # the public names, imported at first use
        for name in imported(path):
            top = name.removeprefix(".upfusion_core.").split(".")[0]
            if name.startswith("."):
                assert top == here or LEVELS.get(top, -1) < LEVELS[here], f"{path} must not import {name}"
            else:
                assert top not in ("upfusion_core", "comfy", "comfy_api", "folder_paths"), path
                assert here in HOMES.get(top, {here}), f"{path} must not import {name}"


def test_nodes_import_only_the_public_api() -> None:
    """ComfyUI imports the pack by its folder: an absolute import would give other classes than a relative one."""
    for path in [*sources("nodes"), ROOT / "__init__.py"]:
        for name in imported(path):
            top, *rest = name.removeprefix(".").split(".")
            if not name.startswith("."):
                assert top not in ("upfusion_core", "nodes", "diffusers", "transformers"), f"{path} imports {name}"
            elif top == "upfusion_core" and (rest[:1], len(rest)) != (["config"], 2):
                assert not rest or (len(rest) == 1 and rest[0] in upfusion_core.__all__), f"{path} imports {name}"


def test_type_checkers_are_told_of_all_homes_of_public_names() -> None:
    body = parsed(ROOT / "upfusion_core" / "__init__.py").body
    block = next(part for part in body if isinstance(part, ast.If))
    assert [node.module for node in block.body] == sorted(set(upfusion_core._HOMES.values()))
    for name, home in upfusion_core._HOMES.items():
        assert getattr(upfusion_core, name) is getattr(importlib.import_module(f"upfusion_core.{home}"), name)
