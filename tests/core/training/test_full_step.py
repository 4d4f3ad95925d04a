"""Training at the released sizes on a CPU: `pytest -m full` (see test_full_size.py)."""

import json
import subprocess
import sys
from pathlib import Path

import full_step_worker
import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures memory through Linux's /proc"),
]


def test_one_whole_step_in_twenty_gigabytes(full_weights: Path) -> None:
    """AdamW, float32, batch 1, no averaging, gradient checkpointing, from an SD 1.5-layout checkpoint."""
    command = [sys.executable, full_step_worker.__file__, str(full_weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert report["steps"] == 1
    assert report["zero_conv_moved"] == pytest.approx(1e-5, rel=1e-2)  # Adam's first step is the rate
    assert report["unet_moved"] == pytest.approx(1e-5, rel=1e-2)
    assert 0.8e9 < report["trained"] < 1.0e9
    assert max(report[stage]["anonymous_bytes"] for stage in ("starting", "step")) <= 20e9
