from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from upfusion_core.config import configuration, fingerprint, from_json, from_value, option, options, to_json
from upfusion_core.support.errors import CheckpointError, InputError

ROOT = Path(__file__).resolve().parents[3]


@configuration
class Grid:
    """A grid."""

    levels: Annotated[int, Ge(1), Le(32)] = 16
    """Resolutions."""
    indexing: Literal["tiled", "hashed"] = "tiled"
    """How rows
    are shared."""
    scale: Annotated[float, Gt(0)] = 1.0


@configuration
class Tree:
    """A grid and more."""

    grid: Grid = Grid(levels=4)
    sizes: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1), MaxLen(3)] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    name: str | None = None
    part: Grid | None = None
    either: Grid | int = 3
    dark: bool = False
    share: Annotated[float, Ge(0.0), Le(1.0)] = 0.5

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise InputError(f"pair must ascend, got {self.pair}; swap them")


def test_defaults_and_values() -> None:
    tree = Tree(share=1, sizes=(3,), grid=Grid(scale=np.float64(2.5)))
    assert tree == Tree(Grid(scale=2.5), (3,), share=1.0)
    assert type(tree.share) is type(tree.grid.scale) is float
    assert Tree(sizes=[1, 2]) == Tree()  # type: ignore[arg-type]
    assert dataclasses.replace(tree, dark=True).dark
    assert hash(tree) == hash(dataclasses.replace(tree))
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.dark = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"grid": 3}, "Tree.grid must be Grid, got 3"),
        ({"grid": {"levels": 3}}, 'Tree.grid must be Grid, got {"levels": 3}'),
        ({"sizes": ()}, "Tree.sizes must be a list of 1 to 3, each a whole number, got []"),
        (
            {"sizes": (1, 2, 3, 4)},
            "Tree.sizes must be a list of 1 to 3, each a whole number, got [1, 2, 3, 4]",
        ),
        ({"sizes": (1, 0)}, "Tree.sizes must be at least 1, got 0"),
        ({"sizes": (1, True)}, "Tree.sizes must be a whole number, got true"),
        ({"sizes": 3}, "Tree.sizes must be a list of 1 to 3, each a whole number, got 3"),
        ({"pair": (1.0,)}, "Tree.pair must be a list of 2, each a number, got [1.0]"),
        ({"pair": (1.0, 2.0, 3.0)}, "Tree.pair must be a list of 2, each a number, got [1.0, 2.0, 3.0]"),
        ({"pair": (0, float("inf"))}, "Tree.pair must be finite, got Infinity"),
        ({"pair": (2, 1)}, "pair must ascend, got (2.0, 1.0); swap them"),
        ({"name": 3}, "Tree.name must be text or nothing, got 3"),
        ({"either": "x"}, 'Tree.either must be Grid or a whole number, got "x"'),
        ({"dark": 1}, "Tree.dark must be true or false, got 1"),
        ({"share": True}, "Tree.share must be a number, got true"),
        ({"share": 1.5}, "Tree.share must be between 0.0 and 1.0, got 1.5"),
        ({"share": float("nan")}, "Tree.share must be between 0.0 and 1.0, got NaN"),
        ({"share": 10**400}, "Tree.share must be"),
        ({"share": object()}, "Tree.share must be a number, got object"),
        ({"deep": 1}, 'Tree may have grid, sizes, pair, name, part, either, dark, share, got "deep"; remove it'),
    ],
)
def test_faults_of_arguments(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Tree(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(sentence)


def test_faults_of_choices_and_open_ranges() -> None:
    with pytest.raises(InputError, match=r'^Grid\.indexing must be one of tiled, hashed, got "round"$'):
        Grid(indexing="round")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^Grid\.scale must be above 0, got 0$"):
        Grid(scale=0)


def test_json_and_back() -> None:
    tree = Tree(grid=Grid(scale=0.1), sizes=(5, 6), name="a", part=Grid(), either=Grid(levels=2))
    assert to_json(tree)["sizes"] == [5, 6]
    assert to_json(tree)["grid"] == {"levels": 16, "indexing": "tiled", "scale": 0.1}
    assert from_json(Tree, json.dumps(to_json(tree)), "it") == tree
    assert from_value(Tree, {"pair": [0, 1], "grid": {}}, "it") == Tree(grid=Grid())
    assert from_value(dict[str, list[int]], {"a": [1]}, "it") == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"grid": {"levels": 33}}, "a.json: grid.levels must be between 1 and 32, got 33; correct it"),
        ({"grid": {"lvls": 33}}, 'a.json: grid may have levels, indexing, scale, got "lvls"; remove it'),
        ({"part": {"lvls": 33}}, 'a.json: part may have levels, indexing, scale, got "lvls"; remove it'),
        ({"either": {"levels": 33}}, "a.json: either.levels must be between 1 and 32, got 33; correct it"),
        ({"x": 33}, "a.json may have grid, sizes, pair, name, part, either, dark, share, got "),
        ({"pair": [2, 1]}, "a.json is not usable: pair must ascend, got (2.0, 1.0); swap them"),
        ({"pair": [2, float("nan")]}, "a.json: pair must be finite, got NaN; correct it"),
        ([], "a.json must be a JSON object, got []; correct it"),
        ({"name": object()}, "a.json must be what JSON can hold, but is not"),
    ],
)
def test_faults_of_files(content: object, sentence: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_value(Tree, content, "a.json", CheckpointError)
    assert str(caught.value).startswith(sentence)


def test_faults_of_other_structures() -> None:
    with pytest.raises(InputError, match=r"^a: \[1\]\.levels must be between 1 and 32, got 0; correct it$"):
        from_value(list[Grid], [{}, {"levels": 0}], "a")
    with pytest.raises(InputError, match=r"^a: b must be a whole number, got 1\.5; correct it$"):
        from_value(dict[str, list[int]], {"b": [1, 1.5]}, "a")
    with pytest.raises(InputError, match='the name "a" comes twice'):
        from_json(Tree, '{"a": 1, "a": 1}', "a.json")


def test_fingerprints() -> None:
    plain, fewer = to_json(Grid()), to_json(Grid(levels=4))
    assert fingerprint(plain) == fingerprint(to_json(from_json(Grid, '{"scale": 1}', "it")))
    assert fingerprint(plain) != fingerprint(fewer)
    assert fingerprint(plain, without=["levels"]) == fingerprint(fewer, without=["levels"])


def test_options() -> None:
    levels = option(Tree, "grid.levels")
    assert (levels.kind, levels.default, levels.low, levels.high, levels.help) == (int, 16, 1, 32, "Resolutions.")
    indexing = options(Grid)["indexing"]
    assert (indexing.kind, indexing.choices, indexing.help) == (str, ("tiled", "hashed"), "How rows\nare shared.")
    sizes, name, part = (option(Tree, key) for key in ("sizes", "name", "part"))
    assert (sizes.kind, sizes.several, sizes.low, sizes.high, sizes.default) == (int, True, 1, None, (1, 2))
    assert (name.kind, name.optional, name.default) == (str, True, None)
    assert (part.kind, part.optional, option(Tree, "part.scale").low) == (Grid, True, 0)


def test_importing_needs_no_torch_and_no_command_line() -> None:
    heavy = {"torch", "numpy", "typer", "click", "rich"}
    code = f"import sys, upfusion_core.config; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
