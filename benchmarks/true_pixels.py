"""Photos with known cameras: fields, meshes and textures of them, against the truth.

    python benchmarks/true_pixels.py fit [--objects 1] [--out F]                 eight views of 512 pixels of an object
    python benchmarks/true_pixels.py whole SCANS [--photos 6 3] [--objects 12] [--model mini]
                                                                  photos as people take them, 768 pixels; with a model
                                                                  `fast` fills in what they do not show
    python benchmarks/true_pixels.py projection SCANS [--objects 12]             true mesh, six photos of 1024 pixels
    python benchmarks/true_pixels.py perturbed SCANS [--objects 12]              cameras of the photos turned by degrees
    python benchmarks/true_pixels.py speed [--size 4096]                      time and peak of memory
    python benchmarks/true_pixels.py large                        peak of memory of six 50-megapixel photos with masks

SCANS is a folder of meshes (GLB, OBJ, PLY, +Y up). Each object gives a line; with --out they are kept in that file, a
JSON object a line, and those that are there already are not measured again. Pictures are compared inside the bounding
rectangle of the true silhouette (box PSNR). Seconds are the processor's.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from upfusion_core import (
    Cameras,
    GivenViews,
    KnownCameras,
    MeshAsset,
    UpFusion,
    fit_views,
    look_at,
    orbit_cameras,
    prepare_views,
    project_photos,
    random_cameras,
)
from upfusion_core.config import FitConfig, RaySampling
from upfusion_core.data.meshes import mesh_folder
from upfusion_core.evaluation.metrics import measure_views
from upfusion_core.field.radiance import RadianceField
from upfusion_core.procedural import ProceduralObjects, render_views
from upfusion_core.surface import projection
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface

RADIUS = 0.17  # of the ball about a scan: it fills three quarters of the narrowest photo
UNSEEN, LOOK = 8, 128  # views that are measured, pixels a side
SAMPLING = RaySampling(uniform=96, importance=48)
DEGREES = (0.0, 2.0, 5.0, 9.0)

Row = dict[str, Any]


def casual_cameras(count: int, generator: torch.Generator) -> Cameras:
    """All round the object; but for photo 1 at distances of ±20 %, and none centred or level; lenses of 27–37°."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    cameras = []
    for index in range(count):
        azimuth = math.radians(360 * index / count + (draw(-20, 20) if index else 0))
        elevation, distance = math.radians(draw(-5, 45)), draw(0.8, 1.2) if index else 1.0
        ground = distance * math.cos(elevation)
        center = [ground * math.sin(azimuth), distance * math.sin(elevation), ground * math.cos(azimuth)]
        roll = (draw(-0.1, 0.1), 1.0, draw(-0.1, 0.1))
        focal = 1 / math.tan(math.radians(draw(27, 37)) / 2)
        cameras.append(look_at(torch.tensor([center]), [draw(-0.02, 0.02) for _ in range(3)], roll, focal=focal))
    return Cameras.concatenate(cameras)


def photos_of(surface: Surface, cameras: Cameras, size: int) -> GivenViews:
    """8-bit photos with their silhouettes."""
    seen = [rasterise(surface, camera, size, supersampling=2) for camera in cameras]
    rgb, masks = [(255 * view.rgb[0]).round().byte() for view in seen], [view.opacity[0, 0] for view in seen]
    return GivenViews(rgb, cameras, masks)


def unseen(surface: Surface) -> tuple[Cameras, Tensor, Tensor]:
    """Cameras that are no photo's, what they see, and its silhouette."""
    cameras = random_cameras(UNSEEN, generator=torch.Generator().manual_seed(99))
    truth = rasterise(surface, cameras, LOOK)
    return cameras, truth.rgb, truth.opacity


def scores(rgb: Tensor, opacity: Tensor, truth: Tensor, mask: Tensor) -> Row:
    found = measure_views(rgb, truth, mask, prediction_mask=opacity)
    return {name: round(float(found[name].mean()), 3) for name in ("psnr", "box_psnr", "iou")}


def compared(made: RadianceField | MeshAsset, cameras: Cameras, *truth: Tensor) -> Row:
    """How a field or a mesh looks from cameras beside the truth's pictures and silhouettes."""
    size = truth[0].shape[-1]
    if isinstance(made, RadianceField):
        views = made.render(cameras, size, sampling=SAMPLING)
    else:
        textured = made.uvs is not None and made.texture is not None
        colors = torch.ones_like(made.vertices) if textured else made.vertex_colors
        uvs = made.uvs if textured else torch.zeros(len(colors), 2)
        shown = torch.full((len(made.faces),), 0 if textured else -1)
        views = rasterise(
            Surface(made.vertices, made.faces, colors, uvs, (made.texture,) if textured else (), shown), cameras, size
        )
    return scores(views.rgb, views.opacity, *truth)


def fitted(views: GivenViews, options: argparse.Namespace) -> tuple[RadianceField, float]:
    """The field, by `distill` where there is a model, and seconds of the processor."""
    if options.model:
        known = KnownCameras.of_photos(views.cameras, [(rgb.shape[2], rgb.shape[1]) for rgb in views.rgb])
        model, photos = UpFusion.load(options.model), [rgb.permute(1, 2, 0).numpy() for rgb in views.rgb]
        squares = prepare_views(photos, list(views.masks or ()), size=model.image_size, cameras=known)
        started = time.process_time()
        field = model.distill(model.encode(squares), generator=torch.Generator().manual_seed(0))
        return field, round(time.process_time() - started, 1)
    config = replace(FitConfig.views(), **({"iterations": options.iterations} if options.iterations else {}))
    started = time.process_time()
    field = fit_views(views, config=config, generator=torch.Generator().manual_seed(0))
    return field, round(time.process_time() - started, 1)


def fit(index: int, options: argparse.Namespace) -> Row:
    """Eight views of a bundled example's object, the demo's first, and eight others."""
    objects = ProceduralObjects("test", version=2).objects([[5, 0, 1, 2, 3, 4][index]])

    def seen(cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
        rgb, opacity, _ = render_views(objects, cameras.camera_to_world[None], cameras.focal[None], size)
        return rgb[0], opacity[0]

    cameras = orbit_cameras([45.0 * place for place in range(8)], [22.5, 0.0, 45.0, 10.0] * 2)
    rgb, mask = seen(cameras, 512)
    field, seconds = fitted(GivenViews(list((255 * rgb).round().byte()), cameras, list(mask[:, 0])), options)
    others = random_cameras(UNSEEN, generator=torch.Generator().manual_seed(99))
    return {"seconds": seconds} | compared(field, others, *seen(others, 256))


def whole(surface: Surface, photos: int, options: argparse.Namespace) -> Row:
    """Field and mesh of casual photos."""
    views = photos_of(surface, casual_cameras(photos, torch.Generator().manual_seed(photos)), 768)
    field, seconds = fitted(views, options)
    truth, mesh = unseen(surface), field.extract_mesh(160)
    return {"seconds": seconds, "field": compared(field, *truth), "mesh": compared(mesh, *truth)}


def project(surface: Surface, photos: int, options: argparse.Namespace) -> Row:
    """A texture of six photos on the true mesh: texels that a photo sees, and steps where the best photo changes."""
    views = photos_of(surface, casual_cameras(photos, torch.Generator().manual_seed(photos)), 1024)
    size = options.size or 1024
    gray = torch.full((3, 1, 1), 0.5)
    plain = MeshAsset(surface.vertices, surface.faces, torch.full_like(surface.vertices, 0.5), surface.uvs, gray)
    started = time.process_time()
    made = project_photos(plain, list(views.rgb), views.cameras, masks=views.masks, size=size)
    seconds = round(time.process_time() - started, 1)
    wanted, found = torch.zeros(2, 3, size * size)
    best = torch.full((size * size,), -1)
    asked = replace(made, texture=surface.textures[0])
    each = zip(views.rgb, views.cameras, views.masks or (), strict=True)
    lookers = [projection._Projector(asked, *photo) for photo in each]
    assert made.texture is not None, "it was painted"
    for texel, points, normals, own, _ in projection._surface(asked, size):
        weights = torch.stack([looker.look(points, normals)[2] for looker in lookers])
        best[texel] = weights.argmax(0).where(weights.amax(0) > 0, -1)
        wanted[:, texel], found[:, texel] = own.T, made.texture.reshape(3, -1)[:, texel]
    seen = best >= 0
    error = (wanted - found)[:, seen].square().mean()
    steps, seams = [], []
    grid = [values.view(-1, size, size) for values in (255 * (found - wanted), best)]
    for axis in (1, 2):
        (beyond, other), (before, photo) = ([v.narrow(axis, at, size - 1) for v in grid] for at in (1, 0))
        beyond, both = (beyond - before).mean(0), ((photo >= 0) & (other >= 0))[0]
        steps.append(torch.stack([beyond[both], (photo != other)[0][both].float()]))
        for pair in (photo * len(lookers) + other)[0][both & (photo != other)[0]].unique():
            along = beyond[both & (photo * len(lookers) + other == pair)[0]]
            seams += [abs(float(along.mean()))] if len(along) >= 50 else []
    step, changes = torch.cat(steps, dim=1)
    above = [round(float((step[changes == value].abs() > 4).float().mean()), 4) for value in (1, 0)]
    seams = {"largest": round(max(seams, default=0.0), 2), "above_4": above[0], "above_4_elsewhere": above[1]}
    row = {"seconds": seconds, "texels_psnr": round(-10 * math.log10(float(error)), 2), "seams": seams}
    return row | {"seen": round(float(seen.float().mean()), 3), "mesh": compared(made, *unseen(surface))}


def turned(cameras: Cameras, degrees: float) -> Cameras:
    """Each camera but photo 1's turned about the object by so many degrees, about an axis of its own."""
    generator = torch.Generator().manual_seed(7)
    axes = torch.nn.functional.normalize(torch.randn(len(cameras), 3, generator=generator), dim=-1)
    axes[0] = 0
    matrices = torch.eye(4).repeat(len(cameras), 1, 1)
    for matrix, (x, y, z) in zip(matrices, (axes * math.radians(degrees)).tolist(), strict=True):
        matrix[:3, :3] = torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    return replace(cameras, camera_to_world=matrices @ cameras.camera_to_world)


def perturbed(surface: Surface, photos: int, options: argparse.Namespace) -> Row:
    """A field of the photos, its mesh with a texture baked from it, and painted from photos whose cameras are wrong."""
    views = photos_of(surface, casual_cameras(photos, torch.Generator().manual_seed(photos)), 768)
    field, seconds = fitted(views, options)
    truth = unseen(surface)
    baked = field.extract_mesh(160, texture_size=1024, faces=30_000)
    row: Row = {"seconds": seconds, "baked": compared(baked, *truth)["box_psnr"]}
    for degrees in DEGREES:
        cameras = turned(views.cameras, degrees)
        painted = project_photos(baked, list(views.rgb), cameras, masks=views.masks, size=1024)
        row[f"turned_{degrees:g}"] = compared(painted, *truth)["box_psnr"]
    return row


def speed(_: int, options: argparse.Namespace) -> Row:
    """Six photos of 12 megapixels on a ball of 20,480 triangles, which is unwrapped and painted."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.2)
    vertices, faces = torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int64)
    mesh = MeshAsset(vertices, faces, torch.full_like(vertices, 0.5))
    cameras = orbit_cameras([0.0, 60, 120, 180, 240, 300], [20.0, -20] * 3)
    photo = (torch.arange(3464) % 251).byte().expand(3, 3464, 3464)
    started, wall = time.process_time(), time.perf_counter()
    project_photos(mesh, [photo.clone() for _ in cameras], cameras, size=options.size or 4096)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    taken = {"seconds": round(time.process_time() - started, 1), "wall": round(time.perf_counter() - wall, 1)}
    return taken | {"faces": len(faces), "peak_gb": round(peak, 2)}


def large(_: int, options: argparse.Namespace) -> Row:
    """Six JPEG files of 50 megapixels with masks, read and framed."""
    with TemporaryDirectory() as folder:
        shape = np.zeros((6144, 8192), np.uint8)
        shape[1000:5000, 2000:6000] = 255
        photo, mask = Path(folder) / "photo.jpg", Path(folder) / "mask.png"
        Image.merge("RGB", [Image.fromarray(shape)] * 3).save(photo)
        Image.fromarray(shape).save(mask)
        started = time.process_time()
        views = prepare_views([photo] * 6, [mask] * 6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert views.sources, "they are of files"
    kept = list(views.sources[0].size)
    return {"seconds": round(time.process_time() - started, 1), "kept": kept, "peak_gb": round(peak, 2)}


def report(options: argparse.Namespace, key: Row, work: Callable[[], Row]) -> None:
    """Measures unless the file has that line, and adds it there."""
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out and options.out.exists() else []
    row = next((line for line in map(json.loads, lines) if key.items() <= line.items()), None)
    if row is None:
        row = key | work()
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=("fit", "whole", "projection", "perturbed", "speed", "large"))
    parser.add_argument("scans", type=Path, nargs="?", help="folder of meshes; fit, speed and large need none")
    parser.add_argument("--photos", type=int, nargs="+", default=[6])
    parser.add_argument("--objects", type=int, help="so many of them, the first, if not 12; of fit's, if not 1")
    parser.add_argument("--model", help="of whole: mini, or a folder; without one the photos alone are fitted")
    parser.add_argument("--iterations", type=int, help="of a fit, if not its own number")
    parser.add_argument("--size", type=int, help="of the texture, if not 1024; of speed's, if not 4096")
    parser.add_argument("--out", type=Path, help="file that keeps the lines")
    options = parser.parse_args()
    without_scans = {"fit": fit, "speed": speed, "large": large}
    if work := without_scans.get(options.work):
        for index in range(options.objects or 1 if options.work == "fit" else 1):
            key = {"work": options.work, "object": index, "iterations": options.iterations, "size": options.size}
            report(options, key, partial(work, index, options))
        return
    works = {"whole": whole, "projection": project, "perturbed": perturbed}
    for source in mesh_folder(options.scans).sources[: options.objects or 12]:
        for photos in options.photos:
            key = {"work": options.work, "object": source.name, "photos": photos, "iterations": options.iterations}
            key |= {"model": options.model} if options.model else {}
            surface = source.read().centered(RADIUS)
            report(options, key, partial(works[options.work], surface, photos, options))


if __name__ == "__main__":
    main()
