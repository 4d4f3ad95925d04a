"""Every command and Python block of the documentation runs, with tiny stand-ins for what takes gigabytes or hours.

A page is worked through from its top in one folder, as a reader would; README's blocks always, those of the other pages
with `pytest -m slow tests/core/test_documentation.py`. documented_programs.py says how each program is tried.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import documented
import pytest
import trimesh
from documented_programs import ROOT, loaded, run
from PIL import Image, ImageDraw
from tiny_training import DRAFT, FIELD

from upfusion_core import DistillConfig, RadianceField, convert, orbit_cameras
from upfusion_core.cli import datasets as training
from upfusion_core.cli import reconstruct
from upfusion_core.cli.app import COMMANDS
from upfusion_core.config import TrainConfig

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "upfusion_core/bundled/MODEL_CARD.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "web" / "docs").glob("*.md"))]


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
    poses = zip(("front", "side", "back"), orbit_cameras([0.0, 90.0, 180.0]).camera_to_world.tolist(), strict=True)
    frames = [{"file_path": name, "transform_matrix": matrix} for name, matrix in poses]
    (made / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.4, "frames": frames}))
    convert(tiny_bundle / "mini.safetensors", made / "WEIGHTS")
    (made / "DATA").mkdir()
    for name, extents in (("cube", (1, 1, 1)), ("slab", (1, 0.5, 1))):
        trimesh.creation.box(extents).export(made / "DATA" / f"{name}.glb")
    monkeypatch.chdir(made)
    return made


@pytest.fixture(autouse=True)
def _small(rough: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every preset becomes one of few steps and a small field; meshes and data become small too."""

    def small(cls: type[DistillConfig], preset: str, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of the class
        return cls(**({"schedule": DRAFT, "field": FIELD} | changes))

    whole = RadianceField.extract_mesh

    def small_mesh(self: RadianceField, resolution: int = 256, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        texture = options.pop("texture_size", None)
        return whole(self, min(resolution, 24), *arguments, texture_size=texture and min(texture, 64), **options)

    asked = training.evaluation_config
    few = {"mesh_resolution": 24, "mesh_samples": 200}
    monkeypatch.setattr(training, "evaluation_config", lambda command: replace(asked(command), **few))
    monkeypatch.setattr(training, "PROCEDURAL_POOL", 8)
    monkeypatch.setattr(DistillConfig, "named", classmethod(small))
    monkeypatch.setattr(RadianceField, "extract_mesh", small_mesh)
    monkeypatch.setattr(reconstruct, "SHEET_SIZE", 32)
    monkeypatch.setattr(reconstruct, "DEMO_TURNTABLE_SIZE", 16)


def run_block(block: documented.Block, folder: Path, where: str) -> None:
    if block.language in documented.COMMAND_LANGUAGES:
        for line, words in documented.commands(block):
            try:
                run(words, folder)
            except Exception as error:
                raise AssertionError(f"{where}:{line}: {' '.join(words)}\n{error}") from error
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


OTHERS = [pytest.param(page, marks=pytest.mark.slow, id=name_of(page)) for page in PAGES[1:]]
each_page = pytest.mark.parametrize("page", [pytest.param(PAGES[0], id="README.md"), *OTHERS])


@each_page
def test_every_block_runs(page: Path, folder: Path) -> None:
    for block in documented.blocks(page):
        run_block(block, folder, name_of(page))


@each_page
def test_commands_in_the_text_exist(page: Path, tmp_path: Path) -> None:
    for line, words in documented.inline_commands(page):
        try:
            run(words, tmp_path, check_only=True)
        except Exception as error:
            raise AssertionError(f"{name_of(page)}:{line}: {' '.join(words)}\n{error}") from error


def test_links_and_pictures_are_there() -> None:
    texts = {page: re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES}
    targets = [(page, target) for page, text in texts.items() for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    for page, target in targets:
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        aim = page if not file else (page.parent / file).resolve()
        assert aim.exists(), f"{name_of(page)}: {target}"
        if anchor:
            content = aim.read_text(encoding="utf-8")
            headings = [line.lstrip("#").strip().lower() for line in content.splitlines() if line.startswith("#")]
            anchors = {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}
            assert anchor in anchors or f'id="{anchor}"' in content, f"{name_of(page)}: {target}"


def test_pages_agree_with_the_code() -> None:
    reference = loaded(ROOT / "docs" / "make_reference.py")
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- options of (\w+) -->", text)) == set(COMMANDS)
    assert reference.with_options(text) == text, "run python docs/make_reference.py"
    line = 'pip install ".[test]" && pytest'
    for path in (ROOT / "README.md", ROOT / ".ci" / "run"):
        assert line in path.read_text(encoding="utf-8").splitlines()
    blocks = documented.blocks(ROOT / "docs" / "commands.md")
    shown = [words[1] for block in blocks if not block.language for _, words in documented.commands(block)]
    assert set(shown) == set(COMMANDS)
