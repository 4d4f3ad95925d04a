"""Fitting a radiance field to pictures from known cameras, by random rays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate, max_pool2d, pad

from ..config import FitConfig
from ..geometry import orbit_cameras, point_rays
from ..support.errors import FieldError
from ..support.images import unit_range
from ..types import Cameras, Rays
from .radiance import RadianceField
from .rendering import OccupancyGrid, RenderedRays, render_rays, render_views, sum_before

ROUGH = 64  # places along a picture's sides that are told apart where only the surroundings of its object are drawn
OUTSIDE_POINTS, OUTSIDE_LENGTH = 1024, 0.05  # looked at in a step where silhouettes leave nothing, in scene units

Pictures = Tensor | Sequence[Tensor]  # (N, C, H, W), or N of (C, H, W), each of its own size


def distortion_loss(weights: Tensor, distances: Tensor, lengths: Tensor) -> Tensor:
    """Mean of `sum_ij w_i w_j |t_i - t_j| + sum_i w_i² l_i / 3` over rays, each (R, S) (Barron et al. 2022, eq. 15)."""
    moment = weights * distances
    between = 2 * (moment * sum_before(weights) - weights * sum_before(moment)).sum(-1)
    within = (weights.square() * lengths).sum(-1) / 3
    return (between + within).mean()


def fit_losses(seen: RenderedRays, rgb: Tensor, mask: Tensor | None, weights: Tensor) -> dict[str, Tensor]:
    """The terms of a fit by name, not yet weighted, each a mean over R rays: rgb (R, 3), mask and weights (R,)."""
    opacity = seen.opacity
    losses = {"color": (weights * (seen.rgb - rgb).square().mean(-1)).mean()}
    if mask is not None:
        losses["opacity"] = (weights * (opacity - mask).square()).mean()
    losses["distortion"] = distortion_loss(seen.weights, seen.distances, seen.lengths)
    # within one flat colour pictures do not tell how deep light goes: it is to stop as early as they allow
    losses["depth"] = (opacity.detach() * seen.depth).mean()
    losses["crisp"] = (4 * opacity * (1 - opacity)).mean()  # 0 for rays that meet matter or nothing, 1 for half of both
    return losses


def finite_gradient(total: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Whether (bool) a loss and the gradients of `parameters` are finite; an MLP's tell of all points before it."""
    gradients = [parameter.grad.sum() for parameter in parameters if parameter.grad is not None]
    return torch.isfinite(torch.stack([total.detach(), *gradients])).all()


def not_finite(place: str, terms: Mapping[str, Tensor]) -> str:
    """The sentence for a loss or a gradient that is not finite, with the values of its terms."""
    listed = ", ".join(f"{name} {value.item():.3g}" for name, value in terms.items())
    advice = "use float32 or lower the learning rates, then resume the last state or start again"
    return f"the loss and its gradient must stay finite, but do not at {place} ({listed}); {advice}"


class FieldFitter:
    """Owns the optimiser and the position in a fit, so that a caller can step, stop, save and resume it.

    On a CPU the same seeds and number of threads give the same field to the bit, resumed or not.
    """

    def __init__(
        self,
        field: RadianceField,
        cameras: Cameras,
        rgb: Pictures,
        *,
        mask: Pictures | None = None,
        weights: Pictures | None = None,
        hull: Tensor | None = None,
        config: FitConfig | None = None,
        generator: torch.Generator,
    ) -> None:
        """hull: (C, C, C) of the field's box, 0 where nothing is, below 1 where little is likely; see `set_views`."""
        self.field = field.requires_grad_(True)  # those of `distill` and from files are frozen
        self.config = config or FitConfig()
        self.generator = generator
        self.iteration = 0
        self._begun: Tensor | None = None  # the generator where a step that was broken off began
        samples = self.config.sampling.uniform + self.config.sampling.importance
        self.rays = max(1, min(self.config.rays, self.config.points // samples))
        rates = ((field.grid, self.config.grid_lr), (field.mlp, self.config.mlp_lr))
        self.optimizer = torch.optim.Adam(
            [{"params": list(part.parameters()), "lr": rate} for part, rate in rates],
            betas=(0.9, 0.99),  # of instant-ngp: rows that few rays meet forget their first gradients sooner
            eps=1e-8,  # rows that hardly anything is seen of stay, where a smaller one would have them wander
            fused=field.aabb.device.type in ("cpu", "cuda"),  # one pass over the table, six times faster on a CPU
            capturable=field.aabb.device.type == "cuda",
        )
        cells = self.config.occupancy_cells if hull is None else len(hull)
        self.occupancy = OccupancyGrid(field.aabb, cells) if cells else None
        self._outside: Tensor | None = None
        if hull is not None and self.occupancy is not None:
            self.occupancy.hull.copy_(hull > 0)
            self._outside = (hull < 1).nonzero().to(field.aabb.device)
        self.set_views(cameras, rgb, mask=mask, weights=weights)

    @property
    def done(self) -> bool:
        return self.iteration >= self.config.iterations

    def set_views(
        self, cameras: Cameras, rgb: Pictures, *, mask: Pictures | None = None, weights: Pictures | None = None
    ) -> None:
        """Replaces the pictures that are fitted; field, optimiser and position stay.

        rgb: N of (3, H, W) on white, uint8 or in [0, 1], each of its own size. mask: N of (1, H, W), 1 on the object.
        weights: N of (1, H, W), 1 unless given. A large picture is asked no more often than a small one.
        """
        device = self.field.aabb.device
        self._cameras = cameras.to(device)
        self._sizes = torch.tensor([picture.shape[-2:] for picture in rgb], device=device)
        self._counts = self._sizes.prod(dim=1)
        self._rgb = _by_pixel(rgb, device)
        edges, near, start = [], [], 0
        for index, picture in enumerate(rgb):
            padded = pad(unit_range(picture.to(device)).float()[None], (1, 1, 1, 1), mode="replicate")
            contrast = (max_pool2d(padded, 3, 1) + max_pool2d(-padded, 3, 1)).amax(1)  # between a pixel and neighbours
            edges.append((contrast.reshape(-1) > 0.1).nonzero()[:, 0] + start)
            if self._outside is not None and mask is not None:  # elsewhere the hull has nothing to be seen
                covered = max_pool2d(adaptive_max_pool2d(mask[index][None].to(device).float(), ROUGH), 3, 1, 1)
                near.append((interpolate(covered, picture.shape[-2:]).reshape(-1) > 0).nonzero()[:, 0] + start)
            start += contrast.numel()
        self._edges, self._near = torch.cat(edges), torch.cat(near) if near else None
        self._drawn = torch.tensor([len(some) for some in near], device=device) if near else self._counts
        self._largest = max(map(len, near)) if near else max(picture.shape[-2:].numel() for picture in rgb)
        self._mask = None if mask is None else _by_pixel(mask, device)
        self._weights = None if weights is None else _by_pixel(weights, device)

    def step(self) -> dict[str, Tensor]:
        """One step on random rays -> unweighted loss terms; FieldError, and no step, where a gradient is not finite."""
        config, on_cuda = self.config, self.field.aabb.device.type == "cuda"
        progress = self.iteration / max(config.iterations - 1, 1)
        rates = [rate * config.final_lr**progress for rate in (config.grid_lr, config.mlp_lr)]
        steered = [progress, progress**2, *rates]
        due = self.iteration % config.occupancy_every == 0
        looks = self.occupancy is not None and due and self._begun is None
        drawn, begun = self._drawn_numbers(looks, steered)
        if self.occupancy is not None and looks:
            self.occupancy.update(self.field.density, generator=drawn)
        self._begun = begun
        losses, told = self.advance(drawn, steered)
        finite, asked = told.tolist()  # with the numbers' way to it all that the host waits for a GPU
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)
            raise FieldError(not_finite(f"step {self.iteration + 1} of the fit", losses))
        if not on_cuda:
            self.optimizer.step()
        self.iteration += 1
        self.rays = max(1, min(config.rays, 2 * self.rays, int(self.rays * config.points // max(asked, 1))))
        return losses

    def advance(self, drawn: Iterator[Tensor], steered: Sequence[float]) -> tuple[dict[str, Tensor], Tensor]:
        """A step from numbers that were drawn: loss terms, and (2,) whether all is finite, and points asked for.

        On CUDA the host waits for nothing in it, so that a graph can hold it, and the optimiser steps if all is finite;
        elsewhere that is the caller's. steered: weights of depth and crispness, and both rates; on CUDA drawn's last.
        """
        config, on_cuda = self.config, self.field.aabb.device.type == "cuda"
        pixels = self._pixels(drawn)
        rays, looked = self._rays(pixels), []

        def visible(points: Tensor, lengths: Tensor) -> Tensor:
            assert self.occupancy is not None, "else all is visible"
            seen: Tensor = self.occupancy(points, lengths)
            looked.append(seen.sum())
            return seen

        skips, most = self.occupancy is not None, None if self.field.aabb.is_cpu else 2 * config.points
        options: dict[str, Any] = {"visible": visible if skips else None, "generator": drawn, "most": most}
        seen = render_rays(self.field, rays, self.field.aabb, sampling=config.sampling, **options)
        mask = None if self._mask is None else unit_range(self._mask[pixels])[:, 0]
        counts = torch.ones_like(rays.origins[:, 0]) if self._weights is None else self._weights[pixels, 0]
        losses = fit_losses(seen, unit_range(self._rgb[pixels]), mask, counts)
        if self._outside is not None and len(self._outside):
            assert self.occupancy is not None, "it has the cells"
            low, high = self.field.aabb  # the light that OUTSIDE_LENGTH stops at random places where nothing is
            place = self._outside[next(drawn)] + next(drawn).reshape(-1, 3)
            density = self.field.density(low + (high - low) * place / len(self.occupancy.hull))
            losses["outside"] = -torch.expm1(-OUTSIDE_LENGTH * density).mean()
        depth, crisp, *rates = next(drawn).unbind() if on_cuda else steered
        weights = {name: getattr(config, f"{name}_weight") for name in losses}
        weights["depth"] *= depth
        weights["crisp"] *= crisp
        total = sum(weights[name] * value for name, value in losses.items())
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._begun = None
        progress = self.iteration / max(config.iterations - 1, 1)
        if progress < config.coarse_share:
            rows, gradient = self.field.config.grid.rows, self.field.grid.table.grad
            assert gradient is not None, "it went backward"
            gradient[sum(rows[: 2 + int((len(rows) - 2) * progress / config.coarse_share)]) :] = 0
        finite = finite_gradient(total, list(self.field.mlp.parameters()))
        if on_cuda:
            setattr(self.optimizer, "found_inf", (~finite).float())  # noqa: B010 - torch's own: where set, no step is made
            self.optimizer.step()
        asked = torch.stack(looked).sum() if skips else torch.full_like(total, seen.weights.numel())
        return {name: value.detach() for name, value in losses.items()}, torch.stack([finite, asked]).detach()

    def _drawn_numbers(self, looks: bool, steered: Sequence[float]) -> tuple[Iterator[Tensor], Tensor]:
        """All random numbers of a step, in the order of their use, and the generator's state before the pixels'.

        They, and what steers the step, go to a GPU as one.
        """
        source: dict[str, Any] = {"generator": self.generator, "device": self.generator.device}
        samples, device = self.config.sampling, self._edges.device
        from_edges = round(self.rays * self.config.edge_share) if len(self._edges) else 0
        drawn = [torch.rand(len(self.occupancy.cells), 3, **source)] if looks and self.occupancy is not None else []
        begun = self.generator.get_state()
        drawn.append(torch.randint(self._largest * len(self._drawn), (self.rays - from_edges,), **source))
        if from_edges:
            drawn.append(torch.randint(len(self._edges), (from_edges,), **source))
        drawn += [torch.rand(self.rays, count, **source) for count in (samples.uniform, samples.importance) if count]
        if self._outside is not None and len(self._outside):
            drawn.append(torch.randint(len(self._outside), (OUTSIDE_POINTS,), **source))
            drawn.append(torch.rand(OUTSIDE_POINTS, 3, **source))
        if device == self.generator.device and device.type != "cuda":
            return iter(drawn), begun
        drawn.append(torch.tensor(steered, dtype=torch.float32, device=self.generator.device))
        whole = [each.dtype == torch.int64 for each in drawn]
        order = sorted(range(len(drawn)), key=lambda index: not whole[index])  # those of 8 bytes first
        flat = [drawn[i].view(torch.float32) if whole[i] else drawn[i].float().reshape(-1) for i in order]
        parts = torch.cat(flat).to(device).split([len(part) for part in flat])
        sent = dict(zip(order, parts, strict=True))
        return iter([sent[i].view(torch.int64) if whole[i] else sent[i] for i in range(len(drawn))]), begun

    def _pixels(self, drawn: Iterator[Tensor]) -> Tensor:
        """(rays,) numbers of pixels, as many of each picture and, for `edge_share` of them, from those on edges."""
        place, counts, largest = next(drawn), self._drawn, self._largest
        view = place // largest
        pixels = (counts.cumsum(0) - counts)[view] + place % largest * counts[view] // largest
        if self._near is not None:
            pixels = self._near[pixels.clamp(max=len(self._near) - 1)]
        return torch.cat([pixels, self._edges[next(drawn)]]) if len(pixels) < self.rays else pixels

    def _rays(self, pixels: Tensor) -> Rays:
        """(R, 3) rays through the centres of the pixels of these numbers."""
        ends = self._counts.cumsum(0)
        view = torch.searchsorted(ends, pixels, right=True)
        place = pixels - (ends - self._counts)[view]
        height, width = self._sizes[view].unbind(-1)
        x, y = 1 - (2 * (place % width) + 1) / width, 1 - (2 * (place // width) + 1) / height
        return point_rays(self._cameras[view], torch.stack([x, y], dim=-1))

    @torch.no_grad()
    def preview(self, size: int = 64) -> Tensor:
        """(3, size, size) picture of the field as it is, from where photo 1 stands."""
        camera, sampling = orbit_cameras(0.0), self.config.sampling
        views = render_views(self.field, self.field.aabb, camera, size, sampling=sampling, visible=self.occupancy)
        return views.rgb[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything to resume from: field, optimiser, occupancy, generator, position. The views are the caller's."""
        state = {"iteration": self.iteration, "rays": self.rays, "field": self.field.state_dict()}
        generator = self.generator.get_state() if self._begun is None else self._begun
        state |= {"optimizer": self.optimizer.state_dict(), "generator": generator, "begun": self._begun is not None}
        return state | {"occupancy": None if self.occupancy is None else self.occupancy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave; the config and the views must be the same as then."""
        self.field.load_state_dict(state["field"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.occupancy is not None:
            self.occupancy.load_state_dict(state["occupancy"])
        self.generator.set_state(state["generator"].cpu())
        self.iteration, self.rays = state["iteration"], state["rays"]
        self._begun = self.generator.get_state() if state.get("begun") else None


def _by_pixel(pictures: Pictures, device: torch.device) -> Tensor:
    """N of (C, H, W) -> (sum of H·W, C) on `device`, on memory of their own: float32, or uint8 if any of them is."""
    small = any(picture.dtype == torch.uint8 for picture in pictures)
    rows = []
    for picture in pictures:
        values = picture.detach().to(device)
        if small:
            values = values if values.dtype == torch.uint8 else (values.float() * 255).round().clamp(0, 255).byte()
        rows.append(values.to(torch.uint8 if small else torch.float32).permute(1, 2, 0).reshape(-1, len(picture)))
    return torch.cat(rows)
