from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import (
    FieldFitter,
    color_loss,
    crisp_loss,
    depth_loss,
    distortion_loss,
    opacity_loss,
)
from upfusion_core.field.radiance import RadianceField
from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.errors import FieldError, InputError
from upfusion_core.types import Cameras

GRID = GridConfig(levels=2, coarsest=4, finest=16, table_size=4096)
TINY = FieldConfig(grid=GRID, hidden=16, half_extent=0.3)
QUICK = FitConfig(
    iterations=12, rays=64, sampling=RaySampling(12, 4), grid_lr=3e-2, mlp_lr=5e-3, occupancy_cells=8,
    occupancy_every=5, distortion_weight=0.01, final_lr=0.1, edge_share=0.0,
)  # fmt: skip


def _views() -> tuple[Cameras, Tensor, Tensor]:
    """Three pictures of a red disc that covers the middle of each."""
    axis = torch.linspace(-1, 1, 10)
    mask = (axis[:, None] ** 2 + axis**2 < 0.3).float().expand(3, 1, 10, 10)
    rgb = 1 - mask * torch.tensor([0.1, 0.9, 0.9])[:, None, None]
    return orbit_cameras([0, 120, 240]), rgb, mask


def _fitter(seed: int = 0, config: FitConfig = QUICK) -> FieldFitter:
    cameras, rgb, mask = _views()
    generator = torch.Generator().manual_seed(seed)
    field = RadianceField(TINY, generator=generator)
    return FieldFitter(field, cameras, rgb, mask=mask, config=config, generator=generator)


def _fitted(fitter: FieldFitter) -> RadianceField:
    while not fitter.done:
        fitter.step()
    return fitter.field


def _same(first: RadianceField, second: RadianceField) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_crisp_loss_by_hand() -> None:
    opacity = torch.tensor([1.0, 0.0, 0.5], requires_grad=True)
    loss = crisp_loss(opacity)
    assert loss.item() == pytest.approx(1 / 3)
    loss.backward()
    assert opacity.grad.tolist() == pytest.approx([-4 / 3, 4 / 3, 0.0])  # towards the nearer of all and nothing


def test_losses_by_hand() -> None:
    weights = torch.tensor([1.0, 3.0])
    rgb, target = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5]]), torch.zeros(2, 3)
    assert float(color_loss(rgb, target, weights)) == pytest.approx((1 / 3 + 3 * 0.25) / 2)
    assert float(opacity_loss(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0]), weights)) == pytest.approx(1.625)
    halves = distortion_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    assert float(halves) == pytest.approx(0.5)
    opacity = torch.tensor([0.5, 1.0], requires_grad=True)
    stopped = depth_loss(opacity, torch.tensor([2.0, 4.0], requires_grad=True))
    assert float(stopped.detach()) == pytest.approx(2.5)
    stopped.backward()
    assert opacity.grad is None  # it moves light, and makes nothing more or less opaque


def test_distortion_agrees_with_the_double_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, lengths = torch.rand(2, 3, 9, generator=generator)
    distances = torch.rand(3, 9, generator=generator).sort(dim=-1).values
    gap = (distances[:, :, None] - distances[:, None]).abs()
    expected = (weights[:, :, None] * weights[:, None] * gap).sum((1, 2)) + (weights**2 * lengths).sum(-1) / 3
    torch.testing.assert_close(distortion_loss(weights, distances, lengths), expected.mean())


def test_losses_fall() -> None:
    fitter = _fitter(config=replace(QUICK, iterations=80, rays=256, mlp_lr=1e-2))
    history = [fitter.step() for _ in range(80)]
    assert set(history[0]) == {"color", "opacity", "distortion", "depth", "crisp"}
    for name in ("color", "opacity"):
        first, last = (sum(float(entry[name]) for entry in part) for part in (history[:10], history[-10:]))
        assert last < first / 2, name
    assert fitter.done


def test_the_same_seed_gives_the_same_field() -> None:
    cameras, rgb, mask = _views()
    fields = []
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        field = RadianceField(TINY, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(len(fields))  # the global generator must not matter
        fields.append(_fitted(FieldFitter(field, cameras, rgb, mask=mask, config=QUICK, generator=generator)))
    assert _same(fields[0], fields[1])
    assert not _same(fields[0], fields[2])


def test_a_resumed_fit_ends_in_the_same_field() -> None:
    whole = _fitted(_fitter())
    part = _fitter()
    for _ in range(7):
        part.step()
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = _fitter(seed=9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.iteration == 7
    assert _same(whole, _fitted(resumed))


def test_a_preview_is_a_picture() -> None:
    fitter = _fitter()
    fitter.step()
    picture = fitter.preview()
    assert picture.shape == (3, 64, 64)
    assert ((picture >= 0) & (picture <= 1)).all()


def test_weights_silence_a_picture() -> None:
    cameras, rgb, _ = _views()
    spoilt = rgb.clone()
    spoilt[1] = 0.0
    fields = []
    for pictures in (rgb, spoilt):
        for weights in (torch.tensor([1.0, 0, 1]), torch.tensor([1.0, 0, 1])[:, None, None, None].expand(3, 1, 10, 10)):
            field = RadianceField(TINY, generator=torch.Generator().manual_seed(0))
            generator = torch.Generator().manual_seed(0)
            fitter = FieldFitter(field, cameras, pictures, weights=weights, config=QUICK, generator=generator)
            fields.append(_fitted(fitter))
    assert all(_same(fields[0], field) for field in fields[1:])


def test_views_can_be_replaced() -> None:
    fitter = _fitter()
    fitter.step()
    cameras, rgb, _ = _views()
    fitter.set_views(cameras[0], rgb[:1, :, :6, :6])
    assert set(fitter.step()) == {"color", "distortion", "depth", "crisp"}
    assert fitter.iteration == 2


@pytest.mark.parametrize("occupancy_cells", [0, 16])
def test_a_diverged_fit_says_so(occupancy_cells: int) -> None:
    fitter = _fitter(config=replace(QUICK, occupancy_cells=occupancy_cells))
    torch.nn.init.constant_(fitter.field.mlp[-1].bias, float("nan"))
    with pytest.raises(FieldError, match="learning rates"):
        fitter.step()


def test_bad_views_are_refused() -> None:
    cameras, rgb, mask = _views()
    fitter = _fitter()
    with pytest.raises(InputError, match="one picture a camera"):
        fitter.set_views(cameras, rgb[:2])
    with pytest.raises(InputError, match="one mask a picture"):
        fitter.set_views(cameras, rgb, mask=mask[:, :, :5])
    with pytest.raises(InputError, match="one number a picture"):
        fitter.set_views(cameras, rgb, weights=torch.ones(2))
    with pytest.raises(InputError, match="one number a picture"):
        fitter.set_views(cameras, rgb, weights=torch.ones(3, 1, 5, 5))
    with pytest.raises(InputError, match="finite"):
        fitter.set_views(cameras, rgb / 0)
    with pytest.raises(InputError, match="at least one pixel"):
        fitter.set_views(cameras, rgb[..., :0])
    with pytest.raises(InputError, match="occupancy_cells"):
        _fitter(config=replace(QUICK, occupancy_cells=0)).load_state_dict(fitter.state_dict())


def test_bad_configurations_are_refused() -> None:
    for arguments in ({"iterations": 0}, {"rays": 0}, {"grid_lr": 0.0}, {"final_lr": 2.0}, {"color_weight": -1.0}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            FitConfig(**arguments)
    for name in ("iterations", "rays", "points", "occupancy_cells", "occupancy_every"):
        with pytest.raises(InputError, match=rf"FitConfig\.{name} must be a whole number, got 64\.5"):
            FitConfig(**{name: 64.5})
