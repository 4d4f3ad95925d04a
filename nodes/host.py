"""ComfyUI's services, as the library wants them: device, progress with a line and a picture, interruption.

comfy.model_management is imported at first use: on a host without GPU and without --cpu its import raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

    from ..upfusion_core import OnStep

PREVIEW_SECONDS = 0.5
PREVIEW_SIZE = 512
PREVIEW_COSTS = 10
"""Pictures come no more often than this many times the time it takes to make one."""


def compute_device() -> torch.device:
    """Where ComfyUI wants networks to run."""
    from comfy.model_management import get_torch_device

    return get_torch_device()


def check_interrupted() -> None:
    """Raises ComfyUI's interruption (a BaseException) if the user pressed Cancel."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def progress_hook(doing: str, note: Callable[[], str] | None = None) -> OnStep:
    """The library's `on_step` as ComfyUI shows it: bar, line of text, live picture; it raises when the user cancels.

    Args:
        doing: what the line begins with, e.g. "distilling" -> "distilling: step 412/600".
        note: further words for the line, e.g. the loss; asked for at each update.
    """
    from comfy.utils import ProgressBar

    bar: ProgressBar | None = None
    told = shown = -PREVIEW_SECONDS
    cost = 0.0

    def on_step(step: int, total: int, preview: Callable[[], Tensor] | None = None) -> None:
        nonlocal bar, told, shown, cost
        check_interrupted()
        bar = bar or ProgressBar(total)
        now, picture = time.monotonic(), None
        if preview and (step >= total or now - shown >= max(PREVIEW_SECONDS, PREVIEW_COSTS * cost)):
            picture = ("JPEG", picture_from_rgb(preview()), PREVIEW_SIZE)
            shown = time.monotonic()
            cost = shown - now
        bar.update_absolute(step, total, picture)
        if step >= total or now - told >= PREVIEW_SECONDS:
            told = now
            words = f", {note()}" if note else ""
            send_line(f"{doing}: step {step}/{total}{words}")

    return on_step


def stacked(views: Iterable[Tensor], total: int, on_step: OnStep) -> Tensor:
    """The (n, C, H, W) parts of `views` as one tensor; each is shown as it comes, and Cancel comes between them."""
    parts = []
    for part in views:
        parts.append(part)
        on_step(len(parts), total, lambda: parts[-1][0])
    return torch.cat(parts)


def report(doing: str) -> None:
    """Shows a line for work that has no steps; raises when the user cancels."""
    check_interrupted()
    send_line(doing)


def send_line(text: str) -> None:
    """Shows a line of text on the node that is running; without a server or a running node nothing happens."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


def picture_from_rgb(rgb: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> an 8-bit picture."""
    from PIL import Image

    pixels = (rgb.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.movedim(0, -1).cpu().numpy())
