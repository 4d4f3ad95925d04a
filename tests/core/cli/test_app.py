"""The commands as such: help, options and their record, what is refused before anything is made, how it is told."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from command_runs import change_run, press, read_run, refused, upfusion
from PIL import Image
from refusals import refused as wrong
from tiny_training import tiny_config
from typer.testing import CliRunner

from upfusion_core.cli import app as app_module
from upfusion_core.cli import files, main
from upfusion_core.cli.app import COMMANDS, app
from upfusion_core.cli.console import duration
from upfusion_core.cli.run import open_run, recorded, settled, settled_run
from upfusion_core.config.base import built, flat, options_of
from upfusion_core.config.options import Folder, Networks, Orbit, Photos, Views
from upfusion_core.support.files import write_json

ROOT = Path(app_module.__file__).parents[2]
RUN = "from upfusion_core.cli import main; main()"


def process(code: str, *arguments: str, stdout: int = subprocess.PIPE, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    streams = {"stdout": stdout, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    found = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | variables, cwd=ROOT, **streams)
    return found.returncode, found.stdout, found.stderr


def test_help_names_the_commands_without_loading_what_takes_seconds() -> None:
    heavy = {"torch", "numpy", "diffusers", "trimesh", "einops"}
    _, shown, _ = process(f"import sys\ntry:\n    {RUN}\nfinally:\n    print({heavy} & set(sys.modules))", "--help")
    assert shown.strip().endswith("set()")
    assert all(command in shown for command in COMMANDS)


def test_empty_values_are_not_the_current_folder() -> None:
    assert "every argument needs a value, got an empty one" in refused("info", "")
    assert "--init needs a value, got an empty one" in refused("train", "upsrt", "--init", "", "-o", "x")
    assert "there is no file" in refused("views", "none.png", "--prompt", "", "-o", "out")  # an empty prompt is one


def test_narrow_console_does_not_crash() -> None:
    status, _, complaint = process(RUN, "views", "--\u8336\u7897", PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert (status, "--??" in complaint, "Traceback" in complaint) == (2, True, False)


def test_out_of_memory_and_ctrl_c_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # where work has no pieces that could be halved; other errors of torch are shown as they are
    errors = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("shapes cannot be multiplied")]
    monkeypatch.setattr(files, "run_info", Mock(side_effect=errors))
    for _ in errors[:2]:
        assert "Error: memory must suffice for the work, but does not" in refused("info", "mini")
    assert upfusion("info", "mini").exception is errors[2]
    monkeypatch.setattr(app_module, "app", press)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_closed_stdout_is_told_and_durations_by_hand() -> None:
    assert [duration(seconds) for seconds in (3.21, 65, 4000)] == ["3.2 s", "1 min 5 s", "1 h 6 min"]
    reading, writing = os.pipe()
    os.close(reading)
    status, _, complaint = process("from upfusion_core.cli.console import answer; answer('done')", stdout=writing)
    os.close(writing)
    assert (status, "OutputError: the answer could not be printed on stdout (" in complaint) == (1, True)
    assert complaint.endswith("look at the files\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_with_its_range_default_and_choices(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).output
    for option in options_of(COMMANDS[name][0]).values():
        first = option.flag.metavar if option.flag.argument else option.spellings[0].split("/")[0]
        (line,) = re.findall(rf"^[\u2502 *]*{re.escape(first)}[ ,].*$", shown, re.MULTILINE)
        assert len(option.help) > 5
        assert option.help[:60] in " ".join(line.split())
        assert option.taken in line
        assert option.shown_default in line


def test_what_a_continued_run_takes_from_its_record(tmp_path: Path) -> None:
    """Options left out are those of the record; one that it lacks has its default, one that is not known is refused."""
    begun = Views(Photos((Path("a.png"),)), Folder(tmp_path), orbit=Orbit(count=3), networks=Networks(model="w"))
    assert built(Views, flat(begun)) == begun
    sources = {"photos": [str(Path("a.png").absolute())], "masks": [], "cameras": None, "photo_cameras": None}
    assert recorded(begun, "sources") == sources
    with open_run(tmp_path, "views") as run:
        run.plan(recorded(begun, "settings"), recorded(begun, "sources"), {})
        run.begin()
    settings = read_run(tmp_path)["settings"]
    change_run(tmp_path, settings={name: value for name, value in settings.items() if name != "video"})
    told = Views(Photos(), Folder(tmp_path, resume=True), networks=Networks(device="cpu"))
    with open_run(tmp_path, "views", resume=True) as run:
        found = settled(told, frozenset({"device"}), run)
        photos, networks = Photos((Path("a.png").absolute(),)), Networks(model="w", device="cpu")
        assert found == replace(begun, folder=told.folder, photos=photos, networks=networks)
        run.plan(recorded(found, "settings"), recorded(found, "sources"), {})
        for name, orbit in {"count": Orbit(count=8), "video": Orbit(video="none")}.items():
            other = settled(replace(told, orbit=orbit), frozenset({name}), run)
            wrong(f"was begun with {name} = ", run.plan, recorded(other, "settings"), {}, {})
        run.begin()
    change_run(tmp_path, settings={"sparkle": 1})
    wrong("has the option sparkle, which this release does not know", settled_run(told, frozenset()).__enter__)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, photos: list[Path], tiny: Path) -> dict[str, object]:
    """What the commands name: F is a folder, P a photo, W weights, T a configuration of training."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.save({"a": torch.ones(1)}, folder / "other.pth")
    Image.new("RGB", (64, 64), "tan").save(folder / "wood.png")
    write_json(folder / "tiny.json", tiny_config("encoder").to_dict())
    return {"F": folder, "P": photos[0], "W": tiny, "T": folder / "tiny.json", "deep": "x/" * 2000}


REFERENCE = "reconstruct {P} -m {W} -o out --views 2 --preset reference --perceptual lpips"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("views --count 1.5 -o out", 'Error: --count must be a whole number, got "1.5"; correct it'),
        ("views --dtype int8 -o out", '--dtype must be one of auto, float32, float16, bfloat16, got "int8"'),
        ("reconstruct --texture-size 30 -o out", "--texture-size must be 0 or between 64 and 8192, got 30; change it"),
        ("train --curriculum 5 -o out", "--curriculum must be a list of 2, each a whole number, got [5]; correct it"),
        ("views {F}/gone.jpg -m none -o out", "there is no file"),  # photos are looked at before weights
        ("views {P} {P} --network-photos 2 -o out", "must see photo 1 and up to 5 others of 2 photos, got 2"),
        ("views {F}/wood.png -m none -o out", "border is not white (its median is 210, 180, 140 of 255); give a --"),
        ("views {F}/wood.png --any-background -m none -o out", "does not exist"),
        ("views {P} -o {deep}", "100 new folders"),
        ("views {P} -m {W} -o out --scheduler nonsense", "nonsense"),
        (REFERENCE, "needs perceptual_weights"),
        (REFERENCE + " --perceptual-weights {F}/other.pth", "must hold VGG-16's convolutions"),
        ("evaluate -o out --model {W} --data . --split test", "--split is of procedural objects"),
        ("train encoder --data procedural -o out", "--config is needed"),
        ("train encoder --config mini -o out", "--data is needed"),
        ("train nerf --config mini --data procedural -o out", "the stage must be one of"),
        ("train diffusion --config {T} --data procedural -o out", "must be that of the configuration, encoder"),
        ("train encoder --config none.json --data procedural -o out", "--config none.json must be a JSON file"),
        ("train encoder --config mini --data procedural --init nothing.pt -o out", "none at nothing.pt"),
        ("train encoder --config {T} --data . --curriculum 2,5 -o out", "a curriculum is of procedural objects"),
        ("pack -o out", "something to pack is needed"),
        ("pack procedural -o out --kind gso", "--kind is of a folder"),
    ],
)
def test_before_anything_is_made(
    words: str, sentence: str, places: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*(word.format(**places) for word in words.split()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio-ffmpeg")
def test_mp4_without_its_program(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, program in (("views", "none"), ("predict", "/bin/false")):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
        said = refused(command, photos[0], "-o", tmp_path / "a/out", "--video", "mp4")
        assert "the program ffmpeg, which does not run" in said
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "imageio[ffmpeg]"' in refused("views", photos[0], "-o", tmp_path / "a/out", "--video", "mp4")
    assert not list(tmp_path.iterdir())
