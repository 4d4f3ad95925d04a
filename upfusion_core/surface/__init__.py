"""Meshes: extraction, textures, rasterising, files."""
