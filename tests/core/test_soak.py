"""Many distillations in one process: memory does not grow, nothing stays open.

pytest -m slow tests/core/test_soak.py                       # 50, about 40 minutes on one idle core
UPFUSION_SOAK=8 pytest -m slow tests/core/test_soak.py       # a short one
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from upfusion_core import DistillConfig, UpFusion, example_views

COUNT = int(os.environ.get("UPFUSION_SOAK", "50"))
WARM = 3  # caches and pools are filled by then


def held() -> dict[str, int]:
    """What this process holds, its allocator asked to give back what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    open_files, threads = (len(os.listdir(f"/proc/self/{part}")) for part in ("fd", "task"))
    return {"bytes": int(status["RssAnon"].split()[0]) * 1024, "files": open_files, "threads": threads}


def main() -> None:
    """In a process of its own: one line of JSON after each distillation, once the field is let go of."""
    model = UpFusion.load("mini", device="cpu")
    for number in range(COUNT):
        scene = model.encode(example_views(0, 3).prepared(model.image_size))
        model.distill(scene, DistillConfig.draft(), generator=torch.Generator().manual_seed(number))
        print(json.dumps(held()), flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_distillations_in_one_process() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, env=environment)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == COUNT > WARM
    first, last = rows[WARM - 1], rows[-1]
    growth = max(row["bytes"] for row in rows[WARM:]) / first["bytes"] - 1
    print(f"{COUNT} distillations: {first['bytes'] / 1e6:.1f} MB after {WARM}, at most {growth:+.2%} later")
    assert growth < 0.02
    assert last["files"] <= first["files"]
    assert last["threads"] <= first["threads"]


if __name__ == "__main__":
    main()
