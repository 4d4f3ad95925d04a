"""Photos from sockets and files: pairing with masks, framing on white, the sharp ones of many, and the pack's own."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from small_models import Pack, Run, refused
from torch import Tensor

from upfusion_core import prepare_views

pytestmark = pytest.mark.usefixtures("lines", "shown")
PREPARE, EXAMPLE, LOAD = "UpFusionPrepareViews", "UpFusionExampleViews", "UpFusionLoadPhotos"
SMALL, WIDE = (64, 64, (16, 48, 16, 48)), (60, 80, (20, 40, 30, 50))


def square(height: int, width: int, box: tuple[int, int, int, int], alpha: bool = False) -> tuple[Tensor, Tensor]:
    """IMAGE (1, H, W, 3 or 4), a red rectangle on blue, and its MASK (1, H, W); box is top, bottom, left, right."""
    top, bottom, left, right = box
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    image = torch.stack([mask, torch.zeros_like(mask), 1 - mask], dim=-1)
    return (torch.cat([image, mask[..., None]], dim=-1) if alpha else image), mask


def prepared(run_node: Run, images: list[Tensor], masks: list[Tensor], **options: Any) -> tuple[Any, ...]:
    sockets = {"images": {f"image{index}": image for index, image in enumerate(images)}}
    return run_node(PREPARE, **sockets, masks={f"mask{index}": mask for index, mask in enumerate(masks)}, **options)[:2]


def test_photos_are_framed_on_white(run_node: Run) -> None:
    """The longer side fills 1 / margin of the cut: 256 of 512 pixels, the other one half of that."""
    image, mask = square(100, 50, (10, 50, 10, 30))
    images, masks = prepared(run_node, [image], [mask], margin=2.0)
    torch.testing.assert_close(images[0, [256, 20], 256], torch.tensor([[1.0, 0, 0], [1, 1, 1]]), atol=5e-3, rtol=0)
    assert masks[0].sum() == pytest.approx(256 * 128, rel=0.01)


def test_masks_of_other_kinds(run_node: Run) -> None:
    """Load Image's mask is 1 where a picture is transparent, MaskEditor's and Remove Background's on the object."""
    (image, mask), (clear, _) = square(*SMALL), square(*SMALL, alpha=True)
    copies = clear.clone(), mask.clone()
    straight = prepared(run_node, [image], [mask])
    for others in (([image], [1 - mask]), ([clear], []), ([clear], [mask])):
        assert all(map(torch.equal, straight, prepared(run_node, *others)))
    assert all(map(torch.equal, straight, prepared(run_node, [image], [1 - mask], invert_mask=True)))
    assert all(map(torch.equal, copies, (clear, mask)))


def test_invert_mask_guesses_nothing(run_node: Run) -> None:
    image, mask = square(*SMALL)
    three = 0.5 * mask
    three[:, :16] = 1
    inverted = prepared(run_node, [image, image], [mask, three], invert_mask=True)[1]
    pictures, planes = [image[0].movedim(-1, 0)] * 2, [1 - mask[0], 1 - three[0]]
    assert torch.equal(inverted, prepare_views(pictures, planes, size=512, sense="told").mask[:, 0])
    refused("mask of photo 1 must hold two values, .* got 0, 0.5, 1", prepared, run_node, [image], [three])


def test_photos_that_are_not_on_white_are_marked(run_node: Run, shown: Mock, lines: list[str]) -> None:
    (image, mask), (clear, _) = square(*SMALL), square(*SMALL, alpha=True)
    white = torch.where(mask[..., None] > 0, image, torch.ones(1))
    images, masks = prepared(run_node, [image, white, clear], [])
    assert masks[0].min() == 1  # nothing of it is white
    (preview,) = shown.call_args.args
    assert torch.equal(preview[1:], images[1:])
    assert torch.equal(preview[0, 8:-8, 8:-8], images[0, 8:-8, 8:-8])
    assert (preview[0, 0] == torch.tensor([1.0, 0.45, 0.0])).all()
    first, *others = lines[-1].splitlines()
    assert re.match(r"photo 1: .* not white \(its median is 0, 0, 255 of 255\).*, or bg_removal_model$", first)
    assert others == ["photo 2: on white, the object is what is not", "photo 3: its transparency"]


def test_load_image_without_transparency_tells_nothing(run_node: Run, lines: list[str]) -> None:
    """It gives a black mask of 64 x 64 pixels then, whatever the picture's size."""
    image = torch.ones(1, 512, 512, 3)
    image[:, 100:200, 100:300] = torch.tensor([0.2, 0.4, 0.6])
    images, masks = prepared(run_node, [image], [torch.zeros(1, 64, 64)], invert_mask=True)
    assert torch.equal(images, image)  # on white and framed already
    assert masks.sum() == 100 * 200
    assert lines == ["photo 1: its mask is 0 everywhere and tells nothing; on white, the object is what is not"]


def test_lists_batches_and_sockets_are_alike(run_node: Run, node_classes: dict[str, Any]) -> None:
    """As ComfyUI gives them to a node that takes lists: each input is a list, of one value or of many."""
    assert node_classes[PREPARE].GET_SCHEMA().is_input_list
    images, masks = zip(square(*SMALL), square(64, 64, (0, 16, 0, 32)), square(*WIDE), strict=True)
    apart = prepared(run_node, list(images), list(masks))
    options = {"invert_mask": [False], "margin": [1.15], "bg_removal_model": [None]}
    split = [{f"{name}0": list(each[:2]), f"{name}1": [each[2]]} for name, each in (("image", images), ("mask", masks))]
    batched = [{f"{name}0": [torch.cat(each[:2]), each[2]]} for name, each in (("image", images), ("mask", masks))]
    for given, shapes in (split, batched):
        assert all(map(torch.equal, apart, run_node(PREPARE, images=given, masks=shapes, **options)[:2]))
    refused("margin must be one value, got a list of 2", run_node, PREPARE, images=given, margin=[1.0, 2.0])


def test_background_removal_is_asked_where_nothing_else_tells(run_node: Run, lines: list[str]) -> None:
    plain, mask = square(*WIDE)
    clear, _ = square(*SMALL, alpha=True)
    model = Mock()
    model.encode_image.side_effect = lambda image: image[..., 0]  # what is red
    sockets = {"images": {"image0": plain, "image1": clear, "image2": plain}, "masks": {"mask2": mask}}
    images, *_ = run_node(PREPARE, **sockets, bg_removal_model=model)
    assert [call.args[0].shape for call in model.encode_image.mock_calls] == [(1, 60, 80, 3)]  # the first photo alone
    assert lines[-1].splitlines()[:2] == ["photo 1: found by bg_removal_model", "photo 2: its transparency"]
    assert torch.equal(images[0], images[2])


def test_the_elevation(run_node: Run, core: ModuleType, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found if asked for."""
    model = Mock(spec=pack("nodes.sockets").HostedModel)
    model.stages().encode = lambda views, reference_elevation_degrees: reference_elevation_degrees
    told = {"upfusion_model": model, "images": torch.rand(3, 32, 32, 3)}
    for found, asked, elevation in ((40.0, True, 40.0), (None, True, 10.0), (40.0, False, 10.0)):
        monkeypatch.setattr(core, "estimate_elevation", lambda views, found=found: found)
        assert run_node("UpFusionEncodeViews", **told, elevation=10.0, find_elevation=asked) == (elevation,)


def test_what_cannot_be_used_gets_a_sentence(run_node: Run) -> None:
    for changes, message in (
        ({"masks": {"mask0": torch.zeros(2, 64, 64)}}, "image0 holds 1 photos, but its mask0 holds 2 masks"),
        ({"masks": {"mask1": torch.zeros(1, 64, 64)}}, "mask1 belongs to image1, but that is not connected"),
        ({"masks": {"mask0": torch.ones(1, 64, 64)}, "invert_mask": True}, "got 1 everywhere; turn invert_mask off"),
        ({"images.image6": torch.zeros(1, 64, 64, 3)}, "are 6 sockets of photos, image0 to image5, .* got images.imag"),
        ({"images": {"image": torch.zeros(1, 64, 64, 3)}}, "must be named such as image0 or mask0, got 'image'"),
        ({"images": {"image0": torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)}}, "got torch.uint8 from 255 to 255"),
        ({"bg_removal_model": 5}, "bg_removal_model must be a background removal model; .* got int"),
    ):
        refused(message, run_node, PREPARE, **({"images": {"image0": square(*SMALL)[0]}} | changes))


def test_an_example_has_photos_and_truth(run_node: Run) -> None:
    images, masks, truth, cameras, truth_masks, photo_cameras, views = run_node(EXAMPLE, object=1, number=2)
    assert len(photo_cameras) == 2
    torch.testing.assert_close(views.cameras.cameras.camera_to_world, photo_cameras.camera_to_world)
    assert [source.rgb.shape for source in views.sources] == [(3, 128, 128)] * 2
    for pictures, silhouettes, count in ((images, masks, 2), (truth, truth_masks, len(cameras))):
        assert pictures.shape == (count, 128, 128, 3)
        assert (pictures[silhouettes == 0] > 0.98).all()  # white where the mask says background


def dots(column: int) -> Image.Image:
    """64 x 48: black dots with a red bar at a column."""
    values = np.full((48, 64, 3), 255, np.uint8)
    values[::4, ::4] = 0
    values[:, 8 * column : 8 * column + 8] = (200, 30, 30)
    return Image.fromarray(values)


def test_files_stand_upright_and_tell_their_lens(run_node: Run, folders: Path) -> None:
    (folders / "input/mine").mkdir()
    turned = Image.Exif()
    turned[274] = 6
    turned.get_ifd(0x8769)[41989] = 26
    dots(2).save(folders / "input/mine/a.jpg", exif=turned)
    clear = dots(3)
    clear.putalpha(128)
    clear.save(folders / "input/b.png")
    images, _, report, names = run_node(LOAD, photos="mine\n b.png \n")
    assert [tuple(image.shape) for image in images] == [(1, 64, 48, 3), (1, 48, 64, 4)]
    assert float(images[1][0, 0, 0, 3]) == pytest.approx(128 / 255)
    assert report.splitlines() == ["2 of 2 taken", "mine/a.jpg: taken, lens of 67 degrees", "b.png: taken"]
    assert names == "mine/a.jpg\nb.png"
    refused("must name files or folders", run_node, LOAD, photos=" ")
    refused("must stay inside", run_node, LOAD, photos="../other")


def test_sharp_ones(run_node: Run, core: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That differ, of many pictures or of a film."""
    frames = []
    for number in range(8):
        picture = dots(min(number, 5)).filter(ImageFilter.GaussianBlur(4 if number == 3 else 0))
        picture.save(folders / f"input/{number}.png")
        frames.append((number, torch.from_numpy(np.array(picture)).movedim(-1, 0)))
    photos = "\n".join(f"{number}.png" for number in range(8))
    images, sheet, report, names = run_node(LOAD, photos=photos, count=5)
    assert {"0.png", "1.png", "2.png", "4.png"} < set(names.split("\n"))
    assert (report.splitlines()[0], len(images), "3.png: blurred" in report) == ("5 of 8 taken", 5, True)
    colors = set(map(tuple, (255 * sheet[0]).round().int().reshape(-1, 3).tolist()))
    assert {(40, 160, 70), (210, 60, 50), (150, 150, 150)} <= colors  # frames round what is taken, blurred, alike

    def decoded(film: str, wanted: Any, _: object) -> list[tuple[int, Tensor]]:
        return [frame for frame in frames if wanted is None or frame[0] in wanted]

    for module in (core, sys.modules[core.choose_pictures.__module__]):
        monkeypatch.setattr(module, "film_frames", decoded)
    video = SimpleNamespace(get_stream_source=lambda: "film.mp4")
    images, _, report, names = run_node(LOAD, photos="", count=3, video=video)
    taken = [frame / 255 for number, frame in frames if f"frame {number}: taken" in report]
    assert (len(taken), names) == (3, "")
    torch.testing.assert_close(torch.cat(images).movedim(-1, 1), torch.stack(taken))
