"""Makes the bundled model's card of its file and of reports of `upfusion evaluate`.

    python benchmarks/model_card.py REPORT... [--model mini] [-o upfusion_core/bundled/MODEL_CARD.md]

A REPORT is the report.json of an evaluation, or its folder; the first one is the main one. The sheet of pictures beside
each is copied next to the card with fewer colours. Sizes, steps and times come from the model's file (see
bundle_mini.py), the figures from the reports: nothing in the card is written by hand but the words of this script.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1]))

from upfusion_core.config.options import PROCEDURAL
from upfusion_core.evaluation.report import markdown_table
from upfusion_core.models.checkpoint import Checkpoint, open_checkpoint
from upfusion_core.support.files import bundled_path

MEASURES = ("box_psnr", "iou", "sharpness", "haarpsi", "box_psnr_similarity", "psnr", "ssim")
FIELD_MEASURES = ("chamfer_similarity", "f_score_2_similarity")
SHEET_COLORS = 128
STAGES = {
    "white": "`white` is all white",
    "nearest": "`nearest` the photo nearest in angle",
    "predict": "`predict` the transformer's own colours",
    "sample": "`sample` the diffusion model",
    "field": "`field` the distilled field (preset {preset})",
}
SCANS = """\
The folder `objects` holds twelve scanned household objects of
[pybullet-URDF-models](https://github.com/ChenEating716/pybullet-URDF-models) (MIT; part of them from the YCB set), as
GLB files. They are not part of this repository."""

INTRODUCTION = """\
# Model card: `mini`

The small model that comes with UpFusion: the whole mechanism of the paper in small, made so that everything can be
tried at once, on any machine. Its weights were trained from scratch with this repository's own code; nothing in them
comes from the released weights. `upfusion demo` shows what it does, `UpFusion.load("mini")` loads it.
"""

LIMITS = """\
## What it cannot do

- It has seen only procedural objects on white: textured solids, chunky, long, flat and hollow, in soft light, cut out
  as people do it, by lenses of focal length 2.5 to 6, elevations from -7.5 to 52.5 degrees. Real photos are not
  among them: on the scans its figures are lower, and photos with a background are worse still.
- Its pictures have {size} x {size} pixels. Thin parts, small patterns and letters are below that.
- It takes no prompt: it holds the embeddings of the two that it was trained with, which say nothing.
- What no photo shows it has to guess, and it guesses averages: expect flat colours and round shapes there.
- Its figures say nothing about the released, full-size model.
"""


def card(info: Checkpoint, reports: list[tuple[dict[str, Any], str | None]]) -> str:
    """The whole text. reports: each with its picture's name beside the card, if it has one."""
    parts = [INTRODUCTION, sizes(info), training(info.facts)]
    for number, (report, picture) in enumerate(reports):
        parts.append(figures(report, picture, f"REPORT_{number + 1}", first=number == 0))
    parts.append(LIMITS.format(size=info.config.image_size))
    return "\n".join(parts)


def sizes(info: Checkpoint) -> str:
    config = info.config
    total = sum(part.parameters for part in info.parts().values())
    stored = sum(part.bytes for part in info.parts().values())
    names = {"DINOv2": "photo encoder, in DINOv2's place"}
    rows = [f"| {names.get(name, name)} | {part.parameters / 1e6:.2f} |" for name, part in info.parts().items()]
    rows += [f"| **together** | **{total / 1e6:.2f}** |"]
    return "\n".join(
        [
            "## What it is",
            "",
            f"Pictures of {config.image_size} x {config.image_size} pixels, latents of 4 x {config.latent_size} x "
            f"{config.latent_size}, {config.upsrt.patches[0]} x {config.upsrt.patches[1]} patches a photo, set latents "
            f"of {config.upsrt.transformer_dim} numbers; {stored / 1e6:.1f} MB as float16. A small trained encoder "
            "stands in DINO's place.",
            "",
            "| network | parameters (M) |",
            "| --- | ---: |",
            *rows,
            "",
        ]
    )


def training(facts: dict[str, Any]) -> str:
    lines = [
        "## How it was trained",
        "",
        f"On {facts.get('trained_on', 'unknown data')}. Machine: {facts.get('machine', 'unknown')}.",
        "",
    ]
    runs = facts.get("runs", [])
    if runs:
        lines += ["| stage | steps | objects a step | views an object | learning rate | hours |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {run['stage']} | {run['steps']:,} | {run['objects_a_step']} | {run['targets_an_object']} "
            f"| {run['learning_rate']:g} | {run['seconds'] / 3600:.2f} |"
            for run in runs
        ]
        lines += ["", f"Together {sum(run['seconds'] for run in runs) / 3600:.1f} hours.", ""]
    lines += [
        "The commands that go on from it are in `benchmarks/train_mini.sh`:",
        "",
        "```",
        "bash benchmarks/train_mini.sh cpu OUT    # goes on from it beside other work, for days",
        "bash benchmarks/train_mini.sh gpu OUT    # goes on from the bundled model, in stretches of MINUTES",
        "```",
        "",
    ]
    return "\n".join(lines)


def figures(report: dict[str, Any], picture: str | None, name: str, *, first: bool) -> str:
    results = report["results"]
    present = {name for rows in results.values() for values in rows.values() for name in values}
    preset = report["settings"].get("distill", {}).get("preset")
    stages = [words.format(preset=preset) for stage, words in STAGES.items() if stage in results]
    lines = [
        f"## Figures: {title(report)}",
        "",
        *([SCANS, ""] if Path(report.get("data", "")).name == "objects" else []),
        f"{len(report['evaluated'])} objects, {report['settings']['views']} views each that are no photos; mean ± "
        f"standard error over objects. {', '.join(stages)}.",
        "",
        markdown_table(results, [name for name in (*MEASURES, *FIELD_MEASURES) if name in present]),
    ]
    for part, found in report.get("results_by_group", {}).items():
        group = report["groups"][part]
        lines += [f"Apart, {group['title']} ({len(group['evaluated'])} objects):", ""]
        lines += [markdown_table(found, [measure for measure in MEASURES if measure in present])]
    if first:
        lines += gains(report)
    lines += ["```", command(report, name), "```", ""]
    if picture:
        lines += [f"![photos, truth and stages of the first objects: {title(report)}]({picture})", ""]
    return "\n".join(lines)


def title(report: dict[str, Any]) -> str:
    if report.get("data") in PROCEDURAL:
        split = report.get("split", "test")
        words = {"test": "test objects", "held_out": "a combination of parts and a pattern never trained on"}
        return f"{report['data']} objects, {words.get(split, split)}"
    return f"`{Path(report.get('data', 'data')).name}`, never trained on"


def gains(report: dict[str, Any]) -> list[str]:
    """What each step to more photos brings in box PSNR, object by object."""
    rows = []
    for stage, steps in report.get("gains", {}).items():
        for step, measures in steps.items():
            value = measures.get("box_psnr")
            if value is not None and stage != "white":
                error = "" if value["stderr"] is None else f" ± {value['stderr']:.2f}"
                rows.append(f"| {stage} | {step} | {value['mean']:+.2f}{error} |")
    if not rows:
        return []
    head = [
        "What more photos bring, object by object:",
        "",
        "| stage | photos | box PSNR (dB) |",
        "| --- | --- | ---: |",
    ]
    return [*head, *rows, ""]


def command(report: dict[str, Any], name: str) -> str:
    """The line that makes the report again, in a folder of this name."""
    settings = report["settings"]
    data = report.get("data", "DATA")
    options = {
        "--data": data if data in PROCEDURAL else Path(data).name,
        "--split": report.get("split"),
        "--objects": report.get("objects", len(report["evaluated"])),
        "--photos": ",".join(map(str, settings["photos"])),
        "--views": settings["views"],
        "--stages": ",".join(settings["stages"]),
        "--preset": settings["distill"]["preset"] if "field" in settings["stages"] else None,
        "--seed": settings["seed"],
        "--steps": settings["steps"],
        "--guidance": settings["guidance"],
        "--scheduler": settings["scheduler"],
        "--alignment": settings["alignment"],
    }
    words = [f"{name} {value}" for name, value in options.items() if value is not None]
    return "upfusion evaluate --model mini " + " ".join(words) + f" -o {name}"


def copied_sheet(report_path: Path, folder: Path, number: int) -> str | None:
    """The name of the report's picture sheet beside the card; None where the report has none."""
    source = report_path.parent / "sheet.png"
    if not source.is_file():
        return None
    stem = re.sub(r"\W+", "_", report_path.parent.resolve().name).strip("_").lower()
    name = f"sheet_{number + 1}_{stem}.png"
    with Image.open(source) as image:
        image.convert("RGB").quantize(SHEET_COLORS).save(folder / name, optimize=True)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT")
    parser.add_argument("--model", default="mini")
    parser.add_argument("-o", "--output", type=Path, default=bundled_path("MODEL_CARD.md"))
    options = parser.parse_args()
    info = open_checkpoint(options.model)
    reports = []
    for number, given in enumerate(options.reports):
        path = given / "report.json" if given.is_dir() else given
        report = json.loads(path.read_text(encoding="utf-8"))
        reports.append((report, copied_sheet(path, options.output.parent, number)))
    options.output.write_text(card(info, reports), encoding="utf-8", newline="\n")
    print(options.output)


if __name__ == "__main__":
    main()
