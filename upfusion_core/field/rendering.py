"""Volume rendering along rays: where to look, how much light each sample sends, and what a picture makes of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from ..config import RaySampling
from ..geometry import camera_rays, numbers
from ..support.checks import check_count, check_type, check_unit_range
from ..support.devices import Chunk
from ..support.errors import InputError
from ..types import Cameras, Rays, RenderedViews

MAX_SIDE = 16384  # pixels along each side of a picture
RAYS, CPU_RAYS = 2**12, 2**8  # rays at a time: a CPU keeps fewer in its caches, and Cancel waits for a call's end
HIDDEN_DEPTH = 7.0  # optical depth beyond which nothing is seen: exp(-7) of the light is left
EMPTY, DECAY = 0.5, 0.5  # see OccupancyGrid: density per scene unit, and what an update leaves of what was remembered
RENDERED_CELLS = 64  # of the grid that renders skip by, along an axis, looked at in 8 places each
RENDERED_LOSS = 5e-4  # of a pixel's light that such renders may leave out: of empty cells, and of what is hidden

# (..., 3) world points -> density (...,) per scene unit and rgb (..., 3) in [0, 1]
FieldFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
# ascending points (R, S, 3) along R rays, the lengths (R, S) they stand for -> (R, S) bool: where not, density is 0
VisibleFunction = Callable[[Tensor, Tensor], Tensor]
Random = torch.Generator | Iterator[Tensor]  # draws uniform numbers in [0, 1), or gives those that were drawn before


@dataclass(frozen=True, eq=False)
class RenderedRays:
    """What R rays see, with their S samples."""

    rgb: Tensor  # (R, 3) over the background
    opacity: Tensor  # (R,)
    depth: Tensor  # (R,) expected distance of what the ray meets, 0 if nothing
    distances: Tensor  # (R, S), as lengths and weights
    lengths: Tensor
    weights: Tensor
    asked: Tensor | None = None  # how many samples could be seen, where something told


def intersect_box(rays: Rays, aabb: Tensor, near: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays enter, at least `near` away, and leave the box aabb (2, 3): distances, 0 for a miss, and bool hits."""
    # a direction of exactly 0 along an axis would give 0 · inf = NaN on a face of the box
    inverse = 1 / rays.directions.masked_fill(rays.directions.abs() < 1e-12, 1e-12)
    sides = (aabb[:, None] - rays.origins) * inverse  # (2, R, 3)
    entry, leave = sides.amin(0).amax(-1).clamp(min=near), sides.amax(0).amin(-1)
    hit = leave > entry
    zero = torch.zeros_like(entry)
    return torch.where(hit, entry, zero), torch.where(hit, leave, zero), hit


def stratified_distances(near: Tensor, far: Tensor, count: int, generator: Random | None = None) -> Tensor:
    """(R,) ends -> (R, count) ascending distances, one in each of `count` equal parts: its middle, or drawn there."""
    return torch.lerp(near[..., None], far[..., None], _places((*near.shape, count), near, generator))


def interval_edges(distances: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """(R, S) ascending distances -> (R, S+1) edges half-way between neighbours, the outer ones on `near` and `far`."""
    middles = torch.lerp(distances[..., :-1], distances[..., 1:], 0.5)
    return torch.cat([near[..., None], middles, far[..., None]], dim=-1)


def importance_distances(edges: Tensor, weights: Tensor, count: int, generator: Random | None = None) -> Tensor:
    """(R, count) ascending distances, distributed as the histogram `weights` (R, S) over `edges` (R, S+1)."""
    # upstream: a floor, which also serves rays that meet nothing; NaN is for the loss to find, places stay finite
    weights = weights.detach().nan_to_num(0.0) + 1e-5
    cdf = pad(torch.cumsum(weights / weights.sum(-1, keepdim=True), dim=-1), (1, 0))
    wanted = _places((*weights.shape[:-1], count), edges, generator)
    upper = torch.searchsorted(cdf, wanted.contiguous(), right=True).clamp(1, weights.shape[-1])
    both = torch.stack([cdf, edges])
    low, high = (both.gather(-1, place.expand(2, *place.shape)) for place in (upper - 1, upper))
    width = high - low
    share = ((wanted - low[0]) / width[0].clamp(min=1e-12)).clamp(0, 1)
    return torch.addcmul(low[1], width[1], share).detach()


def sum_before(values: Tensor) -> Tensor:
    """(..., S) -> (..., S) sum of all values before each one: 1, 2, 3 gives 0, 1, 3."""
    # a cumulative sum less the value itself would lose, beside a density of 1e6, the second digit of what was before it
    return pad(torch.cumsum(values[..., :-1], dim=-1), (1, 0))


def weights_from_density(density: Tensor, lengths: Tensor) -> Tensor:
    """(..., S) density, lengths -> share of the pixel that each part colours: 1, 1 over ln 2, ln 2 gives 0.5, 0.25."""
    passed = density * -lengths  # logarithm of the light that passes
    return torch.exp(sum_before(passed)) * -torch.expm1(passed)


def render_rays(
    field: FieldFunction,
    rays: Rays,
    aabb: Tensor,
    *,
    sampling: RaySampling | None = None,
    background: Tensor | float = 1.0,
    visible: VisibleFunction | None = None,
    generator: Random | None = None,
    most: int | None = None,
) -> RenderedRays:
    """(R, 3) rays -> what they see of the field, differentiable; a generator jitters samples within their parts.

    most: of the samples that are visible, how many are asked for at a time, the rest being left out: shapes follow from
    it, and the host waits for no count. None asks for all.
    """
    sampling = sampling or RaySampling()
    near, far, _ = intersect_box(rays, aabb, sampling.near)
    looked: list[Tensor] = []

    def ask(distances: Tensor, lengths: Tensor) -> Tensor:
        """(R, S, 4) density and rgb at distances (R, S), 0 where nothing is seen, then perhaps a row of waste."""
        points = torch.addcmul(rays.origins[..., None, :], rays.directions[..., None, :], distances[..., None])
        if visible is None:
            density, rgb = field(points)
            return torch.cat([density[..., None], rgb], dim=-1)
        seen, count = visible(points, lengths).reshape(-1), distances.numel()
        looked.append(seen)
        if most is None:
            chosen = seen.nonzero()[:, 0]
        else:  # places of the first, second, … True; what there is none of goes to a row behind all, and away with it
            wanted = torch.arange(1, min(most, count) + 1, device=seen.device)
            chosen = torch.searchsorted(seen.cumsum(0), wanted)
        density, rgb = field(points.reshape(-1, 3)[chosen.clamp(max=count - 1)])
        some = torch.cat([density[..., None], rgb], dim=-1)
        found = some.new_zeros(count + distances.shape[-1], 4).index_copy_(0, chosen, some)
        return found.view(-1, distances.shape[-1], 4)

    distances = stratified_distances(near, far, sampling.uniform, generator)
    edges = interval_edges(distances, near, far)
    lengths = edges.diff(dim=-1)
    found = ask(distances, lengths)
    if sampling.importance:
        weights = weights_from_density(found.detach()[: len(near), :, 0], lengths)
        further = importance_distances(edges, weights, sampling.importance, generator)
        found = torch.cat([found, ask(further, interval_edges(further, near, far).diff(dim=-1))], dim=-2)
        distances, order = torch.cat([distances, further], dim=-1).sort(dim=-1, stable=True)
        found = found.gather(-2, order[..., None].expand(*order.shape, 4))
        lengths = interval_edges(distances, near, far).diff(dim=-1)
    else:
        found = found[: len(near)]
    density, rgb = found.split((1, 3), dim=-1)
    weights = weights_from_density(density.squeeze(-1), lengths)
    opacity = weights.sum(-1)
    light, depth = (weights[..., None] * torch.cat([rgb, distances[..., None]], dim=-1)).sum(-2).split((3, 1), dim=-1)
    seen = light + (1 - opacity)[..., None] * _background(background, rgb)
    depth = depth.squeeze(-1) / F.threshold(opacity, 1e-6, 1e-6)
    return RenderedRays(seen, opacity, depth, distances, lengths, weights, torch.cat(looked).sum() if looked else None)


def render_views(
    field: FieldFunction,
    aabb: Tensor,
    cameras: Cameras,
    size: int | tuple[int, int],
    *,
    background: Tensor | float = 1.0,
    sampling: RaySampling | None = None,
    visible: VisibleFunction | None = None,
    density: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> RenderedViews:
    """Pictures of `size` (one side, or height and width) from each camera, `chunk` rays or fewer at a time, of which,
    being differentiated, several are not kept but computed anew on the way back.

    Where nothing is seen the field is not asked: as `visible` says, or as its `density` tells when that is given and
    the pictures are large enough to repay the look.
    """
    if not isinstance(size, int) and not (isinstance(size, Sequence) and len(size) == 2):
        raise InputError(f"size must be one number of pixels or (height, width), got {size!r:.40}; give one number")
    height, width = (size, size) if isinstance(size, int) else size
    if sampling is not None:
        check_type("sampling", sampling, RaySampling)
    check_type("cameras", cameras, Cameras, "make some with orbit_cameras")
    if not len(cameras):
        raise InputError("expected at least one camera, got none; make some with orbit_cameras")
    chunk = chunk if chunk is not None else CPU_RAYS if aabb.device.type == "cpu" else RAYS
    for name, value, most in (("size", height, MAX_SIDE), ("size", width, MAX_SIDE), ("chunk", chunk, 2**30)):
        check_count(name, value, 1, most)
    check_unit_range("background", torch.as_tensor(_background(background, aabb)), "1.0 is white")
    cameras = cameras.to(aabb.device)
    rays = camera_rays(cameras, height, width)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)

    samples = RaySampling() if sampling is None else sampling
    asked = len(origins) * (samples.uniform + samples.importance)
    if density is not None and visible is None and asked > 2 * (2 * RENDERED_CELLS) ** 3:
        visible = OccupancyGrid.seen_whole(density, aabb)

    drawn = []
    if generator is not None:
        sizes = [(len(origins), count) for count in (samples.uniform, samples.importance)]
        drawn = [torch.rand(size, generator=generator, device=generator.device).to(aabb) for size in sizes]

    def part(chosen: slice) -> Tensor:
        some, jitter = Rays(origins[chosen], directions[chosen]), iter([each[chosen] for each in drawn])
        options: dict[str, Any] = {"visible": visible, "generator": jitter if drawn else None}
        seen = render_rays(field, some, aabb, sampling=sampling, background=background, **options)
        return torch.cat([seen.rgb, seen.opacity[:, None], seen.depth[:, None]], dim=-1)

    anew = partial(checkpoint, part, use_reentrant=False, preserve_rng_state=False)
    look = anew if torch.is_grad_enabled() and len(origins) > chunk else part
    seen = torch.cat(list(Chunk(chunk, "ray").map(look, len(origins))))
    picture = seen.reshape(len(cameras), height, width, 5).permute(0, 3, 1, 2)
    return RenderedViews(picture[:, :3], picture[:, 3:4], picture[:, 4:5])


def _places(shape: tuple[int, ...], like: Tensor, generator: Random | None) -> Tensor:
    """Ascending places in [0, 1) along the last axis, one in each of as many equal parts: see `_offsets`."""
    return (torch.arange(shape[-1], device=like.device) + _offsets(shape, like, generator)) / shape[-1]


def _offsets(shape: tuple[int, ...], like: Tensor, generator: Random | None) -> Tensor:
    """Places within a part, in [0, 1): its middle, or drawn on the generator's device."""
    if generator is None:
        return torch.full((1,), 0.5, device=like.device, dtype=like.dtype).expand(shape)
    if isinstance(generator, torch.Generator):
        return torch.rand(shape, generator=generator, device=generator.device).to(like)
    return next(generator).to(like).reshape(shape)


def _background(background: Tensor | float, like: Tensor) -> Tensor | float:
    if isinstance(background, int | float):
        return float(background)
    color = (background if isinstance(background, Tensor) else numbers("background", background)).to(like)
    if color.shape not in ((), (3,)):
        raise InputError(f"background must be a number or (3,) RGB, got {tuple(color.shape)}; 1.0 is white")
    return color


class OccupancyGrid(nn.Module):
    """Remembers densities on N³ cells of a box and tells which samples of a ray can be seen: before an update, all.

    Not seen are those in empty cells, and those behind so much that is solid that `hidden_depth` is reached.
    """

    aabb: Tensor
    cells_per_unit: Tensor  # (3,)
    density: Tensor  # (N, N, N), axes x, y, z, as remembered
    occupied: Tensor  # whether a cell or one of its 26 neighbours was last seen denser than `empty`
    solid: Tensor  # the least density of all 27
    hull: Tensor  # where something may be at all; True unless set

    def __init__(self, aabb: Tensor, cells: int, *, empty: float = EMPTY, hidden_depth: float = HIDDEN_DEPTH) -> None:
        super().__init__()
        self.empty, self.hidden_depth = empty, hidden_depth
        self.reach = math.inf  # most of a length that the least density of a sample's neighbourhood is taken for
        shape = (cells, cells, cells)
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        self.register_buffer("cells_per_unit", cells / (self.aabb[1] - self.aabb[0]), persistent=False)
        self.register_buffer("density", torch.zeros(shape, device=aabb.device))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool, device=aabb.device))
        self.register_buffer("solid", torch.zeros(shape, device=aabb.device))
        self.register_buffer("hull", torch.ones(shape, dtype=torch.bool, device=aabb.device), persistent=False)

    @classmethod
    def seen_whole(cls, density: Callable[[Tensor], Tensor], aabb: Tensor) -> "OccupancyGrid":
        """A grid for renders of a field as it is: what it leaves out changes no pixel by more than RENDERED_LOSS."""
        # all that is empty along the box's longest line stops so little light, and so little passes what hides
        depth = math.log(1 / RENDERED_LOSS)
        longest = float((aabb[1] - aabb[0]).norm())
        grid = cls(aabb, RENDERED_CELLS, empty=RENDERED_LOSS / longest, hidden_depth=depth)
        grid.reach = 2 * float((aabb[1] - aabb[0]).min()) / RENDERED_CELLS
        side = torch.arange(2 * RENDERED_CELLS, device=aabb.device)
        fine = grid._looked_at(density, torch.cartesian_prod(side, side, side), None, len(side))[None, None]
        grid.density.copy_(F.max_pool3d(fine, 2)[0, 0])
        grid._settle(-F.max_pool3d(-fine, 2)[0, 0])
        return grid

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], *, generator: Random | None = None) -> None:
        """Asks `density` in every cell of the hull; the greater of news and memory, of which DECAY is left, stays."""
        news = self._looked_at(density, self.cells, generator)
        self.density.copy_(torch.maximum(self.density * DECAY, news))
        self._settle(news)

    @cached_property
    def cells(self) -> Tensor:
        """(N, 3) numbers, along each axis, of the cells in the hull, which must not change once this was asked for."""
        return self.hull.nonzero()

    @torch.no_grad()
    def _looked_at(
        self, density: Callable[[Tensor], Tensor], cells: Tensor, generator: Random | None, side: int | None = None
    ) -> Tensor:
        """(C, C, C) densities in the middles of cells (N, 3) or at places drawn in them, 0 elsewhere; C is `side`."""
        side = side or len(self.density)
        place = cells + _offsets(cells.shape, self.aabb, generator)
        points = self.aabb[0] + (self.aabb[1] - self.aabb[0]) * place / side
        found = torch.cat([density(part) for part in points.split(2**17)]).float()
        number = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
        return found.new_zeros(side**3).index_copy_(0, number, found).reshape(side, side, side)

    def _settle(self, least: Tensor) -> None:
        """What follows from the densities that are remembered, and from the least (N, N, N) of what was seen now."""
        most = F.max_pool3d(self.density[None, None], 3, stride=1, padding=1)[0, 0]
        self.occupied.copy_(~(most <= self.empty) & self.hull)  # NaN counts as occupied, so that a render shows it
        self.solid.copy_((-F.max_pool3d(-least[None, None], 3, stride=1, padding=1)[0, 0]).nan_to_num(0.0))

    @torch.no_grad()
    def forward(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Ascending points (R, S, 3) along rays, with the lengths (R, S) they stand for -> (R, S) bool."""
        cells = len(self.density)
        place = ((points - self.aabb[0]) * self.cells_per_unit).int().clamp_(0, cells - 1)  # of NaN any
        x, y, z = place.reshape(-1, 3).unbind(-1)
        number = z.add(y.add(x, alpha=cells), alpha=cells)
        occupied = self.occupied.reshape(-1).index_select(0, number).reshape(lengths.shape)
        reached = lengths if math.isinf(self.reach) else lengths.clamp(max=self.reach)
        depth = self.solid.reshape(-1).index_select(0, number).reshape(lengths.shape) * reached
        return occupied & (sum_before(depth) < self.hidden_depth)
