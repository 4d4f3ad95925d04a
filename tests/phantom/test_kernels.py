"""The grid's Triton kernels compiled ahead for GPUs that are not here: they fit into registers, and spill none.

`python tests/phantom/test_kernels.py 75 80` prints what each needs: a process of its own, as others interpret kernels.
The oldest one is always tried, the others with `pytest -m slow`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (75, 80, 86, 89, 90, 120)  # Turing (RTX 20), A100, RTX 30, RTX 40, H100 and H200, RTX 50
FEATURES, TABLE = 4, 2**14  # of the small field, whose kernels need the most registers
KERNELS = {"encode": False, "scatter": True}  # whether it adds

pytestmark = [pytest.mark.phantom, pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler is for Linux")]


def compiled(arch: int, name: str) -> dict[str, Any]:
    """One kernel as a launch on float32 specialises it: registers, stack and local memory a thread, and its size."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from upfusion_core.field import _triton as kernels

    kernel = kernels._rows
    constants = {"FEATURES": FEATURES, "PADDED": FEATURES, "ADDS": KERNELS[name], "DENSE": 2, "HASHED": True}
    constants |= {"SUM": kernels.tl.float32, "BLOCK": kernels.BLOCK, "KEPT": TABLE - 1}
    others = {"count": "i32", "factors": "*i32", "starts": "*i32"}
    signature = {each: "constexpr" if each in constants else others.get(each, "*fp32") for each in kernel.arg_names}
    places = {each: (index,) for index, each in enumerate(kernel.arg_names)}
    aligned = {places[each]: [["tt.divisibility", 16]] for each in places if signature[each].startswith("*")}
    chosen = {places[each]: value for each, value in constants.items() if each in places}
    made = triton.compile(ASTSource(kernel, signature, chosen, aligned), target=GPUTarget("cuda", arch, 32))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        told = subprocess.run([reader, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    return {"arch": arch, "kernel": name, **usage, "cubin": len(made.asm["cubin"])}


@pytest.mark.parametrize("arches", [ARCHITECTURES[:1], pytest.param(ARCHITECTURES[1:], marks=pytest.mark.slow)])
def test_kernels_fit_every_architecture(arches: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs the package triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, __file__, *map(str, arches)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert not ran.returncode, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(found) == len(arches) * len(KERNELS)
    for each in found:
        assert each["local"] == each["stack"] == 0, each  # nothing spilled
        assert each["reg"] <= 128, each  # 65,536 of a multiprocessor: 4 blocks of 128 threads at once, at least
        assert each["cubin"] > 1000


if __name__ == "__main__":
    for arch in map(int, sys.argv[1:]):
        for name in KERNELS:
            print(json.dumps(compiled(arch, name)), flush=True)
