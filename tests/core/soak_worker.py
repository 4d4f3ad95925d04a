"""A process of its own: many distillations of the small model that comes with the package, one line of JSON each.

    python tests/core/soak_worker.py 50

Each line tells what the process holds once the field is let go of: bytes of memory of its own, open files, threads.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from upfusion_core import DistillConfig, UpFusion
from upfusion_core.pipeline.photos import example_views


def held() -> dict[str, int]:
    """What the process holds, its allocator asked to give back what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "bytes": int(status["RssAnon"].split()[0]) * 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def main() -> None:
    model = UpFusion.load("mini", device="cpu")
    for number in range(int(sys.argv[1])):
        start = time.monotonic()
        scene = model.encode(example_views(0, 3).prepared(model.image_size))
        model.distill(scene, DistillConfig.draft(), generator=torch.Generator().manual_seed(number))
        print(json.dumps({**held(), "seconds": round(time.monotonic() - start, 1)}), flush=True)


if __name__ == "__main__":
    main()
