"""Every option of the library once: its name, type, default, range and help. Needs no torch."""

from .base import Option, configuration, fingerprint, from_json, from_value, option, options, to_json

__all__ = ["Option", "configuration", "fingerprint", "from_json", "from_value", "option", "options", "to_json"]
