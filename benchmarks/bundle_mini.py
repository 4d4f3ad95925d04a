"""Turns the model of a training run into the bundled one: float16, at most 40 MB, with how it was made in it.

    python benchmarks/bundle_mini.py MODEL.safetensors [--after FILE] [--runs FOLDER...] [--machine TEXT]
        [--trained-on TEXT] [--guidance 3] [--report report.json] [-o upfusion_core/bundled/mini.safetensors] [--force]

MODEL is the last stage's model.safetensors. FOLDERs are the runs that led to it, in their order; what each did (stage,
steps, examples a step, time) is read from its training.pt, or from the run.json of a finished `upfusion train`; before
them stand those of FILE, the bundled model that the first one went on from. benchmarks/new_model.sh does all of it.
--report adds the main figures of an evaluation. All of it is in the file's metadata: `upfusion info mini` shows it, and
benchmarks/model_card.py makes the model card of it. --guidance becomes the commands' default for this model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from upfusion_core import UpFusion, convert
from upfusion_core.models.checkpoint import open_checkpoint
from upfusion_core.procedural import GENERATOR_VERSION
from upfusion_core.support.files import bundled_path, replacing

MOST_BYTES = 40_000_000
TRAINED_ON = f"procedural objects, generator version {GENERATOR_VERSION}, split train"
FIGURES = ("box_psnr", "iou")


def run_facts(folder: Path) -> dict[str, Any]:
    """What a training run did: stage, steps, examples a step, learning rate, seconds."""
    state, record = folder / "training.pt", folder / "run.json"
    if state.is_file():
        content = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
        return summary(json.loads(content["config"]), content["step"], content.get("worked", content["elapsed"]))
    if record.is_file():
        content = json.loads(record.read_text(encoding="utf-8"))
        return summary(content["settings"]["config"], content["step"], content["timings_seconds"]["train"])
    raise SystemExit(f"{folder} must hold training.pt or run.json, got neither; give the folder of a training run")


def summary(config: dict[str, Any], step: int, seconds: float) -> dict[str, Any]:
    objects = config["batch_size"] * config["accumulation"]
    return {
        "stage": config["stage"],
        "steps": step,
        "objects_a_step": objects,
        "targets_an_object": config["targets"],
        "learning_rate": config["learning_rate"],
        "seconds": round(seconds),
    }


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """figures[stage][photos][measure] = mean, of the measures that matter most."""
    return {
        stage: {
            photos: {name: round(values[name]["mean"], 3) for name in FIGURES if name in values}
            for photos, values in rows.items()
        }
        for stage, rows in report["results"].items()
    }


def bundle(model: Path, destination: Path, facts: dict[str, Any]) -> int:
    """Writes the file and returns its bytes; refuses what is too large or not whole."""
    if open_checkpoint(model).text_embeddings is None:
        raise SystemExit(f"{model} must hold the two prompts' embeddings; give a file that `upfusion train` wrote")
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "mini.safetensors"
        convert(model, made, dtype=torch.float16, facts=facts)
        size = made.stat().st_size
        if size > MOST_BYTES:
            raise SystemExit(f"the file may have {MOST_BYTES:,} bytes, got {size:,}; train a smaller model")
        loaded = UpFusion.load(made, device="cpu")
        weights = [value for part in vars(loaded.prior.networks).values() for value in part.state_dict().values()]
        if not all(torch.isfinite(value).all() for value in weights if value.is_floating_point()):
            raise SystemExit(f"{model} holds weights that float16 cannot; train it longer or lower the learning rate")
        with replacing(destination) as partial:
            partial.write_bytes(made.read_bytes())
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--after", type=Path, metavar="FILE")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--machine", default="unknown", help="e.g. '2 CPU cores'")
    parser.add_argument("--trained-on", default=TRAINED_ON)
    parser.add_argument("--guidance", type=float, help="what the commands take unless told, found by evaluating")
    parser.add_argument("--report", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=bundled_path("mini.safetensors"))
    parser.add_argument("--force", action="store_true", help="replace the file")
    options = parser.parse_args()
    if options.output.exists() and not options.force:
        raise SystemExit(f"{options.output} exists already; give --force to replace it")
    before = [] if options.after is None else open_checkpoint(options.after).facts.get("runs", [])
    facts: dict[str, Any] = {
        "trained_on": options.trained_on,
        "machine": options.machine,
        "runs": [*before, *map(run_facts, options.runs)],
    }
    if options.guidance is not None:
        facts["guidance"] = options.guidance
    if options.report is not None:
        facts["figures"] = figures(json.loads(options.report.read_text(encoding="utf-8")))
    size = bundle(options.model, options.output, facts)
    print(f"{options.output}: {size / 1e6:.2f} MB\n{json.dumps(facts, indent=2)}")


if __name__ == "__main__":
    main()
