"""Time to prepare the conditions of 250 cameras for one scene: once encoded, re-encoded, and the release's way.

    python benchmarks/conditioning.py WEIGHTS PHOTO... [--cameras 10] [--out results.json]

Three ways, interleaved in one run so that a busy machine slows all alike, on the same photos and cameras:
  once      ours: photos encoded once, then each camera only decoded; passes through DINO and the encoder are counted
  again     our networks, photos encoded anew for each camera
  released  twice for each camera, all 12 DINO blocks: the released code if its checkouts are named (see
            released_code.py), else our networks with 12 blocks, which the result then says
Times of 250 cameras are extrapolated from those measured: encoding + 250 x mean time of a camera.

The released script's second pass keeps the first one's DINO features and decodes a 256 x 256 colour picture instead of
32 x 32 features, which takes longer than all the rest; where the released code runs, one camera is timed that way too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

import released_code
from measuring import timed, write_json

from upfusion_core import UpFusion, orbit_cameras, prepare_views
from upfusion_core.config import DinoConfig
from upfusion_core.geometry.cameras import BAND_ELEVATION_DEGREES
from upfusion_core.models.dino import DinoKeys
from upfusion_core.types import Cameras, InputViews, SceneEncoding

EXTRAPOLATED = 250
GOLDEN_ANGLE = 137.508


class PassCounter:
    """Counts the calls of modules, e.g. `PassCounter(dino=model.dino).counts["dino"]`."""

    def __init__(self, **modules: nn.Module) -> None:
        self.counts = dict.fromkeys(modules, 0)
        for name, module in modules.items():
            module.register_forward_hook(self._counting(name))

    def _counting(self, name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            self.counts[name] += 1

        return count


def seconds(work: Callable[..., object], *arguments: object) -> float:
    return timed(lambda: work(*arguments))[1].wall


def turntable(count: int) -> Cameras:
    """`count` cameras spread round the object, their elevations over the release's band."""
    low, high = BAND_ELEVATION_DEGREES
    steps = torch.arange(count, dtype=torch.float64)
    return orbit_cameras((steps * GOLDEN_ANGLE) % 360, low + (high - low) * steps / max(count - 1, 1))


def released_way(weights: Path, views: InputViews) -> tuple[Callable[[int, Cameras], None], Callable[[], None]]:
    """One camera's condition by the released code, from the photos on; and its script's two passes, literally."""
    import reference

    dino = reference.build_dino(reference.read_weights(weights / "dinov2_vitb14_pretrain.pth"))
    upsrt = reference.build_upsrt(reference.read_weights(weights / "upsrt.pt"))
    photos = views.rgb[None] * 2 - 1

    def prepare(index: int, cameras: Cameras) -> None:
        x, y, z = cameras.centers[index].tolist()
        azimuth = torch.rad2deg(torch.atan2(torch.tensor(x), torch.tensor(z)))
        elevation = torch.rad2deg(torch.asin(torch.tensor(y)))
        reference.condition(dino, upsrt, photos, reference.query_camera(float(azimuth), float(elevation), 1.0))

    def literally() -> None:
        camera = reference.query_camera(30.0, 22.5, 1.0)
        keys = reference.condition(dino, upsrt, photos, camera).keys
        upsrt.get_query_features(
            dino_features=keys,
            input_cameras=[reference.photo_cameras(len(views))],
            query_cameras=[camera],
            image_size=(256, 256),
            decoder_return_type="pred_rgb",
        )

    return prepare, literally


def emulated_way(weights: Path, views: InputViews, text: tuple[Tensor, Tensor]) -> Callable[[int, Cameras], None]:
    """The same amount of work by our networks: 12 DINO blocks, of the last one only what the keys need."""
    model = UpFusion.load(weights)
    model.dino = DinoKeys(DinoConfig(layer=11)).eval()  # its weights do not matter for the time

    def prepare(index: int, cameras: Cameras) -> None:
        model.condition(model.encode(views), cameras[index], text_embeddings=text)

    return prepare


def measure(weights: Path, photos: list[Path], count: int) -> dict[str, object]:
    model, views, cameras = UpFusion.load(weights), prepare_views(photos), turntable(count)
    text = (torch.zeros(77, 768), torch.zeros(77, 768))  # the text encoder is no part of what is compared
    if released_code.available():
        release, literally = released_way(weights, views)
    else:
        release, literally = emulated_way(weights, views, text), None

    def condition(chosen: Cameras, scene: SceneEncoding) -> None:
        model.condition(scene, chosen, text_embeddings=text)

    def again(index: int) -> None:
        condition(cameras[index], model.encode(views))

    with torch.inference_mode():
        again(0)  # first calls set up threads and page the weights in
        release(0, cameras)
        counter = PassCounter(dino=model.dino, encoder=model.upsrt.scene_encoder)
        scene, encoding = timed(lambda: model.encode(views))
        passes = dict(counter.counts)
        times: dict[str, list[float]] = {"once": [], "again": [], "released": []}
        for group in torch.arange(count).split(5):
            before = dict(counter.counts)
            times["once"] += [seconds(condition, cameras[group], scene) / len(group)] * len(group)
            passes = {name: passes[name] + counter.counts[name] - before[name] for name in passes}
            for index in group.tolist():
                times["again"].append(seconds(again, index))
                times["released"].append(sum(seconds(release, index, cameras) for _ in range(2)))
        literal = seconds(literally) if literally else None
    return summary(encoding.wall, times, passes, literal)


def summary(
    encoding: float, times: dict[str, list[float]], passes: dict[str, int], literal: float | None
) -> dict[str, object]:
    means = {name: sum(values) / len(values) for name, values in times.items()}
    total = {name: EXTRAPOLATED * mean + (encoding if name == "once" else 0.0) for name, mean in means.items()}
    return {
        "cameras_measured": len(times["once"]),
        "cameras_extrapolated_to": EXTRAPOLATED,
        "extrapolation": "encoding + cameras x mean seconds a camera; `again` and `released` hold the encoding",
        "released_way": "the released code" if literal else "emulated with our networks and 12 DINO blocks",
        "encoding_seconds": encoding,
        "passes_of_once": passes,
        "seconds_a_camera": means,
        "seconds_extrapolated": total,
        "again_over_once": total["again"] / total["once"],
        "released_over_once": total["released"] / total["once"],
        "released_script_seconds_a_camera": literal,
        "seconds_each": times,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def print_table(result: dict[str, object]) -> None:
    means, totals = result["seconds_a_camera"], result["seconds_extrapolated"]
    print(f"{result['cameras_measured']} cameras measured, {EXTRAPOLATED} extrapolated: {result['extrapolation']}")
    print(f"released: {result['released_way']}; {result['threads']} threads, torch {result['torch']}")
    print(f"encoding once {result['encoding_seconds']:.2f} s; passes while conditioning: {result['passes_of_once']}")
    print(f"{'way':10}{'s a camera':>12}{f'{EXTRAPOLATED} cameras, s':>20}{'times ours':>12}")
    for name in ("once", "again", "released"):
        print(f"{name:10}{means[name]:12.3f}{totals[name]:20.1f}{totals[name] / totals['once']:12.1f}")
    if result["released_script_seconds_a_camera"]:
        print(
            f"the released script's own two passes: {result['released_script_seconds_a_camera']:.1f} s for one camera"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--cameras", type=int, default=10)
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args()
    result = measure(arguments.weights, arguments.photos, arguments.cameras)
    print_table(result)
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
