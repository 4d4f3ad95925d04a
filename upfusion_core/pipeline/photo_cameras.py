"""Cameras that people know for their photos -> cameras in photo 1's frame, each matched to its photo by name."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from ..data.camera_files import CameraFile, FileCamera, read_camera_files
from ..data.recorded import bounds
from ..geometry.lenses import KnownCameras, Lens
from ..support.decoding import open_picture, orientation, stored_size
from ..support.errors import InputError
from ..support.files import reading
from ..support.images import unit_range
from ..types import Cameras
from .photos import LARGEST, PhotoSource, read_mask, read_photo

_QUARTERS = {1: 0, 3: 2, 6: 1, 8: 3}
"""EXIF's orientation -> by how many quarters of a turn, clockwise, the stored pixels become upright."""


def load_photo_cameras(
    path: str | os.PathLike[str],
    photos: Sequence[str | os.PathLike[str]],
    masks: Sequence[PhotoSource | None] | None = None,
    *,
    elevation_degrees: float = 22.5,
) -> KnownCameras:
    """Cameras of `photos` from a file or folder that another program wrote.

    Read are transforms.json (nerfstudio, instant-ngp, Blender), COLMAP's text and binary models, cameras.json of
    Gaussian splats, and the photo_cameras.json of a run. Entries are matched to photos by name; folder, case and
    extension may differ where that leaves no doubt. Photos may be smaller than those that the cameras were made from,
    and turned by EXIF.

    Args:
        path: the file, or a folder such as COLMAP's. photos: files of those that it knows, the reference first.
        masks: one a photo; the object's centre is where the middles of the silhouettes meet. Photos with alpha need
            none; without any, it is where the optical axes meet.
        elevation_degrees: photo 1's, where the file does not know what is up.

    Raises InputError: the file cannot be read, a photo has no camera, or a camera is none; the sentence names it.
    """
    path = Path(path)
    files, sizes = [Path(photo) for photo in photos], []
    for file in files:
        with reading(file, "check the path"), open_picture(file) as image:
            sizes.append((stored_size(image), orientation(image)))
    labels, worlds = [file.name for file in files], read_camera_files(path)
    fits = [_matched(world, files) for world in worlds]
    best = max(range(len(worlds)), key=lambda index: sum(entry is not None for entry in fits[index][0]))
    world, (entries, notes) = worlds[best], fits[best]
    if missing := [label for label, entry in zip(labels, entries, strict=True) if entry is None]:
        known = ", ".join(sorted(camera.name for camera in world.cameras)[:6])
        wanted = f"{world.path} must have a camera for each photo, it has none for {', '.join(missing)}"
        raise InputError(f"{wanted}; known: {known}")
    if len(worlds) > 1:
        most = f"of {len(worlds)} models in {path} the one in {world.path.name} has most of the photos"
        notes.append(f"{most}; it is taken")
    poses, lenses = [], []
    for entry, size, label in zip(entries, sizes, labels, strict=True):
        assert entry is not None, "missing ones are refused above"
        pose, lens = _upright(entry, *size, f"{label} ({world.path})")
        poses.append(pose)
        lenses.append(lens)
    if world.ours and entries[0] is world.cameras[0]:  # in photo 1's frame already, to the bit
        ndc = torch.tensor([lens.ndc for lens in lenses], dtype=torch.float32)
        cameras = Cameras(torch.stack(poses).float(), ndc[:, 0], ndc[:, 1])
    else:
        middles = None if world.ours else _middles(photos, masks)
        cameras = cameras_round_object(torch.stack(poses), lenses, middles, labels, world.up, elevation_degrees)
    statuses = [entry.status for entry in entries if entry is not None]
    refused = tuple(index for index, status in enumerate(statuses) if status == "refused")
    return KnownCameras(cameras, tuple(lenses), tuple(notes), refused, given="given" in statuses)


def cameras_round_object(
    matrices: Tensor,
    lenses: Sequence[Lens],
    middles: Sequence[tuple[float, float] | None] | None,
    labels: Sequence[str],
    up: tuple[float, float, float] | None = None,
    elevation_degrees: float = 22.5,
) -> Cameras:
    """Cameras of any world -> the same in photo 1's frame, or InputError where they are none.

    Args:
        matrices: (V, 4, 4) float64 camera-to-world in our axes, rigid but for rounding and one scale.
        middles: of the silhouettes, as shares of the photos' sides, None where one is not known; without any the
            world's origin is the object's centre.
        labels: how messages call the photos. up: which way is up in that world; None: photo 1 tells.
    """
    matrices = _rigid(matrices, labels)
    center = matrices.new_zeros(3) if middles is None else _center(matrices, lenses, middles, labels)
    framed = _in_frame_of_first(matrices, center, up, elevation_degrees)
    ndc = torch.tensor([lens.ndc for lens in lenses], dtype=torch.float32)
    return Cameras(framed.float(), ndc[:, 0], ndc[:, 1])


def _matched(world: CameraFile, photos: list[Path]) -> tuple[list[FileCamera | None], list[str]]:
    """The camera of each photo by the strictest rule that finds any, and what had to be forgiven."""

    def common(name: PurePosixPath, photo: PurePosixPath) -> int:
        """How many folders above the pictures agree, from the last one on."""
        pairs = zip(name.parts[-2::-1], photo.parts[-2::-1], strict=False)
        agree = [a.casefold() == b.casefold() for a, b in pairs]
        return agree.index(False) if False in agree else len(agree)

    rules: list[tuple[Callable[[PurePosixPath], str], str]] = [
        (lambda name: name.name, ""),
        (lambda name: name.name.casefold(), "letters' case"),
        (lambda name: _stem(name), "the extension"),
        (lambda name: _stem(name).casefold(), "letters' case and extension"),
    ]
    found: list[FileCamera | None] = []
    notes = []
    for photo in photos:
        own = PurePosixPath(photo.as_posix())
        chosen = None
        for rule, forgiven in rules:
            alike = [camera for camera in world.cameras if rule(PurePosixPath(camera.name)) == rule(own)]
            if not alike:
                continue
            depth = [common(PurePosixPath(camera.name), own) for camera in alike]
            alike = [camera for camera, shared in zip(alike, depth, strict=True) if shared == max(depth)]
            if len(alike) > 1:
                names = ", ".join(camera.name for camera in alike[:4])
                wanted = f"{photo.name} must be one picture of {world.path}, it may be {names}"
                raise InputError(f"{wanted}; rename the photo")
            chosen = alike[0]
            if forgiven:
                notes.append(f"{photo.name} is taken for {chosen.name} of {world.path.name}, {forgiven} aside")
            break
        found.append(chosen)
    for index, camera in enumerate(found):
        if camera is not None and any(other is camera for other in found[:index]):
            raise InputError(f"{photos[index].name} and another photo both have the camera {camera.name}; rename one")
    return found, notes


def _stem(name: PurePosixPath) -> str:
    known = name.suffix.lower() in {*Image.registered_extensions(), ".heic", ".heif", ".avif"}
    return name.stem if known else name.name


def _upright(entry: FileCamera, stored: tuple[int, int], orientation: int, label: str) -> tuple[Tensor, Lens]:
    """The camera and lens of a photo as one sees it, in its own pixels, by the size of its stored ones."""
    turned = stored[::-1] if orientation >= 5 else stored
    lens = entry.lens
    if not entry.sized:
        if lens.size == (1.0, 1.0):  # an angle across, and square pixels
            focal, middle = lens.focal[0] * turned[0], (turned[0] / 2, turned[1] / 2)
            return entry.camera_to_world, replace(lens, size=turned, focal=(focal, focal), center=middle)
        near = min((stored, turned), key=lambda size: sum(abs(a / b - 1) for a, b in zip(size, lens.size, strict=True)))
        if all(abs(a / b - 1) < 0.15 for a, b in zip(near, lens.size, strict=True)):
            lens = replace(lens, size=near)
    quarters = 0
    if orientation != 1 and _same_shape(lens.size, stored):
        if orientation not in _QUARTERS:
            raise InputError(f"{label} is mirrored by its EXIF tag; save it unmirrored, and make its camera again")
        quarters = _QUARTERS[orientation]
        lens = lens.resized(stored)
    elif _same_shape(lens.size, turned):
        lens = lens.resized(turned)
    else:
        sizes = " x ".join(f"{side:g}" for side in lens.size), " x ".join(map(str, turned))
        problem = f"{label}: its camera is of {sizes[0]} pixels and the photo has {sizes[1]}, another shape"
        advice = "give the photo that the camera was made from, or one that was made smaller as a whole"
        raise InputError(f"{problem}; {advice}")
    pose = entry.camera_to_world.clone()
    for _ in range(quarters):
        lens = lens.turned()
        right, up = pose[:, 0].clone(), pose[:, 1].clone()
        pose[:, 0], pose[:, 1] = up, -right
    return pose, lens


def _same_shape(file: tuple[float, float], photo: tuple[int, int]) -> bool:
    """Whether a photo may be the file's picture made smaller: its sides are rounded to whole pixels."""
    scale = max(photo[0] / file[0], photo[1] / file[1])
    return all(abs(side - scale * told) <= 1.0 for told, side in zip(file, photo, strict=True))


def _rigid(matrices: Tensor, labels: Sequence[str]) -> Tensor:
    """The same cameras without scale and rounding, or the reason why they are none."""
    for matrix, label in zip(matrices, labels, strict=True):
        if not torch.isfinite(matrix).all():
            wanted = f"the camera's matrix of {label} must be finite"
            raise InputError(f"{wanted}, got NaN or infinity; place the photo anew")
    rotations = matrices[:, :3, :3]
    determinants = torch.linalg.det(rotations)
    if (determinants < 0).any():
        wrong = ", ".join(label for label, found in zip(labels, determinants, strict=True) if found < 0)
        wanted = f"the cameras' matrices must be right-handed, those of {wrong} mirror (left-handed)"
        raise InputError(f"{wanted}; export them without a mirrored axis")
    scales = determinants.clamp_min(1e-30) ** (1 / 3)
    left, _, right = torch.linalg.svd(rotations / scales[:, None, None])
    nearest = left @ right
    drift = (rotations / scales[:, None, None] - nearest).abs().amax(dim=(1, 2))
    for found, scale, label in zip(drift, scales, labels, strict=True):
        if found > 0.02 or scale < 1e-9:
            wanted = f"the camera's matrix of {label} must be a rotation"
            raise InputError(f"{wanted}, got one that shears; correct it there")
    rigid = matrices.clone()
    rigid[:, :3, :3] = nearest
    return rigid


def _middles(
    photos: Sequence[str | os.PathLike[str]], masks: Sequence[PhotoSource | None] | None
) -> list[tuple[float, float] | None]:
    """Where the middle of each silhouette is, as shares of the photo's sides; None where nothing tells."""
    found: list[tuple[float, float] | None] = []
    for index, path in enumerate(photos):
        photo = read_photo(path, f"photo {index + 1}", least=LARGEST)
        source = None if masks is None else masks[index]
        mask = photo.coverage if source is None else read_mask(source, photo)[0]
        if mask is None:
            dark = (1 - unit_range(photo.rgb.amin(dim=0))) > 0.1
            border = torch.cat([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
            mask = dark.float() if dark.any() and float(border.float().mean()) < 0.1 else None
        covered = None if mask is None else (unit_range(mask) >= 0.5).numpy()
        if covered is None or not covered.any():
            found.append(None)
            continue
        left, top, right, bottom = bounds(covered)
        found.append(((left + right) / 2 / covered.shape[1], (top + bottom) / 2 / covered.shape[0]))
    return found


def _center(
    matrices: Tensor, lenses: Sequence[Lens], middles: Sequence[tuple[float, float] | None], labels: Sequence[str]
) -> Tensor:
    """The object's centre in the file's world: the point nearest to the rays through the silhouettes' middles."""
    directions = []
    for matrix, lens, middle in zip(matrices, lenses, middles, strict=True):
        local = matrix.new_tensor([0.0, 0.0, -1.0])
        if middle is not None and all(known is not None for known in middles):
            (width, height), (fx, fy), (cx, cy) = lens.size, lens.focal, lens.center
            local = matrix.new_tensor([(middle[0] * width - cx) / fx, -(middle[1] * height - cy) / fy, -1.0])
        directions.append(matrix[:3, :3] @ (local / local.norm()))
    rays, centers = torch.stack(directions), matrices[:, :3, 3]
    if len(rays) == 1:
        raise InputError("cameras of at least two photos are needed to know where the object is; give more photos")
    across = torch.eye(3, dtype=rays.dtype) - rays[:, :, None] * rays[:, None, :]
    apart = (centers - centers[0]).norm(dim=-1).amax()
    if float(torch.linalg.cond(across.sum(0))) > 1e8 or apart <= 1e-9 * centers.abs().amax():
        found = "they are all parallel" if apart > 0 else "they all stand at one place"
        raise InputError(f"the cameras must look at the object from different directions, {found}; add photos")
    center: Tensor = torch.linalg.solve(across.sum(0), (across @ centers[:, :, None]).sum(0))[:, 0]
    ahead = -torch.einsum("nij,nj->ni", matrices[:, :3, :3].transpose(1, 2), center - centers)[:, 2]
    away = [label for label, depth in zip(labels, ahead, strict=True) if depth <= 0]
    if len(away) == len(labels):
        advice = "are their axes OpenCV's (down, forward)? transforms.json wants OpenGL's (up, backward)"
        raise InputError(f"all cameras look away from the object; {advice}")
    if away:
        problem = f"the camera of {', '.join(away)} looks away from the object"
        raise InputError(f"{problem}; place the photo anew, or leave it out")
    return center


def _in_frame_of_first(
    matrices: Tensor, center: Tensor, up: tuple[float, float, float] | None, elevation_degrees: float
) -> Tensor:
    """Origin in the object's centre, photo 1's distance 1 and its azimuth 0, +Y up."""
    offset = matrices[0, :3, 3] - center
    distance = offset.norm()
    towards = offset / distance
    if up is None:  # photo 1 stands upright at the elevation that it is said to have
        angle = torch.deg2rad(torch.tensor(elevation_degrees, dtype=matrices.dtype))
        above = matrices[0, :3, 1] - (matrices[0, :3, 1] @ towards) * towards
        vertical = angle.cos() * above / above.norm() + angle.sin() * towards
    else:
        vertical = matrices.new_tensor(up)
        if float((vertical @ towards).abs()) > 1 - 1e-6:
            vertical = matrices[0, :3, 1]
    forward = towards - (towards @ vertical) * vertical
    forward = forward / forward.norm()
    turn = torch.stack([torch.linalg.cross(vertical, forward), vertical, forward])
    framed = torch.eye(4, dtype=matrices.dtype).repeat(len(matrices), 1, 1)
    framed[:, :3, :3] = turn @ matrices[:, :3, :3]
    framed[:, :3, 3] = (matrices[:, :3, 3] - center) @ turn.T / distance
    return framed
