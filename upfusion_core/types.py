"""What flows between the stages: frozen dataclasses that state shape, range, unit and axes once.

World: right-handed, +Y up, object at the origin, the camera of photo 1 at distance 1 and azimuth 0 on +Z. Cameras: +X
right, +Y up, looking along -Z (glTF's axes). Images: channels-first sRGB in [0, 1]. Geometry is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, SupportsIndex, TypeVar

import torch
from torch import Tensor

from .config.models import MAX_VIEWS
from .support.checks import check_finite, check_shape, check_type, check_unit_range, magnitude
from .support.decoding import MAX_PIXELS, too_large
from .support.errors import InputError, PhotoError

Value = TypeVar("Value")
REFERENCE_FOCAL = 4.5  # in NDC units, that the released networks were trained at: a full field of view of 25.06 degrees


@dataclass(frozen=True, eq=False)
class Cameras:
    """N pinhole cameras, free of resolution: one camera serves 32, 128 and 256 pixels.

    camera_to_world: (N, 4, 4) rigid, columns right, up, backward, centre.
    focal: (N, 2), 1 / tan(field of view / 2) in x and y.
    principal: (N, 2) in NDC: x is +1 at the left edge and -1 at the right, y +1 at the top and -1 at the bottom.
    """

    camera_to_world: Tensor
    focal: Tensor
    principal: Tensor

    def __post_init__(self) -> None:
        check_shape("Cameras.camera_to_world", self.camera_to_world, ("N", 4, 4))
        for name, shape, most in (("camera_to_world", (4, 4), 1e9), ("focal", (2,), 1e6), ("principal", (2,), 1e4)):
            check_shape(f"Cameras.{name}", getattr(self, name), (len(self), *shape), "one a camera")
            value = getattr(self, name).float()
            check_finite(f"Cameras.{name}", value)
            if len(self) and (largest := magnitude(value)) > most:
                raise InputError(f"Cameras.{name} must be within +-{most:.0e}, got {largest:.3g}; check its unit")
            object.__setattr__(self, name, value)
        if len(self) and (least := float(self.focal.detach().min())) < 1e-3:
            raise InputError(f"Cameras.focal must be above 0 and at least 0.001, got {least:.3g}; check its unit")
        rotation = self.camera_to_world[:, :3, :3]
        gram = (rotation[:, :, :, None] * rotation[:, :, None, :]).sum(1)  # no product that autocast would round
        drift = (gram - torch.eye(3, device=gram.device)).abs().amax().item() if len(self) else 0.0
        fault = ""
        if drift > 1e-3:
            fault = f"a rotation part that is off by {drift:.3g}; remove scale and shear"
        elif (torch.linalg.det(rotation) < 0).any():
            fault = "one that mirrors; turn one of its axes round"
        elif (self.camera_to_world[:, 3] - gram.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().gt(1e-4).any():
            fault = "another last row; correct it"
        if fault:
            wanted = "Cameras.camera_to_world must be rigid (a rotation and a translation, last row 0 0 0 1)"
            raise InputError(f"{wanted}, got {fault}")

    @property
    def centers(self) -> Tensor:
        """(N, 3) camera centres in the world."""
        return self.camera_to_world[:, :3, 3]

    @property
    def device(self) -> torch.device:
        """Where the cameras' tensors are."""
        return self.camera_to_world.device

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __iter__(self) -> Iterator[Cameras]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: SupportsIndex | slice | Tensor) -> Cameras:
        """The chosen cameras; an integer gives one camera, still with its leading axis."""
        index = as_slice(index, len(self))
        return derived(Cameras, **{name: value[index] for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on another device."""
        return derived(Cameras, **{name: value.to(device) for name, value in vars(self).items()})

    def detach(self) -> Cameras:
        """The same cameras outside of autograd."""
        return derived(Cameras, **{name: value.detach() for name, value in vars(self).items()})

    @staticmethod
    def concatenate(parts: Iterable[Cameras]) -> Cameras:
        """All cameras of `parts`, in order."""
        check_type("parts", parts, Iterable, "such as a list of Cameras")
        parts = list(parts)
        for part in parts:
            check_type("each of parts", part, Cameras, "make some with orbit_cameras")
        if not parts:
            raise InputError("expected cameras to put together, got none; make some with orbit_cameras")
        names = ("camera_to_world", "focal", "principal")
        return derived(Cameras, **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def derived(kind: type[Value], **values: Any) -> Value:  # noqa: ANN401 - the class's own fields
    """A value made of parts of others, which were checked when those were: on a GPU each look makes the host wait."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def as_slice(index: SupportsIndex | slice | Tensor, length: int) -> slice | Tensor:
    """A whole number becomes a slice of one; others stay."""
    if isinstance(index, slice) or (isinstance(index, Tensor) and index.ndim):
        return index
    place = range(length)[index]  # raises IndexError, so that iteration ends
    return slice(place, place + 1)


@dataclass(frozen=True, eq=False)
class Rays:
    """Half-lines in the world. origins, directions: (..., 3) float32, directions of unit length."""

    origins: Tensor
    directions: Tensor


class PhotoNote(NamedTuple):
    """What was taken for a photo's object, e.g. "its mask, white is the object"; doubtful where people should look."""

    text: str
    doubtful: bool


@dataclass(frozen=True, eq=False)
class PhotoCameras:
    """The cameras of V photos, as far as their squares show them, in photo 1's frame.

    cameras: V. accepted: (V,) bool, whether the photo may be a target there; the first always may.
    score: (V,) in [0, 1], trust: of photos with such a score so many were right; 1 for what is given.
    given: whether they were known beforehand, and not estimated, but for the `sought` ones (numbers of photos from 0):
    those that are not accepted are still to be found.
    reasons: V of them, or none: why a photo is not accepted, "" where it is.
    """

    cameras: Cameras
    accepted: Tensor
    score: Tensor
    given: bool = False
    reasons: tuple[str, ...] = ()
    sought: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_shape("PhotoCameras.accepted", self.accepted, (len(self.cameras),), "one a photo")
        check_shape("PhotoCameras.score", self.score, (len(self.cameras),), "one a photo")

    def __len__(self) -> int:
        return len(self.cameras)

    def status(self, index: int) -> str:
        """How the camera of a photo, counted from 0, is known: reference, given, found or refused."""
        if index == 0 or not self.accepted[index]:
            return "refused" if index else "reference"
        return "given" if self.given and index not in self.sought else "found"

    def report(self) -> str:
        """A line a photo: where it was taken from, whether that is used and how far it can be trusted, or why not."""
        lines = []
        for index, (azimuth, elevation) in enumerate(self.angles_degrees().tolist()):
            reason = f": {self.reasons[index]}" if self.reasons and self.reasons[index] else ""
            trust = f" (trust {float(self.score[index]):.2f}{reason})"
            status = self.status(index)
            verdict = {"reference": "the reference", "given": "given"}.get(status, status + trust)
            lines.append(f"photo {index + 1}: azimuth {azimuth:.1f}, elevation {elevation:.1f} degrees, {verdict}")
        return "\n".join(lines)

    def angles_degrees(self) -> Tensor:
        """(V, 2) azimuth in [0, 360) and elevation in [-90, 90] of each camera's centre."""
        x, y, z = self.cameras.centers.double().unbind(-1)
        azimuth = torch.rad2deg(torch.atan2(x, z)) % 360
        return torch.stack([azimuth, torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))], dim=-1)


@dataclass(frozen=True, eq=False)
class SourcePhoto:
    """A photo at its own resolution, upright, and the square of it that the networks see.

    name: its file, or "photo 2". size: width and height of the whole photo in pixels.
    rgb: (3, h, w), uint8 or in [0, 1], sRGB, not multiplied by the mask: the part of the photo that begins at `corner`.
    mask: (h, w) in the same manner, full on the object; None where it is whatever is not white.
    straightened: the distortion of its lens that was taken out, by the names of photo_cameras.json.
    corner: x and y of that part. box: left, top, right and bottom of the square, which may lie outside of the photo.
    """

    name: str
    size: tuple[int, int]
    rgb: Tensor
    mask: Tensor | None
    corner: tuple[int, int]
    box: tuple[float, float, float, float]
    straightened: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class InputViews:
    """The photos, made ready: view 0 is the reference; poses are unknown unless they are given.

    rgb: (V, 3, S, S) in [0, 1] on white, S the model's image size, 1 <= V <= 64.
    mask: (V, 1, S, S) in [0, 1], 1 on the object.
    focal: (V, 2) as in Cameras.
    sources: the photos' own pixels, which texture and fit use where cameras are known; None where there are none.
    cameras: of the squares, where they are known beforehand.
    notes: V of them, or none: how the object was found in each photo.
    left_out: V of them, or none: why the networks do not see a photo, "" where they do, see `choose_views`.
    """

    rgb: Tensor
    mask: Tensor
    focal: Tensor
    sources: tuple[SourcePhoto, ...] | None = None
    cameras: PhotoCameras | None = None
    notes: tuple[PhotoNote, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shape("InputViews.rgb", self.rgb, ("V", 3, "S", "S"), "photos go through prepare_views")
        views, _, size, _ = self.rgb.shape
        if not 1 <= views <= MAX_VIEWS:
            raise InputError(f"expected 1 to {MAX_VIEWS} photos, got {views}; choose the most different views")
        check_shape("InputViews.mask", self.mask, (views, 1, size, size))
        check_shape("InputViews.focal", self.focal, (views, 2))
        check_unit_range("InputViews.rgb", self.rgb, "divide 8-bit photos by 255")
        check_unit_range("InputViews.mask", self.mask, "divide 8-bit masks by 255")
        check_finite("InputViews.focal", self.focal)
        if not self.focal.is_floating_point() or not (self.focal > 0).all():
            least = f"{float(self.focal.min()):.3g} as {self.focal.dtype}"
            raise InputError(f"InputViews.focal must be floating point above 0, got {least}; use prepare_views")
        for name in ("sources", "cameras", "left_out"):
            if (value := getattr(self, name) or None) is not None and len(value) != views:
                raise InputError(f"InputViews.{name} must be one for each of {views} photos, got {len(value)}")

    def __len__(self) -> int:
        return self.rgb.shape[0]

    @property
    def seen(self) -> list[int]:
        """Places of the photos that the networks see."""
        return [place for place in range(len(self)) if not (self.left_out and self.left_out[place])]

    def with_sources(self) -> InputViews:
        """The same photos; where they have no other pixels, these are their own."""
        if self.sources is not None:
            return self
        side, photos = self.rgb.shape[-1], enumerate(zip(self.rgb.cpu(), self.mask[:, 0].cpu(), strict=True), 1)
        whole: tuple[Any, ...] = ((0, 0), (0.0, 0.0, side, side))
        own = [SourcePhoto(f"photo {number}", (side, side), rgb, mask, *whole) for number, (rgb, mask) in photos]
        return replace(self, sources=tuple(own))

    def to(self, device: torch.device | str) -> InputViews:
        """The same photos on another device."""
        return replace(self, rgb=self.rgb.to(device), mask=self.mask.to(device), focal=self.focal.to(device))


@dataclass(frozen=True, eq=False)
class SceneEncoding:
    """The set latents of one object (paper section 3.1), with what is needed to query them.

    tokens: (V·P, C), view-major, then patches row-major.
    reference: Cameras(1), photo 1's camera as the networks know it: it looks at the object with their lens. Its
    distance is their unit of length; 1, unless photo 1 is known to have another lens.
    views: the photos, kept for distillation; None for a scene made by hand.
    model_id: fingerprint of the model that made it; another model refuses it. None is never refused.
    """

    tokens: Tensor
    reference: Cameras
    views: InputViews | None = None
    model_id: str | None = None

    def __post_init__(self) -> None:
        check_shape("SceneEncoding.tokens", self.tokens, ("V·P", "C"))
        check_finite("SceneEncoding.tokens", self.tokens)
        if not self.tokens.numel():
            raise InputError(f"SceneEncoding.tokens must hold tokens, got {tuple(self.tokens.shape)}; use encode")
        check_type("SceneEncoding.reference", self.reference, Cameras, "use orbit_cameras")
        check_shape("SceneEncoding.reference", self.reference.camera_to_world, (1, 4, 4))
        for name, kind in (("views", InputViews), ("model_id", str)):
            if getattr(self, name) is not None:
                check_type(f"SceneEncoding.{name}", getattr(self, name), kind)


@dataclass(frozen=True, eq=False)
class ViewConditioning:
    """All that tells the diffusion model what to paint for Q cameras.

    hint: (Q, C+6, s, s), s the latent size: view-aligned features, then the Plücker form of each cell's ray.
    ray_maps: one (Q, 6, s, s) a resolution of the networks, finest first; Plücker forms of each grid's rays.
    tokens: (N, C) set latents, shared by all Q cameras.
    text, unconditional_text: (L, W) embeddings of the prompt and of the empty one, shared by all cameras, or (Q, L, W).
    """

    hint: Tensor
    ray_maps: tuple[Tensor, ...]
    tokens: Tensor
    cameras: Cameras
    text: Tensor
    unconditional_text: Tensor

    def __post_init__(self) -> None:
        check_type("ViewConditioning.cameras", self.cameras, Cameras, "use orbit_cameras")
        count = len(self.cameras)
        check_shape("ViewConditioning.hint", self.hint, (count, "C+6", "s", "s"))
        check_type("ViewConditioning.ray_maps", self.ray_maps, Sequence, "one a resolution of the networks")
        object.__setattr__(self, "ray_maps", tuple(self.ray_maps))
        for ray_map in self.ray_maps:
            check_shape("ViewConditioning.ray_maps", ray_map, (count, 6, "s", "s"))
        check_shape("ViewConditioning.tokens", self.tokens, ("N", "C"))
        for name in ("text", "unconditional_text"):
            value = getattr(self, name)
            check_type(f"ViewConditioning.{name}", value, Tensor, "use condition")
            shape: tuple[int | str, ...] = ("L", "W") if value.ndim == 2 else (count, "L", "W")
            check_shape(f"ViewConditioning.{name}", value, shape, "or (L, W) for all cameras")
        for name in ("hint", "tokens", "text", "unconditional_text"):
            check_finite(f"ViewConditioning.{name}", getattr(self, name))

    def __len__(self) -> int:
        return self.hint.shape[0]

    def __getitem__(self, index: SupportsIndex | slice) -> ViewConditioning:
        """The conditions of some of the cameras; an integer gives one camera's, still with its leading axis."""
        index, values = as_slice(index, len(self)), dict(vars(self))
        values["ray_maps"] = tuple(ray_map[index] for ray_map in self.ray_maps)
        own = [name for name in ("text", "unconditional_text") if values[name].ndim == 3]  # others serve all cameras
        values |= {name: values[name][index] for name in ("hint", "cameras", *own)}
        return derived(ViewConditioning, **values)

    def unconditional(self) -> ViewConditioning:
        """The null condition of guidance: zeros for hint, rays and set latents, the empty prompt's text."""
        values: dict[str, Any] = {name: torch.zeros_like(getattr(self, name)) for name in ("hint", "tokens")}
        values |= {"ray_maps": tuple(map(torch.zeros_like, self.ray_maps)), "text": self.unconditional_text}
        return derived(ViewConditioning, **vars(self) | values)


@dataclass(frozen=True, eq=False)
class NovelViews:
    """Generated pictures. rgb: (Q, 3, S, S) in [0, 1]; cameras: the Q cameras they show."""

    rgb: Tensor
    cameras: Cameras

    def __post_init__(self) -> None:
        check_type("NovelViews.cameras", self.cameras, Cameras, "use orbit_cameras")
        check_shape("NovelViews.rgb", self.rgb, (len(self.cameras), 3, "H", "W"), "one picture a camera")
        check_unit_range("NovelViews.rgb", self.rgb, "divide 8-bit pictures by 255")


@dataclass(frozen=True, eq=False)
class GivenViews:
    """Pictures of the object whose cameras are known, each of its own size and weight, e.g. photos.

    rgb: N of (3, H, W), uint8 or in [0, 1]; on white, or with masks.
    masks: N of (H, W) alike, 1 on the object; None finds what is not white.
    weights: (N,) of a picture's pixels beside others'; None is 1 for all.
    """

    rgb: Sequence[Tensor]
    cameras: Cameras
    masks: Sequence[Tensor] | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        check_type("GivenViews.cameras", self.cameras, Cameras, "use load_photo_cameras or orbit_cameras")
        count = len(self.cameras)
        for name, values in (("rgb", self.rgb), ("masks", self.masks if self.masks is not None else self.rgb)):
            check_type(f"GivenViews.{name}", values, Sequence, "give a list of tensors, one a camera")
            if len(values) != count or not count:
                raise InputError(f"GivenViews.{name} must be one for each of {count} cameras, got {len(values)}")
            for index, (value, picture) in enumerate(zip(values, self.rgb, strict=True)):
                shape = tuple(picture.shape[1:]) if name == "masks" and self.masks is not None else (3, "H", "W")
                label = f"GivenViews.{name}[{index}]"
                check_shape(label, value, shape, "a picture and its mask have one size")
                if (pixels := value.shape[-2] * value.shape[-1]) > MAX_PIXELS:
                    raise PhotoError(too_large(label, f"{pixels / 1e6:.0f}"))
                if value.dtype != torch.uint8:
                    check_unit_range(label, value, "or give uint8")
        if self.weights is not None:
            check_shape("GivenViews.weights", self.weights, (count,), "one number a picture")
            check_finite("GivenViews.weights", self.weights)
            if float(self.weights.min()) < 0 or float(self.weights.max()) <= 0:
                raise InputError("GivenViews.weights must be 0 or more, and one of them above; leave bad pictures out")


@dataclass(frozen=True, eq=False)
class RenderedViews:
    """Renders of a radiance field.

    rgb: (Q, 3, H, W) in [0, 1], already over the background. opacity: (Q, 1, H, W) in [0, 1].
    depth: (Q, 1, H, W), expected distance along the ray in scene units.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor


class Step(int):
    """A step's number, which also tells what it is of and what is left; distillations call `on_step` with it.

    phase: in words, e.g. "round 2 of 4, painting". left: the steps to come by kind; those of a kind take equally long.
    kind: the step's own.
    """

    phase: str
    kind: str
    left: dict[str, int]

    def __new__(cls, number: int, phase: str, kind: str, left: dict[str, int]) -> Step:
        step = super().__new__(cls, number)
        step.phase, step.kind, step.left = phase, kind, left
        return step


OnStep = Callable[[int, int, Callable[[], Tensor] | None], None]
# The only hook of long work: called with (step, total, preview); raising from it cancels the work. `preview` gives a
# (3, H, W) picture in [0, 1], worth calling only when it is shown; None where there is none.

OnProgress = Callable[[float], None]  # inside of long work: the share of a stage that is done; raising cancels
