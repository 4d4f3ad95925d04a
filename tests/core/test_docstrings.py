"""All docstrings, read as Google's style and rendered by docutils, give no warnings; no public name lacks one."""

import importlib
import inspect
import io
import pkgutil
from collections.abc import Iterator
from types import ModuleType
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
    complaints, parser = io.StringIO(), Parser()
    SETTINGS.warning_stream = complaints
    document = new_document("docstring", SETTINGS)
    parser.parse(str(GoogleDocstring(inspect.cleandoc(text), CONFIG)), document)
    document.transformer.populate_from_components((Reader(), parser))
    document.transformer.apply_transforms()
    return complaints.getvalue()


def documented(name: str, value: object) -> Iterator[tuple[str, str | None]]:
    """(name, docstring) of a public class, function or module, and of a class's own public members."""
    yield name, value.__doc__
    if inspect.isclass(value):
        for member, found in vars(value).items():
            found = getattr(found, "fget", getattr(found, "__func__", found))
            if not member.startswith("_") and inspect.isfunction(found):
                yield f"{name}.{member}", found.__doc__


def modules() -> list[ModuleType]:
    """All modules that can be imported without a GPU's packages."""
    names = [item.name for item in pkgutil.walk_packages(upfusion_core.__path__, "upfusion_core.")]
    wanted = [name for name in names if not name.endswith(("__main__", "_triton", "_tinycudann"))]
    return [upfusion_core, *map(importlib.import_module, wanted)]


def test_all_public_docstrings_render_without_warnings() -> None:
    wrong, seen = [], 0
    for module in modules():
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        public = [value for value in own if inspect.isclass(value) or inspect.isfunction(value)]
        for value in [module, *(value for value in public if not value.__name__.startswith("_"))]:
            for name, text in documented(f"{module.__name__}.{value.__name__}", value):
                seen += 1
                complaint = rendered(text or "")
                wrong += [f"{name}: {complaint}"] * bool(complaint)
    assert seen > 300
    assert not wrong, "\n".join(wrong)
    values = [getattr(upfusion_core, name) for name in upfusion_core.__all__]
    classes = [value for value in values if inspect.isclass(value) and get_origin(value) is None]
    public = [*classes, *filter(inspect.isfunction, values)]
    assert not [name for value in public for name, text in documented(value.__name__, value) if not text]
    assert "unexpected unindent" in rendered("First.\n\nText\n    too deep\nand back.")
