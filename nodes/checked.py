"""Arguments of nodes against the nodes' own schemas: ComfyUI checks what is typed in, not what comes by a link."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar

from comfy_api.latest import io

from ..upfusion_core import InputError, check_choice, check_count, check_range, check_type

Execute = TypeVar("Execute", bound=Callable[..., io.NodeOutput])
_HOST_VALUES = {
    "MODEL": ("get_model_object", "a MODEL of ComfyUI; connect the MODEL of UpFusion Load Model"),
    "VAE": ("decode", "a VAE of ComfyUI; connect the VAE of UpFusion Load Model"),
    "BACKGROUND_REMOVAL": ("encode_image", "a background removal model; connect Load Background Removal Model"),
}
"""What a socket of ComfyUI's own must be able to do; other packs bring classes of their own."""


def checked(execute: Execute) -> Execute:
    """A node's `execute` that refuses what its inputs' types, ranges and options do not allow.

    Pictures and masks are checked where they are converted (nodes/convert.py).

    Raises:
        InputError: a value is not allowed; the sentence names the input.
    """
    signature = inspect.signature(execute)

    @wraps(execute)
    def run(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
        given = signature.bind(cls, *args, **kwargs)
        for item in cls.define_schema().inputs:
            name = item.id
            if name in given.arguments and not (item.optional and given.arguments[name] is None):
                given.arguments[name] = _checked(item, given.arguments[name])
        return execute(*given.args, **given.kwargs)

    return run  # type: ignore[return-value]


def _checked(item: Any, value: Any) -> Any:
    """The value, numbers of other libraries as Python's own."""
    kind = item.get_io_type()
    if kind == "INT":
        value = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
        check_count(item.id, value, item.min, item.max)
    elif kind == "FLOAT":
        value = float(value) if isinstance(value, Real) and not isinstance(value, int) else value
        check_range(item.id, value, item.min, item.max)
    elif kind == "COMBO":
        check_choice(item.id, value, item.options)
    elif kind in ("STRING", "BOOLEAN"):
        check_type(item.id, value, str if kind == "STRING" else bool)
    elif kind in _HOST_VALUES:
        ability, wanted = _HOST_VALUES[kind]
        if not hasattr(value, ability):
            raise InputError(f"{item.id} must be {wanted}, got {type(value).__name__}")
    else:
        _check_own(item.id, kind, value)
    return value


def _check_own(name: str, kind: str, value: object) -> None:
    """What flows through the pack's own sockets (nodes/sockets.py)."""
    from ..upfusion_core import Cameras, RadianceField, SceneEncoding
    from .hosted import HostedModel

    if kind == "UPFUSION_MODEL":
        check_type(name, value, HostedModel, "connect UpFusion Load Model")
    elif kind == "UPFUSION_SCENE":
        check_type(name, value, SceneEncoding, "connect UpFusion Encode Views")
    elif kind == "UPFUSION_FIELD":
        check_type(name, value, RadianceField, "connect UpFusion Distill or UpFusion Load Field")
    elif kind == "UPFUSION_CAMERAS":
        check_type(name, value, Cameras, "connect UpFusion Orbit Cameras or another node of cameras")
        if isinstance(value, Cameras) and not len(value):
            raise InputError(f"{name} must be at least one camera, got none; connect UpFusion Orbit Cameras")
