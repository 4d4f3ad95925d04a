"""The radiance field: its encoding, rendering, and fitting."""
