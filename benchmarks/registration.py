"""How well `register_mesh` brings meshes into photo 1's frame.

    python benchmarks/registration.py SCANS [--photos 1 2 3] [--seed 0] [--grey] [--out F]

Each mesh of a folder is seen from random cameras of the release's band, then turned by up to 30 degrees of yaw, made .7
to 1.4 times as large and moved by a tenth of its longest side, and brought back by the first photos. A line each: the
angle that is left, the scale, how far the origin lies from where it was in longest sides, and whether all are within 3
degrees and 2 %. --grey takes the meshes' colours away. Lines in --out are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from upfusion_core import InputViews, MeshAsset, PhotoCameras, random_cameras, register_mesh
from upfusion_core.data.meshes import MeshSource, mesh_folder
from upfusion_core.geometry.cameras import Similarity
from upfusion_core.surface.rasterise import rasterise

SIZE = 256  # pixels of the photos
DEGREES, SHARE = 3.0, 0.02


def one_mesh(source: MeshSource, number: int, photos: list[int], seed: int, grey: bool) -> list[dict[str, Any]]:
    """A line for each number of photos."""
    surface, generator = source.read(), torch.Generator().manual_seed(1000 * seed + number)
    cameras = random_cameras(3, generator=generator)
    seen = rasterise(surface, cameras, SIZE)
    yaw, size = torch.rand(2, generator=generator).tolist()
    longest = float((surface.vertices.amax(0) - surface.vertices.amin(0)).max())
    offset = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0) * 0.1 * longest
    moved = Similarity.from_angles(60 * yaw - 30, scale=0.7 * 2**size, shift=tuple(offset.tolist()))
    texture = surface.textures[0][:3] if surface.textures and not grey else None
    colors = torch.full_like(surface.vertices, 0.5) if grey else surface.colors
    mesh = MeshAsset(moved.apply(surface.vertices), surface.faces, colors, surface.uvs.clamp(0, 1), texture)
    lines = []
    for count in photos:
        views = InputViews(seen.rgb[:count], seen.opacity[:count].clamp(0, 1), cameras.focal[:count])
        known = PhotoCameras(cameras[:count], torch.ones(count, dtype=torch.bool), torch.ones(count), given=True)
        started = time.process_time()
        found = register_mesh(mesh, views, known)
        line: dict[str, Any] = {"mesh": source.name, "photos": count, "seed": seed, "grey": grey}
        line["seconds"] = round(time.process_time() - started, 1)
        turned = found.similarity.rotation @ moved.rotation
        line["angle"] = round(math.degrees(math.acos(min(1.0, max(-1.0, (float(turned.trace()) - 1) / 2)))), 2)
        line["scale"] = round(found.similarity.scale * moved.scale, 4)
        line["shift"] = round(float(found.similarity.apply(moved.translation).norm()) / longest, 4)
        line["overlap"] = round(found.overlap, 3)
        line["right"] = line["angle"] <= DEGREES and max(abs(line["scale"] - 1), line["shift"]) <= SHARE
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, help="folder of meshes, +Y up")
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 2, 3], choices=(1, 2, 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grey", action="store_true")
    parser.add_argument("--out", type=Path, help="file that keeps the lines")
    options = parser.parse_args()
    known = options.out.read_text(encoding="utf-8").splitlines() if options.out and options.out.exists() else []
    lines = [json.loads(line) for line in known]
    done = {(line["mesh"], line["photos"], line["seed"], line["grey"]) for line in lines}
    for number, source in enumerate(mesh_folder(options.scans).sources):
        left = [count for count in options.photos if (source.name, count, options.seed, options.grey) not in done]
        for line in one_mesh(source, number, left, options.seed, options.grey) if left else []:
            lines.append(line)
            print(json.dumps(line), flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    for count in options.photos:
        kind = (count, options.seed, options.grey)
        right = [line["right"] for line in lines if (line["photos"], line["seed"], line["grey"]) == kind]
        print(f"{count} photos: {sum(right)} of {len(right)} within {DEGREES:g} degrees and {100 * SHARE:g} %")


if __name__ == "__main__":
    main()
