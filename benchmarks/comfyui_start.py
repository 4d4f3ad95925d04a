"""What the node pack adds to the start of ComfyUI: seconds with it and without, in turns.

    COMFYUI_PATH=FOLDER [COMFY_PYTHON=FILE] python benchmarks/comfyui_start.py [--repeats 3]

Two numbers a start: the wall clock until the server answers, and the processor's time of its process, which other work
on the machine disturbs less. The first start of each kind, which reads files that later ones find in memory and
compiles them, is not counted. ComfyUI's own figure for the pack's import stands beside them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "comfyui"))

from comfyui_server import start_server


def one_start(base: Path, *, with_pack: bool) -> tuple[float, float, float]:
    """Seconds by the wall, by the processor, and of the pack's import as ComfyUI tells it (0 without)."""
    base.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with start_server(base, with_pack=with_pack) as server:
        wall = time.monotonic() - began
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        told = re.search(r"([\d.]+) seconds: .*custom_nodes/upfusion", server.log)
        return wall, spent, float(told[1]) if told else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles all sources
    starts: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats + 1):
            for with_pack in starts:
                seconds = one_start(Path(folder) / f"{with_pack}_{number}", with_pack=with_pack)
                if number:
                    starts[with_pack].append(seconds)
                    print(
                        f"{'with' if with_pack else 'without'}: wall {seconds[0]:.2f} s, processor {seconds[1]:.2f} s"
                    )
    for place, name in enumerate(("wall", "processor")):
        without, within = (median(seconds[place] for seconds in starts[kind]) for kind in (False, True))
        print(f"{name}: {without:.2f} s without, {within:.2f} s with, {within - without:+.2f} s")
    print(f"ComfyUI's own figure for the import: {median(seconds[2] for seconds in starts[True]):.2f} s")


if __name__ == "__main__":
    main()
