"""The nodes of the first stage: photos of files or a film, framed on white, to a scene, and it to immediate views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import upfusion_core as core
from ..upfusion_core import MAX_PHOTOS, Cameras, InputError, InputViews, SceneEncoding, check_type
from ..upfusion_core.config import Demo, Predict
from . import host, inputs
from .convert import image_from_rgb, input_views, mask_from_plane, pictures_from_image, plane_from_mask
from .files import inside
from .sockets import CamerasSocket, HostedModel, ModelSocket, SceneSocket, ViewsSocket, checked

SIZE = 512  # pixels along each side of prepared photos; models resize them to their own size
SHOWN, COLUMNS = 60, 6  # pictures of the sheet at most, and in a row
COLORS = {"": (40, 160, 70), "blurred": (210, 60, 50), "like": (150, 150, 150)}
"""Of the frame round a picture of the sheet, by the first word of why it was left out."""

Sockets = Mapping[str, Tensor | list[Tensor] | None]
"""What comes by the sockets of one kind, by their names: a batch, or a list of batches, each of its own size."""
ADVICE = "; connect Load Image's mask, where its transparency is, or a mask of the object, or bg_removal_model"


class Photo(NamedTuple):
    """A photo (3 or 4, H, W) in [0, 1] with its mask (1, H, W), if it has one.

    told: why the mask is 1 on the object for certain, if it is. aside: what to say of a mask that was not used.
    """

    picture: Tensor
    mask: Tensor | None = None
    told: str = ""
    aside: str = ""


def chosen_sheet(looked: list[core.Looked], names: list[str]) -> Tensor:
    """(3, H, W): all that were taken, and as many of the others as there is room for, in their order."""
    taken = [place for place, one in enumerate(looked) if not one.reason]
    left = [place for place, one in enumerate(looked) if one.reason]
    shown = sorted([*taken, *left[:: -(-len(left) // max(1, SHOWN - len(taken))) or 1]])
    rows, cell, font = -(-len(shown) // COLUMNS), looked[0].shown.shape[1], ImageFont.load_default(12)
    sheet = Image.new("RGB", (COLUMNS * (cell + 10), rows * (cell + 30)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(shown):
        x, y = place % COLUMNS * (cell + 10) + 5, place // COLUMNS * (cell + 30) + 5
        word = looked[index].reason.split(":")[0]
        sheet.paste(Image.fromarray((255 * looked[index].shown.movedim(0, -1)).round().byte().numpy()), (x, y))
        draw.rectangle((x - 3, y - 3, x + cell + 2, y + cell + 2), outline=COLORS[word.split(" ")[0]], width=3)
        draw.text((x, y + cell + 4), f"{names[index][-14:]} {word}", fill="black", font=font)
    return torch.from_numpy(np.array(sheet)).movedim(-1, 0) / 255


class UpFusionLoadPhotos(io.ComfyNode):
    """Photos of one object from the input folder, HEIC and AVIF too, upright as the camera was held, transparency kept;
    of many, or of a film round the object, the sharp ones that show the most sides. The sheet shows which, and why."""

    NEEDS = ("Video",)

    @classmethod
    def define_schema(cls) -> io.Schema:
        photos = "Files or folders inside ComfyUI's input folder, a line each; the first photo is the reference."
        count = "How many to keep; fewer are all kept. Networks see 6 of more; cameras, fit and texture take all."
        video = "A film of the object from all sides, from Load Video: its sharp frames are spread round the object."
        takes = [
            io.String.Input("photos", default="", multiline=True, tooltip=photos),
            inputs.number("count", MAX_PHOTOS, 1, 64, count),
            io.Video.Input("video", optional=True, tooltip=video),
        ]
        images = "The photos in their own sizes, as a list: connect it to image0 of UpFusion Prepare Views."
        gives = [
            io.Image.Output("images", tooltip=images, is_output_list=True),
            io.Image.Output("sheet", tooltip="All that was looked at: green was taken, red is blurred, grey alike."),
            io.String.Output("report", tooltip="A line a photo: its lens, as EXIF tells, or why it was left out."),
            io.String.Output("names", tooltip="The files that were taken, for UpFusion Load Cameras."),
        ]
        aliases = ["load images", "photo folder", "heic", "video frames", "import photos", "sharp frames"]
        return inputs.schema(cls, "UpFusion Load Photos", "loaders", takes, gives, aliases, is_output_node=True)

    @classmethod
    def fingerprint_inputs(cls, photos: str, count: int, video: Any = None) -> str:
        """Changed files are read again."""
        times = [path.stat().st_mtime_ns for path in _paths(photos)]
        return f"{photos} {count} {times}"

    @classmethod
    @checked
    def execute(cls, photos: str, count: int, video: Any = None) -> io.NodeOutput:
        """Looks at all, then reads those that are taken in full."""
        source, window = None, (0.0, 0.0)
        if video is not None:
            source = video.get_stream_source()
            window = getattr(video, "get_active_trim_window", lambda: window)()
        on_step, root = host.progress_hook("looking at the photos"), Path(folder_paths.get_input_directory())
        looked = core.choose_pictures(
            _paths(photos), count, source, window, lambda share: on_step(round(100 * share), 100, None)
        )
        if not looked:
            raise InputError("photos must name files or folders of the input folder, got none; or connect a video")
        kept = {one.source for one in looked if not one.reason}
        frames = {} if source is None else dict(core.film_frames(source, kept, window))
        images, lines, names = [], [], []
        for one in looked:
            file = one.source if isinstance(one.source, Path) else None
            names.append(f"frame {one.source}" if file is None else file.relative_to(root).as_posix())
            degrees = None if file is None else core.field_of_view(file)
            note = "taken" if degrees is None else f"taken, lens of {degrees:.0f} degrees"
            lines.append(f"{names[-1]}: {one.reason or note}")
            if not one.reason:
                photo = core.read_photo(frames[one.source] / 255 if isinstance(one.source, int) else one.source)
                channels = [photo.rgb] if photo.coverage is None else [photo.rgb, photo.coverage[None]]
                rgb = torch.cat([part / 255 if part.dtype == torch.uint8 else part for part in channels])
                images.append(image_from_rgb(rgb[None]))
        text = f"{len(images)} of {len(looked)} taken\n" + "\n".join(lines)
        host.send_line(text.split("\n")[0])
        sheet = image_from_rgb(chosen_sheet(looked, names)[None])
        files = "\n".join(name for one, name in zip(looked, names, strict=True) if one.source in kept - frames.keys())
        shown = ui.PreviewImage(sheet, cls=cls).as_dict()
        return io.NodeOutput(images, sheet, text, files, ui={**shown, "text": (text,)})


class UpFusionExampleViews(io.ComfyNode):
    """Photos of an object that comes with the pack and that nothing was trained on, and true views of it from other
    cameras to compare results with. Nothing is written into the input folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        photos = "More show more sides; the true views stay the same."
        views = "The photos with their own pixels, 512 of object 4, and their true cameras."
        takes = [
            inputs.setting("object", Demo, default=0, high=5),
            inputs.setting("number", Demo, "photos", more=photos),
        ]
        gives = [
            io.Image.Output("images", tooltip="The photos, framed on white; the first is the reference."),
            io.Mask.Output("masks", tooltip="Their masks, 1 on the object."),
            io.Image.Output("truth", tooltip="True views all round the object that are none of the photos."),
            CamerasSocket.Output("cameras", tooltip="The cameras of the true views."),
            io.Mask.Output("truth_masks", tooltip="Masks of the true views, 1 on the object."),
            CamerasSocket.Output("photo_cameras", tooltip="Where the photos were taken from; no network is told."),
            ViewsSocket.Output("views", tooltip=views),
        ]
        aliases = ["sample photos", "demo", "test object", "ground truth", "bundled pictures"]
        return inputs.schema(cls, "UpFusion Example Views", "views", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, object: int, number: int) -> io.NodeOutput:
        from ..upfusion_core import example_views

        example = example_views(object, number)
        photos, masks = image_from_rgb(example.photos), mask_from_plane(example.masks)
        truth, truth_masks = image_from_rgb(example.truth), mask_from_plane(example.truth_masks)
        given, views = example.photo_cameras, example.posed(SIZE)
        return io.NodeOutput(photos, masks, truth, example.cameras, truth_masks, given, views)


class UpFusionPrepareViews(io.ComfyNode):
    """Makes 1 to 64 photos of one object ready: the background becomes white and a square is cut round the object.
    Photos may differ in size; a socket may carry a batch. Photo 1 is the reference view; the networks see up to 6."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        margin = "Side of the cut over the object's longer side; larger shows it smaller. Networks learned at 1.15."
        image = io.Image.Input("image", tooltip="A photo, or a batch or list of photos, of the object; alpha counts.")
        mask = io.Mask.Input("mask", optional=True, tooltip="Where the object is in the image with this number.")
        images = "1 to 64 photos of one object, the reference first. The order of the others is free."
        masks = (
            "mask0 for image0 and so on; its border tells whether 1 is the object, as in MaskEditor, or 0, as in Load "
            "Image. A photo with neither mask nor alpha is taken as on white; the preview marks it where it is not."
        )
        removal = "From Load Background Removal Model: finds the object where neither mask nor alpha tells."
        numbers = "Which photos the networks see, such as 1 3 8; empty: of more than 6 sharp ones of many sides."
        invert = "On: all masks are 1 on the background. Off: the background is what most of a mask's border has."
        some_images = io.Autogrow.TemplatePrefix(image, prefix="image", min=1, max=MAX_PHOTOS)
        some_masks = io.Autogrow.TemplatePrefix(mask, prefix="mask", min=0, max=MAX_PHOTOS)
        takes = [
            io.Autogrow.Input("images", template=some_images, tooltip=images),
            io.Autogrow.Input("masks", template=some_masks, optional=True, tooltip=masks),
            io.Custom("BACKGROUND_REMOVAL").Input("bg_removal_model", optional=True, tooltip=removal),
            io.Boolean.Input("invert_mask", default=False, tooltip=invert),
            inputs.number("margin", 1.15, 1.0, 4.0, margin, step=0.05),
            io.String.Input("network_photos", default="", optional=True, tooltip=numbers),
        ]
        gives = [
            io.Image.Output("images", tooltip=f"The photos, {SIZE} x {SIZE} pixels each, on white."),
            io.Mask.Output("masks", tooltip="Their masks, 1 on the object."),
            ViewsSocket.Output("views", tooltip="The same with the photos' own pixels, for texture and fit."),
        ]
        aliases = ["crop to object", "white background", "photos", "multi view input", "remove background"]
        shown: dict[str, Any] = {"is_output_node": True, "essentials_category": "Basics"}
        shown["is_input_list"] = True  # else a list of photos would become a scene each
        return inputs.schema(cls, "UpFusion Prepare Views", "views", takes, gives, aliases, **shown)

    @classmethod
    @checked
    def execute(
        cls,
        images: Sockets,
        invert_mask: bool,
        margin: float,
        masks: Sockets | None = None,
        bg_removal_model: Any = None,
        network_photos: str = "",
        **others: Any,
    ) -> io.NodeOutput:
        """Frames the photos and shows them; `others` come by the API alone, for sockets that there are not."""
        from ..upfusion_core import choose_views, prepare_views

        if others:
            raise InputError(
                f"there are {MAX_PHOTOS} sockets of photos, image0 to image{MAX_PHOTOS - 1}, and as many of masks, got "
                f"{', '.join(sorted(others)):.80}; choose the {MAX_PHOTOS} most different photos"
            )
        photos = _flattened(images, {} if masks is None else masks, invert_mask, bg_removal_model)
        pictures, planes = [photo.picture for photo in photos], [photo.mask for photo in photos]
        senses: list[Literal["told", "border"]] = ["told" if photo.told else "border" for photo in photos]
        words = network_photos.replace(",", " ").split()
        if not all(word.isdecimal() for word in words):
            raise InputError(f"network_photos must be numbers such as 1 3 8, got {network_photos:.40}; correct it")
        views = prepare_views(pictures, planes, size=SIZE, margin=margin, sense=senses)
        views = choose_views(views, [int(word) for word in words])
        result = image_from_rgb(views.rgb)
        lines = []
        for number, (photo, note) in enumerate(zip(photos, views.notes, strict=True), 1):
            advice = ADVICE if note.doubtful and photo.mask is None else ""
            lines.append(f"photo {number}: {photo.told or photo.aside + note.text + advice}")
            if views.left_out and views.left_out[number - 1]:
                lines[-1] += f"; the networks do not see it: {views.left_out[number - 1]}"
        text = "\n".join(lines)
        host.send_line(text)
        frame = torch.ones(SIZE, SIZE, 1, dtype=torch.bool)
        frame[8:-8, 8:-8] = False
        doubtful = torch.tensor([note.doubtful for note in views.notes])
        marked = (doubtful[:, None, None, None] & frame).to(result.device)  # by an orange frame, to be looked at
        preview = torch.where(marked, result.new_tensor([1.0, 0.45, 0.0]), result) if doubtful.any() else result
        shown = ui.PreviewImage(preview, cls=cls).as_dict()
        return io.NodeOutput(result, mask_from_plane(views.mask), views, ui={**shown, "text": (text,)})


class UpFusionEncodeViews(io.ComfyNode):
    """Turns prepared photos of one object into a scene that can be asked for any view. No camera poses are
    needed; photo 1 is the reference that all views are measured from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = "Square photos of the object on white, photo 1 first: from UpFusion Prepare Views."
        masks = "1 on the object, one a photo; taken from what is not white when left open."
        more = "0 is the object's height, 45 looks down. A wrong value tilts the orbit of all new views."
        own = "The photos' own pixels and cameras, from UpFusion Prepare Views or Load Cameras, for Distill to use."
        found = (
            "Find photo 1's elevation by the silhouettes of three or more photos that were held level, where they tell."
        )
        takes = [
            inputs.model(),
            io.Image.Input("images", tooltip=images),
            io.Mask.Input("masks", optional=True, tooltip=masks),
            inputs.elevation("elevation", more=more, low=-60, high=85),
            ViewsSocket.Input("views", optional=True, tooltip=own),
            io.Boolean.Input("find_elevation", default=False, optional=True, tooltip=found),
        ]
        gives = [SceneSocket.Output("scene", tooltip="The object as the model understands it, with its photos.")]
        aliases = ["encode photos", "scene", "set latents", "unposed", "multi view"]
        return inputs.schema(cls, "UpFusion Encode Views", "views", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls,
        upfusion_model: HostedModel,
        images: Tensor,
        elevation: float,
        masks: Tensor | None = None,
        views: InputViews | None = None,
        find_elevation: bool = False,
    ) -> io.NodeOutput:
        """Without `views` the photos' own pixels are not used, and the text says so."""
        shown = input_views(images, masks)
        text = "the photos' own pixels are not used: connect views from UpFusion Prepare Views"
        if views is not None:
            own = {name: getattr(views, name) for name in ("sources", "cameras", "left_out")}
            shown, text = replace(shown, **own), "with the photos' own pixels"
        if find_elevation and shown.cameras is None:
            found = core.estimate_elevation(shown)
            elevation = elevation if found is None else found
            text = f"photo 1 looks down by {elevation:.1f} degrees, {'as given' if found is None else 'found'}; {text}"
        host.send_line(text)
        return io.NodeOutput(upfusion_model.stages().encode(shown, reference_elevation_degrees=elevation))


class UpFusionPredictViews(io.ComfyNode):
    """What the scene transformer alone sees from each camera: blurry, but there at once. Use it to aim before sampling,
    and to see whether the photos were understood."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = "Time grows with its square; detail does not."
        takes = [
            ModelSocket.Input("upfusion_model", tooltip="The model that encoded the scene."),
            SceneSocket.Input("scene", tooltip="From UpFusion Encode Views."),
            CamerasSocket.Input("cameras", tooltip="The views to show, one picture each."),
            inputs.setting("size", Predict, more=more, default=128, low=16, step=16),
        ]
        gives = [io.Image.Output("images", tooltip="One picture a camera.")]
        aliases = ["preview views", "aim", "UpSRT", "ghost view", "fast novel view"]
        return inputs.schema(cls, "UpFusion Predict Views", "views", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, upfusion_model: HostedModel, scene: SceneEncoding, cameras: Cameras, size: int) -> io.NodeOutput:
        """Decodes the cameras one after the other, so that Cancel comes between them."""
        stages, on_step = upfusion_model.stages(), host.progress_hook("predicting")
        views: list[Tensor] = []
        for camera in cameras:
            views.append(stages.predict(scene, camera, size))
            on_step(len(views), len(cameras), lambda: views[-1][0])
        return io.NodeOutput(image_from_rgb(torch.cat(views)))


def _flattened(images: Sockets, masks: Sockets, invert: bool, bg_removal_model: Any) -> list[Photo]:
    """The photos of all sockets, image0 first; a socket's masks are those with its number.

    Those with neither mask nor transparency get what ComfyUI's model finds, if there is one.
    """
    check_type("images", images, Mapping, "connect photos to the sockets of UpFusion Prepare Views")
    check_type("masks", masks, Mapping, "connect masks to the sockets of UpFusion Prepare Views")
    photos: list[Photo] = []
    by_number = {_number(name): value for name, value in masks.items() if value is not None}
    for name, image in sorted(images.items(), key=lambda item: _number(item[0])):
        pictures = [picture for batch in _batches(image) for picture in pictures_from_image(batch, name).cpu()]
        if not pictures:
            continue
        label, mask = f"mask{_number(name)}", by_number.pop(_number(name), None)
        planes = [plane for batch in _batches(mask) for plane in plane_from_mask(batch).cpu()]
        if planes and len(planes) != len(pictures):
            raise InputError(
                f"{name} holds {len(pictures)} photos, but its {label} holds {len(planes)} masks; give one for each "
                "photo"
            )
        for picture, plane in zip(pictures, planes or [None] * len(pictures), strict=True):
            if plane is None:
                photos.append(Photo(picture))
            elif invert and torch.all(plane == 1):
                raise InputError(
                    f"{label} must be 0 on the object, got 1 everywhere; turn invert_mask off, or connect another mask"
                )
            elif torch.all(plane == plane[0, 0, 0]):  # e.g. Load Image's, of a picture without transparency
                aside = f"its mask is {plane[0, 0, 0]:.3g} everywhere and tells nothing; "
                photos.append(Photo(picture, aside=aside))
            elif invert:
                photos.append(Photo(picture, 1 - plane, "its mask, 0 is the object, as invert_mask says"))
            else:
                photos.append(Photo(picture, plane))
    if by_number:
        left = min(by_number)
        raise InputError(f"mask{left} belongs to image{left}, but that is not connected; connect both with one number")
    for place, photo in enumerate(photos if bg_removal_model is not None else ()):
        picture = photo.picture
        if photo.mask is None and (len(picture) == 3 or bool((picture[3] == 1).all())):
            found = plane_from_mask(bg_removal_model.encode_image(image_from_rgb(picture[None, :3])))[0].cpu()
            photos[place] = Photo(picture, found, f"{photo.aside}found by bg_removal_model")
    return photos


def _paths(photos: str) -> list[Path]:
    """The files of the input folder that the lines name."""
    folder = folder_paths.get_input_directory()
    return core.photo_files([inside(folder, line.strip(), "photos") for line in photos.splitlines() if line.strip()])


def _batches(value: Tensor | list[Tensor] | None) -> list[Tensor]:
    """A socket's value as a list; nodes that give lists give lists of one for one thing, too."""
    return [batch for batch in (value if isinstance(value, list) else [value]) if batch is not None]


def _number(name: str) -> int:
    """The number at the end of a socket's name: "image3" -> 3."""
    digits = "".join(character for character in name if character.isdecimal())
    if not digits:
        raise InputError(f"a socket of photos or masks must be named such as image0 or mask0, got {name!r:.40}")
    return int(digits)
