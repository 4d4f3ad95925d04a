"""From the fields of config/options.py to the command line, and from a record back to them."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from command_runs import read_run
from refusals import refused
from typer.testing import CliRunner

from upfusion_core.cli.app import COMMANDS, app
from upfusion_core.cli.run import open_run, recorded, settled
from upfusion_core.config.base import built, flat, options_of
from upfusion_core.config.options import Folder, Networks, Orbit, Photos, Views


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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("views --count 1.5", '--count must be a whole number, got "1.5"; correct it'),
        ("views --dtype int8", '--dtype must be one of auto, float32, float16, bfloat16, got "int8"; correct it'),
        ("reconstruct --faces 3", "--faces must be at least 16, got 3; correct it"),
        ("reconstruct --texture-size 30", "--texture-size must be 0 or between 64 and 8192, got 30; change it"),
        ("train --curriculum 5", "--curriculum must be a list of 2, each a whole number, got [5]; correct it"),
    ],
)
def test_a_wrong_value_is_one_sentence(words: str, sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*words.split(), "-o", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr) == (2, f"Error: {sentence}\n")
    assert not (tmp_path / "out").exists()


def test_what_a_continued_run_takes_from_its_record(tmp_path: Path) -> None:
    """Options left out are those of the record; one that it lacks has its default, one that is not known is refused."""
    begun = Views(Photos((Path("a.png"),)), Folder(tmp_path), orbit=Orbit(count=3), networks=Networks(model="w"))
    assert built(Views, flat(begun)) == begun
    sources = {"photos": [str(Path("a.png").absolute())], "masks": [], "cameras": None, "photo_cameras": None}
    assert recorded(begun, "sources") == sources
    with open_run(tmp_path, "views") as run:
        run.plan(recorded(begun, "settings"), recorded(begun, "sources"), {})
        run.begin()
    content = read_run(tmp_path)
    del content["settings"]["video"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    told = Views(Photos(), Folder(tmp_path), networks=Networks(device="cpu"))
    with open_run(tmp_path, "views", resume=True) as run:
        found = settled(told, frozenset({"device"}), run)
        networks = Networks(model="w", device="cpu")
        assert found == dataclasses.replace(begun, photos=Photos((Path("a.png").absolute(),)), networks=networks)
        run.plan(recorded(found, "settings"), recorded(found, "sources"), {})
        for name, orbit in {"count": Orbit(count=8), "video": Orbit(video="none")}.items():
            other = settled(dataclasses.replace(told, orbit=orbit), frozenset({name}), run)
            refused(f"was begun with {name} = ", run.plan, recorded(other, "settings"), {}, {})
        run.begin()
    content["settings"]["sparkle"] = 1
    (tmp_path / "run.json").write_text(json.dumps(content))

    def unknown() -> None:
        with open_run(tmp_path, "views", resume=True) as run:
            settled(told, frozenset(), run)

    refused("has the option sparkle, which this release does not know", unknown)
