"""The benchmarks' parts that need no time: arguments, tables, sums, and the commands of the script for a GPU."""

import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from documented_programs import ROOT, loaded

from upfusion_core.config import ReferenceSchedule
from upfusion_core.surface.mesh import MeshAsset


def script(name: str) -> ModuleType:
    return loaded(ROOT / "benchmarks" / f"{name}.py")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_gpu_script_says_what_the_scripts_understand(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "DRY_RUN": "1", "PYTHON": "python"}
    command = ["bash", ROOT / "benchmarks" / "gpu.sh", tmp_path / "out", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = [shlex.split(line.partition(": ")[2])[1:] for line in done.stdout.splitlines()]
    assert found[0][:4] == ["-m", "pytest", "-m", "gpu"]
    named = [Path(words[0]).stem for words in found[1:]]
    assert set(named) == {"grids", "guided_step", "distillation", "rendering", "scaling", "paper"}
    for name, words in zip(named[:-1], found[1:-1], strict=True):
        options = script(name).parsed(words[1:])
        assert (options.device, options.out.suffix) == ("cuda", ".json")
    assert [2**exponent for exponent in script("grids").parsed(found[1][1:]).points][::4] == [2**18, 2**22]


def test_numbers_by_hand() -> None:
    meshes, power = script("meshes"), script("scaling").power
    assert script("distillation").reference_evaluations(ReferenceSchedule()) == 94_200
    assert power((1, 2, 4), [3.0, 6.0, 12.0]) == pytest.approx(1)
    assert power((8, 16), [1.0, 8.0]) == pytest.approx(3)
    squares, inside = torch.full((1, 3, 2, 2), 1.0), torch.zeros(1, 1, 2, 2)
    squares[..., 0], inside[..., 0] = 0.01, 1
    assert meshes.psnr(squares, inside) == pytest.approx(20, abs=1e-4)
    rgb, mask = torch.full((1, 3, 64, 64), 1.0), torch.zeros(1, 1, 64, 64)
    rgb[0, :, 20:28, 8:40], mask[..., 20:28, 8:40] = torch.tensor([0.5, 0.25, 0.25])[:, None, None], 1
    found = [float(value) for value in script("procedural").measures(rgb, mask).values()]
    ratio = ((32**2 - 1) / (8**2 - 1)) ** 0.5  # a row of n pixels has the variance (n² - 1) / 12
    assert found == pytest.approx([256 / 4096, ratio, 0.25 * (1 + 0.2126), 0.5, 0], abs=1e-6)
    box, small = meshes.trimesh.creation.box((0.3, 0.1, 0.1)), meshes.trimesh.creation.box((0.1, 0.1, 0.1))
    small.apply_translation((1, 0, 0))
    both = meshes.trimesh.util.concatenate([box, small])
    vertices, faces = torch.tensor(both.vertices, dtype=torch.float32), torch.tensor(both.faces)
    found = meshes.solidity(MeshAsset(vertices, faces, vertices.clamp(0, 1)))
    assert found == {"closed": True, "pieces": 2, "whole": pytest.approx(0.75)}
    assert not meshes.solidity(MeshAsset(vertices, faces[1:], vertices.clamp(0, 1)))["closed"]
