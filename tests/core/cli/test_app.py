"""The command as a process: fast help without torch, narrow consoles, errors as sentences."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from command_runs import press, refused, upfusion

from upfusion_core.cli import app as app_module
from upfusion_core.cli import files, main
from upfusion_core.cli.console import duration

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
    assert all(command in shown for command in app_module.COMMANDS)


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
