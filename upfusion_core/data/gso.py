"""Google Scanned Objects in both distributions, rendered on the fly."""

from __future__ import annotations

import os

from ..errors import InputError
from .folders import existing_file, existing_folder, subfolders
from .meshes import MeshRendering, MeshSource, MeshViews


def gso(root: str | os.PathLike[str], rendering: MeshRendering | None = None) -> MeshViews:
    """All scans below a folder of Google Scanned Objects, +Z up turned to +Y up, in the order of their names.

    One distribution has `<Name>/meshes/model.obj` and `<Name>/materials/textures/texture.png`, though its material
    names the picture beside the OBJ; the other is flat: `<Name>/model.obj` and `<Name>/texture.png`. Metres become
    our units by `rendering.radius`. Folders without model or texture are counted in `skipped`.

    Raises:
        InputError: there is no such folder, or it holds no scans.
    """
    root = existing_folder(root)
    sources: list[MeshSource] = []
    skipped: list[tuple[str, str]] = []
    for folder in subfolders(root):
        model = existing_file(folder / "meshes" / "model.obj", folder / "model.obj")
        if model is None:
            skipped.append((folder.name, "it has neither meshes/model.obj nor model.obj"))
            continue
        beside = model.parent / "texture.png"
        texture = existing_file(folder / "materials" / "textures" / "texture.png", beside)
        if texture is None:
            skipped.append((folder.name, "its texture.png is missing"))
            continue
        sources.append(MeshSource(folder.name, model, "z", texture))
    if not sources:
        raise InputError(
            f"{root} must hold folders with model.obj and texture.png, got none ({len(skipped)} skipped); "
            "choose the folder that holds the objects' folders"
        )
    return MeshViews(sources, rendering or MeshRendering(), skipped)
