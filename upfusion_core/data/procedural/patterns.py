"""Colours of surface points: patterns of two colours, and soft light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .primitives import dot
from .shapes import CHECKS, DOTS, GRADIENT, NOISE, STRIPES, TWO_TONE

EDGE = 5.0
"""Steepness of the edges in a pattern, in units of its period: a step takes about 1 / (pi·EDGE) of it."""
DOT_RADIUS = 0.32
"""Of a dot, in periods."""

LIGHT_STRENGTH = 1.12
"""Of a surface that faces the light; above 1 colours are clipped there."""

_WAVES = ((1.0, 0.31, -0.57), (-0.43, 0.93, 0.38), (0.29, -0.71, 1.13), (0.83, 0.67, 0.47))
"""Directions of the sines whose sum is the noise, in periods."""


def coat_colors(pattern: Tensor, coats: Tensor, points: Tensor) -> Tensor:
    """(3, N) colours in [0, 1] without light.

    Args:
        pattern: (N,) index into PATTERNS.
        coats: (15, N) two colours, directions u and v, frequency, phase, turns (see `Coats`).
        points: (3, N) in the frame of the part's first primitive.
    """
    first, second, u, v = coats[0:3], coats[3:6], coats[6:9], coats[9:12]
    frequency, phase, turns = coats[12], coats[13], coats[14]
    w = torch.linalg.cross(u, v, dim=0)
    around = turns > 0
    length_v = dot(v, points)
    across = torch.where(around, turns / (2 * math.pi) * torch.atan2(points[0], points[2]), frequency * dot(u, points))
    up = torch.where(around, frequency * points[1], frequency * length_v) + phase
    deep = torch.where(
        around, torch.full_like(up, 0.25), frequency * dot(w, points) + 0.25
    )  # a quarter: no sign change
    share = torch.zeros_like(up)
    share = torch.where(pattern == STRIPES, _square(up), share)
    share = torch.where(pattern == CHECKS, _checks(across, up, deep), share)
    share = torch.where(pattern == GRADIENT, (0.5 + frequency * length_v / 2).clamp(0, 1), share)
    share = torch.where(pattern == NOISE, _noise(frequency * points + phase), share)
    share = torch.where(
        pattern == TWO_TONE, (0.5 + 25 * frequency * (length_v - 0.05 * (phase - 0.5))).clamp(0, 1), share
    )
    share = torch.where(pattern == DOTS, _dots(across, up), share)
    return first + share * (second - first)


def lit(colors: Tensor, normals: Tensor, light: Tensor) -> Tensor:
    """(3, N) colours under soft light: a share reaches every surface, the rest half of those turned away too.

    Args:
        colors: (3, N). normals: (3, N) unit, world. light: (7, N) direction, ambient, tint.
    """
    facing = (0.5 + 0.5 * dot(normals, light[:3])).clamp(0, 1)
    strength = light[3] + (LIGHT_STRENGTH - light[3]) * facing * facing.sqrt()
    return (colors * light[4:] * strength).clamp(0, 1)


def _square(periods: Tensor) -> Tensor:
    """A square wave in [0, 1] with soft edges."""
    return (0.5 + EDGE / 2 * torch.sin(2 * math.pi * periods)).clamp(0, 1)


def _checks(across: Tensor, up: Tensor, deep: Tensor) -> Tensor:
    product = (2 * _square(across) - 1) * (2 * _square(up) - 1) * (2 * _square(deep) - 1)
    return 0.5 + 0.5 * product


def _noise(periods: Tensor) -> Tensor:
    """Blotches: sines in four directions, each bending the next."""
    total, bend = torch.zeros_like(periods[0]), torch.zeros_like(periods[0])
    for x, y, z in _WAVES:
        bend = torch.sin(2 * math.pi * (x * periods[0] + y * periods[1] + z * periods[2]) + 1.7 * bend + total)
        total = total + bend
    return (0.5 + 0.6 * total).clamp(0, 1)


def _dots(across: Tensor, up: Tensor) -> Tensor:
    """Discs on a lattice of the (u, v) plane, or round the y axis."""
    x, y = across - torch.floor(across) - 0.5, up - torch.floor(up) - 0.5
    return (0.5 + EDGE * 2 * (DOT_RADIUS - (x * x + y * y).sqrt())).clamp(0, 1)
