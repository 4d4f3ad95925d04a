"""The command as a process: fast help without torch, narrow consoles, defaults in step with the library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from upfusion_core.cli import app as app_module
from upfusion_core.cli import files, main
from upfusion_core.cli.app import app
from upfusion_core.cli.console import duration
from upfusion_core.config.base import options_of
from upfusion_core.config.options import Reconstruct, Views
from upfusion_core.geometry.cameras import REFERENCE_ELEVATION_DEGREES

RUN = "from upfusion_core.cli import main; main()"


def _process(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(app_module.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **variables}
    encoding = environment["PYTHONIOENCODING"]
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, encoding=encoding)


def _narrow_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _process(RUN, *arguments, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")


def test_help_names_the_commands_without_loading_torch() -> None:
    code = f"import sys\ntry:\n    {RUN}\nfinally:\n    print('torch' in sys.modules)"
    result = _process(code, "--help")
    assert result.stdout.strip().endswith("False")
    for command in ("reconstruct", "views", "predict", "convert", "info"):
        assert command in result.stdout


def test_usage_errors_end_in_two() -> None:
    for arguments in (["nonsense"], ["views", "--nonsense"], ["convert", "a"], ["reconstruct", "a.png"]):
        assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("info", ""), "every argument"),
        (("views", "a.png", "-o", ""), "-o"),
        (("evaluate", "--data=", "-o", "x"), "--data"),
        (("train", "upsrt", "--data", "procedural", "--init", "", "-o", "x"), "--init"),
    ],
)
def test_empty_values_are_not_the_current_folder(arguments: tuple[str, ...], name: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert f"{name} needs a value, got an empty one" in " ".join(result.output.replace("\u2502", " ").split())


def test_an_empty_prompt_is_one(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.png")
    result = CliRunner().invoke(app, ["views", missing, "--prompt", "", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "there is no file" in result.output


def test_narrow_console_does_not_crash(tmp_path: Path) -> None:
    result = _narrow_process("info", str(tmp_path / "\u8336\u7897"))
    assert result.returncode == 2
    assert "??" in result.stderr
    assert "Traceback" not in result.stderr
    result = _narrow_process("reconstruct", "--help")
    assert result.returncode == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_out_of_memory_is_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where work has no pieces that could be halved."""

    def full(*arguments: object, **keywords: object) -> None:
        raise error

    monkeypatch.setattr(files, "run_info", full)
    result = CliRunner().invoke(app, ["info", "mini"])
    assert result.exit_code == 2
    assert "Error: memory must suffice for the work, but does not" in " ".join(result.output.split())


def test_other_errors_of_torch_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **keywords: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(files, "run_info", broken)
    result = CliRunner().invoke(app, ["info", "mini"])
    assert isinstance(result.exception, RuntimeError)


def test_ctrl_c_before_the_command_begins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app_module, "app", pressed)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_default_elevation_is_the_librarys() -> None:
    for command in (Reconstruct, Views):
        assert options_of(command)["photo_elevation"].default == REFERENCE_ELEVATION_DEGREES


def test_duration_by_hand() -> None:
    assert [duration(seconds) for seconds in (3.21, 65, 4000)] == ["3.2 s", "1 min 5 s", "1 h 6 min"]


def test_a_closed_stdout_is_told_in_a_sentence() -> None:
    code = (
        "import sys\nfrom upfusion_core.cli.console import answer\n"
        "from upfusion_core.support.errors import OutputError\n"
        "try:\n    answer('done')\nexcept OutputError as error:\n    sys.stderr.write(str(error))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    path = str(Path(app_module.__file__).parents[2])
    with os.fdopen(writing, "w") as stdout:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, cwd=path
        )
    assert result.returncode == 0
    assert result.stderr.startswith("the answer could not be printed on stdout (")
    assert result.stderr.endswith("look at the files")
