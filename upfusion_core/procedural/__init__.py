"""Textured solids made from seeds and rendered in pure torch: an endless training set with exact truth."""

from .dataset import ProceduralBatch, ProceduralObjects, draw_objects
from .render import render_views, signed_distance, true_mesh
from .shapes import GENERATOR_VERSION, SPLITS, VERSIONS, Objects

__all__ = [
    "GENERATOR_VERSION", "SPLITS", "VERSIONS", "Objects", "ProceduralBatch", "ProceduralObjects",
    "draw_objects", "render_views", "signed_distance", "true_mesh",
]  # fmt: skip
