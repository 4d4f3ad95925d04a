"""What can go wrong for a caller: every message says what was expected, what came, and what to do."""


class UpFusionError(ValueError):
    """Base of all errors that the caller can put right."""


class InputError(UpFusionError):
    """An argument has the wrong shape, type, range or values."""


class PhotoError(InputError):
    """A photo or mask cannot be used."""


class CheckpointError(UpFusionError):
    """A file of weights, a field or a configuration cannot be used."""


class FieldError(UpFusionError):
    """A radiance field holds no surface, or its values are not finite."""


class OutputError(UpFusionError):
    """A result cannot be written where it was asked for."""


class OutOfMemoryError(UpFusionError, MemoryError):
    """Memory does not suffice even for the smallest piece of the work."""


class MissingPackageError(UpFusionError, ImportError):
    """An optional package is needed for what was asked."""
