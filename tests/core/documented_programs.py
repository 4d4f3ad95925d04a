"""Stand-ins for the programs that the documentation calls: `upfusion` runs, made small; others are checked."""

import functools
import importlib.util
import json
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import tiny_training
from command_runs import done

from upfusion_core.cli.app import COMMANDS
from upfusion_core.config import TRAIN_PRESETS, TrainConfig
from upfusion_core.config.base import options_of

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# what numbers are cut down to
MOST = {"--count": 2, "--faces": 200, "--held-out": 0, "--max-minutes": 0, "--objects": 2, "--resolution": 24}
MOST |= {"--size": 16, "--steps": 1, "--texture-size": 64, "--turntable-size": 16, "--views": 1}
# options that are given so even where the page leaves them out
ALWAYS = {
    "demo": ("--steps",),
    "reconstruct": ("--steps", "--views", "--resolution", "--texture-size", "--turntable-size"),
    "views": ("--steps", "--count"),
    "predict": ("--size", "--count"),
    "mesh": ("--resolution", "--texture-size"),
    "train": ("--max-minutes",),  # which a continued run takes again: the others come from its record
    "pack": ("--objects", "--size", "--views"),
    "evaluate": ("--objects", "--steps", "--views", "--held-out"),
}


@functools.cache
def spellings_of(command: str) -> set[str]:
    """All spellings of a command's options."""
    assert command in COMMANDS, command
    found = options_of(COMMANDS[command][0]).values()
    return {"--help", *(spelling for option in found if not option.flag.argument for spelling in option.spellings)}


def check_upfusion(words: Sequence[str]) -> None:
    if words[0] != "--version":
        spelled = {word for word in words if word.startswith("-") and not re.fullmatch(r"-\d.*", word)}
        assert spelled <= spellings_of(words[0]), words


def made_small(words: Sequence[str], folder: Path) -> list[str]:
    """The same command with small numbers, and stand-ins for presets and files that only a reader has."""
    command, *rest = words
    small = [command]
    for before, word in zip(["", *rest], rest, strict=False):
        if before in MOST and re.fullmatch(r"\d+", word):
            word = str(min(int(word), MOST[before]))
        elif before in ("--data", "--model", "-m", "--init") and word not in ("mini", "procedural"):
            word = word if (folder / word).exists() else "DATA" if "." not in Path(word).name else "mini"
        elif before == "--config" and word in TRAIN_PRESETS:
            TrainConfig.preset(word, rest[0])
            config = tiny_training.tiny_config(rest[0], steps=1, batch_size=1)
            (folder / f"{rest[0]}.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
            word = f"{rest[0]}.json"
        small.append(word)
    for option in ALWAYS.get(command, ()):
        if option not in small and ("--resume" not in small or command == "train"):
            small += [option, str(MOST[option])]
    return [*small, "--device", "cpu"] if "--device" in spellings_of(command) else small


def run_upfusion(words: Sequence[str], folder: Path) -> None:
    check_upfusion(words)
    done(*(made_small(words, folder) if words[0] != "--version" else words))


def check_pip(words: Sequence[str]) -> None:
    """What is installed is this repository with extras that it has, its requirements, or a package that tests use."""
    extras = re.findall(r"^(\w+) = \[", PROJECT.split("[project.optional-dependencies]")[1], re.MULTILINE)
    for word in words[words[:1] == ["install"] :]:
        if word.startswith((".", "upfusion", "ComfyUI/custom_nodes/upfusion")) and not word.endswith(".txt"):
            asked = re.fullmatch(r"[\w./]+(?:\[([\w,]+)\])?", word)
            assert asked is not None
            assert set((asked[1] or "test").split(",")) <= set(extras), word
        elif not word.endswith("requirements.txt"):
            assert word in ("-r", "-e", "--no-deps", "--no-build-isolation", "setuptools", "wheel"), word


def check_pytest(words: Sequence[str]) -> None:
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m":
            names = set(re.findall(r"\w+", word)) - {"not", "and", "or"}
            assert all(f'"{name}: ' in PROJECT.split("markers = [")[1] for name in names), word
        elif not word.startswith("-"):
            assert (ROOT / word.split("::")[0]).exists(), word


def check_script(path: Path, words: Sequence[str]) -> None:
    """A script of ours has all options, itself or by what benchmarks share."""
    told = "".join(each.read_text(encoding="utf-8") for each in (path, ROOT / "benchmarks" / "measuring.py"))
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in told, f"{path.name} has no {word}"


def loaded(path: Path) -> ModuleType:
    """A script of this repository as a module."""
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(f"script_{path.stem}", path))
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(path.parent))
        patched.setitem(sys.modules, module.__name__, module)  # dataclasses look there for their types
        module.__spec__.loader.exec_module(module)
    return module


def run(words: Sequence[str], folder: Path, *, check_only: bool = False) -> None:
    """One command, with `upfusion` run in this process unless `check_only`."""
    python = words[0] in ("python", "python3", "python_embeded/python.exe")
    match ["python" if python else words[0], *words[1:]]:
        case ["upfusion", *rest] | ["python", "-m", "upfusion_core", *rest]:
            check_upfusion(rest) if check_only else run_upfusion(rest, folder)
        case ["accelerate", *rest]:  # in one process
            run_upfusion(rest[rest.index("upfusion_core") + 1 :], folder)
        case ["uv", "run", "--extra", _, *rest] | ["uv", "run", *rest]:
            run(rest, folder, check_only=True)
        case ["pip", *rest] | ["python", "-m", "pip", *rest]:
            check_pip(rest)
        case ["python", "-m", "venv", name]:
            venv.create(folder / name)
        case ["python", script, *rest]:
            check_script(ROOT / script, rest)
        case ["git", "clone", address, *place]:  # the manifest's; a link stands for the clone
            assert f'\nRepository = "{address}"\n' in PROJECT
            clone = folder / (place[0] if place else address.rsplit("/", 1)[1])
            clone.parent.mkdir(parents=True, exist_ok=True)
            if not clone.exists():
                clone.symlink_to(ROOT, target_is_directory=True)
        case ["cd" | "source", name]:
            assert (folder / name).exists()
        case ["pytest", *rest]:
            check_pytest(rest)
        case ["bash", script, *rest]:  # that bash can read, and that knows the word after it
            subprocess.run(["bash", "-n", ROOT / script], check=True)
            assert not rest or rest[0] in (ROOT / script).read_text(encoding="utf-8")
        case ["ruff" | "mypy" | ".ci/types", *_]:  # `.ci/run` runs it too, so that it is known to work
            checks = "".join((ROOT / ".ci" / name).read_text(encoding="utf-8") for name in ("run", "types"))
            assert re.search(rf"^{re.escape(' '.join(words))}(?!\S)", checks, re.MULTILINE), words
        case ["coverage", *_]:
            pass  # `.ci/run` measures with a floor of its own
        case _:
            raise AssertionError(f"{words[0]!r} is not known to this test: say here how it is tried")
