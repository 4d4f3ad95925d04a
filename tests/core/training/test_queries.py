from __future__ import annotations

import torch
from tiny_training import TinySource

from upfusion_core.geometry import camera_rays, orbit_cameras, point_rays, reference_plucker
from upfusion_core.training.batches import TrainingBatch, look_up, query_rays, reference_frame_plucker, sample_points
from upfusion_core.types import Cameras


def test_colours_between_pixel_centres_by_hand() -> None:
    """Two pixels a row: centres at NDC x = +1/2 (left) and -1/2, borders at ±1."""
    picture = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]).expand(3, 2, 2)[None]
    points = torch.tensor([[[0.5, 0.5], [-0.5, 0.5], [0.0, 0.0], [0.25, -0.5], [1.0, 1.0], [-1.0, -1.0]]])
    expected = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.0, 1.0])
    torch.testing.assert_close(look_up(picture, points)[0, :, 0], expected)
    rows = look_up(picture.transpose(2, 3), torch.tensor([[[0.0, 0.5], [0.0, -0.25]]]))[0, :, 0]
    torch.testing.assert_close(rows, torch.tensor([0.0, 0.75]))


def test_points_inside_the_silhouette() -> None:
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, 0, 1, 3] = masks[0, 0, 3, 0] = 1  # row, column
    uniform = torch.rand(2, 400, 3, generator=torch.Generator().manual_seed(0))
    points = sample_points(masks, uniform, 0.5)
    column, row = ((1 - points[0, :200]) * 2).floor().long().unbind(-1)
    cells = {(r, c) for r, c in zip(row.tolist(), column.tolist(), strict=True)}
    assert cells == {(1, 3), (3, 0)}
    assert 60 < int((row == 1).sum()) < 140
    everywhere = 1 - 2 * uniform[..., 1:]
    torch.testing.assert_close(points[0, 200:], everywhere[0, 200:])
    torch.testing.assert_close(points[1], everywhere[1])  # no silhouette
    torch.testing.assert_close(sample_points(masks, uniform, 0.0), everywhere)


def test_the_last_draw_still_hits_the_silhouette() -> None:
    masks = torch.zeros(1, 1, 3, 3)
    masks[0, 0, 0, 1] = masks[0, 0, 1, 1] = 1
    points = sample_points(masks, torch.tensor([[[0.0, 0.5, 0.5], [0.99999994, 0.5, 0.5]]]), 1.0)
    torch.testing.assert_close(points[0], torch.tensor([[0.0, 2 / 3], [0.0, 0.0]]))


def test_rays_through_points_are_the_cameras_own() -> None:
    poses = orbit_cameras([20.0, 200.0], [10.0, -30.0]).camera_to_world
    cameras = Cameras(poses, torch.tensor([[4.5, 4.0], [3.0, 3.0]]), torch.tensor([[0.1, 0.2], [0, 0]]))
    centres = torch.linspace(1 - 1 / 5, -1 + 1 / 5, 5)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    rays = point_rays(cameras, torch.stack([x, y], dim=-1).expand(2, 5, 5, 2))
    expected = camera_rays(cameras, 5, 5)
    torch.testing.assert_close(rays.directions, expected.directions, atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.origins, expected.origins)


def test_forms_agree_with_the_inference_path() -> None:
    batch = TinySource(3).batch(0)
    ours = reference_frame_plucker(camera_rays(batch.cameras, 4, 4, align_corners=True), batch.references)
    for index in range(3):
        theirs = reference_plucker(batch.cameras[2 * index : 2 * index + 2], batch.references[index], 4)
        torch.testing.assert_close(ours[2 * index : 2 * index + 2], theirs, atol=2e-6, rtol=0)


def test_query_rays_are_grouped_by_object() -> None:
    batch = TinySource(3).batch(0)
    uniform = torch.rand(6, 10, 3, generator=torch.Generator().manual_seed(0))
    rays, colors = query_rays(batch, uniform, 1.0)
    assert rays.shape == (3, 20, 6)
    keep, views = slice(1, 2), slice(2, 4)
    one = TrainingBatch(
        batch.photos[keep], batch.references[keep], batch.targets[keep], batch.target_masks[keep], batch.cameras[views]
    )
    alone, _ = query_rays(one, uniform[views], 1.0)
    torch.testing.assert_close(alone[0], rays[1])
    inside = batch.targets[0, 0][:, batch.target_masks[0, 0, 0] > 0.5]
    assert float(colors[0].min()) >= float(inside.min()) - 1e-4
    assert rays[..., :3].norm(dim=-1).sub(1).abs().max() < 1e-5
