"""Jobs of test_full_size.py, each in a process of its own so that its memory can be measured.

    python tests/core/full_size_worker.py step WEIGHTS OUT.safetensors
    python tests/core/full_size_worker.py views WEIGHTS OUT.safetensors
    python tests/core/full_size_worker.py convert SOURCE DESTINATION DTYPE

The last line printed is JSON: the most memory in bytes at each stage, and seconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import rule_weights
import torch
from safetensors.torch import save_file

from upfusion_core import UpFusion, orbit_cameras
from upfusion_core.models.convert import convert
from upfusion_core.types import InputViews

TIMESTEP, GUIDANCE, AZIMUTH, SEED = 481, 9.0, 30.0, 0


class MemoryPeak:
    """The most memory that this process has inside the `with` block, in bytes, looked up every 5 ms; Linux only.

    anonymous: its own pages. resident: those and the pages of mapped weight files, which the system takes back whenever
    memory runs short.
    """

    def __enter__(self) -> MemoryPeak:
        self.anonymous = self.resident = 0
        self._done, self._started = threading.Event(), time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._started
        self._done.set()
        self._thread.join()

    def report(self) -> dict[str, float]:
        return {"anonymous_bytes": self.anonymous, "resident_bytes": self.resident, "seconds": self._seconds}

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.anonymous = max(self.anonymous, 1024 * int(fields["RssAnon"].split()[0]))
            self.resident = max(self.resident, 1024 * int(fields["VmRSS"].split()[0]))


def six_photos() -> InputViews:
    photos = rule_weights.rule_photos()
    return InputViews(photos, torch.ones_like(photos[:, :1]), torch.full((6, 2), 4.5))


def step(weights: str, out: str) -> dict[str, dict[str, float]]:
    """One guided step, everything from loading on, and then the parts that a comparison wants to see alone."""
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(SEED))
    with MemoryPeak() as loading:
        model = UpFusion.load(weights)
        scene = model.encode(six_photos())
        condition = model.condition(scene, orbit_cameras(AZIMUTH))
    with MemoryPeak() as stepping:
        guided = model.predict_noise(latents, TIMESTEP, condition, guidance=GUIDANCE)
    as_released = model.condition(scene, orbit_cameras(AZIMUTH), zero_attention_rays=True)
    tensors = {
        "tokens": scene.tokens,
        "hint": condition.hint,
        "text": condition.text,
        "unconditional_text": condition.unconditional_text,
        "eps_guided": guided,
        "eps": model.predict_noise(latents, TIMESTEP, condition, guidance=1.0),
        "eps_unconditional": model.predict_noise(latents, TIMESTEP, condition.unconditional(), guidance=1.0),
        "eps_guided_zero_rays": model.predict_noise(latents, TIMESTEP, as_released, guidance=GUIDANCE),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)
    return {"loading": loading.report(), "step": stepping.report()}


def views(weights: str, out: str) -> dict[str, dict[str, float]]:
    """Two cameras, two steps: together and the second one alone from the seed it had."""
    cameras, generator = orbit_cameras([30.0, 200.0]), torch.Generator().manual_seed(SEED)
    with MemoryPeak() as sampling:
        model = UpFusion.load(weights)
        scene = model.encode(six_photos())
        together = model.sample(scene, cameras, steps=2, generator=generator)
    alone = model.sample(scene, cameras[1], steps=2, seeds=[SEED + 1])
    save_file({"together": together.rgb.contiguous(), "alone": alone.rgb.contiguous()}, out)
    return {"sampling": sampling.report()}


def convert_weights(source: str, destination: str, dtype: str) -> dict[str, dict[str, float]]:
    with MemoryPeak() as converting:
        convert(source, destination, dtype=getattr(torch, dtype))
    return {"convert": converting.report()}


if __name__ == "__main__":
    job = {"step": step, "views": views, "convert": convert_weights}[sys.argv[1]]
    print(json.dumps(job(*sys.argv[2:])))
