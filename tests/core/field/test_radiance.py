import math
from dataclasses import replace
from unittest.mock import Mock, call

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

from upfusion_core import RadianceField, orbit_cameras
from upfusion_core.config import FieldConfig, GridConfig, RaySampling
from upfusion_core.support.errors import FieldError

TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=8, table_size=256), hidden=8, half_extent=0.5)


def test_the_blob_by_hand_and_one_pass_for_two() -> None:
    config, host = FieldConfig(), Mock(wraps=nn)
    assert (config.blob_weight, config.blob_sigma, config.half_extent) == (5.0, 0.2, 1.0)
    RadianceField(config, ops=host)  # layers come from the given namespace
    assert host.method_calls == [call.Linear(32, 64), call.Linear(64, 64), call.Linear(64, 4)]
    field = RadianceField(TINY)
    assert field.aabb.tolist() == [[-0.5] * 3, [0.5] * 3]
    for parameter in field.mlp.parameters():
        nn.init.zeros_(parameter)
    points = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0.0, 0.4, 0], [0.0, 0, 0.51]])
    expected = torch.tensor([math.exp(5), math.exp(5 * math.exp(-0.5)), math.exp(5 * math.exp(-2)), 0.0])
    torch.testing.assert_close(field.density(points), expected)
    assert field.color(points).tolist() == [[0.5] * 3] * 4
    field = RadianceField(TINY)
    nn.init.normal_(field.grid.table)
    points = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    density, rgb = field(points)
    assert (density.shape, rgb.shape) == ((5, 7), (5, 7, 3))
    assert all(map(torch.equal, (density, rgb), (field.density(points), field.color(points))))


def test_large_logits() -> None:
    field = RadianceField(TINY)
    for parameter in field.mlp.parameters():
        nn.init.zeros_(parameter)
    for bias, value, slope in ((20.0, math.exp(20), math.exp(15)), (-20.0, math.exp(-20), math.exp(-15))):
        field.zero_grad()
        with torch.no_grad():
            field.mlp[-1].bias[0] = bias
        density = field.density(torch.tensor([[0.5, 0.5, 0.5]]))  # the blob adds 5·exp(-9.375) there
        torch.testing.assert_close(density, torch.tensor([value]), rtol=1e-3, atol=0)
        density.sum().backward()
        torch.testing.assert_close(field.mlp[-1].bias.grad[0], torch.tensor(slope), rtol=1e-3, atol=0)
    field = RadianceField(TINY)
    blob = field.render(orbit_cameras([0, 90]), (4, 6), background=0.0)
    assert blob.opacity[0, 0, 2, 3] > 0.9
    nn.init.zeros_(field.mlp[-1].weight)
    nn.init.constant_(field.mlp[-1].bias, 500.0)
    view = field.render(orbit_cameras(0.0), 4, sampling=RaySampling(8, 4))
    assert torch.isfinite(view.rgb).all()
    torch.testing.assert_close(view.opacity.max(), torch.tensor(1.0))
    view.rgb.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in field.parameters())


def test_the_finest_grid_is_no_finer_than_told() -> None:
    draft = FieldConfig.small()  # 192 cells along 0.6
    assert draft.no_finer_than(0.6 / 48).grid == replace(draft.grid, finest=48)
    assert draft.no_finer_than(1.0).grid.finest == draft.grid.coarsest
    assert draft.no_finer_than(0.6 / 500) == draft
    assert FieldConfig().no_finer_than(1 / 4.5 / 256) == FieldConfig()  # half a pixel of the release's pictures
    refused("cell must be", draft.no_finer_than, 0.0)


def test_half_precision_and_other_points_are_refused() -> None:
    field = RadianceField(TINY).half()
    refused("points must be", field.density, torch.zeros(4, 2))
    with pytest.raises(FieldError, match=r"a field must be float32 to be asked, got torch.float16; bring it back"):
        field.density(torch.zeros(2, 3))
    assert field.float().density(torch.zeros(2, 3)).shape == (2,)


def test_renders_that_skip_what_is_not_seen_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell round a haze too thin to be seen, before and after small pictures repay a look at the whole box."""
    field, asked = RadianceField(TINY), []

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(points.shape[:-1].numel())
        return 300 * (-((points.norm(dim=-1) - 0.2) / 0.012).square()).exp() + 1e-4, 9 * points

    monkeypatch.setattr(field, "_evaluate", evaluate)
    camera, sampling = orbit_cameras(30.0), RaySampling(88, 8)
    whole = field.render(camera, 96, sampling=sampling)
    assert sum(asked) == 96 * 96 * 96
    asked.clear()
    monkeypatch.setattr("upfusion_core.field.rendering.RENDERED_CELLS", 24)
    skipped = field.render(camera, 96, sampling=sampling)
    assert sum(asked) < 0.7 * 96 * 96 * 96  # the look takes an eighth of it
    for name in ("rgb", "opacity"):
        torch.testing.assert_close(getattr(skipped, name), getattr(whole, name), atol=1e-3, rtol=0)
