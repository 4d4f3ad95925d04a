"""Drawing colours: a palette, the coats made of it, the light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .primitives import dot
from .shapes import CHECKS, COATS, DOTS, GRADIENT, HELD_OUT_PATTERN, NOISE, PLAIN, STRIPES, TWO_TONE, Coats, Light
from .sketch import Draws

_BODY_WEIGHTS = {PLAIN: 1.6, STRIPES: 1.2, CHECKS: 0.9, GRADIENT: 0.8, NOISE: 1.0, TWO_TONE: 0.9}
_OTHER_WEIGHTS = {PLAIN: 5.0, STRIPES: 0.7, CHECKS: 0.4, GRADIENT: 0.6, NOISE: 0.4, TWO_TONE: 0.5}
assert HELD_OUT_PATTERN == DOTS
assert DOTS not in _BODY_WEIGHTS | _OTHER_WEIGHTS


def draw_palette(draws: Draws) -> Tensor:
    """(B, 4, 3) colours: main, a clearly different accent, a quiet or dark third, a bright fourth."""
    hue = draws.unit()
    main = _rgb(hue, draws.uniform(0.45, 0.9), draws.uniform(0.6, 0.98))
    accent = _rgb(hue + draws.uniform(0.25, 0.75), draws.uniform(0.4, 0.9), draws.uniform(0.6, 0.98))
    quiet, tone = draws.choice([1, 1, 0.8]), draws.unit()
    gray = _rgb(draws.unit(), 0.08, 0.25 + 0.6 * tone)
    wood = _rgb(0.06 + 0.05 * draws.unit(), 0.55, 0.45 + 0.4 * tone)
    dark = _rgb(draws.unit(), 0.4, 0.2 + 0.2 * tone)
    third = torch.stack([gray, wood, dark], dim=1)[torch.arange(len(draws)), quiet]
    fourth = _rgb(hue + draws.uniform(0.1, 0.9), draws.uniform(0.5, 1.0), draws.uniform(0.65, 0.98))
    pale = draws.chance(0.2)[:, None]
    main = torch.where(pale, _rgb(hue, 0.1, draws.uniform(0.75, 0.88)), main)
    return torch.stack([main, accent, third, fourth], dim=1)


def _rgb(hue: Tensor, saturation: float | Tensor, value: float | Tensor) -> Tensor:
    """(B,) hue in turns, saturation and value in [0, 1] -> (B, 3)."""
    corner = torch.stack([(hue * 6 + offset) % 6 for offset in (0.0, 4.0, 2.0)], dim=-1)
    pure = ((corner - 3).abs() - 1).clamp(0, 1)
    saturation, value = (torch.as_tensor(v).expand_as(hue)[..., None] for v in (saturation, value))
    return value * (1 - saturation * (1 - pure))


def draw_light(draws: Draws) -> Light:
    """A soft light from above one side, a little warm or cold."""
    azimuth, height = 2 * math.pi * draws.unit(), torch.deg2rad(draws.uniform(20, 75))
    flat = height.cos()
    direction = torch.stack([flat * azimuth.sin(), height.sin(), flat * azimuth.cos()], dim=-1)
    warmth = draws.uniform(-0.05, 0.05)
    tint = torch.stack([1 + warmth.clamp_max(0), 1 - warmth.abs() / 2, 1 - warmth.clamp_min(0)], dim=-1)
    return Light(direction, draws.uniform(0.45, 0.65), tint)


def draw_coats(draws: Draws, palette: Tensor, colors: Tensor, dotted: Tensor) -> Coats:
    """Coats of B objects whose parts have the palette's colours (B, P); equal colours wear equal coats, as legs do.

    Where `dotted`, the main colour wears the held-out pattern; nothing else ever does.
    """
    mains = []
    for color in range(4):
        weights = _BODY_WEIGHTS if color in (0, 3) else _OTHER_WEIGHTS
        pattern = draws.choice(list(weights.values()))
        pattern = torch.where(dotted, DOTS, pattern) if color == 0 else pattern
        mains.append(_coat(draws, palette, torch.full((len(draws),), color), pattern, 1.0))
    label = _coat(draws, palette, 1 + draws.choice([1, 1, 1]), draws.choice(list(_BODY_WEIGHTS.values())), 0.7)
    inside = _coat(draws, palette, draws.choice([1.5, 0.5, 0.8]), torch.full((len(draws),), PLAIN), 1.0)
    inside = (inside[0], inside[1] * 0.75, *inside[2:])
    rows = torch.arange(len(draws))[:, None]
    chosen = []
    for field in range(6):
        outside = torch.stack([coat[field] for coat in mains], dim=1)[rows, colors]  # (B, P, ...)
        others = [coat[field][:, None].expand_as(outside) for coat in (label, inside)]
        chosen.append(torch.stack([outside, *others], dim=2))
    assert chosen[0].shape[2] == COATS
    return Coats(*chosen)


def _coat(draws: Draws, palette: Tensor, color: Tensor, pattern: Tensor, period: float) -> tuple[Tensor, ...]:
    """Fields of `Coats` without the parts' axis, for one coat of each object."""
    rows, count = torch.arange(len(draws)), len(draws)
    other = (color + 1 + draws.choice([1, 1, 1])) % 4
    shade = draws.uniform(0.35, 0.65)[:, None]  # now and then a darker tone of the same colour
    first = palette[rows, color]
    second = torch.where(draws.chance(0.3)[:, None], first * shade, palette[rows, other])
    straight, rotation = draws.chance(0.6), draws.rotation()
    axes = torch.where(straight[:, None, None], torch.eye(3)[:2].expand(count, 2, 3), rotation[:, :2])
    frequency = 1 / (draws.uniform(0.045, 0.12) * period)
    frequency = torch.where(pattern == GRADIENT, draws.uniform(5.0, 10.0) * draws.side(), frequency)
    frequency = torch.where(pattern == NOISE, frequency * 0.5, frequency)
    around = draws.chance(0.5) | (pattern == DOTS)
    turns = torch.where(around, torch.round(draws.uniform(3, 9)), 0.0)
    return pattern, torch.stack([first, second], dim=1), axes, frequency, draws.unit(), turns


EDGE = 5.0  # steepness of the edges in a pattern: a step takes about 1 / (pi·EDGE) of its period
DOT_RADIUS = 0.32  # in periods
LIGHT_STRENGTH = 1.12  # of a surface that faces the light; above 1 colours are clipped there

# directions of the sines whose sum is the noise, in periods
_WAVES = ((1.0, 0.31, -0.57), (-0.43, 0.93, 0.38), (0.29, -0.71, 1.13), (0.83, 0.67, 0.47))


def coat_colors(pattern: Tensor, coats: Tensor, points: Tensor) -> Tensor:
    """(3, N) colours in [0, 1] without light.

    pattern: (N,) index into PATTERNS. coats: (15, N) two colours, directions u and v, frequency, phase, turns (see
    `Coats`). points: (3, N) in the frame of the part's first primitive.
    """
    first, second, u, v = coats[0:3], coats[3:6], coats[6:9], coats[9:12]
    frequency, phase, turns = coats[12], coats[13], coats[14]
    w = torch.linalg.cross(u, v, dim=0)
    around = turns > 0
    length_v = dot(v, points)
    across = torch.where(around, turns / (2 * math.pi) * torch.atan2(points[0], points[2]), frequency * dot(u, points))
    up = torch.where(around, frequency * points[1], frequency * length_v) + phase
    deep = torch.where(around, 0.25, frequency * dot(w, points) + 0.25)  # a quarter: no sign change
    checks = (2 * _square(across) - 1) * (2 * _square(up) - 1) * (2 * _square(deep) - 1)
    x, y = across - torch.floor(across) - 0.5, up - torch.floor(up) - 0.5  # from the middle of a dot
    dots = (0.5 + EDGE * 2 * (DOT_RADIUS - (x * x + y * y).sqrt())).clamp(0, 1)
    edge = 0.5 + 25 * frequency * (length_v - 0.05 * (phase - 0.5))
    shares = {STRIPES: _square(up), CHECKS: 0.5 + 0.5 * checks, DOTS: dots, TWO_TONE: edge.clamp(0, 1)}
    shares |= {GRADIENT: (0.5 + frequency * length_v / 2).clamp(0, 1), NOISE: _noise(frequency * points + phase)}
    share = torch.zeros_like(up)
    for which, value in shares.items():
        share = torch.where(pattern == which, value, share)
    return first + share * (second - first)


def lit(colors: Tensor, normals: Tensor, light: Tensor) -> Tensor:
    """(3, N) colours under soft light: a share reaches every surface, the rest half of those turned away too.

    colors: (3, N). normals: (3, N) unit, world. light: (7, N) direction, ambient, tint.
    """
    facing = (0.5 + 0.5 * dot(normals, light[:3])).clamp(0, 1)
    strength = light[3] + (LIGHT_STRENGTH - light[3]) * facing * facing.sqrt()
    return (colors * light[4:] * strength).clamp(0, 1)


def _square(periods: Tensor) -> Tensor:
    """A square wave in [0, 1] with soft edges."""
    return (0.5 + EDGE / 2 * torch.sin(2 * math.pi * periods)).clamp(0, 1)


def _noise(periods: Tensor) -> Tensor:
    """Blotches: sines in four directions, each bending the next."""
    total, bend = torch.zeros_like(periods[0]), torch.zeros_like(periods[0])
    for x, y, z in _WAVES:
        bend = torch.sin(2 * math.pi * (x * periods[0] + y * periods[1] + z * periods[2]) + 1.7 * bend + total)
        total = total + bend
    return (0.5 + 0.6 * total).clamp(0, 1)
