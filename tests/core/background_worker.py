"""benchmarks/train_mini.py on networks that train in seconds, killed and begun again; what it starts from is gone then.

python tests/core/background_worker.py OUT KILLS UNTIL    # so many kills, then until the file OUT/UNTIL is there
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]
sys.modules |= {"matplotlib": None, "tensorboard": None}  # pictures are not looked at

mini_cpu, train_mini = map(importlib.import_module, ("mini_cpu", "train_mini"))
tiny_training = importlib.import_module("tiny_training")

SIZE, CHUNK = 16, 8


def prepare(out: Path) -> None:
    """A full cache, of noise."""
    (out / "code").mkdir(parents=True)
    tiny_training.write_tiny_mini(out / "init" / "model.safetensors")
    shutil.copy(out / "init" / "model.safetensors", out / "bundled.safetensors")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(CHUNK, mini_cpu.VIEWS, 4, SIZE, SIZE, generator=generator)
    angles = {name: torch.rand(CHUNK, mini_cpu.VIEWS, generator=generator) for name in ("azimuth", "elevation")}
    photos = torch.full((CHUNK,), mini_cpu.PHOTOS)
    mini_cpu.save_tensors({"rgba": (255 * pictures).byte(), **angles, "photos": photos}, out / "cache" / "0000.pt")


def run(out: Path) -> None:
    """The script's main, made small."""
    mini_cpu.CHUNK = train_mini.CHUNK = CHUNK
    train_mini.SIZE, train_mini.BUNDLED, train_mini.MINUTE = SIZE, out / "bundled.safetensors", 0.1
    train_mini.SAVE_MINUTES = 0.1 / 60
    train_mini.PROTOCOL = replace(train_mini.PROTOCOL, photos=(1,), views=1, steps=1)
    train_mini.stage_config = lambda stage, steps, constant: tiny_training.tiny_config(stage)
    train_mini.validation_batches = lambda config: {}
    os.nice = lambda priority: priority
    os.environ |= {"OBJECTS": f"{CHUNK} {CHUNK}", "HOURS": "0.0002 0.0002", "TESTED": "1", "SCANS": ""}
    os.environ["INIT"] = str(out / "init" / "model.safetensors")
    sys.argv[1:] = [str(out)]
    train_mini.main()


def main() -> None:
    out, kills = Path(sys.argv[1]), int(sys.argv[2])
    prepare(out)
    end, state, moments = out / sys.argv[3], out / "00-encoder" / "training.pt", random.Random(0)
    for kill in range(kills + 1):
        child = os.fork()
        if not child:
            try:
                run(out)
            finally:
                os._exit(1)
        moment = time.monotonic() + moments.uniform(0.1, 1.5)
        while not end.exists() if kill == kills else not state.exists() or (kill and time.monotonic() < moment):
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                raise SystemExit(f"it ended by itself: {(out / 'log').read_text()}")
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not kill:
            shutil.rmtree(out / "init")


if __name__ == "__main__":
    main()
