"""What holds of every configuration: strict values, faults in one sentence, a JSON form that comes back."""

import json
import pickle
import re
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from refusals import refused, unfit

from upfusion_core import CheckpointError, InputError, config
from upfusion_core.config import TrainConfig, configuration, from_value, to_dict


@configuration
class Grid:
    levels: Annotated[int, Ge(1), Le(32)] = 16
    indexing: Literal["tiled", "hashed"] = "tiled"
    scale: Annotated[float, Gt(0)] = 1.0


@configuration
class Tree:
    grid: Grid = Grid(levels=4)
    sizes: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1), MaxLen(3)] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    name: str | None = None
    either: Grid | int = 3
    share: Annotated[float, Ge(0.0), Le(1.0)] = 0.5

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise InputError(f"pair must ascend, got {self.pair}; swap them")


def test_every_configuration_survives_json_and_pickle() -> None:
    kinds = [*vars(config.field).values(), *vars(config.models).values(), config.EvaluationConfig]
    for kind in [kind for kind in kinds if hasattr(kind, "__pydantic_fields__")]:
        value = kind(train_upsrt=True) if kind is TrainConfig else kind()
        assert from_value(kind, json.loads(json.dumps(to_dict(value))), "it") == value
        assert pickle.loads(pickle.dumps(value)) == value


def test_values_and_structures() -> None:
    tree = Tree(share=1, sizes=(3,), grid=Grid(scale=np.float64(2.5)))
    assert tree == Tree(Grid(scale=2.5), (3,), share=1.0)
    assert type(tree.share) is type(tree.grid.scale) is float
    assert Tree(sizes=[1, 2]) == Tree()  # type: ignore[arg-type]
    assert from_value(Tree, {"pair": [0, 1], "grid": {}}, "it") == Tree(grid=Grid())
    # what files of older releases lack takes its default
    assert config.ModelConfig.from_dict({"model_id": "a", "vae": {"ch": 64}}).vae == config.VaeConfig(ch=64)
    assert TrainConfig.from_dict({"stage": "autoencoder", "model": {"model_id": "a"}}).curriculum == (0, 0)
    refused(r"^a: \[1\]\.levels must be between 1 and 32, got 0; ", from_value, list[Grid], [{}, {"levels": 0}], "a")
    refused(r"^a: b must be a whole number, got 1\.5; ", from_value, dict[str, list[int]], {"b": [1, 1.5]}, "a")


def test_faults_of_arguments() -> None:
    for values, sentence in (
        ({"sizes": ()}, "Tree.sizes must be a list of 1 to 3, each a whole number, got []"),
        ({"sizes": (1, True)}, "Tree.sizes must be a whole number, got true"),
        ({"pair": (1.0,)}, "Tree.pair must be a list of 2, each a number, got [1.0]"),
        ({"pair": (0, float("inf"))}, "Tree.pair must be finite, got Infinity"),
        ({"pair": (2, 1)}, "pair must ascend, got (2.0, 1.0); swap them"),
        ({"either": "x"}, 'Tree.either must be Grid or a whole number, got "x"'),
        ({"share": 1.5}, "Tree.share must be between 0.0 and 1.0, got 1.5"),
        ({"deep": 1}, 'Tree may have grid, sizes, pair, name, either, share, got "deep"; remove it'),
    ):
        refused("^" + re.escape(sentence), Tree, **values)


def test_faults_of_files() -> None:
    for content, sentence in (
        ({"grid": {"levels": 33}}, "a.json: grid.levels must be between 1 and 32, got 33; correct it"),
        ({"grid": {"lvls": 33}}, 'a.json: grid may have levels, indexing, scale, got "lvls"; remove it'),
        ({"pair": [2, 1]}, "a.json is not usable: pair must ascend, got (2.0, 1.0); swap them"),
        ([], "a.json must be a JSON object, got []; correct it"),
        ({"name": object()}, "a.json must be what JSON can hold, but is not"),
    ):
        unfit("^" + re.escape(sentence), from_value, Tree, content, "a.json", CheckpointError)
