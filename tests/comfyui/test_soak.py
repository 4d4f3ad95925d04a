"""Thirty prompts that mix the pack's nodes with ComfyUI's own in one server: nothing is left behind."""

import pytest
from comfyui_server import Server
from workflows_api import MINI, Prompt, distilled, extracted, node, one_box, predicted, rendered, sampled

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

ROUNDS = 7  # of four prompts, between the first and the last
GROWTH = 1.02


def painted(number: int) -> Prompt:
    """Our conditions, stock sampler, stock picture nodes."""
    size = {"width": 96, "height": 96, "upscale_method": "lanczos", "crop": "disabled"}
    return {
        **sampled(3, seed=number, **MINI),
        "larger": node("ImageScale", image=("decoded", 0), **size),
        "turned": node("ImageInvert", image=("larger", 0)),
        "seen": node("PreviewImage", images=("turned", 0)),
    }


def compared(number: int) -> Prompt:
    """The bundled photos, prepared, predicted and measured."""
    given = {"images.image0": ("example", 0), "masks.mask0": ("example", 1), "invert_mask": False, "margin": 1.2}
    photos = {"images": ("prepared", 0), "masks": ("prepared", 1), "elevation": 20.0 + number}
    truth = {"truth": ("example", 2), "masks": ("example", 4)}
    return {
        "model": node("UpFusionLoadModel", weights="mini", precision="float32"),
        "example": node("UpFusionExampleViews", object=number % 6, number=3),
        "prepared": node("UpFusionPrepareViews", **given),
        "scene": node("UpFusionEncodeViews", upfusion_model=("model", 0), **photos),
        **predicted(64, cameras=("example", 3)),
        "measured": node("UpFusionCompareViews", images=("ghost", 0), **truth),
        "plotted": node("PreviewImage", images=("measured", 1)),
        "told": node("PreviewAny", source=("measured", 0)),
    }


def shaped(number: int) -> Prompt:
    """A field distilled, rendered as a video and extracted as a mesh, by our nodes and ComfyUI's."""
    return {
        **distilled(number),
        **rendered(64),
        "video": node("CreateVideo", images=("render64", 0), fps=8.0),
        "film": node("SaveVideo", video=("video", 0), filename_prefix="film", format="auto", codec="auto"),
        "kept": node("UpFusionSaveField", field=("field", 0), filename_prefix="kept"),
        **extracted(32 + number, "texture", faces=500),
        "stock": node("SaveGLB", mesh=("mesh", 0), filename_prefix="stock"),
    }


def test_thirty_prompts_leave_nothing_behind(server: Server) -> None:
    """Memory, open files, threads; and the first prompt gives the same pictures after all others."""
    before = [picture.tobytes() for picture in server.pictures(server.run(painted(0))["saved"])]
    held = []
    for number in range(ROUNDS):
        for prompt in (painted, compared, shaped):  # of other seeds: nothing comes from the cache
            server.run(prompt(number))
        server.run(one_box(3, seed=number, **MINI))
        held.append(server.get("/probe"))
        print(f"round {number + 1}: {held[-1]['bytes'] / 1e6:.1f} MB, {len(held[-1]['files'])} files")
    first, last = held[1], held[-1]
    assert max(after["bytes"] for after in held[2:]) < GROWTH * first["bytes"]
    assert last["files"] == first["files"]
    assert last["threads"] == first["threads"]
    assert [picture.tobytes() for picture in server.pictures(server.run(painted(0))["saved"])] == before
