"""Fitting a radiance field to pictures from known cameras, by random rays."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate, max_pool2d, mse_loss, pad

from ..config import FitConfig
from ..geometry import orbit_cameras, point_rays
from ..support.errors import FieldError
from ..support.images import unit_range
from ..types import Cameras, Rays, derived
from .radiance import RadianceField
from .rendering import OccupancyGrid, RenderedRays, render_rays, render_views, sum_before

ROUGH = 64  # places along a picture's sides that are told apart where only the surroundings of its object are drawn
TERMS = ("color", "opacity", "distortion", "depth", "crisp", "outside")
OUTSIDE_POINTS, OUTSIDE_LENGTH = 1024, 0.05  # looked at in a step where silhouettes leave nothing, in scene units

Pictures = Tensor | Sequence[Tensor]  # (N, C, H, W), or N of (C, H, W), each of its own size


def distortion_loss(weights: Tensor, distances: Tensor, lengths: Tensor) -> Tensor:
    """(R,) `sum_ij w_i w_j |t_i - t_j| + sum_i w_i² l_i / 3` of rays (R, S) (Barron et al. 2022, eq. 15)."""
    with torch.no_grad():  # the gradient: it times the weights is twice the sum, being quadratic in them
        both = torch.stack([weights, weights * distances])
        beside = both.sum(-1, keepdim=True).sub(sum_before(both), alpha=2) - both  # all after less all before
        apart = torch.addcmul(beside[1], distances, beside[0], value=-1)  # sum_j w_j |t_i - t_j|
        slope = 2 * torch.addcmul(apart, weights, lengths, value=1 / 3)
    twice = (weights * slope).sum(-1)
    return twice.sub(twice.detach(), alpha=0.5)


def fit_losses(seen: RenderedRays, rgb: Tensor, mask: Tensor | None, weights: Tensor) -> dict[str, Tensor]:
    """The terms of a fit by name, not yet weighted, each a mean over R rays: rgb (R, 3), mask and weights (R,)."""
    opacity = seen.opacity
    terms = {"color": weights * mse_loss(seen.rgb, rgb, reduction="none").mean(-1)}
    if mask is not None:
        terms["opacity"] = weights * mse_loss(opacity, mask, reduction="none")
    terms["distortion"] = distortion_loss(seen.weights, seen.distances, seen.lengths)
    # within one flat colour pictures do not tell how deep light goes: it is to stop as early as they allow
    terms["depth"] = opacity.detach() * seen.depth
    terms["crisp"] = 4 * opacity * (1 - opacity)  # 0 for rays that meet matter or nothing, 1 for half of both
    return dict(zip(terms, torch.stack(list(terms.values())).mean(-1).unbind(), strict=True))


def finite_gradient(total: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Whether (bool) a loss and the gradients of `parameters` are finite; an MLP's tell of all points before it."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.stack(torch._foreach_norm([total.detach(), *gradients], math.inf)).amax() < math.inf


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
            self._cell = 2 * field.config.half_extent / cells
            self._outside = ((hull < 1).nonzero() * self._cell - field.config.half_extent).to(generator.device)
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
        self._cameras = torch.cat([value.flatten(1) for value in vars(cameras).values()], dim=1).to(device)
        sizes = torch.tensor([picture.shape[-2:] for picture in rgb])
        counts = sizes.prod(dim=1, keepdim=True)
        ends = counts.cumsum(0)
        self._ends, self._frames = ends[:, 0].to(device), torch.cat([ends - counts, sizes.flip(1)], dim=1).to(device)
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
        asked = torch.tensor([[len(some)] for some in near]) if near else counts
        self._drawn = torch.cat([asked.cumsum(0) - asked, asked], dim=1).to(device)  # first place, and how many
        self._largest = max(map(len, near)) if near else max(picture.shape[-2:].numel() for picture in rgb)
        self._mask = None if mask is None else _by_pixel(mask, device)
        self._weights = None if weights is None else _by_pixel(weights, device)
        lacks = {"opacity": mask is None, "outside": self._outside is None or not len(self._outside)}
        self._terms = [name for name in TERMS if not lacks.get(name)]

    def step(self) -> dict[str, Tensor]:
        """One step on random rays -> unweighted loss terms; FieldError, and no step, where a gradient is not finite."""
        config, on_cuda = self.config, self.field.aabb.device.type == "cuda"
        progress = self.iteration / max(config.iterations - 1, 1)
        shares = {"depth": progress, "crisp": progress**2}
        rates = [rate * config.final_lr**progress for rate in (config.grid_lr, config.mlp_lr)]
        steered = [*(getattr(config, f"{name}_weight") * shares.get(name, 1) for name in self._terms), *rates]
        due = self.iteration % config.occupancy_every == 0
        looks = self.occupancy is not None and due and self._begun is None
        drawn, begun = self._drawn_numbers(looks, steered)
        if self.occupancy is not None and looks:
            self.occupancy.update(self.field.density, generator=drawn)
        self._begun = begun
        losses, told = self.advance(drawn)
        finite, asked = told.tolist()  # with the numbers' way to it all that the host waits for a GPU
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)
            raise FieldError(not_finite(f"step {self.iteration + 1} of the fit", losses))
        if not on_cuda:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self.optimizer.step()
        self.iteration += 1
        self.rays = max(1, min(config.rays, 2 * self.rays, int(self.rays * config.points // max(asked, 1))))
        return losses

    def advance(self, drawn: Iterator[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """A step from numbers that were drawn: loss terms, and (2,) whether all is finite, and points asked for.

        On CUDA the host waits for nothing in it, so that a graph can hold it, and the optimiser steps if all is finite;
        elsewhere that is the caller's. The last of drawn are the weights of the terms, and both rates.
        """
        config, on_cuda = self.config, self.field.aabb.device.type == "cuda"
        pixels = self._pixels(drawn)
        rays, apart = self._rays(pixels), list[Tensor]()
        nowhere = next(drawn).reshape(-1, 3) if "outside" in self._terms else None

        def field(points: Tensor) -> tuple[Tensor, Tensor]:
            """The field's; the first time it is asked `nowhere` too, which spares a pass of its own."""
            joined = points if nowhere is None or apart else torch.cat([points, nowhere])
            density, rgb = self.field(joined)
            if joined is not points:
                density, beyond = density.split((len(points), OUTSIDE_POINTS))
                rgb = rgb[: len(points)]
                apart.append(beyond)
            return density, rgb

        most = None if self.field.aabb.is_cpu else 2 * config.points
        options: dict[str, Any] = {"sampling": config.sampling, "visible": self.occupancy, "most": most}
        seen = render_rays(field, rays, self.field.aabb, generator=drawn, **options)
        mask = None if self._mask is None else unit_range(self._mask[pixels])[:, 0]
        counts = torch.ones_like(rays.origins[:, 0]) if self._weights is None else self._weights[pixels, 0]
        losses = fit_losses(seen, unit_range(self._rgb[pixels]), mask, counts)
        if apart:  # the light that OUTSIDE_LENGTH stops there
            losses["outside"] = -torch.expm1(-OUTSIDE_LENGTH * apart[0]).mean()
        steered = next(drawn)
        total = torch.stack(list(losses.values())) @ steered[:-2]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._begun = None
        progress = self.iteration / max(config.iterations - 1, 1)
        if progress < config.coarse_share:
            rows, gradient = self.field.config.grid.rows, self.field.grid.table.grad
            assert gradient is not None, "it went backward"
            gradient[sum(rows[: 2 + int((len(rows) - 2) * progress / config.coarse_share)]) :].zero_()
        finite = finite_gradient(total, list(self.field.mlp.parameters()))
        if on_cuda:
            for group, rate in zip(self.optimizer.param_groups, steered[-2:].unbind(), strict=True):
                group["lr"] = rate
            setattr(self.optimizer, "found_inf", (~finite).float())  # noqa: B010 - torch's own: where set, no step is made
            self.optimizer.step()
        asked = torch.full_like(total, seen.weights.numel()) if seen.asked is None else seen.asked
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
        jitter = [torch.rand(self.rays, count, **source) for count in (samples.uniform, samples.importance) if count]
        if self._outside is not None and "outside" in self._terms:
            cells = self._outside[torch.randint(len(self._outside), (OUTSIDE_POINTS,), **source)]
            drawn.append(cells + self._cell * torch.rand(OUTSIDE_POINTS, 3, **source))
        drawn += [*jitter, torch.tensor(steered, dtype=torch.float32, device=self.generator.device)]
        if device == self.generator.device and device.type != "cuda":
            return iter(drawn), begun
        whole = [each.dtype == torch.int64 for each in drawn]
        order = sorted(range(len(drawn)), key=lambda index: not whole[index])  # those of 8 bytes first
        flat = [drawn[i].view(torch.float32) if whole[i] else drawn[i].float().reshape(-1) for i in order]
        parts = torch.cat(flat).to(device).split([len(part) for part in flat])
        sent = dict(zip(order, parts, strict=True))
        return iter([sent[i].view(torch.int64) if whole[i] else sent[i] for i in range(len(drawn))]), begun

    def _pixels(self, drawn: Iterator[Tensor]) -> Tensor:
        """(rays,) numbers of pixels, as many of each picture and, for `edge_share` of them, from those on edges."""
        place, largest = next(drawn), self._largest
        first, count = self._drawn[place // largest].unbind(-1)
        pixels = first + place % largest * count // largest
        if self._near is not None:
            pixels = self._near[pixels.clamp(max=len(self._near) - 1)]
        return torch.cat([pixels, self._edges[next(drawn)]]) if len(pixels) < self.rays else pixels

    def _rays(self, pixels: Tensor) -> Rays:
        """(R, 3) rays through the centres of the pixels of these numbers."""
        view = torch.searchsorted(self._ends, pixels, right=True)
        first, size = self._frames[view].split((1, 2), dim=-1)
        place, width = pixels[:, None] - first, size[:, :1]
        column_and_row = torch.cat([place % width, place // width], dim=-1)
        matrix, focal, principal = self._cameras[view].split((16, 2, 2), dim=-1)
        cameras = derived(Cameras, camera_to_world=matrix.unflatten(-1, (4, 4)), focal=focal, principal=principal)
        return point_rays(cameras, 1 - (2 * column_and_row + 1) / size)

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
