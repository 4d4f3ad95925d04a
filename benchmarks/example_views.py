"""Makes the photos that come with the package: objects of the test split, which nothing is trained on.

    python benchmarks/example_views.py [-o upfusion_core/bundled/examples] [--size 128] [--check]

They are the first six of the generator's version 2, none picked: a pen, a ring, a teapot, a tray without a floor, a
bowl of balls, which is the demo's, and a bent rod. An object's photos 1 to 6 are the first of its fixed views, clean;
what is held out are eight views all round it, between photo 1's azimuth and the next eighth of a turn, at photo 1's
elevation. Pictures and masks are PNGs; photos.json and truth.json beside them list the cameras, as `upfusion views
--cameras` reads them. The demo's object has its photos at LARGE pixels, too: large_1.png and so on.

--check compares the folder with what would be written and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from upfusion_core import Cameras, orbit_cameras
from upfusion_core.config import Demo
from upfusion_core.procedural import ProceduralObjects, render_views
from upfusion_core.support.files import bundled_path
from upfusion_core.support.images import to_8bit

DATA, PHOTOS, TRUTHS = ProceduralObjects("test", version=2), 6, 8
OBJECTS = (0, 1, 2, 3, 5, 4)
SUPERSAMPLING = 3
LARGE = 512
TOLERANCE = 4 / 255
"""Mean difference of a picture that other versions of torch may make."""

Files = dict[str, Tensor | str]
"""Name in the folder -> (C, S, S) picture in [0, 1], or text."""


def example_files(number: int, size: int) -> Files:
    """Everything of one object, its folder's name included."""
    index = OBJECTS[number]
    batch = DATA.batch([index], views=PHOTOS, size=size, supersampling=SUPERSAMPLING)
    around = orbit_cameras([360 * (place + 0.5) / TRUTHS for place in range(TRUTHS)])
    rgb, mask, _ = render_views(
        batch.objects, around.camera_to_world[None], around.focal[None], size, supersampling=SUPERSAMPLING
    )
    files: Files = {"photos.json": listed(batch.cameras(0)), "truth.json": listed(around)}
    for kind, colors, covered in (("photo", batch.rgb[0], batch.mask[0]), ("truth", rgb[0], mask[0])):
        for place, (picture, silhouette) in enumerate(zip(colors, covered, strict=True), start=1):
            files |= {f"{kind}_{place}.png": picture, f"{kind}_{place}_mask.png": silhouette}
    if number == Demo.object:
        large = DATA.batch([index], views=PHOTOS, size=LARGE, supersampling=SUPERSAMPLING)
        files |= {f"large_{place}.png": picture for place, picture in enumerate(large.rgb[0], start=1)}
    return {f"{number}/{name}": content for name, content in files.items()}


def about(size: int) -> str:
    """What the folder holds, as JSON."""
    content = {"size": size, "objects": DATA.names(OBJECTS)}
    return json.dumps(content, indent=2) + "\n"


def listed(cameras: Cameras) -> str:
    """A JSON list of cameras, one a line."""
    rows = [
        json.dumps({"camera_to_world": matrix.tolist(), "focal": float(focal[0])})
        for matrix, focal in zip(cameras.camera_to_world, cameras.focal, strict=True)
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def pixels(picture: Tensor) -> np.ndarray:
    """(3 or 1, S, S) in [0, 1] -> (S, S, 3) or (S, S) uint8."""
    return to_8bit(picture.permute(1, 2, 0) if len(picture) == 3 else picture[0])


def differing(folder: Path, files: Files) -> list[str]:
    """Names of the files that are missing in the folder or hold something else."""
    wrong = []
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(name)
        elif isinstance(content, str):
            stored, made = json.loads(path.read_text(encoding="utf-8")), json.loads(content)
            if stored != made and not same_cameras(stored, made):
                wrong.append(name)
        else:
            with Image.open(path) as image:
                difference = np.abs(np.array(image).astype(int) - pixels(content)).mean() / 255
            if difference > TOLERANCE:
                wrong.append(name)
    return wrong


def same_cameras(stored: object, made: object) -> bool:
    """Whether two lists of cameras agree up to rounding."""
    if not isinstance(stored, list) or not isinstance(made, list) or len(stored) != len(made):
        return False
    matrices = [torch.tensor([camera["camera_to_world"] for camera in cameras]) for cameras in (stored, made)]
    return torch.allclose(*matrices, atol=1e-5)


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="\n")
        else:
            Image.fromarray(pixels(content)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=bundled_path("examples"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    files: Files = {"about.json": about(options.size)}
    for number in range(len(OBJECTS)):
        files |= example_files(number, options.size)
    if options.check:
        wrong = differing(options.output, files)
        print(f"{len(files) - len(wrong)} of {len(files)} files agree" + "".join(f"\n  not {name}" for name in wrong))
        sys.exit(bool(wrong))
    write(options.output, files)
    total = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    print(f"{options.output}: {len(files)} files, {total / 1000:.0f} kB")


if __name__ == "__main__":
    main()
