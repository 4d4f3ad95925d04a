"""The benchmarks' parts that need no time: arguments, tables, sums, and the commands of the script for a GPU."""

from __future__ import annotations

import importlib
import json
import mmap
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from upfusion_core.config import ReferenceSchedule
from upfusion_core.surface.mesh import MeshAsset

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = (
    "guided_step",
    "levers",
    "rendering",
    "distillation",
    "meshes",
    "scaling",
    "grids",
    "meshing",
    "measuring",
    "photo_cameras",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.append(str(FOLDER))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(FOLDER))


def commands(tmp_path: Path, *parts: str) -> list[list[str]]:
    """The words of each command that gpu.sh would run, without the interpreter."""
    environment = {"DRY_RUN": "1", "PATH": "/usr/bin:/bin", "PYTHON": "python"}
    words = ["bash", str(FOLDER / "gpu.sh"), str(tmp_path / "out"), str(tmp_path), *parts]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return [shlex.split(line.partition(": ")[2])[1:] for line in done.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_gpu_script_says_what_the_scripts_understand(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    found = commands(tmp_path)
    assert found[0][:4] == ["-m", "pytest", "-m", "gpu"]
    named = [Path(words[0]).stem for words in found[1:]]
    assert set(named) == {"grids", "guided_step", "distillation", "rendering", "scaling"}
    for name, words in zip(named, found[1:], strict=True):
        if name == "distillation" and "fast" not in scripts[name].PRESETS:
            continue
        options = scripts[name].parsed(words[1:])
        assert options.device == "cuda"
        assert options.out.suffix == ".json"
    assert [2**exponent for exponent in scripts["grids"].parsed(found[1][1:]).points][::4] == [2**18, 2**22]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"), [([], "OUT is a folder"), (["o"], "OUT is a folder"), (["o", ".", "speed"], "got speed")]
)
def test_the_gpu_script_refuses_what_it_does_not_know(words: list[str], expected: str, tmp_path: Path) -> None:
    script = ["bash", str(FOLDER / "gpu.sh"), *words]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "false"}
    script = ["bash", str(FOLDER / "gpu.sh"), str(tmp_path / "out"), str(tmp_path), "render", "scaling"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "failed: render scaling" in done.stderr
    assert (tmp_path / "out" / "summary.txt").read_text() == "== render\n== scaling\n"


def test_steps_take_turns_and_are_compared(scripts: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    script, calls = scripts["guided_step"], []

    def step(name: str, value: float) -> torch.Tensor:
        calls.append(name)
        return torch.tensor([value, -2.0])

    steps = {"released": lambda: step("released", 1.0), "ours": lambda: step("ours", 1.001)}
    found = script.take_turns(steps, 3, torch.device("cpu"))
    assert calls == ["released", "ours"] * (script.WARMUPS + 3)
    assert len(found["ours"]["seconds_each"]) == 3
    assert found["largest_difference"] == pytest.approx(0.0005, rel=1e-3)
    options = {"photos": 6, "cameras": 1, "dtype_of_ours": "float32", "turns": 3}
    options |= {"seconds_to_prepare_constants": 1.0, "processor_seconds_to_prepare_constants": 1.0}
    script.print_table(scripts["measuring"].machine() | options | found)
    assert "largest difference over largest value: 5.00e-04" in capsys.readouterr().out


def test_evaluations_of_the_reference_are_the_published_number(scripts: dict[str, ModuleType]) -> None:
    assert scripts["distillation"].reference_evaluations(ReferenceSchedule()) == 94_200
    half = scripts["distillation"].Case("mini", "reference", 0, 3, 30, 64, "cpu", "float32", 1, None)
    shortened = scripts["distillation"].configured(half).schedule
    assert (shortened.iterations, shortened.bootstrap) == (30, 3)


def test_powers_of_growth(scripts: dict[str, ModuleType]) -> None:
    power = scripts["scaling"].power
    assert power((1, 2, 4), [3.0, 6.0, 12.0]) == pytest.approx(1)
    assert power((8, 16), [1.0, 8.0]) == pytest.approx(3)


def test_solidity_of_two_boxes(scripts: dict[str, ModuleType]) -> None:
    box = scripts["meshes"].trimesh.creation.box
    small = box((0.1, 0.1, 0.1))
    small.apply_translation((1, 0, 0))
    both = scripts["meshes"].trimesh.util.concatenate([box((0.3, 0.1, 0.1)), small])
    vertices = torch.tensor(both.vertices, dtype=torch.float32)
    faces = torch.tensor(both.faces)
    found = scripts["meshes"].solidity(MeshAsset(vertices, faces, vertices.clamp(0, 1)))
    assert found == {"closed": True, "pieces": 2, "whole": pytest.approx(0.75)}
    opened = scripts["meshes"].solidity(MeshAsset(vertices, faces[1:], vertices.clamp(0, 1)))
    assert not opened["closed"]


def test_psnr_inside_a_silhouette(scripts: dict[str, ModuleType]) -> None:
    squares = torch.full((1, 3, 2, 2), 1.0)
    squares[..., 0] = 0.01
    inside = torch.zeros(1, 1, 2, 2)
    inside[..., 0] = 1
    assert scripts["meshes"].psnr(squares, inside) == pytest.approx(20, abs=1e-4)


def test_levers_are_compared_in_pairs(scripts: dict[str, ModuleType]) -> None:
    levers = scripts["levers"]
    rows = {
        "as it is": [dict.fromkeys(levers.MEASURES, value) for value in (1.0, 4.0)],
        "no photos": [dict.fromkeys(levers.MEASURES, value) for value in (1.5, 3.5)],
    }
    title, base, changed = levers.table(rows)
    assert title.split() == list(levers.MEASURES)
    assert base.split() == ["as", "it", "is", *["2.500"] * 5]
    assert changed.split() == ["no", "photos", *["+0.000", "±", "0.500"] * 5]
    assert levers.table({name: row[:1] for name, row in rows.items()})[2].split() == ["no", "photos", *["+0.500"] * 5]
    for changes in levers.LEVERS.values():
        levers.replace(levers.FastSchedule(), **changes)  # each is a field, in its range


def test_a_field_without_a_surface_has_no_difference_there(scripts: dict[str, ModuleType]) -> None:
    levers = scripts["levers"]
    whole = dict.fromkeys(levers.MEASURES, 1.0)
    without = {name: 2.0 for name in levers.MEASURES if name != "f_score_2"}
    table = levers.table({"as it is": [whole, without], "one round": [without, whole]})
    assert table[1].split() == ["as", "it", "is", "1.500", "1.500", "1.500", "1.000", "1.500"]
    both = ["+0.000", "±", "1.000"]
    assert table[2].split() == ["one", "round", *both * 3, "-", *both]
    assert levers.table({"as it is": [without], "one round": [whole]})[1].split()[-2:] == ["-", "2.000"]


def test_the_distillation_alone_is_timed(scripts: dict[str, ModuleType]) -> None:
    class Model:
        image_size = 16

        def distill(self, scene: int, *, steps: int) -> int:
            return sum(range(100_000 * steps)) * 0 + scene + steps

    timing = scripts["levers"].TimedDistillation(Model())
    assert (timing.image_size, timing.processor) == (16, 0.0)
    assert timing.distill(3, steps=4) == 7
    assert timing.processor > 0


def test_the_gain_of_photos_is_paired(scripts: dict[str, ModuleType]) -> None:
    row = {"error": [1.0], "accepted": [True], "seconds": 1.0}
    rows = [row | {"without": 10.0, "with": 11.0}, row | {"without": 20.0, "with": 24.0}, row]
    found = scripts["photo_cameras"].summary(rows)
    assert (found["fields"], found["box PSNR without (dB)"], found["box PSNR with (dB)"]) == (2, 15.0, 17.5)
    assert found["gain (dB)"] == "+2.500 ± 1.500"
    assert "fields" not in scripts["photo_cameras"].summary(rows[1:])


def test_bounds_are_counted(scripts: dict[str, ModuleType]) -> None:
    good = {"closed": True, "whole": 1.0, "processor_seconds": 5.0, "peak_megabytes": 700}
    bad = good | {"closed": False, "whole": 0.9, "peak_megabytes": 900}
    rows = [
        {"object": 0, "geometry": good, "textured": {"round": 30.0, "warnings": []}},
        {"object": 1, "geometry": bad, "textured": {"round": 27.0, "warnings": ["a"]}},
    ]
    found = scripts["meshes"].summary(rows)
    assert (found["closed"], found["whole_enough"], found["round_enough"], found["without_warning"]) == (1, 1, 1, 1)
    assert (found["least_whole"], found["least_round"], found["most_megabytes"]) == (0.9, 27.0, 900)


def test_records_and_clocks(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    measuring = scripts["measuring"]
    result, taken = measuring.timed(lambda: sum(range(100_000)))
    assert result == 4_999_950_000
    assert taken.wall > 0
    with measuring.Peak() as peak:
        if peak.before:  # Linux tells; malloc might give what lies free in the process, so these come from the system
            kept = mmap.mmap(-1, 100_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            kept.write(bytes(100_000_000))
    assert not peak.before or peak.most - peak.before > 5e7
    measuring.write_json(tmp_path / "a.json", {"b": 1})
    measuring.write_json(None, {"b": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
