"""What several benchmarks measure with: both clocks, anonymous memory, and cases in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from upfusion_core.procedural import ProceduralObjects
from upfusion_core.types import InputViews

Result = TypeVar("Result")


def procedural_photos(index: int, count: int, size: int = 128) -> InputViews:
    """`count` photos of object `index` of the test split, which nothing is trained on."""
    batch = ProceduralObjects("test", size=size).batch([index], views=count)
    return InputViews(batch.rgb[0], batch.mask[0], batch.focal[0])


@dataclass(frozen=True)
class Times:
    """Seconds of the wall clock, and of the processor, which other programs disturb less."""

    wall: float
    processor: float


def timed(work: Callable[[], Result], device: torch.device | str = "cpu") -> tuple[Result, Times]:
    """What `work` gives, and how long it took, kernels on a GPU included."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    if on_gpu:
        torch.cuda.synchronize(device)
    return result, Times(time.perf_counter() - wall, time.process_time() - processor)


def median_times(work: Callable[[], object], repeats: int, device: torch.device | str = "cpu") -> Times:
    """Medians of repeated calls, the first of which does not count."""
    work()
    taken = [timed(work, device)[1] for _ in range(repeats)]
    return Times(median(each.wall for each in taken), median(each.processor for each in taken))


def anonymous_bytes() -> int:
    """RssAnon of this process, without what is mapped from files; 0 where the system does not tell it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most anonymous memory while it is entered, looked at from a thread every few milliseconds."""

    def __enter__(self) -> Peak:
        self.before = self.most = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.most = max(self.most, anonymous_bytes())


def alone(work: Callable[[Any, Any], None], case: object) -> Any:  # noqa: ANN401 - what `work` sends
    """work(case, pipe) in a fresh process, so that its peak is its own; gives what it sends through the pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(case, there))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a record says of where it was measured."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "driver": driver() if on_gpu else None,
    }


def driver() -> str | None:
    """The version of NVIDIA's driver, if its tool is there to tell it."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    told = subprocess.run([tool, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    return told.stdout.split("\n")[0] or None


def write_json(path: Path | None, record: dict[str, Any]) -> None:
    """Writes the record, if a path was given."""
    if path is not None:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
