"""A process that has imported everything, and forks one child for each command it is told: killing it costs no imports.

A line on stdin is JSON: {"arguments": [...], "log": path}. The answers are lines of JSON: the child's process number
when it begins, its exit status when it ends, negative for a signal. Schedules are short; models are what is given.
"""

import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import diffusers.models.autoencoders.autoencoder_kl
import diffusers.models.unets.unet_2d_condition
import torch
import trimesh
import xatlas

from upfusion_core import UpFusion, example_views
from upfusion_core.cli import datasets as training
from upfusion_core.cli import main, reconstruct, views
from upfusion_core.config import DistillConfig, DraftSchedule, FastSchedule, FieldConfig, FitConfig, GridConfig
from upfusion_core.evaluation import report
from upfusion_core.training import loop

PRELOADED = (diffusers, trimesh, xatlas, views, loop)


def short(config: DistillConfig) -> DistillConfig:
    """The same preset with few and small pictures, a state saved every third step."""
    fit = replace(FitConfig(iterations=int(os.environ.get("UPFUSION_TEST_STEPS", "8"))), rays=128)
    few = {"predicted_size": 16, "steps": 3}
    schedule: DraftSchedule | FastSchedule = DraftSchedule(
        predicted_cameras=6, predicted_fit=fit, sampled_cameras=4, sampled_fit=fit, **few
    )
    if config.preset == "fast":
        rounds = {"predicted_iterations": fit.iterations // 2, "levels": (1.0, 0.5)}
        fit = replace(fit, iterations=2 * fit.iterations, crisp_weight=0.1)
        schedule = FastSchedule(cameras=4, fit=fit, **rounds, **few)
    grid = GridConfig(levels=3, coarsest=4, finest=16, table_size=2**12)
    field = FieldConfig(grid=grid, hidden=8, half_extent=0.3, blob_sigma=0.1)
    return replace(config, schedule=schedule, field=field, batch_size=2, checkpoint_every=3)


def shorten() -> None:
    """Puts the short schedule where the commands take theirs from."""
    distill_config, named = reconstruct.distill_config, DistillConfig.named
    reconstruct.distill_config = lambda *arguments: short(distill_config(*arguments))
    DistillConfig.named = lambda *arguments, **changes: short(named(*arguments, **changes))
    training.PROCEDURAL_POOL = 8
    report.plot_results = lambda results, folder: {}
    asked = training.evaluation_config
    training.evaluation_config = lambda command: replace(asked(command), mesh_resolution=24, mesh_samples=200)


def distill(weights: str, preset: str, folder: str) -> None:
    """`UpFusion.distill` as a program calls it: the state beside the field, which is saved in the end."""
    model = UpFusion.load(weights, device="cpu")
    scene = model.encode(example_views(0, 2).prepared(model.image_size))
    generator = torch.Generator().manual_seed(5)
    config = DistillConfig.named(preset)  # a short one, see shorten
    field = model.distill(scene, config, generator, checkpoint=Path(folder) / "field.checkpoint")
    field.save(Path(folder) / "field.safetensors")


def serve() -> None:
    shorten()
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        child = os.fork()
        if not child:
            with open(told["log"], "ab", buffering=0) as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            code = 1
            try:
                sys.argv = ["upfusion", *told["arguments"]]
                distill(*sys.argv[2:]) if sys.argv[1] == "distill" else main()
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException:
                traceback.print_exc()  # the interpreter would, which os._exit leaves out
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
