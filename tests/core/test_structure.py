"""The size and shape of the code: printed by `pytest tests/core/test_structure.py -s`, and held to ceilings."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter

import pytest
from source_trees import ROOT, imported, parsed, sources

import upfusion_core

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
CEILINGS = {
    "lines of upfusion_core": 19_500,  # 16,000; 1,800 true pixels, cameras; 700 files, GPUs; 300 model; 700 batch
    "files of upfusion_core": 98,
    "lines of nodes": 3_700,
    "files of nodes": 15,
    "lines of tests": 17_000,
    "lines of the longest file": 450,
    "lines of the longest function": 60,
    "functions used at one place": 200,
    "import circles": 0,
}


def lines(*folders: str) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*folders))


def used_at_one_place() -> list[str]:
    """Functions of modules, without a decorator and not public, whose name stands at one place or none in all code."""
    trees = {path: parsed(path) for path in sources("upfusion_core", "nodes")}
    uses: Counter[str] = Counter()
    for tree in trees.values():
        uses.update(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        uses.update(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    found = [(path, node) for path, tree in trees.items() for node in tree.body if isinstance(node, FUNCTIONS)]
    found = [(path, node) for path, node in found if not node.decorator_list and uses[node.name] <= 1]
    return [f"{path}: {node.name}" for path, node in found if node.name not in upfusion_core.__all__]


def circle() -> list[str]:
    """Modules of package and nodes that import each other in a circle, if any do."""
    paths = {path.relative_to(ROOT).with_suffix("").parts: path for path in sources("upfusion_core", "nodes")}
    modules = {("." + ".".join(parts)).removesuffix(".__init__"): path for parts, path in paths.items()}
    del modules[".upfusion_core"]  # its table of public names is looked up
    graph: TopologicalSorter[str] = TopologicalSorter()
    for name, path in modules.items():
        targets = {each if each in modules else each.rpartition(".")[0] for each in imported(path)}
        graph.add(name, *(targets - {name}))
    try:
        graph.prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_code_is_no_larger_than_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    code = sources("upfusion_core", "nodes")
    once, found_circle = used_at_one_place(), circle()
    found = [node for path in code for node in ast.walk(parsed(path)) if isinstance(node, FUNCTIONS)]
    counts = {
        "lines of upfusion_core": lines("upfusion_core"),
        "files of upfusion_core": len(sources("upfusion_core")),
        "lines of nodes": lines("nodes"),
        "files of nodes": len(sources("nodes")),
        "lines of tests": lines("tests"),
        "lines of the longest file": max(len(path.read_text(encoding="utf-8").splitlines()) for path in code),
        "lines of the longest function": max((node.end_lineno or 0) - node.lineno + 1 for node in found),
        "functions used at one place": len(once),
        "import circles": int(bool(found_circle)),
    }
    with capsys.disabled():
        print("\n" + "\n".join(f"{count:7,} {name} (at most {CEILINGS[name]:,})" for name, count in counts.items()))
    over = {name: count for name, count in counts.items() if count > CEILINGS[name]}
    assert not over, (over, found_circle, once)
