"""`reconstruct` on a small checkpoint: everything it should write, interrupted anywhere and continued."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import rule_weights
import torch
import trimesh
from command_runs import read_run, small_distillation
from PIL import Image
from typer.testing import CliRunner, Result

from upfusion_core.cli import reconstruct
from upfusion_core.cli.app import app
from upfusion_core.cli.reconstruct import distill_config
from upfusion_core.config import DistillConfig, DraftSchedule, FieldConfig
from upfusion_core.field.radiance import RadianceField, load_field
from upfusion_core.pipeline.upfusion import UpFusion
from upfusion_core.support.errors import FieldError

MESHES = ["mesh.glb", "mesh.stl"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for index in (1, 2):
        Image.fromarray(rule_weights.rule_photo(index, 64)).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", autouse=True)
def _a_small_schedule() -> Iterator[None]:
    """What the command line asks for, but with few and small pictures and a small field."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reconstruct, "distill_config", small_distillation(distill_config))
        yield


@pytest.fixture(scope="module")
def small_model(small_weights: Path) -> UpFusion:
    return UpFusion.load(small_weights, device="cpu")


@pytest.fixture(autouse=True)
def _loaded_once(small_model: UpFusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UpFusion, "load", lambda *args, **keywords: small_model)


def _run(photos: list[Path], weights: Path, output: Path, *arguments: object) -> Result:
    small = ("--views", 2, "--steps", 1, "--resolution", 24, "--turntable-size", 16, "--format", "glb")
    fixed = ("-m", weights, "-o", output, "--device", "cpu", "--checkpoint-every", 1, "--format", "stl")
    given = ["reconstruct", *photos, *fixed, *small, "--texture-size", 64, *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in given])


@pytest.fixture
def command(photos: list[Path], small_weights: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        return _run(photos, small_weights, tmp_path / "out", *arguments)

    return run


@pytest.fixture(scope="module")
def whole(photos: list[Path], small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    result = _run(photos, small_weights, output)
    assert result.exit_code == 0, result.output
    assert str(output / "mesh.glb") in result.stdout
    return output


def _resume(output: Path) -> Result:
    return CliRunner().invoke(app, ["reconstruct", "--resume", "-o", str(output)])


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_field(folder / "field.safetensors").field.state_dict()


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_everything_is_written(whole: Path) -> None:
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    pictures = {"inputs/001.png", "inputs/002.png", "photos.png", "views/000.png", "views/001.png", "views.png"}
    assert names == pictures | {"field.safetensors", "turntable.gif", "run.json", *MESHES}
    assert imageio.imread(whole / "turntable.gif", index=None).shape == (32, 16, 16, 3)
    record = read_run(whole)
    assert len(trimesh.load_mesh(whole / "mesh.glb").faces) == record["mesh"]["faces"] > 0
    assert record["status"] == "finished"
    assert record["stages"] == ["photos", "views", "field", "turntable", "mesh"]
    assert record["timings_seconds"].keys() == set(record["stages"])
    assert record["settings"]["formats"] == ["stl", "glb"]
    assert record["grid_backend"] == "torch (auto: the field is on the CPU)"
    assert load_field(whole / "field.safetensors").settings["seed"] == 0


def test_seeds_differ(command: Callable[..., Result], whole: Path, tmp_path: Path) -> None:
    assert command("--seed", 1).exit_code == 0
    assert not _same(_weights(whole), _weights(tmp_path / "out"))


@pytest.mark.parametrize("when", ["in the field", "at the turntable", "at the mesh"])
def test_interrupted_and_continued(
    command: Callable[..., Result], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    out = tmp_path / "out"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if when == "in the field":
            patched.setattr(reconstruct, "progress", _interrupting_progress(after=5))
        else:
            patched.setattr(reconstruct, "save_turntable" if when == "at the turntable" else "save_mesh", interrupt)
        result = command()
    assert result.exit_code == 130, result.output
    assert f"to continue: upfusion reconstruct --resume -o {out}" in result.stderr
    assert read_run(out)["status"] == "interrupted"
    assert (out / "field.safetensors").exists() == (when != "in the field")
    assert (out / "field.checkpoint").exists() == (when == "in the field")

    views = (out / "views/000.png").stat().st_mtime_ns
    if when != "in the field":
        monkeypatch.setattr(UpFusion, "load", None)  # the field is finished: no network is needed any more
    result = _resume(out)
    assert result.exit_code == 0, result.output
    assert (out / "views/000.png").stat().st_mtime_ns == views
    assert _same(_weights(out), _weights(whole))
    assert (out / "mesh.glb").read_bytes() == (whole / "mesh.glb").read_bytes()
    assert (out / "turntable.gif").read_bytes() == (whole / "turntable.gif").read_bytes()
    assert not (out / "field.checkpoint").exists()
    assert read_run(out)["status"] == "finished"


def _interrupting_progress(after: int) -> Callable[..., Any]:
    @contextmanager
    def progress(title: str) -> Any:  # noqa: ANN401
        calls = []

        def on_step(step: int, total: int, preview: object) -> None:
            calls.append(step)
            if len(calls) > after:
                raise KeyboardInterrupt

        yield on_step

    return progress


def test_preview_shows_the_field_while_it_grows(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "progress", _interrupting_progress(after=6))
    assert command("--preview-every", 1).exit_code == 130
    with Image.open(tmp_path / "out/preview.png") as image:
        assert image.mode == "RGB"
        assert np.ptp(np.array(image)) > 0


def test_empty_field_is_a_sentence_and_keeps_the_views(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = RadianceField(FieldConfig.small())
    with torch.no_grad():
        field.mlp[-1].bias[0] = -40.0
    monkeypatch.setattr(UpFusion, "distill", lambda *args, **keywords: field)
    result = command()
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not any((tmp_path / "out" / name).exists() for name in MESHES)
    assert (tmp_path / "out/views/000.png").exists()
    assert read_run(tmp_path / "out")["status"] == "failed"


def test_diverged_distillation_without_views_leaves_nothing(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*args: object, **keywords: object) -> None:
        raise FieldError("the loss is no longer finite")

    monkeypatch.setattr(UpFusion, "distill", diverge)
    result = command("--views", 0)
    assert result.exit_code == 2
    assert "the loss is no longer finite" in result.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_options_leave_nothing(command: Callable[..., Result], tmp_path: Path) -> None:
    cases = {
        "needs perceptual_weights": ("--preset", "reference", "--perceptual", "lpips"),
        "there is none at": ("--preset", "reference", "--perceptual-weights", tmp_path / "none.pth"),
        "no perceptual term": ("--perceptual", "dino"),
        "must be one of glb, obj, ply, stl": ("--format", "fbx"),
        "--preset must be one of draft, fast, reference": ("--preset", "quick"),
        "--resolution": ("--resolution", 2),
    }
    for sentence, arguments in cases.items():
        result = command(*arguments)
        assert result.exit_code == 2, sentence
        assert sentence in result.stderr
        assert not (tmp_path / "out").exists()


def test_presets_and_what_changes_in_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr("upfusion_core.cli.reconstruct.run_reconstruct", lambda *given: seen.append(given))
    for arguments in (
        [],
        ["--preset", "draft", "--steps", "7", "--guidance", "3"],
        ["--preset", "reference", "--perceptual", "none"],
    ):
        assert CliRunner().invoke(app, ["reconstruct", "a.png", "-o", str(tmp_path), *arguments]).exit_code == 0
    configs = [distill_config(command) for command, _ in seen]
    assert configs[0] == DistillConfig.fast()
    assert configs[1] == DistillConfig.draft(schedule=DraftSchedule(steps=7), guidance=3.0)
    assert configs[2] == DistillConfig.reference(perceptual="none")
