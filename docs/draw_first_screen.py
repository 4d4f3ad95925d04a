"""Draws docs/first_screen.jpg, the picture on README's first screen: photos, views, mesh and graph.

upfusion demo -o out
python docs/draw_first_screen.py out GRAPH.png      # a screenshot of workflow 3 in ComfyUI, 2200 x 1240 pixels
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from upfusion_core import example_views, orbit_cameras
from upfusion_core.support.images import to_8bit
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import read_surface

WIDTH, INK = 1240, "#1c2733"
Box = tuple[int, int, int]
"""Left, top and side in pixels."""
PHOTOS: list[Box] = [(10, 44, 150), (10, 200, 150), (10, 356, 150)]
VIEWS: list[Box] = [(222 + 126 * column, 110 + 160 * row, 122) for row in range(2) for column in range(4)]
MESH: list[Box] = [(764 + 232 * column, 44 + 232 * row, 226) for row in range(2) for column in range(2)]
GRAPH_TOP = 550
GRAPH = (345, 150, 1850, 1090)  # what of the screenshot the graph covers


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def main() -> None:
    out, graph = Path(sys.argv[1]), Image.open(sys.argv[2]).convert("RGB").crop(GRAPH)
    mesh = rasterise(read_surface(out / "mesh.glb"), orbit_cameras([0, 60, 150, 240], 22.5), 226).rgb
    graph = graph.resize((WIDTH, round(graph.height * WIDTH / graph.width)), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (WIDTH, GRAPH_TOP + graph.height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(22)
    for left, text in ((10, "three photos"), (222, "new views"), (764, "the mesh")):
        draw.text((left, 8), text, fill=INK, font=font)
    draw.text((10, GRAPH_TOP - 34), "and the graph in ComfyUI", fill=INK, font=font)
    for x in (176, 724):
        draw.polygon([(x, 262), (x + 26, 275), (x, 288)], fill=INK)
    whole = [Image.fromarray(to_8bit(picture.permute(1, 2, 0))) for picture in mesh]
    photos = [Image.open(path).convert("RGB") for path in example_views(4, 3).paths]
    for places, found in ((PHOTOS, photos), (VIEWS, pictures(out / "views")), (MESH, whole)):
        for (left, top, side), picture in zip(places, found, strict=True):
            sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left, top))
    sheet.paste(graph, (0, GRAPH_TOP))
    sheet.save(Path(__file__).with_name("first_screen.jpg"), quality=85)


if __name__ == "__main__":
    main()
