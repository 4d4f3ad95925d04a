"""What a GPU would be made to wait for, launch and hold, counted on one that is not there (tests/phantom_cuda.py).

    python benchmarks/phantom.py [--before REVISION] [--memory]

A table of waits of the host and of launched kernels, in eager torch with the torch grid, of the parts of a
reconstruction by small networks, whose number of operations is that of their depth; `--before` counts another revision
of the package as well. `--memory`: the most bytes that networks of full size hold in float16, walked without values.
"""

# ruff: noqa: E402 - the paths come first

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [os.environ.get("UPFUSION_COUNTED", str(ROOT)), str(ROOT / "tests"), str(ROOT / "tests" / "core")]

import phantom_cuda
import torch
from rule_weights import rule_photos
from tiny_training import random_upfusion

from upfusion_core import DistillConfig, RadianceField, UpFusion, orbit_cameras
from upfusion_core.config import FieldConfig, FitConfig, ModelConfig
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.types import InputViews


def photos(count: int, size: int) -> InputViews:
    rgb = rule_photos(count, size)
    return InputViews(rgb, (rgb.amin(1, keepdim=True) < 1).float(), torch.full((count, 2), 4.5))


def counts() -> Iterator[tuple[str, int, int]]:
    """Name, waits and launches of each part."""
    with phantom_cuda.phantom() as state:
        field = RadianceField(FieldConfig.small().no_finer_than(2 / 4.5 / 64)).to(state.device)
        generator = torch.Generator().manual_seed(0)
        rgb = rule_photos(6, 64)
        mask = (rgb.amin(1, keepdim=True) < 1).float()
        cameras = orbit_cameras([60.0 * index for index in range(6)])
        fitter = FieldFitter(field, cameras, rgb, mask=mask, weights=torch.ones_like(mask), config=FitConfig(),
                             generator=generator)  # fmt: skip
        for name in ("a fit's first step", "a step of a fit"):
            fitter.step()
            state.reset()
            if name == "a step of a fit":
                fitter.step()
                yield name, state.waited, state.launches
        model = random_upfusion(0)
        for part in (model.dino, model.upsrt, model.controlnet, model.unet, model.vae):
            part.to(state.device)
        scene = model.encode(photos(2, 32))
        told = []
        for steps in (2, 4):
            state.reset()
            model.sample(scene, cameras[:2], steps=steps, scheduler="dpm++")
            told.append((state.waited, state.launches))
        yield "a guided step of sampling", *((last - first) // 2 for first, last in zip(*told, strict=True))
        state.reset()
        model.condition(scene, cameras)
        yield "conditioning 6 cameras", state.waited, state.launches
        for name, texture in (("a mesh, resolution 64", None), ("a textured mesh", 256)):
            state.reset()
            field.extract_mesh(64, texture_size=texture)
            yield name, state.waited, state.launches
        state.reset()
        model.distill(scene, DistillConfig.fast(field=FieldConfig.small()))
        yield "fast", state.waited, state.launches


def largest() -> Iterator[tuple[str, int]]:
    """Name and most bytes of each part, the weights of its networks among them, at full size in float16."""
    with phantom_cuda.phantom(hollow=True) as state, torch.no_grad():
        with torch.device("meta"):
            model = UpFusion(ModelConfig(), device="meta")
        parts = {name: getattr(model, name) for name in ("dino", "upsrt", "controlnet", "unet", "vae")}
        for part in parts.values():
            part.half().to_empty(device=state.device)
        held = state.bytes

        def measured(work: Callable[[], Any]) -> tuple[Any, int]:
            state.reset()
            return work(), state.peak

        yield "the networks", held
        scene, peak = measured(lambda: model.encode(photos(6, 256)))
        yield "encoding 6 photos", peak
        text = (torch.zeros(77, 1024), torch.zeros(77, 1024))
        for count in (32, 250):
            cameras = orbit_cameras([360.0 * index / count for index in range(count)])
            cond, peak = measured(lambda cameras=cameras: model.condition(scene, cameras, text_embeddings=text))
            yield f"conditioning {count} cameras", peak
        for count in (4, 8):
            latents = torch.zeros(count, *model.prior.latent_shape)
            prepared = model.prepare(cond[:count])
            yield (
                f"a guided step of {count}",
                measured(
                    lambda prepared=prepared, latents=latents: model.prior.predict_noise(latents, 500, prepared, 9.0)
                )[1],
            )
            yield f"decoding {count}", measured(lambda latents=latents: model.prior.decode(latents))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a revision of this repository to count as well")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        for name, peak in largest():
            print(f"{name:28s} {peak / 2**30:6.2f} GB", flush=True)
        return
    before: dict[str, list[int]] = {}
    if options.before:
        with tempfile.TemporaryDirectory() as folder:
            archive = subprocess.run(
                ["git", "archive", options.before, "upfusion_core"], cwd=ROOT, capture_output=True, check=True
            ).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
            told = subprocess.run(
                [sys.executable, __file__, "--json"], capture_output=True, text=True, check=True,
                env=os.environ | {"UPFUSION_COUNTED": folder},
            ).stdout  # fmt: skip
        before = json.loads(told.splitlines()[-1])
    found = {}
    for name, waits, launches in counts():
        found[name] = [waits, launches]
        if not options.json:
            was = "{:8,} waits {:9,} launches -> ".format(*before[name]) if name in before else ""
            print(f"{name:28s} {was}{waits:8,} waits {launches:9,} launches", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
