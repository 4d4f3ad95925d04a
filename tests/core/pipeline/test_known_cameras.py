"""Files of cameras as people have them, made here of one scene: each is read right, or refused in a sentence."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import axes_towards, disc
from PIL import Image
from refusals import raised, refused
from scipy.spatial.transform import Rotation
from torch import Tensor

from upfusion_core import KnownCameras, PhotoCameras, load_photo_cameras, orbit_cameras, prepare_views, random_cameras
from upfusion_core.data.camera_files import written_cameras
from upfusion_core.geometry.cameras import networks_reference, reference_camera
from upfusion_core.geometry.lenses import MODELS, Lens
from upfusion_core.geometry.rays import point_rays, project
from upfusion_core.support.errors import UpFusionError
from upfusion_core.types import SourcePhoto

SIZE = 64
CENTER = np.array([0.3, -0.2, 0.5])
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
LENS = Lens((SIZE, SIZE), (100.0, 100.0), (32.0, 32.0))


class Scene:
    """Six photos of a ball, from round it, not quite looking at it; what is told of them is right unless changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lens = folder, LENS
        self.photos: list[Path] = []
        self.poses: list[np.ndarray] = []
        self.names = [f"photo_{number}.png" for number in range(1, 7)]
        generator = np.random.RandomState(4)
        for index in range(6):
            angle = 1.1 * index
            place = CENTER + np.array([2 * math.cos(angle), 2 * math.sin(angle), 0.4 + 0.2 * index])
            axes = axes_towards(place, CENTER + generator.uniform(-0.1, 0.1, 3), 0.1 * index)
            self.poses.append(np.vstack([np.column_stack([axes, place]), [0, 0, 0, 1]]))

    def draw(self, suffix: str = ".png", **options: Any) -> Scene:  # noqa: ANN401 - Pillow's
        """The photos' files: a dark disc where the lens shows the ball."""
        self.photos = []
        for pose, name in zip(self.poses, self.names, strict=True):
            local = np.linalg.inv(pose) @ [*CENTER, 1.0]
            point = torch.tensor([[local[0] / -local[2], local[1] / local[2]]])
            place = self.lens.distorted(point)[0].numpy() * self.lens.focal + self.lens.center
            self.photos.append(self.folder / Path(name).with_suffix(suffix))
            self.photos[-1].parent.mkdir(parents=True, exist_ok=True)
            shade = 255 - 215 * disc(*self.lens.size[::-1], *place, 6)
            Image.fromarray(shade.astype(np.uint8)).convert("RGB").save(self.photos[-1], **options)
        return self

    def write(self, content: Any, name: str = "transforms.json") -> Path:  # noqa: ANN401 - any JSON
        (self.folder / name).write_text(json.dumps(content))
        return self.folder / name

    def frames(self, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON
        pairs = zip(self.names, self.poses, strict=True)
        return [{"file_path": name, "transform_matrix": pose.tolist(), **more} for name, pose in pairs]

    def top(self) -> dict[str, Any]:
        """The lens as nerfstudio writes it at the top of a file."""
        (w, h), (fx, fy), (cx, cy) = self.lens.size, self.lens.focal, self.lens.center
        return {"w": w, "h": h, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "camera_model": "OPENCV"}

    def colmap(self, folder: Path, model: str = "PINHOLE", *, binary: bool = False, which: range = range(6)) -> Path:
        """A sparse model of some of the photos, the others' numbers left out."""
        folder.mkdir(parents=True, exist_ok=True)
        (width, height), (fx, fy), (cx, cy) = self.lens.size, self.lens.focal, self.lens.center
        named = {"f": fx, "fx": fx, "fy": fy, "cx": cx, "cy": cy, "k1": (*self.lens.radial, 0.0)[0]}
        values = [named[name] for name in MODELS[model]]
        rows = []
        for index in which:
            inverse = np.linalg.inv(self.poses[index] @ FLIP)
            *xyz, w = Rotation.from_matrix(inverse[:3, :3]).as_quat()
            rows.append((index * 3 + 2, w, *xyz, *inverse[:3, 3], 7, self.names[index]))
        if binary:
            lens = struct.pack(f"<QiiQQ{len(values)}d", 1, 7, list(MODELS).index(model), width, height, *values)
            (folder / "cameras.bin").write_bytes(lens)
            end = struct.pack("<xQ2dq", 1, 1.0, 2.0, -1)
            images = b"".join(struct.pack("<i7di", *row[:9]) + row[9].encode() + end for row in rows)
            (folder / "images.bin").write_bytes(struct.pack("<Q", len(rows)) + images)
        else:
            line = " ".join(map(str, ("7", model, width, height, *values)))
            (folder / "cameras.txt").write_text(f"# one a line\n{line}\n")
            text = "# two a line\n" + "".join(" ".join(map(str, row)) + "\n\n" for row in rows)
            (folder / "images.txt").write_text(text)
        return folder


Case = Callable[[Scene], Path]


def told(**more: object) -> Case:
    """transforms.json with some values changed; None leaves one out."""

    def make(scene: Scene) -> Path:
        content = {**scene.top(), "frames": scene.frames(), **more}
        return scene.write({name: value for name, value in content.items() if value is not None})

    return make


def changed(matrix: Callable[[np.ndarray], np.ndarray], which: range = range(6)) -> Case:
    def make(scene: Scene) -> Path:
        frames = scene.frames()
        for index in which:
            frames[index]["transform_matrix"] = matrix(scene.poses[index]).tolist()
        return told(frames=frames)(scene)

    return make


def renamed(name: str, **more: object) -> Case:
    """The file calls the photos by this name and their number."""

    def make(scene: Scene) -> Path:
        scene.names = [name.format(number) for number in range(1, 7)]
        return told(**more)(scene)

    return make


def split(scene: Scene) -> Path:
    scene.names = [f"train/r_{index}.png" for index in range(6)]
    frames = scene.draw().frames()
    beside = [{**frame, "file_path": f"./test/r_{index}"} for index, frame in enumerate(frames[::-1])]
    return told(frames=[*beside, *({**frame, "file_path": f"./{frame['file_path'][:-4]}"} for frame in frames)])(scene)


def turned_by_exif(scene: Scene, suffix: str = ".jpg") -> Path:
    scene.lens = Lens((SIZE, 48), (100.0, 90.0), (30.0, 22.0))
    exif = Image.Exif()
    exif[0x0112] = 6
    return told()(scene.draw(suffix, exif=exif, quality=95))


def distorted(scene: Scene) -> Path:
    scene.lens = replace(scene.lens, radial=(-0.4, 0.2), tangential=(0.01, -0.02))
    return told(k1=-0.4, k2=0.2, p1=0.01, p2=-0.02)(scene.draw())


def splats(scene: Scene) -> Path:
    lens = {"width": SIZE, "height": SIZE, "fx": 100.0, "fy": 100.0}
    pairs = zip(scene.names, scene.poses, strict=True)
    places = [(Path(name).stem, pose[:3, 3].tolist(), (pose @ FLIP)[:3, :3].tolist()) for name, pose in pairs]
    rows = [{"img_name": name, "position": place, "rotation": turn, **lens} for name, place, turn in places]
    return scene.write(rows, "cameras.json")


def colmap_radial(scene: Scene) -> Path:
    scene.lens = replace(scene.lens, radial=(-0.2,))
    scene.draw().colmap(scene.folder / "sparse" / "0", "SIMPLE_RADIAL", binary=True)
    return scene.folder


def colmap_two_models(scene: Scene) -> Path:
    scene.names = [f"a b/{name}" for name in scene.names]
    scene.draw().colmap(scene.folder / "sparse" / "0", binary=True, which=range(2))
    scene.colmap(scene.folder / "sparse" / "1", "SIMPLE_PINHOLE", binary=True)
    return scene.folder


NO_PIXELS = dict.fromkeys(("w", "h", "fl_x", "fl_y", "cx", "cy"))
RIGHT: dict[str, Case] = {
    "nerfstudio": told(),
    "an angle alone": renamed("./images/photo_{}", **NO_PIXELS | {"camera_angle_x": 2 * math.atan(32 / 100)}),
    "a lens a frame": lambda scene: told(fl_x=7.0, w=10, camera_angle_x=0.3, frames=scene.frames(**scene.top()))(scene),
    "no size": told(**NO_PIXELS | {"fl_x": 100.0, "cx": 32.4, "cy": 31.8}),
    "larger pictures": told(w=4 * SIZE, h=4 * SIZE, fl_x=400.0, fl_y=400.0, cx=128.0, cy=128.0),
    "Windows' paths": renamed(".\\images\\Photo_{}.PNG"),
    "another extension": renamed("photo_{}.jpg"),
    "three rows": changed(lambda pose: np.round(pose, 5)[:3]),
    "scaled": changed(lambda pose: pose @ np.diag([0.01, 0.01, 0.01, 1])),
    "split": split,
    "turned by EXIF": turned_by_exif,
    "turned TIFF": lambda scene: turned_by_exif(scene, ".tiff"),
    "distorted": distorted,
    "splats": splats,
    "COLMAP's text": lambda scene: scene.colmap(scene.folder / "sparse"),
    "COLMAP, radial": colmap_radial,
    "COLMAP, two models": colmap_two_models,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_cameras_are_read(kind: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path).draw()
    path = RIGHT[kind](scene)
    order = [4, 1, 5]
    known = load_photo_cameras(path, [scene.photos[index] for index in order])
    lens, poses = LENS, np.stack([scene.poses[index] for index in order])
    if "turned" in kind:  # right is the stored up, up is the stored left
        lens = Lens((48, SIZE), (90.0, 100.0), (26.0, 30.0))
        poses = np.stack([poses[:, :, 1], -poses[:, :, 0], poses[:, :, 2], poses[:, :, 3]], axis=-1)
    wanted = torch.from_numpy(np.linalg.inv(poses[0]) @ poses)
    relative = torch.linalg.inv(known.cameras.camera_to_world[0].double()) @ known.cameras.camera_to_world.double()
    torch.testing.assert_close(relative[:, :3, :3], wanted[:, :3, :3], atol=1e-4, rtol=0)
    scale = relative[1:, :3, 3].norm() / wanted[1:, :3, 3].norm()
    torch.testing.assert_close(relative[:, :3, 3], wanted[:, :3, 3] * scale, atol=1e-4, rtol=0)
    assert float(scale) == pytest.approx(1 / np.linalg.norm(poses[0, :3, 3] - CENTER), rel=0.02)
    focal, principal = (torch.tensor(values) for values in lens.ndc)
    slack = 0.014 if kind == "no size" else 1e-4  # there the middle is 0.4 pixels of 32 off
    torch.testing.assert_close(known.cameras.focal, focal.expand(3, 2), atol=slack, rtol=0)
    torch.testing.assert_close(known.cameras.principal, principal.expand(3, 2), atol=slack, rtol=0)
    assert known.cameras.centers[0].norm() == pytest.approx(1, abs=1e-5)
    assert known.cameras.centers[0, 0] == pytest.approx(0, abs=1e-6)
    if path.name == "transforms.json":  # its up is known, and photo 1 keeps its elevation
        up = math.degrees(math.asin(known.cameras.centers[0, 1]))
        rise = poses[0, :3, 3] - CENTER
        assert up == pytest.approx(math.degrees(math.asin(rise[2] / np.linalg.norm(rise))), abs=1.5)
    assert known.lenses[0].is_pinhole == (kind not in ("distorted", "COLMAP, radial"))


def cut(scene: Scene) -> Path:
    folder = scene.colmap(scene.folder / "sparse", binary=True)
    (folder / "images.bin").write_bytes((folder / "images.bin").read_bytes()[:150])
    return folder


def shared(scene: Scene) -> Path:
    scene.names[:2] = ["a/photo_1.png", "b/photo_1.png"]
    return told()(scene)


WRONG: dict[str, tuple[Case, str]] = {
    "mirrored": (changed(lambda pose: np.diag([-1, 1, 1, 1.0]) @ pose), "left-handed"),
    "not finite": (changed(lambda pose: pose * np.nan, range(2, 3)), r"photo_3\.png must be finite"),
    "sheared": (changed(lambda pose: pose @ np.diag([1, 1.3, 1, 1.0])), "one that shears"),
    "OpenCV's axes": (changed(lambda pose: pose @ FLIP), "all cameras look away .*OpenCV"),
    "one place": (changed(lambda pose: np.eye(4)), "they all stand at one place"),
    "one away": (changed(lambda pose: pose @ np.diag([-1, 1, -1, 1.0]), range(1, 2)), r"photo_2\.png looks away"),
    "no frames": (told(frames=[]), "it has no frames"),
    "no focal length": (told(fl_x=None, fl_y=None), "must have a focal length"),
    "a wide angle": (told(**NO_PIXELS | {"camera_angle_x": 3.2}), "angle of view in radians"),
    "pixels of what": (told(**NO_PIXELS | {"fl_x": 100}), "no size; add w and h"),
    "another shape": (told(h=48), "64 x 48 pixels and the photo has 64 x 64"),
    "no frame": (lambda scene: told(frames=scene.frames()[1:])(scene), r"it has none for photo_1\.png"),
    "twice": (lambda scene: told(frames=2 * scene.frames())(scene), "must be one picture"),
    "another lens": (told(camera_model="EQUIRECTANGULAR"), "got EQUIRECTANGULAR"),
    "not a matrix": (lambda scene: told(frames=scene.frames(transform_matrix=[[1]]))(scene), "3 or 4 rows of 4"),
    "no path": (told(frames=[{}]), "must have a file_path"),
    "another list": (lambda scene: scene.write([1, 2]), r"is not a transforms\.json"),
    "an empty folder": (lambda scene: scene.folder, "must hold cameras, got none"),
    "half a model": (cut, "sparse"),
    "two of a name": (shared, r"may be a/photo_1\.png, b/photo_1\.png"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_camera_is_refused(kind: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path).draw()
    make, sentence = WRONG[kind]
    raised(UpFusionError, sentence, load_photo_cameras, make(scene), scene.photos)


def test_a_file_may_know_some_photos_only(tmp_path: Path) -> None:
    scene = Scene(tmp_path).draw()
    path = told(frames=scene.frames()[:5])(scene)
    known, some = load_photo_cameras(path, scene.photos), load_photo_cameras(path, scene.photos[:5])
    assert (known.sought, known.refused, len(known.notes), known.lenses[5]) == ((5,), (5,), 1, known.lenses[0])
    assert torch.equal(known.cameras[:5].camera_to_world, some.cameras.camera_to_world)
    Image.new("RGB", (48, 32)).save(scene.photos[5])  # of another shape: photo 1's focal length
    assert load_photo_cameras(path, scene.photos).lenses[5].focal == (75.0, 75.0)


def test_distortion_by_hand_and_turned() -> None:
    """At (.5, 0): r² = .25. OPENCV: 1 - .4 · .25 = .9 -> x .45 + p2 (.25 + 2 · .25) = .465, y = p1 · .25 = .005."""
    lens = Lens.of_model("OPENCV", (10, 10), {"fx": 5, "k1": -0.4, "p1": 0.02, "p2": 0.02})
    point = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(lens.distorted(point), torch.tensor([[0.465, 0.005]], dtype=torch.float64))
    fisheye = Lens.of_model("OPENCV_FISHEYE", (10, 10), {"fx": 5, "k1": 0.1})
    angle = math.atan(0.5)
    assert float(fisheye.distorted(point)[0, 0]) == pytest.approx(angle * (1 + 0.1 * angle**2))
    assert lens.turned().turned().turned().turned() == lens
    lens = Lens.of_model("OPENCV", (20, 10), {"fx": 5, "fy": 6, "cx": 9, "cy": 4, "k1": 0.3, "p1": 0.02, "p2": -0.05})
    points = torch.tensor([[0.3, 0.2], [-0.1, 0.4]], dtype=torch.float64)

    def pixels(lens: Lens, points: Tensor) -> Tensor:
        return lens.distorted(points) * points.new_tensor(lens.focal) + points.new_tensor(lens.center)

    before = pixels(lens, points)
    after = pixels(lens.turned(), torch.stack([-points[:, 1], points[:, 0]], dim=-1))
    torch.testing.assert_close(after, torch.stack([10 - before[:, 1], before[:, 0]], dim=-1))


def test_what_is_undistorted_is_what_a_pinhole_sees() -> None:
    lens = Lens.of_model("SIMPLE_RADIAL", (48, 48), {"f": 40, "k1": -0.15})
    flat = torch.stack(torch.meshgrid(*[(torch.arange(48.0) - 23.5) / 40] * 2, indexing="xy"), dim=-1)

    def drawn(points: Tensor) -> Tensor:
        return 0.5 + 0.4 * torch.sin(10 * points[..., 0]) * torch.cos(8 * points[..., 1])

    undistorted = flat
    for _ in range(60):  # the inverse, by fixed point
        undistorted = undistorted + flat - lens.distorted(undistorted)
    found, known = lens.undistorted(drawn(undistorted)[None].float())
    assert known.float().mean() > 0.9
    assert float((found[0] - drawn(flat))[known].abs().max()) < 0.01


def test_the_cameras_that_a_run_writes_come_back_to_the_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    cameras = random_cameras(4, generator=generator, distance=(0.8, 1.3), focal=4.1)
    cameras = replace(cameras, principal=0.2 * torch.rand(4, 2, generator=generator))
    cameras.camera_to_world[0] = orbit_cameras(0.0, 31.0).camera_to_world[0]
    accepted = torch.tensor([True, True, False, True])
    for given, statuses in ((False, ["reference", "found", "refused", "found"]), (True, ["reference", *3 * ["given"]])):
        found = PhotoCameras(cameras, accepted | given, torch.ones(4), given=given)
        sources, photos = [], []
        for index, (width, height) in enumerate([(640, 480), (33, 57), (300, 300), (1001, 667)]):
            photos.append(tmp_path / f"{index}.png")
            Image.new("RGB", (width, height), "white").save(photos[-1])
            box = (-3.5 * index, 7.25, 200.5 - 3.5 * index, 211.25)
            sources.append(SourcePhoto(photos[-1].name, (width, height), torch.zeros(3, 1, 1), None, (0, 0), box))
        path = tmp_path / "photo_cameras.json"
        path.write_text(json.dumps(written := written_cameras(found, sources)), encoding="utf-8")
        assert [entry["status"] for entry in written["photos"]] == statuses
        again = load_photo_cameras(path, photos).of_squares(sources)
        for name in ("camera_to_world", "focal", "principal"):
            assert torch.equal(getattr(again.cameras, name), getattr(cameras, name)), name
        assert torch.equal(again.accepted, found.accepted)
    some = load_photo_cameras(path, photos[1:3])  # another photo first: a turn and a scale about the same centre
    assert float(some.cameras.centers[0].norm()) == pytest.approx(1)
    true = cameras.centers[2].norm() / cameras.centers[1].norm()
    assert float(some.cameras.centers[1].norm()) == pytest.approx(float(true), rel=1e-6)


@pytest.mark.parametrize("wrong", [{"status": "sure"}, {"size": [10]}, {"focal": [0.0, 4.5]}, {"camera_to_world": []}])
def test_damaged_cameras_of_a_run_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    entry = {"file": "a.png", "size": [8, 8], "status": "reference", "focal": [4.5, 4.5], "principal": [0, 0]}
    entry |= {"camera_to_world": np.eye(4).tolist(), "reason": ""}
    (tmp_path / "photo_cameras.json").write_text(json.dumps({"photos": [entry | wrong]}), encoding="utf-8")
    raised(UpFusionError, "photo 1", load_photo_cameras, tmp_path, [tmp_path / "a.png"])


def test_the_networks_see_photo_1_as_large_as_it_is() -> None:
    photo = replace(orbit_cameras(0.0, 20.0, focal=3.0), principal=torch.tensor([[0.1, 0.0]]))
    reference = networks_reference(photo)
    torch.testing.assert_close(reference.centers, 1.5 * photo.centers)  # 4.5 / 3 times as far
    torch.testing.assert_close(reference.focal, torch.full((1, 2), 4.5))
    assert networks_reference(reference_camera(20.0)).camera_to_world.equal(reference_camera(20.0).camera_to_world)


def test_a_photo_keeps_its_pixels_and_a_point_its_place() -> None:
    """A dot of a photo is found again, by its known camera, in the square and in the source."""
    generator = torch.Generator().manual_seed(5)
    photo = torch.full((60, 90, 3), 255, dtype=torch.uint8).numpy()
    mask = np.zeros((60, 90), np.uint8)
    mask[20:45, 30:70] = 255
    photo[32, 41] = 0
    camera = orbit_cameras(20.0, 10.0, focal=3.0)
    camera = replace(camera, focal=torch.tensor([[2.0, 3.0]]), principal=0.3 * torch.rand(1, 2, generator=generator))
    known = KnownCameras.of_photos(camera, [(90, 60)])
    views = prepare_views(photo, mask, size=64, cameras=known)
    source, (left, top, right, bottom) = views.sources[0], views.sources[0].box
    assert source.rgb.dtype == torch.uint8
    assert source.rgb[:, 32 - source.corner[1], 41 - source.corner[0]].tolist() == [0, 0, 0]
    assert source.rgb.shape[1:] == source.mask.shape
    ndc = torch.tensor([1 - 2 * 41.5 / 90, 1 - 2 * 32.5 / 60])  # of the dot in the photo
    ray = point_rays(camera, ndc[None, None])
    place, _ = project(ray.origins[0] + 0.7 * ray.directions[0], views.cameras.cameras)
    expected = torch.tensor([1 - 2 * (41.5 - left) / (right - left), 1 - 2 * (32.5 - top) / (bottom - top)])
    torch.testing.assert_close(place[0], expected, atol=1e-5, rtol=0)
    refused("expected a camera for each of 2 photos, got 1", prepare_views, [photo, photo], cameras=known)


def test_photos_of_a_distorting_lens_are_straightened(tmp_path: Path) -> None:
    lens = Lens((90, 60), (120.0, 110.0), (44.0, 31.0), radial=(0.3, 0.05), tangential=(0.01, -0.02))
    photo = (255 * torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(6))).byte()
    straight, reached = lens.undistorted(photo)
    views = prepare_views(photo.permute(1, 2, 0).numpy(), size=32, cameras=KnownCameras(orbit_cameras(0.0), (lens,)))
    assert torch.equal(views.sources[0].rgb, torch.where(reached, straight, 255))
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save(tmp_path / "photo 1", format="PNG")
    path = tmp_path / "photo_cameras.json"
    path.write_text(json.dumps(written_cameras(views.cameras, views.sources)), encoding="utf-8")
    (again,) = load_photo_cameras(path, [tmp_path / "photo 1"]).lenses
    assert (again.radial, again.tangential) == (lens.radial, lens.tangential)  # it is straightened again
    whole, known = lens.undistorted(photo.float() / 255)
    assert torch.equal(known, reached)
    torch.testing.assert_close(straight.float() / 255, whole, atol=0.5 / 255 + 1e-6, rtol=0)
