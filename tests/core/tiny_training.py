"""A model of 16 x 16 pixels, and fields, batches and runs that fit it: a step takes milliseconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upfusion_core import Cameras, UpFusion, config
from upfusion_core.config import ModelConfig, TrainConfig
from upfusion_core.evaluation.alignment import SimilaritySearch
from upfusion_core.geometry import random_cameras, reference_camera
from upfusion_core.models.checkpoint import network_weights
from upfusion_core.models.convert import convert, write_networks
from upfusion_core.training.batches import TrainingBatch
from upfusion_core.training.initial import initial_networks
from upfusion_core.training.loop import TrainResult, train
from upfusion_core.training.stages import calibrate_latents

SIZE, WIDTH = 16, 32
GRID = config.GridConfig(levels=3, coarsest=4, finest=16, table_size=2**12)
FIELD = config.FieldConfig(grid=GRID, hidden=8, half_extent=0.3, blob_sigma=0.1)
FIT = replace(config.FitConfig(iterations=4), rays=64, occupancy_cells=8, sampling=config.RaySampling(8, 0))
DRAFT = config.DraftSchedule(3, predicted_size=16, predicted_fit=FIT, sampled_cameras=2, sampled_fit=FIT, steps=1)
QUICK_SEARCH = SimilaritySearch((0.0,), (0.0,), starts=1, coarse_size=8, fine_size=8, coarse_steps=1, fine_steps=1)


def tiny_model() -> ModelConfig:
    return ModelConfig(
        image_size=SIZE,
        dino=config.DinoConfig(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, layer=1),
        upsrt=config.UpSRTConfig(WIDTH, 4, 48, 1, 1, image_feature_dim=16, patches=(4, 4), num_freqs=4, start_freq=-2),
        diffusion=config.DiffusionConfig(32, (1, 1), 1, 8, context_dim=WIDTH, hint_channels=WIDTH + 6),
        vae=config.VaeConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1),
        text=config.TextConfig(hidden_size=WIDTH, num_attention_heads=4, num_hidden_layers=1, intermediate_size=64),
    )


def random_upfusion(seed: int) -> UpFusion:
    """A model of random weights, whose pictures mean nothing; torch's own generator stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UpFusion(tiny_model())


def tiny_config(stage: str = "encoder", **changes: Any) -> TrainConfig:  # noqa: ANN401 - fields of TrainConfig
    joint = stage != "autoencoder"
    values = {"model": tiny_model(), "batch_size": 2, "photos": (1, 3), "targets": 2, "rays": 32, "inside_share": 0.5}
    values |= {"steps": 6, "learning_rate": 1e-3, "warmup_steps": 2, "final_share": 0.1, "ema_decay": 0.9}
    values |= {"train_dino": joint, "train_upsrt": joint, "train_unet": "all", "validate_every": 0, "save_every": 100}
    values |= {"log_every": 2, "validation_batches": 1} | ({"rgb_weight": 1.0} if stage == "diffusion" else {})
    return TrainConfig(stage=stage, **(values | changes))


def write_tiny_mini(path: Path) -> Path:
    """A merged float16 file of random weights in these sizes, its latents of the right spread, with facts."""
    networks, text = initial_networks(tiny_model(), seed=3)
    calibrate_latents(networks.vae, TinySource(8).batch(0).targets.flatten(0, 1))
    weights = network_weights(tiny_model(), networks)
    whole = write_networks(path.with_name("whole.safetensors"), tiny_model(), weights, text)
    convert(whole, path, dtype=torch.float16, facts={"trained_on": "nothing: random weights", "steps": {"encoder": 0}})
    whole.unlink()
    return path


class TinySource:
    """Discs whose colour follows from the example's number; example i of step s is the same however steps are cut."""

    def __init__(self, batch_size: int = 2, targets: int = 2, *, fixed: bool = False) -> None:
        self.batch_size, self.targets, self.fixed = batch_size, targets, fixed

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        step = 0 if self.fixed else step
        first = (step * world + rank) * self.batch_size
        examples = [self._example(first + index, 1 + step % 3) for index in range(self.batch_size)]
        photos, targets, masks, cameras = zip(*examples, strict=True)
        references = Cameras.concatenate([reference_camera()] * self.batch_size)
        pictures = (torch.stack(photos), references, torch.stack(targets), torch.stack(masks))
        return TrainingBatch(*pictures, Cameras.concatenate(list(cameras)))

    def _example(self, number: int, photos: int) -> tuple[Tensor, Tensor, Tensor, Cameras]:
        generator = torch.Generator().manual_seed(number)
        color = torch.rand(3, generator=generator)[:, None, None]
        row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        mask = (((row - 7.5) ** 2 + (column - 7.5) ** 2) < 30).float()[None]
        picture = color * mask * (0.5 + column / 32) + (1 - mask)
        cameras = random_cameras(self.targets, generator=generator)
        repeated = (picture.expand(self.targets, -1, -1, -1), mask.expand(self.targets, -1, -1, -1))
        return picture.expand(photos, -1, -1, -1), *repeated, cameras


def run_tiny(config: TrainConfig, folder: Path, **options: Any) -> TrainResult:  # noqa: ANN401 - arguments of train
    return train(config, options.pop("source", TinySource()), TinySource(fixed=True), folder, device="cpu", **options)
