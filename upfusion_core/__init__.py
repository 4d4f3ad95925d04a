"""UpFusion: from 1 to 6 unposed photos of an object to novel views and a mesh (arXiv 2312.06661)."""
