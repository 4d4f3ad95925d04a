"""The grid's Triton kernels compiled ahead for GPUs that are not here: they fit into registers, and spill none.

The oldest one is always tried, the others with `pytest -m slow`; `-s` prints what each needs.
"""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAME = "upfusion_core.field._triton"
ARCHITECTURES = (75, 80, 86, 89, 90, 120)  # Turing (RTX 20), A100, RTX 30, RTX 40, H100 and H200, RTX 50
FEATURES, TABLE = 4, 2**14  # of the small field, whose kernels need the most registers
KERNELS = {"encode": False, "scatter": True}  # whether it adds

pytestmark = [pytest.mark.phantom, pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler is for Linux")]


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A copy to compile: other tests have theirs interpreted."""
    pytest.importorskip("triton", reason="needs the package triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # read when a kernel is defined
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return importlib.import_module(NAME)


def compiled(kernels: ModuleType, arch: int, name: str, cubin: Path) -> dict[str, Any]:
    """One kernel as a launch on float32 specialises it: registers, stack and local memory a thread, and its size."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = kernels._rows
    constants = {"FEATURES": FEATURES, "PADDED": FEATURES, "ADDS": KERNELS[name], "DENSE": 2, "HASHED": True}
    constants |= {"SUM": kernels.tl.float32, "BLOCK": kernels.BLOCK, "KEPT": TABLE - 1}
    others = {"count": "i32", "factors": "*i32", "starts": "*i32"}
    signature = {each: "constexpr" if each in constants else others.get(each, "*fp32") for each in kernel.arg_names}
    places = {each: (index,) for index, each in enumerate(kernel.arg_names)}
    aligned = {places[each]: [["tt.divisibility", 16]] for each in places if signature[each].startswith("*")}
    chosen = {places[each]: value for each, value in constants.items() if each in places}
    made = triton.compile(ASTSource(kernel, signature, chosen, aligned), target=GPUTarget("cuda", arch, 32))
    cubin.write_bytes(made.asm["cubin"])
    reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    told = subprocess.run([reader, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    usage = {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    return {"arch": arch, "kernel": name, **usage, "cubin": len(made.asm["cubin"])}


@pytest.mark.parametrize("arches", [ARCHITECTURES[:1], pytest.param(ARCHITECTURES[1:], marks=pytest.mark.slow)])
def test_kernels_fit_every_architecture(kernels: ModuleType, arches: tuple[int, ...], tmp_path: Path) -> None:
    for arch in arches:
        for name in KERNELS:
            each = compiled(kernels, arch, name, tmp_path / "a.cubin")
            print(each)
            assert each["local"] == each["stack"] == 0, each  # nothing spilled
            assert each["reg"] <= 128, each  # 65,536 of a multiprocessor: 4 blocks of 128 threads at once, at least
            assert each["cubin"] > 1000
