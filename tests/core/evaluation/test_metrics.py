import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from plain_objects import ellipsoid, pictures, thing
from refusals import refused
from skimage.metrics import structural_similarity
from torch import Tensor

from upfusion_core import Cameras, MeshAsset, RenderedViews, orbit_cameras
from upfusion_core.evaluation import metrics
from upfusion_core.evaluation.metrics import haarpsi, measure_views, psnr, sample_surface, sharpness, silhouette
from upfusion_core.geometry import camera_rays, project
from upfusion_core.geometry.cameras import Similarity

# scikit-image's SSIM as in the paper
AS_WANG = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def rectangle(size: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., top:bottom, left:right] = 1
    return mask


def textured(count: int = 2, size: int = 48) -> tuple[Tensor, Tensor]:
    """Pictures with a patterned object on white, and their masks."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    masks = torch.stack([((x - 0.5) ** 2 + (y - 0.45) ** 2 < (0.2 + 0.05 * view) ** 2)[None] for view in range(count)])
    pattern = torch.stack([0.5 + 0.4 * (17 * x).sin(), 0.5 + 0.4 * (23 * y).cos(), 0.5 + 0.4 * (9 * (x + y)).sin()])
    return torch.where(masks, pattern[None], torch.ones(())), masks.float()


def measured(prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Where the object fills the picture."""
    return measure_views(prediction, truth, torch.ones_like(truth[:, :1]))


def test_psnr_and_ssim_by_hand() -> None:
    truth = torch.full((3, 3, 8, 8), 0.5)
    offset = torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    torch.testing.assert_close(psnr(truth + offset, truth), torch.tensor([20.0, 40.0, 100.0]), atol=1e-3, rtol=0)
    half = truth[:1].clone()
    half[..., :4] = 1.0  # half of the pixels are off by 0.5: mse 1/8
    assert float(psnr(half, truth[:1])) == pytest.approx(10 * math.log10(8), abs=1e-4)
    for dtype in (torch.float16, torch.bfloat16):
        equal = torch.full((1, 3, 16, 16), 0.5, dtype=dtype)
        assert measured(equal, equal)["psnr"].item() == measured(equal, equal)["box_psnr"].item() == 100
    first, second = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.7)
    wanted = (2 * 0.4 * 0.7 + 1e-4) / (0.4**2 + 0.7**2 + 1e-4)  # no variance: only the luminance term is left
    assert float(measured(first, second)["ssim"]) == pytest.approx(wanted, abs=1e-4)
    assert float(measured(first, first)["ssim"]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (40, 25), (16, 16)])
def test_ssim_agrees_with_skimage(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.rand(2, 3, *size, generator=generator)
    prediction = (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    for index, value in enumerate(measured(prediction, truth)["ssim"]):
        wanted = structural_similarity(*(picture[index].double().numpy() for picture in (prediction, truth)), **AS_WANG)
        assert float(value) == pytest.approx(float(wanted), abs=1e-5)


def test_boxes_by_hand() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 2, 5] = mask[0, 0, 6, 3] = 1  # two corners span the rectangle
    mask[1] = 0.7
    boxes = metrics.silhouette_boxes(mask)
    assert boxes[0, 0].nonzero().tolist() == [[row, column] for row in range(2, 7) for column in range(3, 6)]
    assert boxes[1].all()


def test_measures_in_the_box_by_hand_and_as_skimage() -> None:
    truth, mask = textured(1)[0], rectangle(48, 10, 30, 12, 36)
    prediction = truth.clone()
    prediction[..., 35:, :] = 0  # wrong outside the box, further away than SSIM's window reaches
    found = measure_views(prediction, truth, mask)
    assert float(found["box_psnr"]) == 100
    assert float(found["box_ssim"]) == pytest.approx(1, abs=1e-4)
    prediction, cut = truth.clone(), (..., slice(10, 30), slice(12, 36))
    prediction[cut] = (truth[cut] + 0.1) % 1.0
    torch.testing.assert_close(measure_views(prediction, truth, mask)["box_psnr"], psnr(prediction[cut], truth[cut]))
    truth, prediction = torch.rand(2, 1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    pair = (prediction[0].double().numpy(), truth[0].double().numpy())
    _, full = structural_similarity(*pair, full=True, **AS_WANG)
    value = measure_views(prediction, truth, rectangle(40, 8, 20, 10, 33))["box_ssim"]
    assert float(value) == pytest.approx(float(np.mean(full[:, 8:20, 10:33])), abs=1e-5)


def test_silhouettes_by_hand() -> None:
    first, second = rectangle(10, 0, 4, 0, 4), rectangle(10, 2, 6, 1, 5)  # 16 and 16 pixels, 2 x 3 of them shared
    nothing = torch.zeros_like(first)
    found = metrics.mask_iou(torch.cat([first, second, nothing, first]), torch.cat([second, second, nothing, nothing]))
    assert found.tolist() == pytest.approx([6 / 26, 1, 1, 0])
    rgb = torch.ones(1, 3, 1, 3)
    rgb[0, 2, 0, 1] = 0.8  # one channel suffices
    rgb[0, :, 0, 2] = 0.95
    assert silhouette(rgb).flatten().tolist() == [0, 1, 0]
    assert silhouette(1 - (1 - rgb) / 8).flatten().tolist() == [0, 1, 0]  # as pale as it may be
    assert silhouette(1 - (1 - rgb) / 16).flatten().tolist() == [0, 0, 0]  # but not paler than five steps of 8 bits


def test_sharpness_by_hand() -> None:
    mask = rectangle(6, 0, 6, 0, 6) > 0
    stripes = torch.zeros(1, 3, 6, 6)
    stripes[..., ::2] = 1  # every horizontal difference is 1
    faint = 0.5 * stripes
    assert float(sharpness(faint, stripes, mask)) == pytest.approx(0.25, abs=1e-5)
    assert float(sharpness(stripes, faint, mask)) == pytest.approx(4, abs=1e-4)
    flat = torch.full_like(stripes, 0.3)
    assert float(sharpness(flat, flat, mask)) == 1
    # the step at the object's border counts, though the box is flat inside
    square = 1 - rectangle(6, 2, 4, 2, 4)
    assert float(sharpness((1 + square) / 2, square, square < 1)) == pytest.approx(0.25, abs=1e-4)


def test_measures_of_a_view_are_those_of_the_view_alone() -> None:
    truth, mask = textured(3)
    prediction = (0.8 * truth + 0.1).clamp(0, 1)
    together = measure_views(prediction, truth, mask)
    for index in range(3):
        alone = measure_views(*(part[index : index + 1] for part in (prediction, truth, mask)))
        wanted = {name: values[index : index + 1] for name, values in together.items()}
        torch.testing.assert_close(alone, wanted, atol=1e-5, rtol=1e-5)
    assert measure_views(prediction, truth, mask, prediction_mask=mask)["iou"].tolist() == [1, 1, 1]


def waves(height: int, width: int, phase: float) -> Tensor:
    """(1, 3, H, W) waves; the values below were computed on these."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    red, green = torch.sin(7 * x + 3 * y + phase), torch.cos(11 * x * y - phase)
    return 0.5 + 0.5 * torch.stack([red, green, torch.sin(40 * x) * torch.cos(33 * y + phase)])[None]


# (height, width) -> piq 0.8.0's haarpsi of phases 0 and 0.4, and of phase 0 and white
PIQ = {(48, 80): (0.6494904, 0.03462305), (33, 47): (0.6703519, 0.03894394), (16, 16): (0.6623913, 0.04378559)}


@pytest.mark.parametrize("size", PIQ)
def test_haarpsi_has_piq_s_values(size: tuple[int, int]) -> None:
    first, second = waves(*size, 0.0), waves(*size, 0.4)
    # single precision: the inverse of the logistic function magnifies rounding some twenty times
    assert float(haarpsi(first, second)) == pytest.approx(PIQ[size][0], abs=5e-6)
    assert float(haarpsi(first, torch.ones_like(first))) == pytest.approx(PIQ[size][1], abs=5e-6)


def test_what_cannot_be_measured_gets_a_sentence() -> None:
    good, mask = torch.full((2, 3, 16, 16), 0.5), torch.ones(2, 1, 16, 16)
    for changes, words in (
        ({"truth": good[..., 1:]}, "must have the truth's shape"),
        ({"prediction": good[:0], "truth": good[:0]}, "at least one view"),
        ({"prediction": good * 255}, r"prediction must be in \[0, 1\]"),
        ({"prediction": good[..., 1:], "truth": good[..., 1:]}, "at least 16 x 16, got 16 x 15"),
        ({"mask": mask * torch.tensor([1.0, 0.0])[:, None, None, None]}, "empty in view 1"),
        ({"mask": mask[:1]}, "one true silhouette a view"),
        ({"lpips": lambda *_: torch.tensor(torch.nan)}, "lpips .* must be finite"),
    ):
        refused(words, measure_views, **({"prediction": good, "truth": good, "mask": mask} | changes))


BALLS = ellipsoid((0.0, 0.0, 0.0), (0.12, 0.12, 0.12)), ellipsoid((0.0, 0.02, 0.15), (0.05, 0.05, 0.05))


def rendered(cameras: Cameras, size: int, count: int = 2) -> RenderedViews:
    """Opaque balls whose colour is a smooth function of the place."""
    seen, rays = pictures(thing(*BALLS[:count]), cameras, size), camera_rays(cameras, size, size)
    points = rays.origins + rays.directions * seen.depth[:, 0, ..., None]
    return replace(seen, rgb=torch.where(seen.opacity > 0, 0.5 + 0.3 * (8 * points).sin().permute(0, 3, 1, 2), 1.0))


def test_neighbours_agree_and_opposite_views_share_nothing() -> None:
    cameras = orbit_cameras([0, 15, 30, 60], [10, 20, 15, 0])
    field = rendered(cameras, 96)
    difference, pixels = metrics.reprojection_consistency(field.rgb, field, cameras, [(0, 1), (1, 2), (2, 3)])
    assert (pixels > 2000).all()
    assert (difference < 0.003).all()  # bilinear lookup, most of it near the outlines
    cameras = orbit_cameras([0, 180], 0)
    field = rendered(cameras, 32, 1)
    difference, pixels = metrics.reprojection_consistency(field.rgb, field, cameras, [(0, 1)])
    assert (pixels.tolist(), math.isnan(difference[0])) == ([0], True)


def test_a_mistake_in_a_picture_is_found_where_it_is_seen() -> None:
    """Nearest neighbours by brute force: every lifted pixel that both views see, one at a time."""
    cameras = orbit_cameras([0, 25], [10, 10])
    field = rendered(cameras, 48)
    rgb = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(2, 3, 48, 48)  # no interpolation
    difference, pixels = metrics.reprojection_consistency(rgb, field, cameras, [(0, 1)])
    assert float(difference[0]) == pytest.approx(float((rgb[0] - rgb[1]).abs().mean()), rel=1e-5)
    rays, count = camera_rays(cameras, 48, 48), 0
    for source, target in ((0, 1), (1, 0)):
        points = rays.origins[source] + rays.directions[source] * field.depth[source, 0, ..., None]
        for point in points[field.opacity[source, 0] > 0.9]:
            place, distance = project(point, cameras[target])
            column, row = ((1 - place) * 24).floor().long().tolist()
            count += abs(float(field.depth[target, 0, row, column]) - float(distance)) < 0.02 * float(distance)
    assert 0.85 * count < int(pixels[0]) <= count  # pixels at outlines are left out as well


def test_what_is_hidden_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from the front a black ball hides the middle of a white one, which is seen from the side."""
    cameras = orbit_cameras([0, 50], [0, 0])
    field, alone = rendered(cameras, 64), rendered(cameras, 64, 1)
    front = (field.depth < alone.depth - 1e-3) | (field.opacity > alone.opacity)
    rgb = torch.where(front, 0.0, 1.0).expand(2, 3, 64, 64)
    assert float(metrics.reprojection_consistency(rgb, field, cameras, [(0, 1)])[0]) < 0.02  # at its outline
    monkeypatch.setattr(metrics, "TOLERANCE", 1.0)
    assert float(metrics.reprojection_consistency(rgb, field, cameras, [(0, 1)])[0]) > 0.1


def grid(shift: float = 0.0) -> Tensor:
    return torch.cartesian_prod(torch.arange(5.0) + shift, torch.arange(5.0), torch.arange(5.0))


def test_scores_of_points_by_hand() -> None:
    line, apart = torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.tensor([[0.0, 0.15, 0], [1, 0.05, 0]])
    for ours, theirs, box, chamfer, first, second in (
        (line, apart, 10, 0.1, 1 / 2, 1),  # .15 and .05 away both ways: half is within .1, all within .2
        (line, line[:1], 10, 0.25, 2 / 3, 2 / 3),  # precision 1/2, recall 1: harmonic mean 2/3
        (line[:1], line, 10, 0.25, 2 / 3, 2 / 3),
        (grid(), grid(0.3), 20, 0.3, 0, 1),
        (grid(), grid(1.0), 50, 0.2, 4 / 5, 1),  # 4/5 of the points meet another, the last layer is 1 away
    ):
        wanted = {"chamfer": chamfer / box, "f_score_1": first, "f_score_2": second}
        assert metrics.point_scores(ours, theirs, box) == pytest.approx(wanted)


def test_scores_of_points_by_brute_force() -> None:
    first, second = (torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) for count in (70, 90))
    distances = torch.cdist(first.double(), second.double())
    there, back = distances.amin(1), distances.amin(0)
    precision, recall = (float((part <= 0.1).double().mean()) for part in (there, back))
    found = metrics.point_scores(first, second, 10.0)
    assert found["chamfer"] == pytest.approx(float(there.mean() + back.mean()) / 20, abs=1e-10)
    assert found["f_score_1"] == pytest.approx(2 * precision * recall / (precision + recall))


def sphere(radius: float) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=5, radius=radius)


def points_of(mesh: trimesh.Trimesh) -> Tensor:
    return torch.as_tensor(mesh.vertices.copy(), dtype=torch.float32)


def test_spheres_and_samples_of_a_surface() -> None:
    inner, outer = sphere(0.95), sphere(1.0)
    asset = MeshAsset(points_of(inner), torch.as_tensor(inner.faces.copy()), torch.zeros(len(inner.vertices), 3))
    mesh = metrics.as_trimesh(asset)
    scores = metrics.compare_meshes(mesh, outer, samples=100_000, seed=0)
    theirs = sample_surface(outer, 100_000, seed=1)
    plain, nearer = (metrics.point_scores(sample_surface(ours, 100_000), theirs, 2.0) for ours in (mesh, sphere(0.97)))
    assert scores["chamfer"] == pytest.approx(0.05 / 2, rel=0.03)  # the box is 2 wide
    assert list(scores) == [*plain, *(f"{name}_similarity" for name in plain)]
    assert {name: scores[name] for name in plain} == pytest.approx(plain)
    assert set(plain) <= set(metrics.MEASURES)
    assert (nearer["f_score_1"], nearer["f_score_2"]) == (0, 1)  # 1.5 % of the box away
    points = sample_surface(trimesh.creation.box((2, 2, 2)), 6000, seed=1)
    torch.testing.assert_close(points.abs().amax(1), torch.ones(6000))
    assert float((points[:, 2] > 0.999).float().mean()) == pytest.approx(1 / 6, abs=0.02)
    assert torch.equal(points, sample_surface(trimesh.creation.box((2, 2, 2)), 6000, seed=1))


def jug() -> trimesh.Trimesh:
    """A lopsided thing: a body, a handle on one side, a spout on another."""
    body = trimesh.creation.cylinder(radius=0.1, height=0.25, sections=48)
    handle = trimesh.creation.box((0.12, 0.02, 0.15), trimesh.transformations.translation_matrix((0.13, 0, 0.01)))
    spout = trimesh.creation.cone(radius=0.04, height=0.15, sections=24)
    spout.apply_transform(trimesh.transformations.rotation_matrix(math.radians(70), (1, 0, 0)))
    spout.apply_translation((0, -0.08, 0.05))
    return trimesh.util.concatenate([body, handle, spout])


def error(found: Similarity, known: Similarity, points: Tensor) -> float:
    """Largest distance between where the two bring the points."""
    return float((found.apply(points) - known.apply(points)).norm(dim=1).max())


NOWHERE = Similarity.from_angles()
SMALLER = Similarity.from_angles(-25, 12, 10, scale=0.8, shift=(0.05, 0.03, 0.02))
LARGER = Similarity.from_angles(35, -18, 5, scale=1.25, shift=(-0.05, 0.08, 0.0))


@pytest.mark.parametrize("known", [SMALLER, LARGER])
def test_a_known_similarity_is_found(known: Similarity) -> None:
    truth = trimesh.Trimesh(known.apply(points_of(jug())).numpy(), jug().faces, process=False)
    ours, theirs = sample_surface(jug(), 60_000), sample_surface(truth, 60_000, seed=1)
    found = metrics.align_points(ours, theirs, NOWHERE)
    # different points are sampled on both: their spacing is 0.004, the object is 0.3 long
    assert error(found, known, points_of(jug())) < 0.002
    box = float(np.ptp(truth.bounds, axis=0).max())
    ways = (ours, found.apply(ours), known.apply(ours))
    raw, aligned, given = (metrics.point_scores(points, theirs, box) for points in ways)
    assert aligned["f_score_1"] > 0.99
    assert aligned["chamfer"] < min(raw["chamfer"], 0.005)
    assert given["chamfer"] == pytest.approx(aligned["chamfer"], rel=0.1)


def test_points_that_correspond_half_of_them_and_none() -> None:
    points = sample_surface(jug(), 2000)
    known = Similarity.from_angles(10, 5, 3, scale=1.1, shift=(0.02, 0.0, 0.01))
    assert error(metrics.align_points(points, known.apply(points), NOWHERE), known, points) < 1e-5
    assert torch.equal(metrics.align_points(points, points, NOWHERE).rotation, torch.eye(3))
    # one-way nearest neighbours of a half ball would be matched best by a smaller one
    whole = sample_surface(sphere(1.0), 4000)
    assert metrics.align_points(whole[whole[:, 2] > 0], whole, NOWHERE).scale > 0.9
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    few = {"samples": 100, "seed": 0}
    refused("mesh must have a surface, got 1 faces", metrics.compare_meshes, flat, jug(), **few)
    refused("truth must have a surface, got 0 faces", metrics.compare_meshes, jug(), trimesh.Trimesh(), **few)
