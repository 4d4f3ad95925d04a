"""All docstrings, read as Google's style and rendered by docutils, give no warnings; no public name lacks one."""

import importlib
import inspect
import io
import pkgutil
from collections.abc import Iterator
from typing import get_origin

import pytest

import upfusion_core

pytest.importorskip("sphinx", reason="reads Google's style for docutils; part of the extra package set `test`")

from docutils.frontend import get_default_settings
from docutils.parsers.rst import Parser
from docutils.readers.standalone import Reader
from docutils.utils import new_document
from sphinx.ext.napoleon import Config, GoogleDocstring

CONFIG = Config(napoleon_use_param=True, napoleon_use_rtype=False)
SETTINGS = get_default_settings(Parser, Reader)


def rendered(text: str) -> str:
    """What docutils has to say against a docstring; nothing if it is well formed."""
    SETTINGS.warning_stream, parser = io.StringIO(), Parser()
    document = new_document("docstring", SETTINGS)
    parser.parse(str(GoogleDocstring(inspect.cleandoc(text), CONFIG)), document)
    document.transformer.populate_from_components((Reader(), parser))
    document.transformer.apply_transforms()
    return SETTINGS.warning_stream.getvalue()


def documented(name: str, value: object) -> Iterator[tuple[str, str | None]]:
    """(name, docstring) of a public class, function or module, and of a class's own public members."""
    yield name, value.__doc__
    if inspect.isclass(value):
        for member, found in vars(value).items():
            found = getattr(found, "fget", getattr(found, "__func__", found))
            if not member.startswith("_") and inspect.isfunction(found):
                yield f"{name}.{member}", found.__doc__


def test_all_public_docstrings_render_without_warnings() -> None:
    names = [item.name for item in pkgutil.walk_packages(upfusion_core.__path__, "upfusion_core.")]
    without_gpu = [name for name in names if not name.endswith(("__main__", "_triton", "_tinycudann"))]
    texts: dict[str, str | None] = {}
    for module in (upfusion_core, *map(importlib.import_module, without_gpu)):
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        for value in (module, *filter(inspect.isclass, own), *filter(inspect.isfunction, own)):
            if not value.__name__.startswith("_"):
                texts |= documented(f"{module.__name__}.{value.__name__}", value)
    assert len(texts) > 300
    assert not {name: said for name, text in texts.items() if (said := rendered(text or ""))}
    for name in upfusion_core.__all__:
        value = getattr(upfusion_core, name)
        if inspect.isfunction(value) or (inspect.isclass(value) and get_origin(value) is None):
            assert all(text for _, text in documented(name, value)), name
