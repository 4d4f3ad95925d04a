"""Cameras that people know for their photos -> cameras in photo 1's frame, each matched to its photo by name."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import product, takewhile
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from ..data.camera_files import CameraFile, FileCamera, read_camera_files
from ..data.recorded import bounds
from ..data.views import normalise
from ..geometry.cameras import cameras_from_matrices, look_at
from ..geometry.lenses import KnownCameras, Lens
from ..support.decoding import TURNS, open_picture, orientation, stored_size
from ..support.errors import InputError
from ..support.files import reading
from ..support.images import unit_range
from ..types import Cameras
from .masks import ON_WHITE, border_median
from .photos import LARGEST, PhotoSource, read_mask, read_photo

_FORGIVEN = ("", "letters' case", "the extension", "letters' case and extension")


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
        path: the file, or a folder such as COLMAP's. photos: files, the reference first, which it must know; others
            that it does not know are `sought`, and taken to have photo 1's lens.
        masks: one a photo; the object's centre is where the middles of the silhouettes meet. Photos with alpha need
            none; without any, it is where the optical axes meet.
        elevation_degrees: photo 1's, where the file does not know what is up.

    Raises InputError: the file cannot be read, photo 1 has no camera, or a camera is none; the sentence names it.
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
    present = [place for place, entry in enumerate(entries) if entry is not None]
    if 0 not in present:
        known = ", ".join(sorted(camera.name for camera in world.cameras)[:6])
        wanted = f"{world.path} must have a camera for the first photo, it has none for {labels[0]}"
        raise InputError(f"{wanted}; put a photo first that it knows; known: {known}")
    if len(present) < len(files):
        own = [None if masks is None else masks[place] for place in present]
        some = load_photo_cameras(path, [files[place] for place in present], own, elevation_degrees=elevation_degrees)
        return _with_sought(some, present, labels, [size[::-1] if way >= 5 else size for size, way in sizes])
    if len(worlds) > 1:
        most = f"of {len(worlds)} models in {path} the one in {world.path.name} has most of the photos"
        notes.append(f"{most}; it is taken")
    poses, lenses, statuses = [], [], []
    for entry, size, label in zip(entries, sizes, labels, strict=True):
        assert entry is not None, "missing ones are sought"
        pose, lens = _upright(entry, *size, f"{label} ({world.path})")
        poses.append(pose)
        lenses.append(lens)
        statuses.append(entry.status)
    if world.ours and entries[0] is world.cameras[0]:  # in photo 1's frame already, to the bit
        ndc = torch.tensor([lens.ndc for lens in lenses], dtype=torch.float32)
        cameras = Cameras(torch.stack(poses).float(), ndc[:, 0], ndc[:, 1])
    else:
        middles = None if world.ours else _middles(photos, masks)
        cameras = cameras_round_object(torch.stack(poses), lenses, middles, labels, world.up, elevation_degrees)
    refused, found = (tuple(i for i, own in enumerate(statuses) if own == name) for name in ("refused", "found"))
    sought = refused + found if "given" in statuses else ()
    return KnownCameras(cameras, tuple(lenses), tuple(notes), refused, given="given" in statuses, sought=sought)


def _with_sought(
    known: KnownCameras, present: list[int], labels: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> KnownCameras:
    """The cameras of the photos `present`; in place of the others', which are to be found, photo 1's with its lens."""
    places = [present.index(place) if place in present else 0 for place in range(len(sizes))]
    missing = tuple(place for place in range(len(sizes)) if place not in present)
    lenses, notes = [known.lenses[place] for place in places], list(known.notes)
    for place in missing:
        scale = max(sizes[place]) / max(lenses[0].size)
        whole = lenses[0].resized((scale * lenses[0].size[0], scale * lenses[0].size[1]))
        left, top = ((side - own) / 2 for side, own in zip(whole.size, sizes[place], strict=True))
        lenses[place] = whole.cut(left, top, left + sizes[place][0], top + sizes[place][1])
        notes.append(f"{labels[place]} has no camera in the file, it is looked for beside those that are known")
    refused, sought = (tuple(present[place] for place in own) + missing for own in (known.refused, known.sought))
    cameras = known.cameras[torch.tensor(places)]
    return KnownCameras(cameras, tuple(lenses), tuple(notes), refused, known.given, sought)


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
    matrices[:, :3, 3] -= center
    matrices[:, :3, 3] /= matrices[0, :3, 3].norm()
    towards, above = matrices[0, :3, 3], matrices[0, :3, 1]
    vertical = above - (above @ towards) * towards if up is None else matrices.new_tensor(up)
    if up is None:  # photo 1 stands upright at the elevation that it is said to have
        vertical = vertical / vertical.norm() + math.tan(math.radians(elevation_degrees)) * towards
    ndc = torch.tensor([lens.ndc for lens in lenses], dtype=torch.float32)
    cameras = cameras_from_matrices(matrices, focal=ndc[:, 0], principal=ndc[:, 1])
    looking = look_at(towards[None], up=above)  # from where photo 1 was taken, at the object's centre
    return normalise(Cameras.concatenate([looking, cameras]), center=torch.zeros(3), up=vertical)[0][1:]


def _matched(world: CameraFile, photos: list[Path]) -> tuple[list[FileCamera | None], list[str]]:
    """The camera of each photo by the strictest rule that finds any, and what had to be forgiven."""

    def common(name: PurePosixPath, photo: PurePosixPath) -> int:
        """How many folders above the pictures agree, from the last one on."""
        pairs = zip(name.parts[-2::-1], photo.parts[-2::-1], strict=False)
        return len(list(takewhile(lambda pair: pair[0].casefold() == pair[1].casefold(), pairs)))

    def called(name: PurePosixPath, extension: bool, case: bool) -> str:
        known = name.suffix.lower() in {*Image.registered_extensions(), ".heic", ".heif", ".avif"}
        text = name.stem if extension and known else name.name
        return text.casefold() if case else text

    found: list[FileCamera | None] = []
    notes = []
    for photo in photos:
        own = PurePosixPath(photo.as_posix())
        chosen = None
        for forgiven, rule in zip(_FORGIVEN, product((False, True), repeat=2), strict=True):
            named = called(own, *rule)
            alike = [camera for camera in world.cameras if called(PurePosixPath(camera.name), *rule) == named]
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
    quarters = 0  # of a turn against the clock
    if orientation != 1 and _same_shape(lens.size, stored):
        mirrored, quarters = TURNS[orientation]
        if mirrored:
            raise InputError(f"{label} is mirrored by its EXIF tag; save it unmirrored, and make its camera again")
        lens = lens.resized(stored)
    elif _same_shape(lens.size, turned):
        lens = lens.resized(turned)
    else:
        sizes = " x ".join(f"{side:g}" for side in lens.size), " x ".join(map(str, turned))
        problem = f"{label}: its camera is of {sizes[0]} pixels and the photo has {sizes[1]}, another shape"
        advice = "give the photo that the camera was made from, or one that was made smaller as a whole"
        raise InputError(f"{problem}; {advice}")
    pose = entry.camera_to_world.clone()
    for _ in range(-quarters % 4):
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

    def refuse(wrong: Tensor, wanted: str, got: str) -> None:
        if wrong.any():
            names = ", ".join(label for label, is_wrong in zip(labels, wrong.tolist(), strict=True) if is_wrong)
            raise InputError(f"the camera's matrix of {names} must be {wanted}, got {got}")

    rotations = matrices[:, :3, :3]
    refuse(~matrices.isfinite().all(dim=(1, 2)), "finite", "NaN or infinity; place the photo anew")
    determinants = torch.linalg.det(rotations)
    refuse(determinants < 0, "right-handed", "a left-handed one; export them without a mirrored axis")
    scales = determinants.clamp_min(1e-30) ** (1 / 3)
    left, _, right = torch.linalg.svd(rotations / scales[:, None, None])
    drift = (rotations / scales[:, None, None] - left @ right).abs().amax(dim=(1, 2))
    refuse((drift > 0.02) | (scales < 1e-9), "a rotation", "one that shears; correct it there")
    rigid = matrices.clone()
    rigid[:, :3, :3] = left @ right
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
        if mask is None and border_median(photo.rgb).min() >= ON_WHITE:
            mask = (unit_range(photo.rgb.amin(dim=0)) < 0.9).float()
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
    if away := [label for label, depth in zip(labels, ahead, strict=True) if depth <= 0]:
        who, advice = f"the camera of {', '.join(away)} looks", "place the photo anew, or leave it out"
        if len(away) == len(labels):
            who, advice = "all cameras look", "are their axes OpenCV's? transforms.json wants OpenGL's (up, backward)"
        raise InputError(f"{who} away from the object; {advice}")
    return center
