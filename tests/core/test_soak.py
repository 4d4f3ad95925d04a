"""Many distillations in one process: memory does not grow, nothing stays open.

pytest -m slow tests/core/test_soak.py                       # 50, about 40 minutes on one idle core
UPFUSION_SOAK=8 pytest -m slow tests/core/test_soak.py       # a short one
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = int(os.environ.get("UPFUSION_SOAK", "50"))
WARM = 3  # caches and pools are filled by then


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_distillations_in_one_process() -> None:
    command = [sys.executable, str(Path(__file__).with_name("soak_worker.py")), str(COUNT)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    held = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(held) == COUNT > WARM
    first, last = held[WARM - 1], held[-1]
    growth = max(row["bytes"] for row in held[WARM:]) / first["bytes"] - 1
    print(f"{COUNT} distillations: {first['bytes'] / 1e6:.1f} MB after {WARM}, at most {growth:+.2%} later")
    assert growth < 0.02
    assert last["files"] <= first["files"]
    assert last["threads"] <= first["threads"]
