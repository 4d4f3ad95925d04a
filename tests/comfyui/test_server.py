"""The pack in a running ComfyUI: imported without a warning, every node offered, views painted, runs cancelled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from comfyui_server import ROOT, Server, start_server
from workflows_api import one_box, sampled, scene

pytestmark = pytest.mark.comfyui


def test_the_pack_imports_without_a_warning(server: Server) -> None:
    log = server.log
    assert "IMPORT FAILED" not in log
    lines = [line for line in log.splitlines() if re.search(r"WARN|ERROR|Traceback", line)]
    assert not [line for line in lines if re.search("upfusion|custom node|node", line, re.IGNORECASE)], lines
    assert re.search(r"seconds: .*custom_nodes/upfusion", log)


def test_every_node_is_offered_with_its_help(server: Server) -> None:
    offered = server.get("/object_info")
    ours = {name for name, info in offered.items() if info["python_module"].endswith("upfusion")}
    sources = "".join(path.read_text() for path in (ROOT / "nodes").glob("*.py"))
    assert ours == set(re.findall(r"class (UpFusion\w+)\(io\.ComfyNode\)", sources))
    for name in ours:
        page = server.text(f"/extensions/upfusion/docs/{name}.md")
        assert page.startswith("# ")
        picture = re.search(r"\]\(([^)]+)\)", page)[1]
        with_picture = f"/extensions/upfusion/docs/{picture}"
        assert server.text(with_picture) if picture.endswith(".svg") else picture.endswith((".png", ".jpg"))


@pytest.mark.slow
def test_importing_delays_the_start_by_less_than_half_a_second(server: Server) -> None:
    """ComfyUI measures it itself; the entry point and get_node_list are within."""
    seconds = [float(value) for value in re.findall(r"([\d.]+) seconds: .*custom_nodes/upfusion", server.log)]
    assert len(seconds) == 1
    assert seconds[0] < 0.5


def test_ksampler_and_the_one_box_paint_the_same_views(server: Server) -> None:
    from PIL import Image, ImageChops

    paths = []
    for prompt in (sampled(3), one_box(3, batch_size=3)):
        images = server.run(prompt)["saved"]["images"]
        assert len(images) == 4
        paths.append([server.base / "output" / image["filename"] for image in images])
    for one, other in zip(*paths, strict=True):
        difference = ImageChops.difference(Image.open(one), Image.open(other))
        assert max(high for _, high in difference.getextrema()) <= 1
        assert Image.open(one).size == (32, 32)


def test_ten_runs_do_not_grow(server: Server) -> None:
    for seed in range(3):
        server.run(one_box(2, seed=100 + seed))
    before = server.anonymous_bytes()
    for seed in range(10):
        server.run(one_box(2, seed=200 + seed))
    assert server.anonymous_bytes() < 1.02 * before


def test_no_heavy_library_is_imported_before_a_node_runs(tmp_path: Path) -> None:
    """The modules of a ComfyUI that has just started, told by a node pack that only looks."""
    spy = tmp_path / "custom_nodes" / "zz_spy"
    spy.mkdir(parents=True)
    (spy / "__init__.py").write_text(
        "import sys, pathlib\n"
        "heavy = ('diffusers', 'kornia', 'trimesh', 'skimage', 'scipy.ndimage', 'matplotlib')\n"
        "found = [name for name in heavy if name in sys.modules]\n"
        "own = [name.split('upfusion_core.')[1] for name in sys.modules if 'upfusion_core.' in name]\n"
        "pathlib.Path(__file__).with_name('seen.txt').write_text(repr((found, own)))\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    alone = tmp_path / "alone"
    (alone / "custom_nodes").mkdir(parents=True)
    (alone / "custom_nodes" / "zz_spy").symlink_to(spy)
    for base, with_pack in ((alone, False), (tmp_path, True)):
        server = start_server(base, with_pack=with_pack)
        server.get("/object_info")
        server.stop()
        if not with_pack:
            stock, _ = eval_seen(spy)
    found, own = eval_seen(spy)
    assert set(found) <= set(stock)
    assert not [name for name in own if name.split(".")[0] in ("models", "pipeline", "field", "data", "evaluation")]


def eval_seen(spy: Path) -> tuple[list[str], list[str]]:
    """What the spy wrote."""
    import ast

    return ast.literal_eval((spy / "seen.txt").read_text())


def test_a_missing_file_is_refused_with_a_sentence(server: Server) -> None:
    with pytest.raises(AssertionError, match=r"lost\.safetensors"):
        server.queue(sampled(1, weights="lost.safetensors"))
    inputs = server.get("/object_info/UpFusionLoadModel")["UpFusionLoadModel"]["input"]["required"]
    assert inputs["weights"][1]["options"] == ["mini", "quarter.safetensors"]


def test_a_prediction_is_one_picture_a_camera(server: Server) -> None:
    from PIL import Image

    prompt = scene(size=32)
    prompt["ghost"] = {
        "class_type": "UpFusionPredictViews",
        "inputs": {"upfusion_model": ["model", 0], "scene": ["scene", 0], "cameras": ["cameras", 0], "size": 32},
    }
    prompt["saved"] = {"class_type": "SaveImage", "inputs": {"images": ["ghost", 0], "filename_prefix": "ghost"}}
    saved = server.run(prompt)["saved"]["images"]
    pictures = [Image.open(server.base / "output" / image["filename"]) for image in saved]
    assert [picture.size for picture in pictures] == [(32, 32)] * 4
    assert all(low < high for picture in pictures for low, high in picture.getextrema())
