"""The stages, from photos to a field."""
