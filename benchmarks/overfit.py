"""Overfitting one object with the training code: proof that all three stages learn, on one thread of a CPU.

    python benchmarks/overfit.py -o OUT [--seed 0] [--size 32] [--share 1.0] [--stages autoencoder,encoder,diffusion]

The object is the first one of the training split, from index `seed` on, that is asymmetric (no turn and no reflection
about the vertical axis maps it to itself), shows at least three clearly different colours and fills at least half the
frame's width from all round. Autoencoder, encoder and diffusion model are trained on it, one after the other, each by
`upfusion_core.training.train`: three photos that never change, target views drawn from 2048 random cameras. Measured is
the box PSNR on 20 other cameras: of the encoder's prediction (bound 25 dB), and of the diffusion model's samples (bound
22 dB). Beside the figures OUT gets a picture (truth, autoencoder, prediction, samples) and results.json.

A stage that was stopped goes on when the same line is given again, and one that is finished is not trained anew.
--share multiplies the numbers of steps, for a quick look; the bounds are meant for 1.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import write_json

from upfusion_core import UpFusion
from upfusion_core.config import DiffusionConfig, DinoConfig, ModelConfig, TrainConfig, UpSRTConfig, VaeConfig
from upfusion_core.evaluation.metrics import measure_views
from upfusion_core.geometry import orbit_cameras, random_cameras
from upfusion_core.models.stable_diffusion import decode_latents, encode_images
from upfusion_core.procedural import Objects, ProceduralObjects, render_views
from upfusion_core.procedural.shapes import Light
from upfusion_core.support.devices import derived_seed
from upfusion_core.support.images import contact_sheet, save_png
from upfusion_core.training.batches import TrainingBatch
from upfusion_core.training.loop import train
from upfusion_core.types import Cameras, InputViews

PHOTOS, TRAINING_CAMERAS, TEST_CAMERAS = 3, 2048, 20
STAGES = ("autoencoder", "encoder", "diffusion")
STEPS = {"autoencoder": 800, "encoder": 2000, "diffusion": 4500}
TARGETS = {"autoencoder": 8, "encoder": 16, "diffusion": 24}
"""Views a step."""
GUIDANCE = 2.0
"""Without guidance (1) the samples are 2 dB worse: conditions were dropped in training."""
SAMPLING_STEPS = 50
BOUNDS = {"prediction": 25.0, "samples": 22.0}
"""Mean box PSNR in dB over the test cameras."""


def chosen_object(seed: int) -> tuple[int, Objects]:
    """The first object of the training split from index `seed` on that fulfils the rule, and its index."""
    for index in range(seed, seed + 10_000):
        thing = ProceduralObjects("train").objects([index])
        if least_width(thing) >= 0.5 and asymmetry(thing) >= 0.04 and count_colors(thing) >= 3:
            return index, thing
    raise AssertionError("ten thousand objects hold one such")


def least_width(thing: Objects) -> float:
    """Share of the frame's width that the silhouette spans, in the picture of a turn where it is least."""
    _, mask = ring(thing, elevation=22.5)
    columns = (mask > 0.5).any(-2).float()[:, 0]  # (V, S)
    return float(columns.sum(-1).min()) / columns.shape[-1]


def asymmetry(thing: Objects) -> float:
    """Least mean difference of the object's colours from those after any turn or reflection about +Y, in [0, 1].

    The pictures of a turn around the object are compared with themselves in another order, and mirrored.
    """
    rgb, mask = ring(evenly_lit(thing), elevation=0.0)
    count, covered = len(rgb), mask.mean()
    turned = [(rgb - rgb.roll(shift, 0)).abs().mean() for shift in range(1, count)]
    backwards = rgb.flip(0).flip(-1)
    reflected = [(rgb - backwards.roll(shift, 0)).abs().mean() for shift in range(count)]
    return float(min(turned + reflected) / covered)


def count_colors(thing: Objects) -> int:
    """How many colours, each 0.3 from the others in some channel, cover 5 % of the silhouettes of a turn or more."""
    rgb, mask = ring(evenly_lit(thing), elevation=22.5)
    left = rgb.permute(0, 2, 3, 1)[mask[:, 0] > 0.99]
    total, colors = len(left), 0
    while len(left) >= 0.05 * total:
        near = (left - left.median(dim=0).values).abs().amax(-1)
        color = left[near.argmin()]
        close = (left - color).abs().amax(-1) < 0.3
        colors += int(close.sum() >= 0.05 * total)
        left = left[~close]
    return colors


def ring(thing: Objects, elevation: float, views: int = 24, size: int = 32) -> tuple[Tensor, Tensor]:
    """Pictures (V, 3, S, S) and masks (V, 1, S, S) all around the object."""
    return looked_at(thing, orbit_cameras([360 * view / views for view in range(views)], elevation), size)


def evenly_lit(thing: Objects) -> Objects:
    """The object in white light from everywhere, so that its pictures show its paint."""
    light = thing.light
    return replace(thing, light=Light(light.direction, torch.ones_like(light.ambient), torch.ones_like(light.tint)))


def looked_at(thing: Objects, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """Pictures (V, 3, S, S) and masks (V, 1, S, S)."""
    rgb, mask, _ = render_views(thing, cameras.camera_to_world[None], cameras.focal[None], size)
    return rgb[0], mask[0]


class OneObject:
    """Batches of one object: the same photos in every step, `targets` of many rendered views, drawn for the step."""

    def __init__(self, thing: Objects, *, size: int, targets: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(derived_seed(seed, "cameras"))
        further = random_cameras(PHOTOS - 1, generator=generator)
        self.photo_cameras = Cameras.concatenate([orbit_cameras([0.0]), further])
        self.cameras = random_cameras(TRAINING_CAMERAS, generator=generator)
        self.photos, self.photo_masks = looked_at(thing, self.photo_cameras, size)
        self.views, self.masks = looked_at(thing, self.cameras, size)
        self.targets, self.seed = targets, seed

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """See BatchSource."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "targets", step, rank))
        chosen = torch.randint(TRAINING_CAMERAS, (self.targets,), generator=generator)
        return TrainingBatch(
            photos=self.photos[None],
            references=self.photo_cameras[0],
            targets=self.views[chosen][None],
            target_masks=self.masks[chosen][None],
            cameras=self.cameras[chosen],
        )

    def with_targets(self, targets: int) -> OneObject:
        """The same views, another number of them a step."""
        other = copy.copy(self)
        other.targets = targets
        return other

    @property
    def given(self) -> InputViews:
        """The photos as the model gets them."""
        return InputViews(self.photos, self.photo_masks, self.photo_cameras.focal)


def small_model(size: int) -> ModelConfig:
    """The networks of the bundled model, narrower and shallower."""
    width = 96
    return ModelConfig(
        image_size=size,
        dino=DinoConfig(img_size=size, patch_size=size // 4, embed_dim=64, depth=2, num_heads=4, layer=1),
        upsrt=UpSRTConfig(
            width, 4, 192, 2, 3, image_feature_dim=64, patches=(4, 4), num_freqs=8, start_freq=-2
        ),
        diffusion=DiffusionConfig(32, (1, 2), 1, 8, context_dim=width, hint_channels=width + 6),
        vae=VaeConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1),
    )  # fmt: skip


def stage_config(stage: str, model: ModelConfig, share: float) -> TrainConfig:
    """Everything learns fast and ends at a fiftieth of its rate; nothing but the stage's own networks is trained."""
    return TrainConfig(
        stage=stage,
        model=model,
        targets=TARGETS[stage],
        rays=128,
        inside_share=0.5,
        steps=max(1, round(STEPS[stage] * share)),
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        warmup_steps=max(1, round(100 * share)),
        final_share=0.02,
        ema_decay=0.99,
        train_dino=stage == "encoder",
        train_upsrt=stage == "encoder",
        train_unet="all",
        kl_weight=1e-4,
        validate_every=0,
        save_every=1_000_000,
    )


def overfit(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 32,
    share: float = 1.0,
    stages: Sequence[str] = STAGES,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains the stages in `folder`, each from the one before, and measures them; mean box PSNR in dB by name."""
    index, thing = chosen_object(seed)
    say(
        f"object {index}: {count_colors(thing)} colours, asymmetry {asymmetry(thing):.3f}, "
        f"{100 * least_width(thing):.0f} % of the frame wide at least"
    )
    model, init = small_model(size), []
    source = OneObject(thing, size=size, targets=1, seed=seed)
    for stage in stages:
        started = time.process_time()
        init = [trained(stage_config(stage, model, share), source.with_targets(TARGETS[stage]), folder / stage, init)]
        say(f"{stage}: {time.process_time() - started:.0f} s of CPU time, {init[0]}")
    pictures = painted(init[0], thing, source, stages, seed, size)
    truth, mask = pictures.pop("truth"), pictures.pop("mask")
    measured = {name: measure_views(rgb.clamp(0, 1), truth, mask) for name, rgb in pictures.items()}
    figures = {name: float(measures["box_psnr"].mean()) for name, measures in measured.items()}
    for name, value in figures.items():
        bound = f" (bound {BOUNDS[name]:g})" if name in BOUNDS else ""
        say(f"{name:12} {value:6.2f} dB box PSNR, {TEST_CAMERAS} cameras not trained on{bound}")
    rows = interpolate(torch.cat([truth, *pictures.values()]), scale_factor=2, mode="nearest")
    save_png(folder / "sheet.png", contact_sheet(rows, columns=TEST_CAMERAS))
    results = {"object": index, "seed": seed, "size": size, "share": share, "box_psnr": figures}
    write_json(folder / "results.json", results)
    return figures


def trained(config: TrainConfig, source: OneObject, folder: Path, init: list[Path]) -> Path:
    """The stage's model: as it is where it is finished, continued where it was stopped, else from the start."""
    state, model = folder / "training.pt", folder / "model.safetensors"
    if model.is_file() and not state.is_file():
        return model
    result = train(config, source, source, folder, init=init, resume=state.is_file(), device="cpu")
    if result.finished:
        state.unlink()
    return result.model


def painted(
    weights: Path, thing: Objects, source: OneObject, stages: Sequence[str], seed: int, size: int
) -> dict[str, Tensor]:
    """(20, 3, S, S) of the test cameras: truth, mask, and what each of the trained stages makes of them."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "test cameras"))
    cameras = random_cameras(TEST_CAMERAS, generator=generator)
    truth, mask = looked_at(thing, cameras, size)
    model = UpFusion.load(weights, device="cpu")
    scene = model.encode(source.given)
    pictures = {"truth": truth, "mask": mask}
    if "autoencoder" in stages:
        with torch.no_grad():
            pictures["autoencoder"] = decode_latents(model.vae, encode_images(model.vae, truth))
    if "encoder" in stages:
        pictures["prediction"] = model.predict(scene, cameras, size=size, pixel_centers=True)
    if "diffusion" in stages:
        novel = model.sample(scene, cameras, steps=SAMPLING_STEPS, guidance=GUIDANCE, batch_size=TEST_CAMERAS)
        pictures["samples"] = novel.rgb
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = options.stages.split(",")
    figures = overfit(options.output, seed=options.seed, size=options.size, share=options.share, stages=chosen)
    sys.exit(any(figures[name] < bound for name, bound in BOUNDS.items() if name in figures))


if __name__ == "__main__":
    main()
