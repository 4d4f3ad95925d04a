"""Photos of one object from files or a film, and a sheet of those that were taken and left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from .. import upfusion_core as core
from ..upfusion_core import MAX_PHOTOS, InputError
from . import host, inputs
from .convert import image_from_rgb
from .files import inside
from .sockets import checked

FRAMES = 600  # of a film at most, that are looked at; of longer ones every second, fourth and so on
SHOWN, CELL, COLUMNS = 60, 128, 6  # pictures of the sheet at most, pixels along each one's side, and in a row
COLORS = {"": (40, 160, 70), "blurred": (210, 60, 50), "like": (150, 150, 150)}
"""Of the frame round a picture of the sheet, by the first word of why it was left out."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A photo, or a frame of the film (path None), as far as choosing needs it."""

    name: str
    path: Path | None
    number: int
    sharp: float
    look: Tensor
    shown: Tensor  # (3, CELL, CELL), no larger than that and on white
    note: str

    @classmethod
    def of(cls, name: str, path: Path | None, number: int, rgb: Tensor, note: str = "") -> Candidate:
        """rgb: (3, H, W), uint8 or in [0, 1]."""
        share = CELL / max(rgb.shape[1:])
        height, width = (max(1, round(side * share)) for side in rgb.shape[1:])
        values = rgb[None].float() / (255 if rgb.dtype == torch.uint8 else 1)
        shown = torch.ones(3, CELL, CELL)
        top, left = (CELL - height) // 2, (CELL - width) // 2
        small = interpolate(values, (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
        shown[:, top : top + height, left : left + width] = small
        return cls(name, path, number, core.sharpness(rgb), core.appearance(shown), shown, note)

    @classmethod
    def files(cls, photos: str) -> Iterator[Candidate]:
        root, on_step = Path(folder_paths.get_input_directory()), host.progress_hook("looking at the photos")
        paths = _paths(photos)
        for number, path in enumerate(paths):
            name, degrees = path.relative_to(root).as_posix(), core.field_of_view(path)
            note = "taken" if degrees is None else f"taken, lens of {degrees:.0f} degrees"
            yield cls.of(name, path, number, core.read_photo(path, least=CELL * 4).rgb, note)
            on_step(number + 1, len(paths), None)

    @classmethod
    def film(cls, source: Any, window: tuple[float, float]) -> list[Candidate]:
        """FRAMES or fewer of its frames, evenly."""
        found: list[Candidate] = []
        stride = 1
        for seen, (number, rgb) in enumerate(core.film_frames(source, None, window)):
            if seen % stride == 0:
                found.append(cls.of(f"frame {number}", None, number, rgb, "taken"))
            if len(found) > FRAMES:
                found, stride = found[::2], 2 * stride
            host.check_interrupted()
        return found

    @staticmethod
    def sheet(found: list[Candidate], reasons: list[str]) -> Tensor:
        """(3, H, W): all that were taken, and as many of the others as there is room for, in their order."""
        left = [index for index, reason in enumerate(reasons) if reason]
        room = max(1, SHOWN - (len(reasons) - len(left)))
        shown = sorted(
            {*(index for index, reason in enumerate(reasons) if not reason), *left[:: -(-len(left) // room) or 1]}
        )
        rows, font = -(-len(shown) // COLUMNS), ImageFont.load_default(12)
        sheet = Image.new("RGB", (COLUMNS * (CELL + 10), rows * (CELL + 30)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, index in enumerate(shown):
            x, y = place % COLUMNS * (CELL + 10) + 5, place // COLUMNS * (CELL + 30) + 5
            word = reasons[index].split(":")[0]
            pixels = (255 * found[index].shown.movedim(0, -1)).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (x, y))
            draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), outline=COLORS[word.split(" ")[0]], width=3)
            draw.text((x, y + CELL + 4), f"{found[index].name[-14:]} {word}", fill="black", font=font)
        return torch.from_numpy(np.array(sheet)).movedim(-1, 0) / 255


class UpFusionLoadPhotos(io.ComfyNode):
    """Photos of one object from the input folder, HEIC and AVIF too, upright as the camera was held, transparency kept;
    of many, or of a film round the object, the sharp ones that show the most sides. The sheet shows which, and why."""

    NEEDS = ("Video",)

    @classmethod
    def define_schema(cls) -> io.Schema:
        photos = "Files or folders inside ComfyUI's input folder, a line each; the first photo is the reference."
        count = "How many to keep; fewer are all kept. UpFusion takes up to 6."
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
        found = [*Candidate.files(photos), *([] if source is None else Candidate.film(source, window))]
        if not found:
            raise InputError("photos must name files or folders of the input folder, got none; or connect a video")
        reasons = [""] * len(found)
        if len(found) > count:
            looks, sharp = torch.stack([one.look for one in found]), torch.tensor([one.sharp for one in found])
            reasons = core.spread_choice(looks, sharp, count, in_order=source is not None)
        kept = [one for one, reason in zip(found, reasons, strict=True) if not reason]
        frames = {} if source is None else dict(core.film_frames(source, {one.number for one in kept}, window))
        images = []
        for one in kept:
            photo = core.read_photo(frames[one.number] / 255 if one.path is None else one.path)
            channels = [photo.rgb] if photo.coverage is None else [photo.rgb, photo.coverage[None]]
            rgb = torch.cat([part / 255 if part.dtype == torch.uint8 else part for part in channels])
            images.append(image_from_rgb(rgb[None]))
        lines = [f"{one.name}: {reason or one.note}" for one, reason in zip(found, reasons, strict=True)]
        text = f"{len(kept)} of {len(found)} taken\n" + "\n".join(lines)
        host.send_line(text.split("\n")[0])
        sheet = image_from_rgb(Candidate.sheet(found, reasons)[None])
        names = "\n".join(one.name for one in kept if one.path is not None)
        shown = ui.PreviewImage(sheet, cls=cls).as_dict()
        return io.NodeOutput(images, sheet, text, names, ui={**shown, "text": (text,)})


def _paths(photos: str) -> list[Path]:
    """The files of the input folder that the lines name."""
    folder = folder_paths.get_input_directory()
    return core.photo_files([inside(folder, line.strip(), "photos") for line in photos.splitlines() if line.strip()])
