"""The networks, and the files they are loaded from."""
