"""Posed multi-view examples: readers of the customary data sets, meshes rendered on the fly."""
