"""SIGKILL at random moments, and Ctrl-C: what is resumed ends as what was never disturbed, to the bit."""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_training import FIELD, tiny_config, write_tiny_mini

from upfusion_core import DistillConfig, UpFusion, example_views
from upfusion_core.cli import datasets, main, reconstruct, spread
from upfusion_core.config import DraftSchedule, FastSchedule, FitConfig
from upfusion_core.evaluation import report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, and kills by signal")]

# times are in the first, and in those of `batch`; the second is drawn for people; the third is not finished
CHANGING = {"run.json", "curves.png", "field.checkpoint", "index.csv", "index.html"}
KILLS = int(os.environ.get("UPFUSION_KILLS", "20"))


def short(config: DistillConfig) -> DistillConfig:
    """The same preset with few and small pictures, a state saved every third step."""
    fit, few = replace(FitConfig(iterations=8), rays=128), {"predicted_size": 16, "steps": 3}
    longer = replace(fit, iterations=16, crisp_weight=0.1)
    schedules = {
        "draft": DraftSchedule(6, predicted_fit=fit, sampled_cameras=4, sampled_fit=fit, **few),
        "fast": FastSchedule(4, predicted_iterations=4, levels=(1.0, 0.5), fit=longer, **few),
    }
    return replace(config, schedule=schedules[config.preset], field=FIELD, batch_size=2, checkpoint_every=3)


@pytest.fixture(autouse=True)
def _shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the short schedule where the commands take theirs from."""
    quick = {"mesh_resolution": 24, "mesh_samples": 200}
    asked, chosen, named = datasets.evaluation_config, reconstruct.distill_config, DistillConfig.named
    monkeypatch.setattr(datasets, "evaluation_config", lambda command: replace(asked(command), **quick))
    monkeypatch.setattr(reconstruct, "distill_config", lambda *arguments: short(chosen(*arguments)))
    monkeypatch.setattr(DistillConfig, "named", lambda *names, **changes: short(named(*names, **changes)))
    monkeypatch.setattr(datasets, "PROCEDURAL_POOL", 8)
    monkeypatch.setattr(spread, "START", "fork")
    monkeypatch.setattr(report, "plot_results", lambda results, folder: {})


def distill(weights: str, preset: str, folder: str) -> None:
    """`UpFusion.distill` as a program calls it: the state beside the field, which is saved in the end."""
    model = UpFusion.load(weights, device="cpu")
    scene = model.encode(example_views(0, 2).prepared(model.image_size))
    config, generator = DistillConfig.named(preset), torch.Generator().manual_seed(5)
    field = model.distill(scene, config, generator, checkpoint=Path(folder) / "field.checkpoint")
    field.save(Path(folder) / "field.safetensors")


def work(log: Path, arguments: list[str]) -> None:
    """In a fork, in which everything is imported: runs a command; what it says goes to `log`."""
    output = log.open("w", buffering=1)
    os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)  # others do not live on in a fork
    sys.stdout = sys.stderr = output
    sys.argv = ["upfusion", *arguments]
    distill(*arguments[1:]) if arguments[0] == "distill" else main()


def started(log: Path, arguments: list[str]) -> ForkProcess:
    process = get_context("fork").Process(target=work, args=(log, arguments))
    process.start()
    return process


def ended(process: ForkProcess, signalled: signal.Signals | None = None, seconds: float = 3600) -> int | None:
    """Its exit status, negative for a signal; None if it goes on for longer than that."""
    if signalled is not None:
        os.kill(process.pid, signalled)
    process.join(seconds)
    return process.exitcode


def complete(log: Path, arguments: list[str]) -> float:
    """Seconds of a run that nothing disturbs."""
    start = time.monotonic()
    assert ended(started(log, arguments)) == 0, log.read_text()
    return time.monotonic() - start


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each command is told, but for its folder."""
    folder = tmp_path_factory.mktemp("inputs")
    weights = str(write_tiny_mini(folder / "tiny.safetensors"))
    config = folder / "tiny.json"
    config.write_text(json.dumps(tiny_config("encoder", steps=12, save_every=2, validate_every=4).to_dict()))
    photo = folder / "photo.png"
    framed = Image.new("RGB", (64, 64), "white")
    framed.paste((200, 80, 40), (16, 16, 48, 48))
    framed.save(photo)
    for number in range(4):
        (folder / "jobs" / str(number)).mkdir(parents=True)
        framed.rotate(20 * number, fillcolor="white").save(folder / "jobs" / str(number) / "photo.png")
    small = "--resolution 24 --turntable-size 16 --threshold 10 --checkpoint-every 3 --steps 2 --device cpu"
    told = {
        "train": f"train encoder --config {config} --data procedural --device cpu",
        "reconstruct": f"reconstruct {photo} -m {weights} {small} --views 3 --texture-size 64 "
        "--format glb --format obj --batch-size 2 --preview-every 5",
        "batch": f"batch {folder / 'jobs'} -m {weights} {small} --views 1 --texture-size 0 "
        "--workers 2 --preview-every 0",
        "evaluate": f"evaluate -m {weights} --data procedural --photos 1 --objects 2 --held-out 0 --views 1 "
        "--stages nearest,predict,sample,field --steps 2 --alignment picture --device cpu",
        "distill": f"distill {weights} fast",
        "distill, draft": f"distill {weights} draft",
        "views": f"views {photo} -m {weights} --count 40 --steps 20 --video none --batch-size 1 --device cpu",
    }
    return {name: words.split() for name, words in told.items()}


def in_folder(told: list[str], folder: Path) -> list[str]:
    """The arguments of the first attempt, or of a further one."""
    if told[0] == "distill":
        folder.mkdir(exist_ok=True)
        return [*told, str(folder)]
    again = ["--resume"] if (folder / "run.json").exists() else []
    return [*told, "-o", str(folder), *again]


def content(folder: Path) -> dict[str, bytes]:
    """All that a run has made, as bytes; but for what a program that keeps no record leaves of a file half written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    if not (folder / "run.json").exists():
        paths = [path for path in paths if ".partial" not in path.name]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name not in CHANGING}


def finished(folder: Path) -> dict[Path, int]:
    """When the files of the objects of a batch were written that are finished."""
    records = [path for path in folder.glob("*/run.json") if json.loads(path.read_text())["status"] == "finished"]
    return {path: path.stat().st_mtime_ns for record in records for path in record.parent.rglob("*.*")}


@pytest.mark.parametrize("command", ["distill", "distill, draft", "train", "reconstruct", "batch", "evaluate"])
def test_killed_at_random_moments(command: str, commands: dict[str, list[str]], tmp_path: Path) -> None:
    told, draws, log = commands[command], random.Random(command), tmp_path / "log.txt"
    seconds = complete(log, in_folder(told, tmp_path / "whole"))
    whole = content(tmp_path / "whole")
    assert len(whole) >= {"distill": 1, "train": 3, "reconstruct": 9, "batch": 32, "evaluate": 4}[told[0]]
    kills = runs = 0
    while kills < KILLS:
        folder, status, kept = tmp_path / f"killed_{runs}", None, dict[Path, int]()
        while status is None:
            fresh, begun = not folder.exists(), time.monotonic()
            worker = started(log, in_folder(told, folder))
            status = ended(worker, seconds=draws.uniform(0, seconds) if kills < KILLS else 3600)
            if fresh and status == 0:
                seconds = time.monotonic() - begun  # machines are not always as busy
            assert kept.items() <= finished(folder).items()
            if status is None:
                kills += ended(worker, signal.SIGKILL) == -signal.SIGKILL
                time.sleep(0.1)  # workers end with the first process
                kept = finished(folder)
        assert status == 0, log.read_text()[-3000:]
        found = content(folder)
        assert found.keys() == whole.keys()
        assert not [name for name, value in found.items() if value != whole[name]], f"run {runs} after {kills} kills"
        runs += 1
    print(f"{command}: {kills} kills over {runs} runs, {seconds:.1f} s undisturbed")


@pytest.mark.parametrize("command", ["train", "reconstruct", "evaluate", "views"])
def test_ctrl_c_ends_at_once(command: str, commands: dict[str, list[str]], tmp_path: Path) -> None:
    """Within a second, with a message, and so that the run can go on and ends as it would have."""
    told, folder, log = commands[command], tmp_path / "pressed", tmp_path / "log.txt"
    seconds = complete(log, in_folder(told, tmp_path / "whole"))
    waited = []
    for share in (0.3, 0.6, 0.8):
        worker = started(log, in_folder(told, folder))
        status = ended(worker, seconds=share * seconds)
        if status is None:
            pressed = time.monotonic()
            status = ended(worker, signal.SIGINT)
            waited.append(time.monotonic() - pressed)
        if status == 0:
            break
        assert status == 130, log.read_text()[-3000:]
        assert "interrupted" in log.read_text()
    complete(log, in_folder(told, folder))  # or "finished already"
    whole, found = content(tmp_path / "whole"), content(folder)
    assert [name for name in whole if found[name] != whole[name]] == []
    assert max(waited) < 1.0
    print(f"{command}: Ctrl-C ended it within {max(waited):.2f} s")


def test_ctrl_c_while_a_mesh_is_made(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source, log = tmp_path / "field.safetensors", tmp_path_factory.mktemp("log") / "log.txt"
    model = UpFusion.load("mini", device="cpu")
    scene = model.encode(example_views(0, 1).prepared(model.image_size))
    model.distill(scene, DistillConfig.named("draft")).save(source)
    told = ["mesh", str(source), "-o", str(tmp_path / "mesh.glb"), "--device", "cpu", "--resolution", "512"]
    worker = started(log, told)
    assert ended(worker, seconds=2.0) is None
    pressed = time.monotonic()
    assert ended(worker, signal.SIGINT) == 130
    assert time.monotonic() - pressed < 1.0
    assert "interrupted" in log.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["field.safetensors"]
