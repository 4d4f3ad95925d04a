"""What version 2 of the generator adds: objects drawn out, flattened and moved under several lights; photos of people.

Version 1's objects fill their frame in front of its one camera. Here each is stretched and placed by numbers of its
own (`staged`), and a view may be a photo (`photographing`, `developed`) in place of a clean picture. A photo's true
camera is told to nobody: it is taken for the nominal one, of focal 4.5 at distance 1, as people's photos are.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..types import REFERENCE_FOCAL
from .shapes import LARGEST_RADIUS, Objects, Staging, outlines
from .sketch import Draws, about, vector

STAGING_COLUMNS = 48  # uniform numbers that an object has for all of this
PHOTO_COLUMNS = 15  # and each view
FILLS = 2

SIZES = (0.75, 1.15)  # beside version 1's largest, as far as the frame holds them
OFF_CENTER = 0.04  # of the picture's side, at most
FOCALS = (2.5, 6.0)
WHITES = (235 / 255, 1.0)
FRAME_RADIUS = 1 / math.hypot(REFERENCE_FOCAL, 1)  # of the ball about the origin that the nominal camera just holds
_THINNEST = 0.2  # of a side of what is drawn out, beside its longest


def staged(objects: Objects, draws: Draws) -> Objects:
    """Objects of version 1 as version 2 shows them, whole in every clean view."""
    # drawn out to rods, flattened, or nearly as they were; as they stood, or turned and leaning
    kind, slight = draws.choice([0.35, 0.1, 0.55]), [draws.uniform(0.65, 1.0) for _ in range(2)]
    small = [torch.exp(math.log(_THINNEST) * (1 - draws.unit()) + math.log(0.7) * draws.unit()) for _ in range(2)]
    scale = vector(1, torch.where(kind == 2, slight[0], small[0]), torch.where(kind == 0, small[1], slight[1]))
    order = torch.stack([draws.unit() for _ in range(3)], dim=1).argsort(1)
    turn = about("y", 2 * math.pi * draws.unit()) @ about("z", draws.uniform(-0.6, 0.6))
    turn = torch.where(draws.chance(0.25)[:, None, None], turn, torch.eye(3))
    stretch = turn @ torch.diag_embed(scale.gather(1, order))

    points, pads, seen = outlines(objects)
    points = points @ stretch[:, None].transpose(-1, -2)
    pads = pads[..., None] * stretch.norm(dim=-1)[:, None, None]  # a ball's half extents along the world's axes
    low = (points - pads).masked_fill(~seen[..., None], math.inf).amin((1, 2))
    high = (points + pads).masked_fill(~seen[..., None], -math.inf).amax((1, 2))
    middle = (low + high) / 2
    reach = ((points - middle[:, None, None]).abs() + pads).norm(dim=-1).masked_fill(~seen, 0).amax((1, 2))
    radius = _radius(draws.unit())
    scale = (radius / reach)[:, None]
    aside = (2 * OFF_CENTER / REFERENCE_FOCAL * draws.unit()).minimum(FRAME_RADIUS - radius)
    shift = draws.rotation()[:, 0] * aside[:, None]
    inward = torch.linalg.inv(stretch * scale[..., None])

    # further lights from anywhere but far below; the first one weaker for them, with more or less all round
    fills, total = [], torch.zeros(len(draws))
    for _ in range(FILLS):
        azimuth, height = 2 * math.pi * draws.unit(), torch.deg2rad(draws.uniform(-15, 80))
        flat, strength, warmth = height.cos(), draws.uniform(-0.15, 0.45).clamp_min(0), draws.uniform(-0.12, 0.12)
        tint = vector(1 + warmth.clamp_max(0), 1 - warmth.abs() / 2, 1 - warmth.clamp_min(0)) * strength[:, None]
        fills.append(torch.cat([vector(flat * azimuth.sin(), height.sin(), flat * azimuth.cos()), tint], dim=1))
        total = total + strength
    exposure = (draws.uniform(0.85, 1.1) - 0.6 * total)[:, None]
    light = replace(objects.light, ambient=draws.uniform(0.35, 1.0), tint=objects.light.tint * exposure)
    # many things are grey, white or black: an object's colours all paler or stronger, brighter or darker
    colors, shape = objects.coats.colors, (-1, *(1,) * (objects.coats.colors.ndim - 1))
    saturation = torch.where(draws.chance(0.5), draws.uniform(0.05, 0.5), draws.uniform(0.7, 1.7)).view(shape)
    grey, power = colors.mean(-1, keepdim=True), torch.exp(draws.uniform(-1.3, 0.6)).view(shape)
    coats = replace(objects.coats, colors=(grey + saturation * (colors - grey)).clamp(0, 1) ** power)
    staging = Staging(inward, shift - scale * middle, shift, radius, torch.stack(fills, dim=1))
    return replace(objects, coats=coats, light=light, staging=staging)


def _radius(share: Tensor) -> Tensor:
    """Of the ball that holds an object, uniform in the area that it covers."""
    least, most = (size**2 for size in SIZES)
    return LARGEST_RADIUS * (least + (most - least) * share).sqrt().clamp_max(FRAME_RADIUS / LARGEST_RADIUS)


def photographing(
    camera_to_world: Tensor, staging: Staging, draws: Tensor, framed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Nominal cameras (B, N, 4, 4) -> those people took photos by, and their focal and principal (B, N, 2).

    The distance goes with the focal length, so that the ball that the nominal camera just holds fills the frame:
    nothing is cut off, however near.

    Args:
        staging: of the objects. draws: (B, N, PHOTO_COLUMNS) uniform numbers.
        framed: the first so many may become photo 1, whose nominal camera is the world: they keep their frame but for
            focal length and distance, the others have a size and a middle of their own.
    """
    focal, size, *aside = draws[..., :4].unbind(-1)
    focal = FOCALS[0] + (FOCALS[1] - FOCALS[0]) * focal
    distance = FRAME_RADIUS * torch.hypot(focal, torch.ones_like(focal))
    free = torch.arange(focal.shape[1], device=focal.device) >= framed
    radius = _radius(size)
    room = 1 - focal * radius / (distance.square() - radius.square()).sqrt()  # beside the ball of the object
    principal = (2 * torch.stack(aside, dim=-1) - 1) * (room.clamp(0, 2 * OFF_CENTER) * free)[..., None]
    distance = torch.where(free, distance * staging.radius[:, None] / radius, distance)
    matrices, pivot = camera_to_world.clone(), staging.middle[:, None] * free[:, None]
    matrices[..., :3, 3] = pivot + matrices[..., :3, 2] * distance[..., None]
    return matrices, focal[..., None].expand(*focal.shape, 2), principal


def developed(rgb: Tensor, mask: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Clean pictures (B, N, 3, S, S) and masks (B, N, 1, S, S) -> the photos, and the masks people have of them.

    Half are cut out of the colour behind them along a mask that is up to a pixel too wide or too narrow, here and
    there; half stand before a white that is none. draws: as of `photographing`.
    """
    cut, white, bias, uneven, *waves = draws[..., 4:12, None, None, None].unbind(2)
    scene = draws[..., 12:15, None, None]
    axis = torch.linspace(0, 2 * math.pi, mask.shape[-1], device=mask.device)
    across, down = (1 + 4 * waves[0]) * axis, (1 + 4 * waves[1]) * axis[:, None]
    ripple = torch.sin(across + 2 * math.pi * waves[2]) * torch.sin(down + 2 * math.pi * waves[3])
    off = (bias - 0.5 + uneven * ripple).clamp(-1, 1)  # pixels, about
    wide, narrow = (max_pool2d(some.flatten(0, 1), 3, 1, 1).view_as(mask) for some in (mask, 1 - mask))
    ragged = mask + off.clamp_min(0) * (wide - mask) - off.clamp_max(0).neg() * (mask - 1 + narrow)
    is_cut = cut < 0.5
    behind = torch.where(is_cut, scene, WHITES[0] + (WHITES[1] - WHITES[0]) * white)
    photo = rgb - (1 - mask) * (1 - behind)
    return torch.where(is_cut, photo * ragged + (1 - ragged), photo), torch.where(is_cut, ragged, mask)
