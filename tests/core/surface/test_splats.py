"""Splats of a ball whose places, normals and colours are known; their files, read back as their readers do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_fields import AnalyticField, ball
from refusals import denied

from upfusion_core import SplatAsset, field_splats
from upfusion_core.geometry.cameras import quaternion_rotation

MIDDLE = torch.tensor([0.05, 0.1, -0.1])


@pytest.fixture(scope="module")
def splats() -> SplatAsset:
    """Of a ball of radius 0.2; samples lie 0.0103 apart."""
    return field_splats(AnalyticField(ball(0.2, 2000.0, (0.05, 0.1, -0.1), 0.001)), 40)  # type: ignore[arg-type]


def test_a_ball_s_splats_lie_flat_on_it(splats: SplatAsset) -> None:
    outward = (splats.places - MIDDLE) / (splats.places - MIDDLE).norm(dim=1, keepdim=True)
    assert torch.equal(splats.positions, splats.places * torch.tensor([1.0, -1, -1]))
    radius = (splats.places - MIDDLE).norm(dim=1)
    assert abs(float(radius.mean()) - 0.2) < 0.002
    w, x, y, z = splats.rotations.unbind(1)
    turns = quaternion_rotation(x, y, z, w)
    assert float((turns[:, :, 2] * outward * torch.tensor([1.0, -1, -1])).sum(1).mean()) > 0.98  # the thin axis
    assert float((turns.transpose(1, 2) @ turns - torch.eye(3)).abs().max()) < 1e-5
    torch.testing.assert_close(splats.scales[:, 0], torch.full_like(radius, 0.6 * 0.4 / 39), rtol=0.03, atol=0)
    assert float((splats.scales[:, 2] / splats.scales[:, 0]).max()) < 0.6
    torch.testing.assert_close(splats.colors, (splats.places + 0.5).clamp(0, 1), atol=0.03, rtol=0)
    # where so many cover each other, together they stop nearly all light
    cover = len(radius) * 2 * torch.pi * splats.scales[0, 0] ** 2 / (4 * torch.pi * 0.2**2)
    assert float((1 - splats.opacities).median() ** cover) == pytest.approx(0.001, rel=0.5)


def test_in_fog_they_are_thick_and_weak() -> None:
    fog = field_splats(AnalyticField(ball(0.2, 60.0, softness=0.03)), 24)  # type: ignore[arg-type]
    assert float(fog.scales[:, 2].median()) > 0.01
    assert float(fog.opacities.max()) < 0.5


def test_files_hold_logarithms_and_logits(splats: SplatAsset, tmp_path: Path) -> None:
    splats.save(tmp_path / "ball.ply")
    head, _, body = (tmp_path / "ball.ply").read_bytes().partition(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property float")]
    rows = torch.from_numpy(np.frombuffer(body, "<f4").reshape(-1, len(names)).copy())
    columns = dict(zip(names, rows.T, strict=True))
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:] == ["opacity", *(f"scale_{index}" for index in range(3)), *(f"rot_{index}" for index in range(4))]
    assert torch.equal(rows[:, :3], splats.positions)
    torch.testing.assert_close(columns["opacity"].sigmoid(), splats.opacities, atol=1e-5, rtol=0)
    torch.testing.assert_close(columns["scale_2"].exp(), splats.scales[:, 2], atol=0, rtol=1e-5)
    torch.testing.assert_close(0.28209479 * columns["f_dc_1"] + 0.5, splats.colors[:, 1], atol=1e-6, rtol=0)
    denied("change the suffix", splats.save, tmp_path / "ball.splat")
