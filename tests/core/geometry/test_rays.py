import math

import pytest
import torch
from golden_files import QUERY_ROUNDING, golden, golden_cameras, worst
from refusals import refused

from upfusion_core import geometry
from upfusion_core.geometry import orbit_cameras, plucker, reference_camera, reference_plucker, to_reference_frame
from upfusion_core.types import Cameras, Rays


def test_pixel_centres_by_hand() -> None:
    rays = geometry.camera_rays(orbit_cameras(0.0, 0.0, focal=1.0), 2, 2)
    first = torch.tensor([-0.5, 0.5, -1.0]) / math.sqrt(1.5)  # top left: left, up, forward
    assert worst(rays.directions[0, 0, 0], first) < 1e-6
    assert worst(rays.origins[0, 1, 1], torch.tensor([0.0, 0, 1])) < 1e-6
    rays = geometry.camera_rays(orbit_cameras(0.0, 0.0, focal=1.0), 3, 3, align_corners=True)  # ends on the border
    assert worst(rays.directions[0, 0, 0], torch.tensor([-1.0, 1, -1]) / math.sqrt(3)) < 1e-6
    assert worst(rays.directions[0, 1, 1], torch.tensor([0.0, 0, -1])) < 1e-6
    camera = Cameras(torch.eye(4)[None], torch.full((1, 2), 2.0), torch.tensor([[0.5, 0.0]]))
    middle = geometry.camera_rays(camera, 3, 3).directions[0, 1, 1]
    assert worst(middle, torch.tensor([0.25, 0.0, -1.0]) / math.sqrt(1.0625)) < 1e-6


def test_projection_is_the_rays_backwards() -> None:
    cameras = orbit_cameras([0, 40, 200], [10, -20, 60])
    cameras = Cameras(cameras.camera_to_world, cameras.focal, torch.tensor([[0.0, 0], [0.2, -0.1], [-0.3, 0.25]]))
    rays = geometry.camera_rays(cameras, 4, 6)
    for index, camera in enumerate(cameras):
        place, distance = geometry.project(rays.origins[index] + 0.7 * rays.directions[index], camera)
        x, y = torch.linspace(1 - 1 / 6, -1 + 1 / 6, 6), torch.linspace(1 - 1 / 4, -1 + 1 / 4, 4)
        torch.testing.assert_close(place[..., 0], x.expand(4, 6), atol=1e-5, rtol=0)
        torch.testing.assert_close(place[..., 1], y[:, None].expand(4, 6), atol=1e-5, rtol=0)
        torch.testing.assert_close(distance, torch.full((4, 6), 0.7))
        _, behind = geometry.project(rays.origins[index] - 0.7 * rays.directions[index], camera)
        torch.testing.assert_close(behind, torch.full((4, 6), -0.7))


def test_rays_and_queries_of_the_release() -> None:
    stored = golden("cameras")
    rays = to_reference_frame(geometry.camera_rays(golden_cameras(), 5, 4, align_corners=True), reference_camera())
    ours = torch.cat([rays.origins, rays.directions], dim=-1).reshape(7, 20, 6)
    assert worst(ours, stored["grid_rays"]) < 1e-6
    assert worst(plucker(rays).reshape(7, 20, 6), stored["plucker"]) < 1e-6
    # the highest harmonic, pi 2^8, turns the rounding of the rays into angles
    harmonics = geometry.harmonic_encoding(plucker(rays)[:2]).reshape(2, 20, 180)
    assert worst(harmonics, stored["plucker_harmonics_first2"]) < math.pi * 2**8 * QUERY_ROUNDING
    assert worst(geometry.harmonic_encoding(stored["plucker"][:2]), stored["plucker_harmonics_first2"]) < 1e-6
    rays = geometry.patch_rays(4, 4)
    for view in stored["patch_rays_identity"][0]:  # the same for every photo
        assert worst(torch.cat([rays.origins, rays.directions], dim=-1), view) < 1e-6
    patch = geometry.harmonic_encoding(torch.arange(1, 17)[:, None] / 16)
    assert worst(patch, stored["patch_id_encoding"][0, 0]) < 1e-6
    camera = geometry.harmonic_encoding(torch.tensor([[1 / 3 + 0.05], [2 / 3 + 0.05], [2 / 3 + 0.05]]))
    assert worst(camera, stored["camera_id_encoding"][0, :, 0]) < 1e-6
    # numbers of at most 1 behind two inverses and three products of 4 x 4 matrices, some sixteen roundings by up to
    # half of float32's step of 1.2e-7 at 1; a processor's own order of summing decides how they fall
    ours = reference_plucker(golden_cameras(), reference_camera(), 4)[5]
    assert worst(ours, golden("upsrt")["query_plucker"][0]) < QUERY_ROUNDING
    ours = reference_plucker(golden_cameras()[5], reference_camera(), 16)[0].permute(2, 0, 1)
    assert worst(ours, golden("guided")["hint"][0, -6:]) < QUERY_ROUNDING


def test_reference_frames() -> None:
    shifted = Cameras(orbit_cameras(40, 10).camera_to_world, torch.full((1, 2), 4.0), torch.tensor([[0.2, -0.1]]))
    for cameras in (golden_cameras(), shifted):
        for reference in (reference_camera(), orbit_cameras(30.0, 10.0, 2.5)):
            by_rays = plucker(to_reference_frame(geometry.camera_rays(cameras, 5, 5, align_corners=True), reference))
            assert worst(reference_plucker(cameras, reference, 5), by_rays) < 1e-6
    rays = to_reference_frame(geometry.camera_rays(reference, 3, 3, align_corners=True), reference)
    assert worst(rays.origins[0, 0, 0], torch.tensor([0.0, 0, -1])) < 1e-6
    assert worst(rays.directions[0, 1, 1], torch.tensor([0.0, 0, 1])) < 1e-6
    form = reference_plucker(reference, reference, 3)[0, 1, 1]
    assert worst(form, torch.tensor([0.0, 0, 1, 0, 0, 0])) < 1e-6
    aside = geometry.look_at(torch.tensor([[0.0, 0, 1]]), torch.tensor([0.5, 0, 0]))
    refused("look at the world's origin", to_reference_frame, geometry.camera_rays(aside, 2, 2), aside)
    cameras = orbit_cameras([10.0, 20.0, 30.0], [0.0, 5.0, 40.0], [1.0, 1.2, 2.0])
    references = orbit_cameras([0.0, 90.0, 200.0], [22.5, 10.0, 0.0], [1.0, 2.0, 0.5])
    together = reference_plucker(cameras, references, 3)
    alone = [reference_plucker(*pair, 3) for pair in zip(cameras, references, strict=True)]
    assert worst(together, torch.cat(alone)) < 1e-6
    rays = to_reference_frame(geometry.camera_rays(cameras, 3, 3, align_corners=True), references)
    assert worst(plucker(rays), together) < 1e-6


def test_moments_and_harmonics_by_hand() -> None:
    rays = Rays(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]]))
    assert plucker(rays).tolist() == [[0, 0, 1, 2, 0, 0]]
    encoded = geometry.harmonic_encoding(torch.tensor([[0.5, 1.0]]), num_freqs=2, start_freq=0)
    expected = [wave(math.pi * f * v) for wave in (math.sin, math.cos) for f in (1, 2) for v in (0.5, 1.0)]
    assert encoded[0].tolist() == pytest.approx(expected, abs=1e-6)
