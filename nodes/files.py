"""The nodes that write and read files: fields and meshes in ComfyUI's output and input folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import Types, io

from .checked import checked
from .sockets import FieldSocket

if TYPE_CHECKING:
    from ..upfusion_core import RadianceField

CATEGORY = "UpFusion/field"
_PREFIX = "Folders and name inside the output folder; a number is put after it. %date% and the like are replaced."


class UpFusionSaveField(io.ComfyNode):
    """UPFUSION_FIELD -> a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionSaveField",
            display_name="UpFusion Save Field",
            category=CATEGORY,
            description=(
                "Writes a field into the output folder as .safetensors, so that it can be rendered and turned into "
                "meshes later without distilling again."
            ),
            search_aliases=["save nerf", "export field", "write radiance field"],
            inputs=[
                FieldSocket.Input("field", tooltip="From UpFusion Distill."),
                io.String.Input("filename_prefix", default="upfusion/field", tooltip=_PREFIX),
            ],
            outputs=[io.String.Output("name", tooltip="The file's name as UpFusion Load Field lists it.")],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, field: RadianceField, filename_prefix: str) -> io.NodeOutput:
        """Writes the file, whole or not at all."""
        from .folders import SUFFIX, next_output

        path, place = next_output(filename_prefix, SUFFIX)
        field.save(path)
        name = "/".join(part for part in (place["subfolder"].replace("\\", "/"), place["filename"]) if part)
        return io.NodeOutput(f"{name} [output]", ui={"text": (f"output/{name}",)})


class UpFusionLoadField(io.ComfyNode):
    """A file -> UPFUSION_FIELD."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        from .folders import field_names

        return io.Schema(
            node_id="UpFusionLoadField",
            display_name="UpFusion Load Field",
            category=CATEGORY,
            description=(
                "Reads a field that UpFusion Save Field or the command line wrote, from the input or the output folder."
            ),
            search_aliases=["load nerf", "import field", "open radiance field"],
            inputs=[
                io.Combo.Input(
                    "field",
                    options=field_names(),
                    tooltip="A .safetensors file of a field. Put your own into the input folder; weights do not fit.",
                )
            ],
            outputs=[FieldSocket.Output("field", tooltip="The field, to render or to extract a mesh from.")],
        )

    @classmethod
    def validate_inputs(cls, field: str | None) -> bool | str:
        """Names are checked here, so that those of new files are known without a reload of the page."""
        from .folders import field_path

        if field is None:  # it comes by a link, and is not known before the node runs
            return True
        try:
            field_path(field)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, field: str) -> str:
        """A changed file is read again."""
        from .folders import field_path

        return f"{field} {field_path(field).stat().st_mtime_ns}"

    @classmethod
    def execute(cls, field: str) -> io.NodeOutput:
        """Reads the file, strictly."""
        from ..upfusion_core import load_field
        from .folders import field_path

        return io.NodeOutput(load_field(field_path(field)).field)


class UpFusionSaveMesh(io.ComfyNode):
    """MESH -> files in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionSaveMesh",
            display_name="UpFusion Save Mesh",
            category=CATEGORY,
            description=(
                "Writes a mesh into the output folder as GLB, OBJ, PLY or STL. It appears among the outputs, where "
                "ComfyUI's 3D viewer opens it; the file also goes on to Preview 3D."
            ),
            search_aliases=["export mesh", "save obj", "save ply", "save stl", "save glb"],
            inputs=[
                io.Mesh.Input("mesh", tooltip="From UpFusion Extract Mesh or any node that gives ComfyUI's own MESH."),
                io.Combo.Input(
                    "format",
                    options=["glb", "obj", "ply", "stl"],
                    default="glb",
                    tooltip="glb keeps texture or colours, obj and ply the colours of vertices, stl the shape alone.",
                ),
                io.String.Input("filename_prefix", default="3d/UpFusion", tooltip=_PREFIX),
            ],
            outputs=[io.File3DAny.Output("model_3d", tooltip="The file, for Preview 3D; of a batch the first.")],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, mesh: Any, format: str, filename_prefix: str) -> io.NodeOutput:
        """Writes a file for each mesh of a batch."""
        from .convert_mesh import assets_from_mesh
        from .folders import next_output

        paths, places = [], []
        for asset in assets_from_mesh(mesh):
            path, place = next_output(filename_prefix, f".{format}")
            asset.save(path)
            paths.append(path)
            places.append(place)
        return io.NodeOutput(Types.File3D(str(paths[0]), format), ui={"3d": places})
