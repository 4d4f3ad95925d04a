"""The nodes that read and write files: weights in models/upfusion, fields and meshes in input and output folders."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import folder_paths
from comfy_api.latest import Types, io

from ..upfusion_core import (
    BUNDLED_NAME,
    CheckpointError,
    InputError,
    RadianceField,
    check_choice,
    check_file_name,
    check_type,
    load_field,
)
from ..upfusion_core.config import Networks, Reconstruct, Surface, options_of
from . import inputs
from .convert import assets_from_mesh
from .host import load_all
from .sockets import FieldSocket, ModelSocket, checked

FOLDER = "upfusion"
SUFFIX = ".safetensors"
WEIGHTS_ADDRESS = "https://github.com/upfusion3d/upfusion#model-weights"
WEIGHTS_SIZE = "6.1 GB, or 3.1 GB as one float16 file by upfusion convert"
"""1,537,057,518 numbers: UNet, ControlNet, VAE and text encoder of Stable Diffusion 1.5's sizes, UpSRT and DINOv2."""
PREFIX = "Folders and name inside the output folder; a number is put after it. %date% and the like are replaced."
_PART_FILE = re.compile(r"upsrt\.(pt|ckpt|(fp16\.)?safetensors|safetensors\.index(\.fp16)?\.json)")
_DEPTH = 2  # folders inside folders that are searched for fields; output folders may hold very many pictures


class UpFusionLoadModel(io.ComfyNode):
    """Loads UpFusion's weights: a merged .safetensors file or a folder from models/upfusion, or the small model that
    comes with the pack. MODEL, CLIP and VAE are ordinary ones: LoRA loaders, KSampler and VAE Decode take them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weights = (
            "File or folder in models/upfusion. mini is the small bundled model: rough views, but it runs anywhere "
            "without a download."
        )
        precision = (
            "Precision that weights are kept in. auto follows ComfyUI's rules for this machine; float16 halves the "
            "memory, float32 is exact. The VAE always follows ComfyUI's own setting."
        )
        takes = [
            inputs.choice("weights", model_names(), weights),
            inputs.setting("precision", Networks, "dtype", tooltip=precision, advanced=True),
        ]
        gives = [
            ModelSocket.Output("upfusion_model", tooltip="Photo encoder, scene transformer and ControlNet."),
            io.Model.Output("model", tooltip="The diffusion model, for LoRA loaders and samplers."),
            io.Clip.Output("clip", tooltip="The text encoder; empty when the file holds none, as mini does."),
            io.Vae.Output("vae", tooltip="The autoencoder between latents and pictures."),
        ]
        aliases = ["upfusion checkpoint", "load upfusion", "novel view model", "mini"]
        return inputs.schema(cls, "UpFusion Load Model", "loaders", takes, gives, aliases)

    @classmethod
    def validate_inputs(cls, weights: str | None) -> bool | str:
        """Says where absent weights are to be had, as ComfyUI's own check of the list does not."""
        return _refusal(model_path, weights)

    @classmethod
    def fingerprint_inputs(cls, weights: str, precision: str) -> str:
        """A changed file is loaded again."""
        path = model_path(weights) if weights in model_names() else BUNDLED_NAME
        files = [] if isinstance(path, str) else [path, *path.glob("*")]  # the bundled model's name has none
        return f"{weights} {precision} {max((file.stat().st_mtime for file in files), default=0.0)}"

    @classmethod
    def execute(cls, weights: str, precision: str) -> io.NodeOutput:
        check_choice("precision", precision, options_of(Networks)["dtype"].choices)
        return io.NodeOutput(*load_all(model_path(weights), precision))


class UpFusionSaveField(io.ComfyNode):
    """Writes a field into the output folder as .safetensors, so that it can be rendered and turned into meshes later
    without distilling again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        takes = [
            FieldSocket.Input("field", tooltip="From UpFusion Distill."),
            io.String.Input("filename_prefix", default="upfusion/field", tooltip=PREFIX),
        ]
        gives = [io.String.Output("name", tooltip="The file's name as UpFusion Load Field lists it.")]
        aliases = ["save nerf", "export field", "write radiance field"]
        return inputs.schema(cls, "UpFusion Save Field", "field", takes, gives, aliases, is_output_node=True)

    @classmethod
    @checked
    def execute(cls, field: RadianceField, filename_prefix: str) -> io.NodeOutput:
        path, _ = next_output(filename_prefix, SUFFIX)
        field.save(path)
        name = path.relative_to(folder_paths.get_output_directory()).as_posix()
        return io.NodeOutput(f"{name} [output]", ui={"text": (f"output/{name}",)})


class UpFusionLoadField(io.ComfyNode):
    """Reads a field that UpFusion Save Field or the command line wrote, from the input or the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        made = [f"{name} [output]" for name in _fields_in(folder_paths.get_output_directory())]
        field = "A .safetensors file of a field. Put your own into the input folder; weights do not fit."
        takes = [inputs.choice("field", _fields_in(folder_paths.get_input_directory()) + made, field)]
        gives = [FieldSocket.Output("field", tooltip="The field, to render or to extract a mesh from.")]
        aliases = ["load nerf", "import field", "open radiance field"]
        return inputs.schema(cls, "UpFusion Load Field", "field", takes, gives, aliases)

    @classmethod
    def validate_inputs(cls, field: str | None) -> bool | str:
        """Names are checked here, so that those of new files are known without a reload of the page."""
        return _refusal(_field_path, field)

    @classmethod
    def fingerprint_inputs(cls, field: str) -> str:
        """A changed file is read again."""
        return f"{field} {_field_path(field).stat().st_mtime_ns}"

    @classmethod
    def execute(cls, field: str) -> io.NodeOutput:
        return io.NodeOutput(load_field(_field_path(field)).field)


class UpFusionSaveMesh(io.ComfyNode):
    """Writes a mesh into the output folder as GLB, OBJ, PLY or STL. It appears among the outputs, where ComfyUI's 3D
    viewer opens it; the file also goes on to Preview 3D."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        as_is = "0 leaves its size."
        form = "glb keeps texture or colours, and the graph, obj and ply the colours of vertices, stl the shape alone."
        takes = [
            io.Mesh.Input("mesh", tooltip="From UpFusion Extract Mesh or any node that gives ComfyUI's own MESH."),
            inputs.setting("format", Reconstruct, "formats", tooltip=form),
            io.String.Input("filename_prefix", default="3d/UpFusion", tooltip=PREFIX),
            inputs.setting("size_mm", Surface, more=as_is, default=0.0, low=0.0, optional=True, advanced=True),
            inputs.setting("up", Surface, optional=True, advanced=True),
        ]
        gives = [io.File3DAny.Output("model_3d", tooltip="The file, for Preview 3D; of a batch the first.")]
        aliases = ["export mesh", "save obj", "save ply", "save stl", "save glb"]
        more = {"is_output_node": True, "hidden": [io.Hidden.prompt, io.Hidden.extra_pnginfo]}
        return inputs.schema(cls, "UpFusion Save Mesh", "field", takes, gives, aliases, **more)

    @classmethod
    @checked
    def execute(
        cls, mesh: Any, format: str, filename_prefix: str, size_mm: float = 0.0, up: Literal["y", "z"] = "y"
    ) -> io.NodeOutput:
        """Writes a file for each mesh of a batch; a GLB carries the graph, as those of ComfyUI's own nodes do."""
        from comfy.cli_args import args

        paths, places, extras = [], [], {}
        if cls.hidden is not None and not args.disable_metadata:
            graph = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
            extras = {name: json.dumps(part) for name, part in graph.items() if part is not None}
        for asset in assets_from_mesh(mesh):
            path, place = next_output(filename_prefix, f".{format}")
            asset.save(path, size_mm=size_mm or None, up=up, extras=extras)
            paths.append(path)
            places.append(place)
        return io.NodeOutput(Types.File3D(str(paths[0]), format), ui={"3d": places})


def register_folder() -> None:
    """Makes models/upfusion and adds it to what ComfyUI knows; paths from extra_model_paths.yaml stay."""
    folder = Path(folder_paths.models_dir, FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.warning("UpFusion could not make its folder of weights (%s); make it yourself", error)
    folder_paths.add_model_folder_path(FOLDER, str(folder))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | {SUFFIX})


def model_names() -> list[str]:
    """The bundled model, then folders of weights and merged files by their path inside models/upfusion."""
    found = set()
    for root in folder_paths.get_folder_paths(FOLDER):
        for place, folders, files in os.walk(root, followlinks=True):
            name = Path(place).relative_to(root).as_posix()
            if name != "." and any(map(_PART_FILE.fullmatch, files)):
                found.add(name)
                folders.clear()
                continue
            found |= {(Path(name) / file).as_posix() for file in files if file.endswith(SUFFIX)}
    return [BUNDLED_NAME, *sorted(found)]


def model_path(name: str) -> str | Path:
    """What open_checkpoint takes for a name of model_names.

    Raises:
        CheckpointError: there is no such file or folder; the message says where it belongs and where to get it.
    """
    check_type("weights", name, str, "choose a file")
    if name == BUNDLED_NAME:
        return BUNDLED_NAME
    roots = folder_paths.get_folder_paths(FOLDER)
    for root in roots:
        path = inside(root, name, "weights")
        if path.exists():
            return path
    raise CheckpointError(
        f"{name:.200} is not in models/{FOLDER} ({' or '.join(roots)}); nothing is downloaded for you: get the weights "
        f"({WEIGHTS_SIZE}) through {WEIGHTS_ADDRESS}, put the folder or the merged .safetensors there, or choose "
        f"{BUNDLED_NAME}"
    )


def next_output(prefix: str, suffix: str) -> tuple[Path, dict[str, str]]:
    """Where the next file of `prefix` goes, numbered like those of ComfyUI's own nodes, and how its server finds it."""
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        raise InputError(f"filename_prefix must end in a name, got {prefix!r}; give one such as 3d/UpFusion")
    output = folder_paths.get_output_directory()
    inside(output, prefix, "filename_prefix")
    for part in prefix.replace("\\", "/").split("/"):
        if part not in ("", "."):
            check_file_name(part, "filename_prefix")
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
    file = f"{name}_{counter:05}_{suffix}"
    return Path(folder) / file, {"filename": file, "subfolder": subfolder, "type": "output"}


def _refusal(find: Callable[[str], object], name: str | None) -> bool | str:
    """What a node says of a file's name before it runs: True, or why `find` refuses it."""
    if name is None:  # it comes by a link, and is not known yet
        return True
    try:
        find(name)
    except ValueError as error:
        return str(error)
    return True


def _field_path(name: str) -> Path:
    """The file of a name that UpFusion Load Field lists; raises InputError where there is none."""
    check_type("field", name, str, "choose a file")
    marked = name.endswith(" [output]")
    folder = folder_paths.get_output_directory() if marked else folder_paths.get_input_directory()
    path = inside(folder, name.removesuffix(" [output]"), "field")
    if path.suffix != SUFFIX or not path.is_file():
        raise InputError(f"field must name a {SUFFIX} file in the input or output folder, got {name!r}; choose another")
    return path


def inside(folder: str | Path, name: str, label: str) -> Path:
    """The path of `name` in `folder`, if it stays there on every system."""
    parts = PureWindowsPath(name)  # knows both slashes and drives
    if parts.anchor or ".." in parts.parts or "\0" in name:
        raise InputError(f"{label} must stay inside ComfyUI's folder, got {name!r}; leave out leading slashes and '..'")
    return Path(folder) / name.replace("\\", "/")


def _fields_in(folder: str) -> list[str]:
    """Files that may be fields, by their path inside the folder."""
    found = []
    for place, folders, names in os.walk(folder):
        shown = Path(place).relative_to(folder)
        if len(shown.parts) >= _DEPTH:
            folders.clear()
        found += [(shown / name).as_posix() for name in names if name.endswith(SUFFIX)]
    return sorted(found)
