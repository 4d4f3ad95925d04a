"""The radiance field: its encoding, rendering, fitting, and the way out as a mesh."""
