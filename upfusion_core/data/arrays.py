"""Arrays that strangers give as NPY."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from ..errors import InputError

_DAMAGED = (OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError, KeyError)
"""What numpy raises on damaged files; MemoryError where the header claims more than there is."""


def decoded_array(content: bytes) -> np.ndarray:
    """The array in a file's content, never a pickle. Raises InputError if it is damaged or an archive of arrays."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise InputError(f"it is no NPY file: {error or type(error).__name__}") from error
    if not isinstance(array, np.ndarray):
        raise InputError("it is an archive of arrays, no NPY file")
    return array
