"""Trains the small model on a few CPU cores: objects are rendered once, kept, and seen again from other sides.

    python benchmarks/mini_cpu.py render CACHE [--chunks 80] [--worker 0] [--workers 1]
    python benchmarks/mini_cpu.py train encoder|autoencoder|diffusion CACHE -o OUT [--steps N] [--constant]
        [--init WEIGHTS ...] [--resume] [--minutes M]
    python benchmarks/mini_cpu.py speed CACHE [--steps 10]

Rendering a view costs as much as a training step on it, so that `upfusion train --data procedural`, which renders anew
each time, is for GPUs. Here 512 objects a chunk are rendered once, 12 views each, the first 4 of them at the elevation
that references have; every example draws its reference among those, and photos and targets among the rest. Two of three
chunks are of the generator's version 2, whose first 7 views are photos as people take them, the rest targets. Several
workers may render side by side. Matrix products and convolutions are computed in bfloat16 where the processor can:
`speed` tells what that and larger batches give.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from upfusion_core.config import DiffusionConfig, DinoConfig, ModelConfig, TrainConfig, UpSRTConfig, VaeConfig
from upfusion_core.geometry.cameras import orbit_cameras
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.devices import derived_seed
from upfusion_core.support.files import bundled_path, save_tensors
from upfusion_core.training.batches import ProceduralBatches, TrainingBatch, photo_count
from upfusion_core.training.loop import train
from upfusion_core.types import REFERENCE_FOCAL, Cameras

SIZE, VIEWS, REFERENCES, PHOTOS, CHUNK = 32, 12, 4, 7, 512
FIRST_OBJECT = 1_000_000
WIDTH, WARMUPS = 160, 2
STEPS = {"encoder": 10_000, "autoencoder": 4600, "diffusion": 2700}


def small_model() -> ModelConfig:
    """32 x 32 pixels, 8 x 8 latents, 9 M parameters.

    Two levels in UNet and ControlNet: norms over 32 groups mean nothing on the 2 x 2 and 1 x 1 latents of further ones.
    """
    return ModelConfig(
        image_size=SIZE,
        dino=DinoConfig(img_size=SIZE, patch_size=8, embed_dim=96, depth=2, num_heads=4, layer=1),
        upsrt=UpSRTConfig(
            transformer_dim=WIDTH, num_heads=8, ff_dim=320, encoder_layers=4, decoder_layers=2, image_feature_dim=96,
            patches=(4, 4), num_freqs=8, start_freq=-2,
        ),
        diffusion=DiffusionConfig(
            model_channels=64, channel_mult=(1, 2), context_dim=WIDTH, hint_channels=WIDTH + 6
        ),
        vae=VaeConfig(ch=64, ch_mult=(1, 1, 1), num_res_blocks=1),
    )  # fmt: skip


def stage_config(stage: str, steps: int, constant: bool) -> TrainConfig:
    """The encoder trains on all it can get; the diffusion on its features as they then are, so that it is cheap."""
    processor = Path("/proc/cpuinfo")
    known = processor.read_text(encoding="utf-8") if processor.exists() else ""
    fast = stage != "autoencoder" and ("avx512_bf16" in known or "amx_bf16" in known)
    common = TrainConfig(
        stage=stage, model=small_model(), batch_size=32, photos=(1, 6), targets=4, rays=64, inside_share=0.7,
        steps=steps, learning_rate=1e-3, betas=(0.9, 0.99), warmup_steps=100, final_share=1.0 if constant else 0.02,
        ema_decay=0.998, train_dino=stage == "encoder", train_upsrt=stage == "encoder", train_unet="all",
        validate_every=500, validation_batches=1, precision="bf16" if fast else "no",
    )  # fmt: skip
    if stage == "encoder":
        return common
    return replace(common, batch_size=10 if stage == "diffusion" else 3, ema_decay=0.995)


def render(cache: Path, chunks: int, worker: int = 0, workers: int = 1) -> None:
    """Writes `CACHE/0000.pt` …, those of this worker that are not there; ends early with the process that began it."""
    parent = parent_process()
    for chunk in range(worker, chunks, workers):
        path, version = cache / f"{chunk:04d}.pt", 2 if chunk % 3 else 1
        if path.exists():
            continue
        generator = torch.Generator().manual_seed(1000 + chunk)
        data, parts = ProceduralObjects("train", version=version), []
        for first in range(FIRST_OBJECT + chunk * CHUNK, FIRST_OBJECT + (chunk + 1) * CHUNK, 64):
            if parent is not None and not parent.is_alive():
                return
            with torch.inference_mode():
                seen = data.look(
                    data.objects(range(first, first + 64)), views=VIEWS, size=SIZE, generator=generator,
                    photos=range(PHOTOS), references=REFERENCES,
                )  # fmt: skip
            x, _, z = seen.camera_to_world[..., :3, 3].unbind(-1)
            rgba = (255 * torch.cat([seen.rgb, seen.mask], 2)).round().byte()
            parts.append((rgba, torch.rad2deg(torch.atan2(x, z)), seen.elevation_degrees))
        rgba, azimuth, elevation = (torch.cat(values) for values in zip(*parts, strict=True))
        photos = torch.full((CHUNK,), VIEWS if version == 1 else PHOTOS)
        save_tensors({"rgba": rgba, "azimuth": azimuth, "elevation": elevation, "photos": photos}, path)


class CachedBatches:
    """Batches (see training.batches.BatchSource) from rendered views, mapped from their files, and from those chunks
    that are rendered meanwhile: of a cache that does not grow they are pure functions of the seed, the step and the
    part."""

    def __init__(self, cache: Path, config: TrainConfig) -> None:
        self.cache, self.config = cache, config
        self.chunks: dict[Path, dict[str, Tensor]] = {}
        if not self.objects():
            raise SystemExit(f"{cache} must hold rendered chunks, got none; run the command render first")

    def objects(self) -> int:
        """How many objects there are by now."""
        for path in sorted({*self.cache.glob("[0-9]*.pt")} - self.chunks.keys()):
            self.chunks[path] = torch.load(path, weights_only=True, mmap=True)
        return CHUNK * len(self.chunks)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        config = self.config
        count, photos = config.batch_size, photo_count(config.photos, config.seed, step)
        generator = torch.Generator().manual_seed(derived_seed(config.seed, "cached", step, rank))
        chosen, chunks = torch.randint(self.objects(), (count,), generator=generator), [*self.chunks.values()]
        rows = [(chunks[number // CHUNK], number % CHUNK) for number in chosen.tolist()]
        order = torch.rand(count, VIEWS, generator=generator)
        order += torch.arange(VIEWS) >= torch.stack([chunk["photos"][row] for chunk, row in rows])[:, None]
        order[torch.arange(count), torch.randint(REFERENCES, (count,), generator=generator)] = -1
        order = order.argsort(1)
        views = torch.cat([order[:, :photos], order[:, VIEWS - config.targets :]], 1)
        rgba, azimuth, elevation = (
            torch.stack([chunk[name][row, seen] for (chunk, row), seen in zip(rows, views, strict=True)])
            for name in ("rgba", "azimuth", "elevation")
        )
        pictures, azimuth = rgba.float() / 255, azimuth - azimuth[:, :1]
        return TrainingBatch(
            photos=pictures[:, :photos, :3].contiguous(),
            references=_cameras(azimuth[:, :1], elevation[:, :1]),
            targets=pictures[:, photos:, :3].contiguous(),
            target_masks=pictures[:, photos:, 3:].contiguous(),
            cameras=_cameras(azimuth[:, photos:], elevation[:, photos:]),
        )


def validation_batches(config: TrainConfig) -> dict[str, ProceduralBatches]:
    """Of each version of the generator's objects, what training never sees."""
    config = replace(config, batch_size=64, photos=(3, 3), targets=2, seed=5)
    objects = {f"version {version}": ProceduralObjects("validation", version=version) for version in (1, 2)}
    return {name: ProceduralBatches(each, config) for name, each in objects.items()}


def speed(cache: Path, steps: int) -> None:
    """Prints examples a second of processor time: by steps in float32 of the batches they had at first, and as now."""
    for stage, first_batch in (("encoder", 32), ("diffusion", 5)):
        now = replace(stage_config(stage, steps, True), validate_every=0, validation_batches=0)
        for config in (replace(now, precision="no", batch_size=first_batch), now):
            ends: list[float] = []
            with TemporaryDirectory() as folder:
                train(
                    config, CachedBatches(cache, config), {}, folder, init=[bundled_path("mini.safetensors")],
                    device="cpu", on_step=lambda *_, ends=ends: ends.append(time.process_time()),
                )  # fmt: skip
            rate = config.batch_size * (len(ends) - 1 - WARMUPS) / (ends[-1] - ends[WARMUPS])
            print(f"{stage:10} precision {config.precision:4} batches of {config.batch_size:2} {rate:6.1f} examples/s")


def _cameras(azimuth: Tensor, elevation: Tensor) -> Cameras:
    distance = torch.ones(azimuth.numel())
    return orbit_cameras(azimuth.flatten(), elevation.flatten(), distance, focal=REFERENCE_FOCAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("render")
    drawing.add_argument("cache", type=Path)
    drawing.add_argument("--chunks", type=int, default=80)
    drawing.add_argument("--worker", type=int, default=0)
    drawing.add_argument("--workers", type=int, default=1)
    timing = commands.add_parser("speed")
    timing.add_argument("cache", type=Path)
    timing.add_argument("--steps", type=int, default=10)
    training = commands.add_parser("train")
    training.add_argument("stage", choices=("encoder", "autoencoder", "diffusion"))
    training.add_argument("cache", type=Path)
    training.add_argument("-o", "--output", type=Path, required=True)
    training.add_argument("--minutes", type=float)
    training.add_argument("--init", type=Path, nargs="*", default=[])
    training.add_argument("--resume", action="store_true")
    training.add_argument("--steps", type=int, help=f"unless given {STEPS}")
    training.add_argument("--constant", action="store_true", help="keep the learning rate; else it falls to nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "render":
        return render(options.cache, options.chunks, options.worker, options.workers)
    if options.command == "speed":
        return speed(options.cache, options.steps)
    config = stage_config(options.stage, options.steps or STEPS[options.stage], options.constant)
    result = train(
        config, CachedBatches(options.cache, config), validation_batches(config), options.output, init=options.init,
        resume=options.resume, max_minutes=options.minutes, device="cpu",
    )  # fmt: skip
    print(f"{result.model}: {result.step} steps in {result.elapsed:.0f} s")


if __name__ == "__main__":
    main()
