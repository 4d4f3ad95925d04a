"""Draws docs/data_flow.png, the picture in docs/method.md: what flows between the stages, with the released sizes.

python docs/draw_data_flow.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

NETWORK, VALUE = "#cfe0f3", "#ffffff"
INK, QUIET = "#1c2733", "#5b6b7b"

Place = tuple[float, float]


def box(axes: Axes, place: Place, title: str, detail: str = "", *, network: bool = False, width: float = 2.7) -> None:
    """A box of height 1 round `place`: a network in blue, a value in white."""
    x, y = place
    color = NETWORK if network else VALUE
    shape = FancyBboxPatch(
        (x - width / 2, y - 0.46), width, 0.92, boxstyle="round,pad=0.02,rounding_size=0.12", fc=color, ec=INK, lw=1.1
    )
    axes.add_patch(shape)
    axes.text(x, y + (0.16 if detail else 0), title, ha="center", va="center", size=10.5, color=INK, weight="bold")
    axes.text(x, y - 0.22, detail, ha="center", va="center", size=8.5, color=QUIET)


def arrow(axes: Axes, start: Place, end: Place, text: str = "", *, shift: Place = (0.0, 0.14), bend: float = 0) -> None:
    """An arrow between two places, with a word beside its middle."""
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", end, start, arrowprops=style)
    x, y = (start[0] + end[0]) / 2 + shift[0], (start[1] + end[1]) / 2 + shift[1]
    axes.text(x, y, text, ha="center", va="center", size=8.5, color=QUIET)


def main() -> None:
    """Writes the picture."""
    figure, axes = plt.subplots(figsize=(11.4, 6.0))
    axes.set_xlim(-1.5, 14.6)
    axes.set_ylim(-0.65, 7.4)
    axes.axis("off")

    for y, text in ((7.1, "once for an object"), (4.9, "once for a camera"), (2.1, "at every denoising step")):
        axes.text(-1.4, y, text, size=9, color=QUIET, style="italic", va="center")

    box(axes, (0, 6.2), "1 to 6 photos", "256 x 256, no poses")
    box(axes, (3.3, 6.2), "DINOv2", "256 x 768 keys a photo", network=True)
    box(axes, (6.8, 6.2), "UpSRT encoder", "all photos jointly", network=True)
    box(axes, (10.7, 6.2), "set latents", "photos · 256 x 768")
    arrow(axes, (1.38, 6.2), (1.92, 6.2))
    arrow(axes, (4.68, 6.2), (5.42, 6.2))
    arrow(axes, (8.18, 6.2), (9.32, 6.2))

    box(axes, (0, 4.0), "a camera", "round the object")
    box(axes, (3.3, 4.0), "its rays", "6 numbers each")
    box(axes, (6.8, 4.0), "UpSRT decoder", "4 layers of attention", network=True)
    box(axes, (10.7, 4.0), "aligned features", "32 x 32 x (768 + 6)")
    arrow(axes, (1.38, 4.0), (1.92, 4.0))
    arrow(axes, (4.68, 4.0), (5.42, 4.0))
    arrow(axes, (8.18, 4.0), (9.32, 4.0))
    arrow(axes, (10.0, 5.72), (7.5, 4.5))

    box(axes, (0, 1.2), "noise", "4 x 32 x 32")
    box(axes, (3.3, 1.2), "UNet", "of Stable Diffusion 1.5", network=True)
    box(axes, (6.8, 1.2), "ControlNet", "attends to the photos", network=True)
    arrow(axes, (1.38, 1.2), (1.92, 1.2))
    arrow(axes, (5.42, 1.2), (4.68, 1.2), "residuals", shift=(0.0, 0.66))
    arrow(axes, (10.2, 3.52), (7.7, 1.7), "condition 1", shift=(-0.75, 0.1))
    arrow(axes, (12.08, 6.2), (8.18, 1.2), "condition 2,\nwith the rays", shift=(3.2, -0.6), bend=-0.62)
    arrow(axes, (2.9, 0.72), (0.3, 0.72), "one step less noisy", shift=(0.0, -0.42), bend=-0.25)

    box(axes, (10.9, -0.1), "radiance field", "-> renders, mesh")
    box(axes, (6.8, -0.1), "novel views", "VAE, 256 x 256")
    arrow(axes, (3.9, 0.72), (5.42, -0.05))
    arrow(axes, (8.18, -0.1), (9.52, -0.1), "fitted", shift=(0.0, 0.17))
    box(axes, (3.3, 2.65), "prediction", "blurry, at once")
    arrow(axes, (6.3, 3.52), (4.68, 2.75))

    figure.savefig(Path(__file__).with_name("data_flow.png"), dpi=110, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
