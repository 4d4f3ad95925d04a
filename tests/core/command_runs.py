"""What tests of the commands share: calling them, the record of a run, and a distillation that takes seconds."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tiny_training import DRAFT, FIELD
from typer.testing import CliRunner, Result

from upfusion_core.cli.app import app
from upfusion_core.config import DistillConfig


def upfusion(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ended(code: int, *arguments: object) -> str:
    """What a command says that ends with this code, its lines joined and without frames."""
    result = upfusion(*arguments)
    assert result.exit_code == code, result.output
    return " ".join(result.output.replace("\u2502", " ").split())


done, refused, interrupted = (partial(ended, code) for code in (0, 2, 130))


def press(*_: object, **__: object) -> None:
    """In place of a function: Ctrl-C."""
    raise KeyboardInterrupt


def read_run(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def change_run(folder: Path, **changes: object) -> None:
    (folder / "run.json").write_text(json.dumps(read_run(folder) | changes), encoding="utf-8")


def small_distillation(made: Callable[..., DistillConfig]) -> Callable[..., DistillConfig]:
    """What `made` gives, but with few and small pictures and a small field."""
    return lambda *arguments: replace(made(*arguments), schedule=DRAFT, field=FIELD)
