"""`upfusion batch`: lists, what goes wrong in them, the overview, and what is done again."""

import csv
import json
import os
import re
import signal
import tarfile
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from command_runs import change_run, done, read_run, refused, small_distillation, upfusion
from PIL import Image
from refusals import refused as wrong

from upfusion_core import MeshAsset
from upfusion_core.cli import reconstruct, spread
from upfusion_core.cli.batch import Job, JobList
from upfusion_core.cli.reconstruct import distill_config
from upfusion_core.config.options import Folder, Photos, Reconstruct, Spread

SMALL = ("--device", "cpu", "--views", 0, "--turntable-size", 16, "--texture-size", 0, "--batch-size", 2)
TRIANGLE = MeshAsset(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.eye(3))


@pytest.fixture(scope="module", autouse=True)
def _small(forked: None) -> Iterator[None]:
    """What comes after a small distillation is a stand-in."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reconstruct, "distill_config", small_distillation(distill_config))
        patched.setattr(reconstruct, "rendered", lambda *_: torch.zeros(2, 3, 16, 16))
        patched.setattr(reconstruct, "extracted", lambda *_: TRIANGLE)
        yield


def photo(path: Path, shade: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste((200, shade, 40), (8, 8, 24, 24))
    picture.save(path)


def folders(root: Path, count: int) -> Path:
    for number in range(count):
        photo(root / f"object {number}" / "front.png", number)
    return root


def index(out: Path) -> dict[str, dict[str, str]]:
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def listed(folder: Path, text: str, suffix: str = ".csv") -> list[Job]:
    path = folder / f"list{suffix}"
    path.write_text(text, encoding="utf-8-sig")
    return JobList(path, Reconstruct(Photos(any_background=True), Folder(Path()), views=3), folder).jobs


def test_a_list_by_hand(tmp_path: Path) -> None:
    """Columns hold for their object, empty cells leave the command's options, paths are relative to the list."""
    rows = 'name,photos,masks,format,photo-elevation,photo_texture\n"a, b",1.png; 2.png,m.png;n.png,,30,TRUE\n'
    rows += "\nc,d,,obj;glb,,\n"
    first, second = listed(tmp_path, rows)
    assert (first.name, second.name) == ("a, b", "c")
    photos, masks = (tmp_path / "1.png", tmp_path / "2.png"), (tmp_path / "m.png", tmp_path / "n.png")
    assert first.command.photos == Photos(photos, masks, any_background=True)
    assert (first.command.photo_elevation, first.command.photo_texture, first.command.formats) == (30.0, True, ("glb",))
    assert (second.command.photo_elevation, second.command.formats, second.command.views) == (None, ("obj", "glb"), 3)
    row = {"name": "c", "photos": ["d"], "formats": ["obj", "glb"]}
    assert listed(tmp_path, json.dumps(row), ".jsonl") == [second]
    assert listed(tmp_path, 'Name;Photos;Format\nc;d;"obj;glb"\n;;\n') == [second]


def test_a_wrong_list_is_refused_with_line_and_column(tmp_path: Path) -> None:
    for text, sentence in (
        ("name,photos,elevation\na,1.png,100", "list.csv, line 2, column elevation must be between -89.0 and 89.0"),
        ("name,photos,shine\na,1.png,2", "line 1, column shine must be name or an option of reconstruct"),
        ("name,photos,elevation,photo-elevation\na,1.png,1,2", "line 1: columns must differ"),
        ("name,photos\na,1.png,2.png", 'line 2 must have 2 columns, got 3; put cells with "," in quotes'),
        ('name,photos,prompt\na,1,"on\ntwo"\nb,,"\n"', "line 4, column photos must be given"),
        ("name,photos\na,1.png;", "line 2, column photos must be given once, no part empty"),
        ("name,photos\nIndex.csv,1", "line 2, column name must be another than in the batch's own files"),
        ("name,photos\ncaf\u00e9,1\nCafe\u0301,2", "line 3, column name must be another than in"),
        ("name,photos,masks\na,1;2,3", "and column masks none or one for each, got 2 and 1"),
        ("name,photos,scheduler\na,1.png,ddimm", "line 2: scheduler must be one of ddim, "),
        ('\n{"name": "a", "photos": "1"\n', "line 2 must be JSON, but is not (Expecting ',' delimiter: column 28"),
    ):
        wrong(re.escape(sentence), listed, tmp_path, text, ".jsonl" if "{" in text else ".csv")


def test_nothing_is_written_for_a_wrong_list(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("name,photos\nä,1.png\n".encode("cp1252"))
    assert "line 2 must be CSV" in refused("batch", tmp_path / "list.csv", "-o", tmp_path / "out")
    (tmp_path / "list.csv").write_text("name,photos\na/b,1.png\n")
    assert "line 2, column name must be one that" in refused("batch", tmp_path / "list.csv", "-o", tmp_path / "out")
    assert "No such file" in refused("batch", tmp_path / "none.csv", "-o", tmp_path / "out")
    assert "must hold objects" in refused("batch", tmp_path, "-o", tmp_path / "out")
    assert "what to reconstruct is needed" in refused("batch", "-o", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]


def test_what_is_finished_stays_and_the_rest_is_done_again(tiny: Path, tmp_path: Path) -> None:
    """A folder without photos gets one, one object is gone, one is half done, one more is asked for."""
    jobs, out = folders(tmp_path / "jobs", 2), tmp_path / "out"
    (jobs / "empty").mkdir()
    for name in "ab":
        photo(jobs / "masked" / f"{name}.png")
    Image.new("L", (32, 32), 0).save(jobs / "masked" / "a_mask.png")
    result = upfusion("batch", jobs, "-o", out, "-m", tiny, "--workers", 2, *SMALL)
    assert result.exit_code == 3, result.output
    assert result.stderr.splitlines()[-1].startswith("2 of 4 objects failed; ")
    rows = index(out)
    assert {name for name, row in rows.items() if row["status"] != "finished"} == {"empty", "masked"}
    assert "must hold pictures" in rows["empty"]["reason"]
    assert "got 2 and 1" in rows["masked"]["reason"]
    first, record = rows["object 0"], read_run(out / "object 0")
    assert (first["photos"], first["cameras"], first["faces"], first["reason"]) == ("1", "1", "1", "")
    assert record["inputs"]["photos"] == [sha256((jobs / "object 0/front.png").read_bytes()).hexdigest()]
    assert float(first["seconds"]) == pytest.approx(sum(record["timings_seconds"].values()), abs=0.05)
    assert read_run(out)["status"] == "failed"

    photo(jobs / "empty" / "1.png")
    (jobs / "masked" / "b.png").unlink()
    Image.new("L", (32, 32), 0).save(jobs / "masked" / "a_mask.png")
    change_run(out / "object 1", status="interrupted", stages=["photos"], files=["inputs/001.png", "photos.png"])
    photo(jobs / "more" / "1.png")
    kept = times(out / "object 0")
    result = upfusion("batch", "--resume", "-o", out)
    assert result.exit_code == 3, result.output
    rows = index(out)
    assert {name for name, row in rows.items() if row["status"] != "finished"} == {"masked"}
    assert times(out / "object 0") == kept

    photo(jobs / "masked" / "a_mask.png")
    assert "5 objects finished, 0 failed" in done("batch", "--resume", "-o", out)
    assert "finished already" in done("batch", "--resume", "-o", out)
    assert times(out / "object 0") == kept
    assert "finished already" in done("reconstruct", "--resume", "-o", out / "object 0")


@pytest.mark.parametrize(("address", "archive"), [("", True), ("file://", False), ("file://", True)])
def test_archives_and_addresses(address: str, archive: bool, tiny: Path, tmp_path: Path) -> None:
    """An object is copied when it is whole, its record last, or as one sample of WebDataset; --resume finds it."""
    jobs, out = folders(tmp_path / "jobs", 2), tmp_path / "out"
    done("batch", jobs, "-o", f"{address}{out}", "-m", tiny, *["--archive"] * archive, *SMALL)
    assert ({row["faces"] for row in index(out).values()}, read_run(out)["status"]) == ({"1"}, "finished")
    first, second = (out / (f"object {n}.tar" if archive else f"object {n}/run.json") for n in range(2))
    if archive:
        assert {path.name for path in out.iterdir()} == {"index.csv", "index.html", first.name, second.name, "run.json"}
        with tarfile.open(first) as tar:
            assert tar.getnames()[0] == "object 0.run.json"
            assert {"object 0.mesh.glb", "object 0.inputs.001.png", "object 0.field.safetensors"} < set(tar.getnames())
    else:
        assert max(first.parent.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns) == first
    kept = first.stat().st_mtime_ns
    second.unlink()
    assert "2 objects finished" in done("batch", "--resume", "-o", f"{address}{out}")
    assert (first.stat().st_mtime_ns, second.is_file()) == (kept, True)


def ending(task: int) -> int:
    """Task 1 kills its process always, task 2 at the first attempt."""
    mark = Path(os.environ["SPREAD_MARK"])
    if task == 1 or (task == 2 and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * task


def test_lost_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPREAD_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(spread, "ATTEMPTS", 2)
    found = dict(spread.spread(partial(partial, ending), [0, 1, 2, 3], Spread(workers=2)))
    assert "lost 2 times" in str(found.pop(1))
    assert found == {0: 0, 2: 20, 3: 30}
