"""SIGKILL at random moments, and Ctrl-C: what is resumed ends as what was never disturbed, to the bit.

pytest -m slow tests/core/test_killed.py          # 20 kills of each command
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tiny_training import tiny_config, write_tiny_mini

from upfusion_core import DistillConfig, UpFusion, example_views
from upfusion_core.config import DraftSchedule, FitConfig

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, and kills by signal")]

# times are in the first; the second is drawn for people; the third is not finished
CHANGING = {"run.json", "curves.png", "field.checkpoint"}
KILLS = int(os.environ.get("UPFUSION_KILLS", "20"))


class Worker:
    """The forking worker (see forking_worker), one child at a time."""

    def __init__(self, folder: Path, steps: int = 8) -> None:
        self.log = folder / "log.txt"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "UPFUSION_TEST_STEPS": str(steps)}
        script = str(Path(__file__).with_name("forking_worker.py"))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, script], env=environment, **pipes)

    def begin(self, arguments: list[str]) -> int:
        """The process number of a new child."""
        self.process.stdin.write(json.dumps({"arguments": arguments, "log": str(self.log)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self, seconds: float | None = None) -> int | None:
        """Its exit status; None if it goes on for longer than that."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        return int(self.process.stdout.readline())

    def complete(self, arguments: list[str]) -> float:
        """Seconds of a run that nothing disturbs."""
        start = time.monotonic()
        self.begin(arguments)
        assert self.ended() == 0, self.log.read_text()
        return time.monotonic() - start

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("worker"))
    yield worker
    worker.close()


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
    told = {
        "train": f"train encoder --config {config} --data procedural --device cpu",
        "reconstruct": f"reconstruct {photo} -m {weights} --views 3 --steps 2 --resolution 24 --turntable-size 16 "
        "--texture-size 64 --threshold 10 --format glb --format obj --batch-size 2 --preview-every 5 "
        "--checkpoint-every 3 --device cpu",
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


@pytest.mark.parametrize("command", ["distill", "distill, draft", "train", "reconstruct", "evaluate"])
def test_killed_at_random_moments(command: str, worker: Worker, commands: dict[str, list[str]], tmp_path: Path) -> None:
    told, draws = commands[command], random.Random(command)
    seconds = worker.complete(in_folder(told, tmp_path / "whole"))
    whole = content(tmp_path / "whole")
    assert len(whole) >= {"distill": 1, "train": 3, "reconstruct": 9, "evaluate": 4}[told[0]]
    kills = runs = attempts = 0
    while kills < KILLS:
        folder, status = tmp_path / f"killed_{runs}", None
        while status is None:
            attempts += 1
            fresh, begun = not folder.exists(), time.monotonic()
            child = worker.begin(in_folder(told, folder))
            patience = draws.uniform(0, seconds) if kills < KILLS else None
            status = worker.ended(patience)
            if fresh and status == 0:
                seconds = time.monotonic() - begun  # machines are not always as busy
            if status is None:
                os.kill(child, signal.SIGKILL)
                kills += worker.ended() == -signal.SIGKILL
            else:
                assert status == 0, worker.log.read_text()[-3000:]
        found = content(folder)
        assert found.keys() == whole.keys()
        different = [name for name, value in found.items() if value != whole[name]]
        assert not different, f"run {runs} after {kills} kills"
        runs += 1
    print(f"{command}: {kills} kills over {runs} runs, {attempts} attempts, {seconds:.1f} s undisturbed")


@pytest.mark.parametrize("command", ["train", "reconstruct", "evaluate", "views"])
def test_ctrl_c_ends_at_once(command: str, worker: Worker, commands: dict[str, list[str]], tmp_path: Path) -> None:
    """Within a second, with a message, and so that the run can go on and ends as it would have."""
    told = commands[command]
    seconds = worker.complete(in_folder(told, tmp_path / "whole"))
    whole, folder = content(tmp_path / "whole"), tmp_path / "pressed"
    waited = []
    for share in (0.3, 0.6, 0.8):
        worker.log.write_text("")
        child = worker.begin(in_folder(told, folder))
        status = worker.ended(share * seconds)
        if status is None:
            pressed = time.monotonic()
            os.kill(child, signal.SIGINT)
            status = worker.ended()
            waited.append(time.monotonic() - pressed)
        if status == 0:
            break
        assert status == 130, worker.log.read_text()[-3000:]
        assert "interrupted" in worker.log.read_text()
    if not (folder / "run.json").exists() or json.loads((folder / "run.json").read_text())["status"] != "finished":
        worker.complete(in_folder(told, folder))
    found = content(folder)
    assert [name for name in whole if found[name] != whole[name]] == []
    assert max(waited) < 1.0
    print(f"{command}: Ctrl-C ended it within {max(waited):.2f} s")


def test_ctrl_c_while_a_mesh_is_made(worker: Worker, tmp_path: Path) -> None:
    source = tmp_path / "field.safetensors"
    model = UpFusion.load("mini", device="cpu")
    fit = FitConfig(iterations=40)
    config = DistillConfig.draft(schedule=DraftSchedule(predicted_fit=fit, sampled_fit=fit, sampled_cameras=1, steps=1))
    model.distill(model.encode(example_views(0, 1).prepared(model.image_size)), config).save(source)
    told = ["mesh", str(source), "-o", str(tmp_path / "mesh.glb"), "--device", "cpu", "--resolution", "512"]
    worker.log.write_text("")
    child = worker.begin(told)
    assert worker.ended(2.0) is None
    pressed = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert worker.ended() == 130
    assert time.monotonic() - pressed < 1.0
    assert "interrupted" in worker.log.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["field.safetensors"]
