"""Trains the small model beside other work, for days; the same line goes on after any stop, or a loss of OUT.

    bash benchmarks/train_mini.sh cpu OUT      # copies the code to OUT/code, and runs this there

One thread trains at the lowest priority, another process renders objects until the cache is full. The plan has parts:
the encoder for six hours of processor time, the diffusion model for eight, then both again at half the rate, and so on,
each from the model of the part before; the autoencoder stays as it is. The rate falls to nothing in each part. Part 0
begins with the bundled model, or with another of its sizes. Environment:

    INIT=FILE.safetensors    what part 0 begins with
    HOURS="6 8"              of the two stages
    SCANS=FOLDER             meshes to measure on, too
    OBJECTS="5000 100000"    in the cache before training begins, and in the end (4.9 GB)
    TESTED=100               procedural test objects of each version to measure on

OUT/log gets a line a minute, OUT/00-encoder, OUT/01-diffusion … have curves.png, the reports and measures.json of their
parts: the figures, and what they are better by than the bundled model's on the same objects. OUT/candidate is the model
of the last diffusion part with its measures.json. A stop costs at most two minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count, product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from filelock import FileLock, Timeout
from mini_cpu import CHUNK, SIZE, CachedBatches, render, stage_config, validation_batches

from upfusion_core import UpFusion
from upfusion_core.config import EvaluationConfig, TrainConfig
from upfusion_core.data import open_dataset
from upfusion_core.data.views import MultiViewDataset
from upfusion_core.evaluation.report import Evaluator, paired_difference
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.files import bundled_path, read_json, replacing, write_json
from upfusion_core.training.loop import MODEL_NAME, train
from upfusion_core.training.report import HISTORY_NAME, STATE_NAME

BUNDLED = bundled_path("mini.safetensors")
PROTOCOL = EvaluationConfig(photos=(1, 6), stages=("predict", "sample"), steps=20, guidance=3.0, alignment="picture")
LEAST_RATE = 1 / 8  # of the first round's
MINUTE = 60.0  # seconds between lines in the log
SAVE_MINUTES = 1.6  # between saved states


class Watch:
    """Once a minute: a line in the log, and a new process that renders if the cache is not full and none does."""

    def __init__(self, out: Path, objects: int) -> None:
        self.out, self.chunks, self.next, self.renderer = out, -(-objects // CHUNK), 0.0, None

    def rendered(self) -> int:
        return CHUNK * len([*(self.out / "cache").glob("[0-9]*.pt")])

    def __call__(self, text: str, history: Path | None = None) -> None:
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + MINUTE
        if os.getsid(0) == os.getpid():  # Linux weighs sessions against each other, each with all its processes
            with suppress(OSError):  # no such system, or it is busy
                Path("/proc/self/autogroup").write_text("19", encoding="ascii")
        if not (self.out / "code").is_dir():
            raise SystemExit(f"{self.out} has vanished; the same line begins anew")
        objects = self.rendered()
        if objects < CHUNK * self.chunks and not (self.renderer and self.renderer.is_alive()):
            arguments = (self.out / "cache", self.chunks)
            self.renderer = get_context("spawn").Process(target=render, args=arguments, daemon=True)
            self.renderer.start()
        if history is not None and history.exists():
            last = [rows[-1] for rows in read_json(history).values() if rows]  # of training, and of validation
            text += "".join(f", {name} {value:.4g}" for row in last for name, value in row.items())
        print(f"{time.strftime('%F %T')} {text}; {objects:,} objects rendered", flush=True)


def plan(hours: tuple[float, ...]) -> Iterator[tuple[str, TrainConfig]]:
    """Name and configuration of each part, without end."""
    for number in count():
        stage = ("encoder", "diffusion")[number % 2]
        config = stage_config(stage, steps=1, constant=False)
        rate = config.learning_rate * max(LEAST_RATE, 0.5 ** (number // 2))
        saved = {"save_every": 10**9, "save_minutes": SAVE_MINUTES}
        yield f"{number:02d}-{stage}", replace(config, learning_rate=rate, hours=hours[number % 2], **saved)


def datasets(tested: int, scans: str | None) -> dict[str, tuple[MultiViewDataset, range]]:
    """What models are measured on, by name, and which objects of it."""
    found: dict[str, tuple[MultiViewDataset, range]] = {
        f"version {version}": (ProceduralObjects("test", size=SIZE, version=version), range(tested))
        for version in (1, 2)
    }
    if scans:
        meshes = open_dataset(scans, size=SIZE)
        found["scans"] = meshes, range(len(meshes))
    return found


def measured(folder: Path, stages: tuple[str, ...], watch: Watch) -> dict[str, Any]:
    """Figures of a part's model on all data, and, object by object, what it is better by than the bundled model."""
    content: dict[str, Any] = {}
    protocol = replace(PROTOCOL, stages=stages)
    data = datasets(int(os.environ.get("TESTED", "100")), os.environ.get("SCANS"))
    for name, (dataset, indices) in data.items():
        records = []
        for model, where in ((BUNDLED, watch.out / "bundled" / "-".join(stages)), (folder / MODEL_NAME, folder)):
            place = where / name.replace(" ", "-")

            def told(done: int, total: int, preview: object, what: str = f"{folder.name}: measuring {place}") -> None:
                watch(f"{what}, {done} of {total}")

            evaluator = Evaluator(UpFusion.load(model, device="cpu"), [dataset], place, protocol)
            evaluator.evaluate(indices, on_step=told)
            paths = (place / "objects" / f"{index:06d}.json" for index in indices)
            records.append({path.name: read_json(path)["values"] for path in paths if path.exists()})
        both = [(records[0][key], records[1][key]) for key in records[0].keys() & records[1].keys()]
        gains: dict[str, Any] = {}
        for stage, photos, measure in product(stages, map(str, PROTOCOL.photos), ("box_psnr", "iou")):
            pairs = [[fmean(values[stage][photos][measure]) for values in pair] for pair in both]
            gains[f"{stage}, photos: {photos}, {measure}"] = paired_difference(*zip(*pairs, strict=True))
        content[name] = {"results": read_json(place / "report.json")["results"], "gains": gains}
    return content


def go(out: Path) -> None:
    least, most = map(int, os.environ.get("OBJECTS", "5000 100000").split())
    hours = tuple(map(float, os.environ.get("HOURS", "6 8").split()))
    watch, model = Watch(out, most), Path(os.environ.get("INIT") or BUNDLED)
    for name, config in plan(hours):
        folder = out / name
        if not (folder / "measures.json").exists():
            while watch.rendered() < least:
                watch(f"{name}: waiting for {least:,} objects")
                time.sleep(1)
            for partial in folder.glob(".*.partial*"):  # of a state that was being saved when all was killed
                partial.unlink()
            resume = (folder / STATE_NAME).exists()
            if resume:  # as it was begun, whatever the code has become, and the processor
                state = torch.load(folder / STATE_NAME, weights_only=True, mmap=True)
                config = TrainConfig.from_dict(json.loads(state["config"]))

            def told(done: int, total: int, preview: object, name: str = name) -> None:
                watch(f"{name}: {done / 3600:.2f} of {total / 3600:.2f} h", out / name / HISTORY_NAME)

            source = CachedBatches(out / "cache", config)
            train(
                config, source, validation_batches(config), folder, init=[model], resume=resume, device="cpu",
                on_step=told,
            )  # fmt: skip
            stages = ("predict", "sample") if config.stage == "diffusion" else ("predict",)
            measures = measured(folder, stages, watch)
            if config.stage == "diffusion":
                with replacing(out / "candidate" / MODEL_NAME) as partial:
                    shutil.copyfile(folder / MODEL_NAME, partial)
                write_json(out / "candidate" / "measures.json", measures)
            write_json(folder / "measures.json", measures)  # with this the part is finished
        model = folder / MODEL_NAME


def main() -> None:
    out = Path(sys.argv[1]).resolve()
    try:
        with FileLock(out / "lock", timeout=60):  # one that was killed may take a while to end, at its priority
            (out / "pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
            log = os.open(out / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.nice(19)
            torch.set_num_threads(1)
            go(out)
    except Timeout:
        raise SystemExit(f"{out} is being trained already; {out / 'log'} tells how far") from None


if __name__ == "__main__":
    main()
