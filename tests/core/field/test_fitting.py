import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upfusion_core import RadianceField, orbit_cameras
from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter, distortion_loss, fit_losses
from upfusion_core.field.rendering import RenderedRays
from upfusion_core.support.errors import FieldError

CAMERAS = orbit_cameras([0, 120, 240])
AXIS = torch.linspace(-1, 1, 10)
MASK = (AXIS[:, None] ** 2 + AXIS**2 < 0.3).float().expand(3, 1, 10, 10)
RGB = 1 - MASK * torch.tensor([0.1, 0.9, 0.9])[:, None, None]  # a red disc that covers the middle of each picture
TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=16, table_size=4096), hidden=16, half_extent=0.3)
QUICK = FitConfig(
    iterations=12, rays=64, sampling=RaySampling(12, 4), grid_lr=3e-2, mlp_lr=5e-3, occupancy_cells=8,
    occupancy_every=5, distortion_weight=0.01, final_lr=0.1, edge_share=0.0,
)  # fmt: skip


def _fitter(
    seed: int = 0, rgb: Tensor = RGB, mask: Tensor | None = MASK, weights: Tensor | None = None, **changes: int
) -> FieldFitter:
    """A fit of the same field for all seeds."""
    field, generator = RadianceField(TINY), torch.Generator().manual_seed(seed)
    config = replace(QUICK, **changes)
    return FieldFitter(field, CAMERAS, rgb, mask=mask, weights=weights, config=config, generator=generator)


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def _fitted(fitter: FieldFitter) -> dict[str, Tensor]:
    while not fitter.done:
        fitter.step()
    return fitter.field.state_dict()


def test_losses_by_hand() -> None:
    weights, target = torch.tensor([1.0, 3.0, 0.0]), torch.zeros(3, 3)
    opacity, depth = (torch.tensor(values, requires_grad=True) for values in ([0.5, 1.0, 0.0], [2.0, 4.0, 7.0]))
    rgb = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1]])
    seen = RenderedRays(rgb, opacity, depth, torch.tensor([[1.0, 2.0]] * 3), torch.zeros(3, 2), torch.full((3, 2), 0.5))
    losses = fit_losses(seen, target, torch.tensor([1.0, 0.0, 0.0]), weights)
    expected = {"color": (1 / 3 + 3 * 0.25) / 3, "opacity": 3.25 / 3, "distortion": 0.5, "depth": 5 / 3, "crisp": 1 / 3}
    assert {name: float(value.detach()) for name, value in losses.items()} == pytest.approx(expected)
    losses["depth"].backward(retain_graph=True)
    assert not opacity.grad.any()  # it moves light, and makes nothing more or less opaque
    losses["crisp"].backward()
    assert opacity.grad.tolist() == pytest.approx([0.0, -4 / 3, 4 / 3])  # towards the nearer of all and nothing
    assert "opacity" not in fit_losses(seen, target, None, weights)
    generator = torch.Generator().manual_seed(0)
    weights, lengths = torch.rand(2, 3, 9, generator=generator)
    distances = torch.rand(3, 9, generator=generator).sort(dim=-1).values
    gap = (distances[:, :, None] - distances[:, None]).abs()
    expected = (weights[:, :, None] * weights[:, None] * gap).sum((1, 2)) + (weights**2 * lengths).sum(-1) / 3
    torch.testing.assert_close(distortion_loss(weights, distances, lengths), expected)
    torch.autograd.gradcheck(distortion_loss, (weights.double().requires_grad_(), distances.double(), lengths.double()))


def test_the_same_seed_gives_the_same_field_resumed_or_with_silenced_pictures() -> None:
    field = _fitted(_fitter())
    torch.rand(1)  # the global generator must not matter
    assert _same(field, _fitted(_fitter()))
    assert not _same(field, _fitted(_fitter(seed=1)))
    part, file = _fitter(), io.BytesIO()
    for _ in range(7):
        part.step()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = _fitter(seed=9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.iteration == 7
    assert _same(field, _fitted(resumed))
    counts = torch.tensor([1.0, 0, 1])[:, None, None, None]
    fits = [_fitter(rgb=rgb, mask=None, weights=counts.expand_as(MASK)) for rgb in (RGB, RGB * counts)]
    assert _same(*map(_fitted, fits))


@pytest.mark.parametrize("occupancy_cells", [0, 16])
def test_a_diverged_fit_says_so(occupancy_cells: int) -> None:
    fitter = _fitter(occupancy_cells=occupancy_cells)
    torch.nn.init.constant_(fitter.field.mlp[-1].bias, float("nan"))
    with pytest.raises(FieldError, match="learning rates"):
        fitter.step()
