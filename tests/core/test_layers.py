"""Imports point down the list of layers, and each foreign library has its place."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import get_origin

import upfusion_core

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "upfusion_core"
LAYERS = (
    *({"support"}, {"config"}, {"types"}, {"geometry"}, {"models", "field"}, {"surface"}, {"data"}, {"procedural"}),
    *({"pipeline"}, {"evaluation"}, {"training"}, {"cli"}, {"__main__"}),
)
HOMES = {name: {"models", "pipeline"} for name in ("diffusers", "transformers")} | {"typer": {"cli"}, "rich": {"cli"}}
HOMES |= {"xatlas": {"surface"}, "trimesh": {"surface", "data", "procedural", "evaluation"}}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def layer_of(part: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if part in names)


def imported_modules(path: Path) -> list[str]:
    """What a file imports, but for type checkers alone; our own modules as ".name", from the package's top."""
    package, names = path.relative_to(PACKAGE).parts[:-1], []
    left = [ast.parse(path.read_text(encoding="utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.append("." + ".".join([*package[: len(package) - node.level + 1], node.module or ""]))
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            left += ast.iter_child_nodes(node)
    return names


def test_imports_are_relative_and_point_down() -> None:
    for path in SOURCES:
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue  # the public names, imported at first use
        for name in imported_modules(path):
            top = name.removeprefix(".").split(".")[0]
            if name.startswith("."):
                assert top in ("", here) or layer_of(top) < layer_of(here), f"{path} must not import {name}"
            else:
                assert top not in ("upfusion_core", "comfy", "comfy_api", "folder_paths"), path
                assert here in HOMES.get(top, {here}), f"{path} must not import {name}"


def test_nodes_import_only_the_public_api() -> None:
    """ComfyUI imports the pack by its folder: an absolute import would give other classes than a relative one."""
    for path in [*sorted((ROOT / "nodes").rglob("*.py")), ROOT / "__init__.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] in ("upfusion_core", "nodes") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] not in ("upfusion_core", "diffusers", "transformers")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("upfusion_core"):
                assert node.module in ("upfusion_core", "upfusion_core.config"), f"{path} imports {node.module}"
                names = {alias.name for alias in node.names}
                assert node.module != "upfusion_core" or names <= set(upfusion_core.__all__)


def test_type_checkers_are_told_of_all_homes_of_public_names() -> None:
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    block = next(part for part in body if isinstance(part, ast.If))
    assert [node.module for node in block.body] == sorted(set(upfusion_core._HOMES.values()))
    for name, home in upfusion_core._HOMES.items():
        assert getattr(upfusion_core, name) is getattr(importlib.import_module(f"upfusion_core.{home}"), name)


def test_public_names_and_their_members_are_explained() -> None:
    for name in upfusion_core.__all__:
        value = getattr(upfusion_core, name)
        if inspect.isfunction(value) or (inspect.isclass(value) and get_origin(value) is None):
            members = vars(value) if inspect.isclass(value) else {}
            found = {key: getattr(each, "fget", getattr(each, "__func__", each)) for key, each in members.items()}
            own = [each for key, each in found.items() if inspect.isfunction(each) and not key.startswith("_")]
            assert all(each.__doc__ for each in (value, *own)), name
