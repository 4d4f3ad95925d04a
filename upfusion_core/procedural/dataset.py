"""Procedural objects as a data set: endless batches for training, the same examples every time for evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..data.views import MultiViewDataset, PosedViews
from ..geometry.cameras import BAND_ELEVATION_DEGREES, REFERENCE_ELEVATION_DEGREES, orbit_cameras
from ..support.checks import check_choice, check_count
from ..support.errors import InputError
from ..types import REFERENCE_FOCAL, Cameras
from .objects import THINGS, kettle_on_legs, solids
from .render import DOTS, GRADIENT, NOISE, PLAIN, SUPERSAMPLING, render_views
from .shapes import GENERATOR_VERSION, LARGEST_RADIUS, SPLITS, VERSIONS, Coats, Light, Objects, Primitives, framed
from .sketch import Draws, Number, Sketch, blank_parts, vector
from .slender import SLENDER
from .staging import PHOTO_COLUMNS, STAGING_COLUMNS, developed, photographing, staged

# uniform numbers that an object has for its shape, its coats, and recipe, palette, light and size
_COLUMNS = (224, 256, 32)
_MOST_VIEWS = 64  # that an object has when no generator draws them: the same ones every time


def draw_objects(
    split: str, indices: Sequence[int] | Tensor, *, extra: int = 0, max_parts: int | None = None, version: int = 1
) -> tuple[Objects, Tensor]:
    """Objects of a split on the CPU, of their first `max_parts`, and `extra` more uniform numbers of each, (B, extra).

    Object i is a pure function of the generator's version, the split and i; InputError where there is none. It is a
    row of uniform numbers from a generator with its seed, and depends on no other row; a recipe draws all of its rows.
    """
    numbers, (first_seed, available) = [int(index) for index in indices], SPLITS[split]
    if numbers and not 0 <= min(numbers) <= max(numbers) < available:
        wanted = f"objects of split {split!r} are numbered 0 to {available - 1}"
        raise InputError(f"{wanted}, got {min(numbers)} to {max(numbers)}; take indices in that range")
    second_version = version != GENERATOR_VERSION
    generator, columns = torch.Generator(), (*_COLUMNS, STAGING_COLUMNS * second_version, extra)
    uniforms = torch.empty(len(numbers), sum(columns))
    for row, number in zip(uniforms, numbers, strict=True):
        torch.rand(sum(columns), generator=generator.manual_seed(first_seed + number), out=row)
    shape, coat, other, staging, more = uniforms.split(columns, dim=1)
    draws, dotted = Draws(other), torch.tensor([split == "held_out" and number % 2 == 1 for number in numbers])
    # solids for tests have three parts or more
    free = (solids, 3.0) if split in ("train", "validation") else (partial(solids, least=3), 2.0)
    recipes, weights = zip(*THINGS, *(SLENDER if second_version else ()), free, (kettle_on_legs, 0.0), strict=True)
    which = draws.choice(list(weights))
    if split == "held_out":
        which = torch.where(dotted, which, len(recipes) - 1)
    parts = blank_parts(len(numbers))
    for place, recipe in enumerate(recipes):
        rows = (which == place).nonzero().squeeze(1)
        if len(rows):
            recipe(Sketch(parts, rows), Draws(shape[rows]))
    radius = draws.uniform(LARGEST_RADIUS - 0.017, LARGEST_RADIUS)
    palette = draw_palette(draws)
    # a soft light from above one side, a little warm or cold
    azimuth, height = 2 * math.pi * draws.unit(), torch.deg2rad(draws.uniform(20, 75))
    direction = vector(height.cos() * azimuth.sin(), height.sin(), height.cos() * azimuth.cos())
    warmth = draws.uniform(-0.05, 0.05)
    tint = vector(1 + warmth.clamp_max(0), 1 - warmth.abs() / 2, 1 - warmth.clamp_min(0))
    light = Light(direction, draws.uniform(0.45, 0.65), tint)
    coats = draw_coats(Draws(coat), palette, parts["color"], dotted)
    first, second = (Primitives(*(parts[name][n] for name in ("kind", "rotation", "center", "size"))) for n in (0, 1))
    objects = Objects(first, second, parts["joint"], parts["blend"], parts["role"], coats, parts["label"], light)
    objects = framed(objects, radius)
    if max_parts is not None:
        objects = framed(objects.first_parts(max_parts), torch.tensor(LARGEST_RADIUS))
    return staged(objects, Draws(staging)) if second_version else objects, more


# of plain, stripes, checks, gradient, noise and two tones; dots are held out
_BODY_WEIGHTS, _OTHER_WEIGHTS = [1.6, 1.2, 0.9, 0.8, 1.0, 0.9], [5.0, 0.7, 0.4, 0.6, 0.4, 0.5]


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
    main = torch.where(draws.chance(0.2)[:, None], _rgb(hue, 0.1, draws.uniform(0.75, 0.88)), main)  # pale
    return torch.stack([main, accent, third, fourth], dim=1)


def _rgb(hue: Tensor, saturation: Number, value: Number) -> Tensor:
    """(B,) hue in turns, saturation and value in [0, 1] -> (B, 3)."""
    corner = torch.stack([(hue * 6 + offset) % 6 for offset in (0.0, 4.0, 2.0)], dim=-1)
    pure = ((corner - 3).abs() - 1).clamp(0, 1)
    saturation, value = (torch.as_tensor(v).expand_as(hue)[..., None] for v in (saturation, value))
    return value * (1 - saturation * (1 - pure))


def draw_coats(draws: Draws, palette: Tensor, colors: Tensor, dotted: Tensor) -> Coats:
    """Coats of B objects whose parts have the palette's colours (B, P); equal colours wear equal coats, as legs do.

    Where `dotted`, the main colour wears the held-out pattern; nothing else ever does.
    """
    count, coats = len(draws), []
    for color in range(4):
        pattern = draws.choice(_BODY_WEIGHTS if color in (0, 3) else _OTHER_WEIGHTS)
        pattern = torch.where(dotted, DOTS, pattern) if color == 0 else pattern
        coats.append(_coat(draws, palette, torch.full((count,), color), pattern, 1.0))
    coats.append(_coat(draws, palette, 1 + draws.choice([1, 1, 1]), draws.choice(_BODY_WEIGHTS), 0.7))  # the label
    inside = _coat(draws, palette, draws.choice([1.5, 0.5, 0.8]), torch.full((count,), PLAIN), 1.0)
    coats.append((inside[0], inside[1] * 0.75, *inside[2:]))
    worn = torch.stack([colors, torch.full_like(colors, 4), torch.full_like(colors, 5)], dim=-1)  # (B, P, 3)
    rows = torch.arange(count)[:, None, None]
    return Coats(*(torch.stack(field, dim=1)[rows, worn] for field in zip(*coats, strict=True)))


def _coat(draws: Draws, palette: Tensor, color: Tensor, pattern: Tensor, period: float) -> tuple[Tensor, ...]:
    """Fields of `Coats` without the parts' axis, for one coat of each object."""
    rows = torch.arange(len(draws))
    other = (color + 1 + draws.choice([1, 1, 1])) % 4
    shade = draws.uniform(0.35, 0.65)[:, None]  # now and then a darker tone of the same colour
    first = palette[rows, color]
    second = torch.where(draws.chance(0.3)[:, None], first * shade, palette[rows, other])
    straight, rotation = draws.chance(0.6), draws.rotation()
    axes = torch.where(straight[:, None, None], torch.eye(3)[:2], rotation[:, :2])
    frequency = 1 / (draws.uniform(0.045, 0.12) * period)
    frequency = torch.where(pattern == GRADIENT, draws.uniform(5.0, 10.0) * draws.side(), frequency)
    frequency = torch.where(pattern == NOISE, frequency * 0.5, frequency)
    around = draws.chance(0.5) | (pattern == DOTS)
    turns = torch.where(around, torch.round(draws.uniform(3, 9)), 0.0)
    return pattern, torch.stack([first, second], dim=1), axes, frequency, draws.unit(), turns


@dataclass(frozen=True, eq=False)
class ProceduralBatch:
    """V views of each of B objects, all on one device, each in its own world (see `ProceduralObjects`).

    rgb: (B, V, 3, S, S) in [0, 1] on white. mask: (B, V, 1, S, S), share of the pixel that the object covers.
    depth: (B, V, 1, S, S) along the ray, mean over the covered samples, 0 off the object.
    camera_to_world: (B, V, 4, 4). focal: (B, V, 2). elevation_degrees: (B, V); view 0's is the reference's. Of photos
    these are what the networks take for their cameras; their pictures, masks and depths are as they were taken.
    objects: the B objects in the same worlds, for rays (`render_rays`) and meshes (`true_mesh`).
    names: one an object, or none where the objects came without.
    """

    rgb: Tensor
    mask: Tensor
    depth: Tensor
    camera_to_world: Tensor
    focal: Tensor
    elevation_degrees: Tensor
    objects: Objects
    names: tuple[str, ...]

    def cameras(self, index: int) -> Cameras:
        return Cameras(self.camera_to_world[index], self.focal[index], torch.zeros_like(self.focal[index]))

    def example(self, index: int) -> PosedViews:
        """Object `index` in the form of all readers."""
        name = self.names[index] if self.names else f"procedural-{self.objects.version}"
        return PosedViews(self.rgb[index], self.mask[index], self.cameras(index), name, depth=self.depth[index])


class ProceduralObjects(MultiViewDataset):
    """Textured solids made on the fly; object i of a split is a pure function of (version, split, i).

    View 0 is the reference at elevation 22.5 degrees: the object, with its light, is turned about +Y so that its camera
    has azimuth 0. All cameras are at distance 1 with focal 4.5, the others' azimuths uniform in [0, 360), elevations
    in [-7.5, 52.5] degrees.

    version: of the generator. 1 is the yardstick of published figures; 2 has what people photograph, and takes the
    `photos` among its views as people do: other focal lengths, sizes and middles, greyish white, ragged masks; all
    other views are clean. Object i of both has the same seed, so that no two splits share anything.
    split: "train", "validation", "test", or "held_out" (a combination of parts on even indices and a pattern on odd
    ones that no other split has). size, views: pixels and number of views, at most 64, of single examples.
    """

    def __init__(self, split: str = "train", *, size: int = 64, views: int = 32, version: int = 1) -> None:
        check_choice("split", split, tuple(SPLITS))
        check_count("views", views, 1, _MOST_VIEWS)
        check_count("version", version, *VERSIONS)
        self.split, self.size, self.views, self.version = split, size, views, version
        self.numbers_a_view = 2 + PHOTO_COLUMNS * (version != GENERATOR_VERSION)  # of azimuth, elevation, and a photo
        self.skipped = []

    def __len__(self) -> int:
        return SPLITS[self.split].objects

    def objects(self, indices: Sequence[int] | Tensor, max_parts: int | None = None) -> Objects:
        """The objects, or their first parts, as drawn, on the CPU, azimuth 0 where their recipe has its front.

        They are small (about 7 kB each): a trainer may keep many on its device, index them, and `look` at them.
        """
        return draw_objects(self.split, indices, max_parts=max_parts, version=self.version)[0]

    def names(self, indices: Sequence[int] | Tensor) -> tuple[str, ...]:
        return tuple(f"procedural-{self.version}-{self.split}-{int(index)}" for index in indices)

    def batch(
        self,
        indices: Sequence[int] | Tensor,
        *,
        views: int = 8,
        size: int | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        supersampling: int = SUPERSAMPLING,
        photos: Sequence[int] = (),
    ) -> ProceduralBatch:
        """`views` views of each object, made on `device`, `size` pixels a side: the data set's own unless given.

        The generator draws the cameras; without one each object has its own fixed ones, at most 64, the first the same
        whatever `views` is. Pixels are means of supersampling² samples. photos: which views version 2 makes photos.
        """
        check_count("views", views, 1, float("inf") if generator is not None else _MOST_VIEWS)
        extra = 0 if generator is not None else self.numbers_a_view * views
        objects, draws = draw_objects(self.split, indices, extra=extra, version=self.version)
        source = draws.view(len(objects), views, -1) if generator is None else generator
        sizes = {"views": views, "size": size or self.size, "supersampling": supersampling}
        seen = self.look(objects.to(device), generator=source, photos=photos, **sizes)
        return replace(seen, names=self.names(indices))

    def look(
        self,
        objects: Objects,
        *,
        views: int,
        size: int,
        generator: torch.Generator | Tensor,
        supersampling: int = SUPERSAMPLING,
        photos: Sequence[int] = (),
        references: int = 1,
    ) -> ProceduralBatch:
        """`views` new views of objects that were drawn before, on their device; the generator may be on any.

        In its place may stand the uniform numbers (B, V, `numbers_a_view`) from which the views follow.

        photos: as of `batch`. references: so many views, the first, stand where a reference does; each may be taken
        for photo 1, the world then being its own.

        Example: `pool = data.objects(range(10_000)).to(device)`, then in each step
        `data.look(pool[torch.randint(10_000, (256,), device=device)], views=8, size=64, generator=generator)`.
        """
        draws, shape = generator, (len(objects), views, self.numbers_a_view)
        if isinstance(draws, torch.Generator):
            draws = torch.rand(shape, generator=draws, device=draws.device)
        draws = draws.to(objects.device)
        low, high = BAND_ELEVATION_DEGREES
        azimuth, elevation = 360 * draws[..., 0], low + (high - low) * draws[..., 1]
        elevation[:, :references] = REFERENCE_ELEVATION_DEGREES
        objects = objects.turned(-azimuth[:, 0])
        distance = torch.ones_like(azimuth).flatten()  # a tensor, so that all of them are on the objects' device
        turns = (azimuth - azimuth[:, :1]).flatten()
        cameras = orbit_cameras(turns, elevation.flatten(), distance, focal=REFERENCE_FOCAL)
        matrices, focal = (x.unflatten(0, azimuth.shape) for x in (cameras.camera_to_world, cameras.focal))
        true, lens, middle, places = matrices.clone(), focal.clone(), torch.zeros_like(focal), sorted(photos)
        if objects.staging is not None and places:
            taken, framed = draws[:, places, 2:], sum(place < references for place in places)
            found = photographing(matrices[:, places], objects.staging, taken, framed)
            true[:, places], lens[:, places], middle[:, places] = found
        rgb, mask, depth = render_views(objects, true, lens, size, supersampling=supersampling, principal=middle)
        if objects.staging is not None and places:
            rgb[:, places], mask[:, places] = developed(rgb[:, places], mask[:, places], taken)
        return ProceduralBatch(rgb, mask, depth, matrices, focal, elevation, objects, ())

    def view_count(self, index: int) -> int:
        range(len(self))[index]  # raises IndexError, so that iteration ends
        return self.views

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with some of its fixed views, the first of them the reference; None means all."""
        index = range(len(self))[index]
        example = self.batch([index], views=self.views).example(0)
        return example if views is None else example.chosen(views)

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` seen by `count` cameras that the generator draws anew."""
        return self.batch([range(len(self))[index]], views=count, generator=generator).example(0)
