"""Writes the GLB files of this folder by Blender, and what Blender shows of them when it reads them again.

    pip install bpy==5.0.1 && python tests/core/surface/blender/make.py

seen.npz has for each file rgba (S, S, 4), linear, times alpha, and corners (3 F, 3) of all triangles in glTF's axes.
"""

import math
import tempfile
from pathlib import Path

import bpy
import numpy as np
from mathutils import Euler, Matrix, Vector

HERE = Path(__file__).parent
SIZE, DISTANCE, FOCAL, AZIMUTH, ELEVATION = 40, 5.0, 2.0, math.radians(30), math.radians(20)
RANDOM = np.random.default_rng(1)


def material(name: str, color: tuple = (1, 1, 1, 1), *, textured: bool = True) -> tuple:
    """A material, its nodes, links and shader, and the node of its picture of 4 x 4 random colours."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    nodes, links = made.node_tree.nodes, made.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = color
    if not textured:
        return made, nodes, links, shader, None
    node = nodes.new("ShaderNodeTexImage")
    node.image = bpy.data.images.new(name, 4, 4, alpha=name == "mask")
    pixels = RANDOM.integers(0, 256, (16, 4)) / 255
    pixels[:, 3] = RANDOM.integers(0, 2, 16) if name == "mask" else 1
    node.image.pixels = pixels.ravel().tolist()
    node.image.pack()
    links.new(node.outputs["Color"], shader.inputs["Base Color"])
    return made, nodes, links, shader, node


def add(shape: str, *materials: bpy.types.Material, **options: object) -> bpy.types.Object:
    getattr(bpy.ops.mesh, f"primitive_{shape}_add")(**options)
    for made in materials:
        bpy.context.object.data.materials.append(made)
    return bpy.context.object


def second_uvs_moved() -> None:
    made, nodes, links, _, node = material("moved")
    uv, mapping = nodes.new("ShaderNodeUVMap"), nodes.new("ShaderNodeMapping")
    uv.uv_map = "second"
    for name, values in (("Location", (0.2, -0.35, 0)), ("Rotation", (0, 0, 0.6)), ("Scale", (1.5, 0.75, 1))):
        mapping.inputs[name].default_value = values
    links.new(uv.outputs["UV"], mapping.inputs["Vector"])
    links.new(mapping.outputs["Vector"], node.inputs["Vector"])
    data = add("cube", made, size=2).data
    for index, loop in enumerate(data.uv_layers.new(name="second").data):
        loop.uv = (0.9 * data.uv_layers[0].data[index].uv.y, 0.7 * (index % 4 == 2) + 0.1)


def painted_vertices() -> None:
    """Colours of vertices, and of faces' corners, times the material's."""
    for kind, domain, x in (("FLOAT_COLOR", "POINT", -0.8), ("BYTE_COLOR", "CORNER", 0.8)):
        made, nodes, links, shader, _ = material(kind, textured=False)
        layer, mix = nodes.new("ShaderNodeVertexColor"), nodes.new("ShaderNodeMix")
        layer.layer_name, mix.data_type, mix.blend_type = "paint", "RGBA", "MULTIPLY"
        mix.inputs[0].default_value, mix.inputs[7].default_value = 1.0, (0.9, 0.5, 0.7, 1)
        links.new(layer.outputs["Color"], mix.inputs[6])
        links.new(mix.outputs[2], shader.inputs["Base Color"])
        ball = add("ico_sphere", made, location=(x, 0, 0), subdivisions=1, radius=0.9)
        paint = ball.data.color_attributes.new("paint", kind, domain)
        paint.data.foreach_set(
            "color", np.pad(RANDOM.random((len(paint.data), 3)), ((0, 0), (0, 1)), constant_values=1).ravel()
        )


def mirrored_instances() -> None:
    """Turned, uneven and mirrored scales in a tree of nodes, and instances."""
    cone = add(
        "cone", material("cone")[0], location=(0.9, 0, 0.5), rotation=(0.4, 0.2, 1), vertices=5, radius1=0.5, depth=1
    )
    empty = bpy.data.objects.new("mirror", None)
    empty.scale, empty.rotation_euler = (-0.8, 1.2, 1), Euler((0, 0.3, 0.5))
    bpy.context.collection.objects.link(empty)
    for index in range(4):
        copy = bpy.data.objects.new(f"copy{index}", cone.data)
        bpy.context.collection.objects.link(copy)
        copy.parent, copy.location = empty, (index * 0.6 - 0.9, 0.2 * index, -0.7 + 0.3 * index)
        copy.rotation_euler, copy.scale = Euler((index, 0.5, 0.3 * index)), (0.5 + 0.2 * index,) * 3


def see_through() -> None:
    """A mask before a pane before a wall."""
    pane, _, _, shader, _ = material("pane", (0.2, 0.6, 0.9, 1), textured=False)
    shader.inputs["Alpha"].default_value = 0.4
    mask, nodes, links, shader, node = material("mask")
    step = nodes.new("ShaderNodeMath")
    step.operation, step.inputs[1].default_value = "GREATER_THAN", 0.5
    links.new(node.outputs["Alpha"], step.inputs[0])
    links.new(step.outputs[0], shader.inputs["Alpha"])
    for made, y, size in ((material("wall")[0], 0.8, 2), (pane, 0, 1.6), (mask, -0.8, 1.4)):
        add("plane", made, location=(0, y, 0), size=size, rotation=(math.pi / 2, 0, 0))


def borders() -> None:
    """Three materials of one mesh: a mirrored texture, a clamped one, one that only glows."""
    mirror, clamp, glow = material("mirror"), material("clamp"), material("glow", (0, 0, 0, 1), textured=False)
    mirror[-1].extension, clamp[-1].extension, clamp[-1].interpolation = "MIRROR", "EXTEND", "Closest"
    glow[3].inputs["Emission Color"].default_value, glow[3].inputs["Emission Strength"].default_value = (
        (0.3, 0.9, 0.1, 1),
        1,
    )
    data = add("cube", mirror[0], clamp[0], glow[0], size=2).data
    for index, polygon in enumerate(data.polygons):
        polygon.material_index = index % 3
    for loop in data.uv_layers[0].data:
        loop.uv = (loop.uv.x * 4 - 1.3, loop.uv.y * 3 - 0.7)


def bent() -> None:
    """A skin whose joints have moved, of another scale than its node, and a shape key that is half on."""
    body = add("cylinder", material("bent")[0], vertices=6, radius=0.5, depth=2)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.subdivide(number_cuts=2)
    bpy.ops.object.mode_set(mode="OBJECT")
    body.shape_key_add(name="Basis")
    key = body.shape_key_add(name="fat")
    key.value = 0.5
    for point in list(key.data)[::5]:
        point.co.x *= 2
    bpy.ops.object.armature_add(location=(0, 0, -1))
    rig = bpy.context.object
    bpy.ops.object.mode_set(mode="EDIT")
    tip = rig.data.edit_bones.new("tip")
    tip.head, tip.tail, tip.parent = (0, 0, 1), (0, 0, 2), rig.data.edit_bones[0]
    names = [bone.name for bone in rig.data.edit_bones]
    bpy.ops.object.mode_set(mode="OBJECT")
    for name, sign in zip(names, (-1, 1), strict=True):
        group = body.vertex_groups.new(name=name)
        for vertex in body.data.vertices:
            group.add([vertex.index], min(max(0.5 + sign * vertex.co.z, 0), 1), "REPLACE")
    body.parent, body.matrix_parent_inverse = rig, rig.matrix_world.inverted()
    body.modifiers.new("rig", "ARMATURE").object = rig
    rig.scale, rig.pose.bones["tip"].rotation_mode = (1.2, 1.2, 0.8), "XYZ"
    rig.pose.bones["tip"].rotation_euler = (0.7, 0, 0.4)


def only_colors(made: bpy.types.Material) -> None:
    """Shows a material's base colour, or what it glows with where that is black, and its alpha, without light."""
    nodes, links = made.node_tree.nodes, made.node_tree.links
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    output = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
    for node in nodes:
        if node.type == "TEX_IMAGE":
            node.interpolation = "Closest"  # Cycles mixes texels in sRGB, glTF in linear light
    glow, clear, mix = (nodes.new(f"ShaderNode{name}") for name in ("Emission", "BsdfTransparent", "MixShader"))
    color = shader.inputs["Emission Color" if made.name == "glow" else "Base Color"]
    for source, target in ((color, glow.inputs["Color"]), (shader.inputs["Alpha"], mix.inputs[0])):
        if source.is_linked:
            links.new(source.links[0].from_socket, target)
        else:
            target.default_value = source.default_value
    links.new(clear.outputs[0], mix.inputs[1])
    links.new(glow.outputs[0], mix.inputs[2])
    links.new(mix.outputs[0], output.inputs["Surface"])


def seen(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What Blender shows of a file: rgba and corners."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=str(path))
    for made in bpy.data.materials:
        only_colors(made)
    scene, eye = bpy.context.scene, bpy.data.objects.new("eye", bpy.data.cameras.new("eye"))
    scene.collection.objects.link(eye)
    scene.camera, eye.data.angle = eye, 2 * math.atan(1 / FOCAL)
    level = math.cos(ELEVATION)
    place = DISTANCE * Vector((math.sin(AZIMUTH) * level, -math.cos(AZIMUTH) * level, math.sin(ELEVATION)))
    eye.matrix_world = Matrix.LocRotScale(place, (-place).to_track_quat("-Z", "Y"), None)
    render, cycles = scene.render, scene.cycles
    render.engine, render.film_transparent, scene.view_settings.view_transform = "CYCLES", True, "Raw"
    cycles.samples, cycles.use_adaptive_sampling, cycles.use_denoising = 64, False, False
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 0.01
    render.resolution_x = render.resolution_y = SIZE
    render.image_settings.file_format, render.image_settings.color_depth = "OPEN_EXR", "32"
    render.image_settings.color_mode = "RGBA"
    with tempfile.TemporaryDirectory() as folder:
        render.filepath = f"{folder}/seen.exr"
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(render.filepath)
        image.alpha_mode, image.colorspace_settings.name = "PREMUL", "Non-Color"
        rgba = np.array(image.pixels[:]).reshape(SIZE, SIZE, 4)[::-1]
    corners = []
    for instance in bpy.context.evaluated_depsgraph_get().object_instances:
        if instance.object.type == "MESH":
            mesh, matrix = instance.object.to_mesh(), np.array(instance.matrix_world)
            mesh.calc_loop_triangles()
            points = np.array([mesh.vertices[i].co for triangle in mesh.loop_triangles for i in triangle.vertices])
            corners.append(points @ matrix[:3, :3].T + matrix[:3, 3])
    return rgba, np.concatenate(corners)[:, [0, 2, 1]] * (1, 1, -1)


if __name__ == "__main__":
    found = {}
    for build in (second_uvs_moved, painted_vertices, mirrored_instances, see_through, borders, bent):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        build()
        path, options = HERE / f"{build.__name__}.glb", {"export_normals": False, "export_animations": False}
        options |= {"export_try_sparse_sk": True, "export_gpu_instances": build is mirrored_instances}
        bpy.ops.export_scene.gltf(filepath=str(path), **options)
        if build is second_uvs_moved:
            options |= {"export_draco_mesh_compression_enable": True, "export_image_format": "NONE"}
            bpy.ops.export_scene.gltf(filepath=str(HERE / "draco.glb"), **options)
        rgba, corners = seen(path)
        found |= {f"{path.stem}.rgba": rgba.astype("f2"), f"{path.stem}.corners": corners.astype("f4")}
    np.savez_compressed(HERE / "seen.npz", **found)
