import torch
from torch import Tensor

from upfusion_core.field.rendering import OccupancyGrid

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])


def _corner(points: Tensor) -> Tensor:
    """Dense in the one cell of 8³ that reaches from (-1, -1, 0.75) to (-0.75, -0.75, 1)."""
    return 5.0 * ((points[:, 0] < -0.75) & (points[:, 1] < -0.75) & (points[:, 2] > 0.75)).float()


def test_cells_neighbours_and_memory_by_hand() -> None:
    grid = OccupancyGrid(BOX, 8)
    points = torch.tensor([[-0.9, -0.9, 0.9], [-0.6, -0.6, 0.6], [-0.4, -0.9, 0.9], [0.9, -0.9, -0.9], [-2, -2, 2.0]])
    alone = points[:, None], torch.ones(5, 1)  # each as the only sample of its ray
    assert grid(*alone).all()  # nothing is known yet
    grid.update(_corner)
    assert grid(*alone)[:, 0].tolist() == [True, True, False, False, True]
    assert (int(grid.occupied.sum()), int(grid.density.count_nonzero())) == (8, 1)
    for expected in (2.5, 1.25, 0.625, 0.3125):
        grid.update(lambda points: torch.zeros(len(points)))
        assert float(grid.density.max()) == expected
        assert bool(grid.occupied.any()) == (expected > 0.5)
    grid.update(lambda points: points[:, 0] * float("nan"))
    assert grid.occupied.all()  # a broken field is not hidden


def test_what_is_hidden_and_where_is_looked() -> None:
    grid = OccupancyGrid(BOX, 8)
    grid.update(lambda points: 10.0 * (points[:, 0] > 0).float())  # 4 of 8 cells; the first of them may be half full
    ray = torch.stack([torch.linspace(-0.9375, 0.9375, 16), torch.zeros(16), torch.zeros(16)], dim=-1)[None]
    for length, expected in ((0.125, 16), (2.0, 11)):
        # from x = 0.25 on each sample takes 10·length of depth; 7 hides what follows; x < -0.25 is empty
        seen = grid(ray, torch.full((1, 16), length))[0]
        assert seen.nonzero().flatten().tolist() == list(range(6, expected))
    seen: list[Tensor] = []
    grid = OccupancyGrid(BOX, 4)
    grid.update(lambda points: seen.append(points) or points[:, 0], generator=torch.Generator().manual_seed(0))
    axis = torch.arange(4)
    assert torch.equal(((seen[0] + 1) * 2).floor().long(), torch.cartesian_prod(axis, axis, axis))
    assert seen[0].frac().unique().numel() > 100
