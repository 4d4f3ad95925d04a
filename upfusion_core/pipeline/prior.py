"""The diffusion prior: predicted noise, and the way between images and latents.

Its kernels may be captured as CUDA graphs: to launch the two thousand of a guided step takes a fast GPU longest.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..models.checkpoint import Networks
from ..models.controlnet import ControlConstants, KeysValues
from ..models.stable_diffusion import decode_latents, encode_images, predict, prompt_keys_values
from ..support.checks import check_shape, check_type
from ..support.errors import InputError
from ..types import ViewConditioning


class DiffusionPrior(Protocol):
    """What sampling and distillation ask of a diffusion model. Latents and images are float32 outside."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one view's latents."""

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> Any:  # noqa: ANN401 - each prior's own constants
        """What is constant over the sampling steps, for the unconditional and the conditional pass, or one."""

    def predict_noise(self, latents: Tensor, timestep: Tensor | int | float, prepared: Any, guidance: float) -> Tensor:  # noqa: ANN401
        """(Q, 4, s, s) latents at `timestep` (one, or one a view) -> guided noise of the same shape."""

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        """(Q, 3, S, S) images in [0, 1] -> (Q, 4, s, s) latents; `noise` samples the posterior, None takes its mean."""

    def decode(self, latents: Tensor) -> Tensor:
        """(Q, 4, s, s) latents -> (Q, 3, S, S) images in [0, 1]."""


@dataclass(frozen=True, eq=False)
class PreparedConditioning:
    """Constants of Q views over the sampling steps.

    guided: whether the batch holds two passes, unconditional first. text: (G, L, W), G divides the batch.
    """

    views: int
    guided: bool
    control: ControlConstants
    text: Tensor
    text_keys_values: tuple[KeysValues, ...]


class DiffusersPrior:
    """UNet and VAE of diffusers, steered by our ControlNet."""

    def __init__(self, networks: Networks, latent_size: int) -> None:
        self.networks = networks
        self.latent_shape = (4, latent_size, latent_size)
        self._captured: CapturedCalls | None = None

    @property
    def device(self) -> torch.device:
        return next(self.networks.controlnet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.networks.controlnet.parameters()).dtype

    def capture_graphs(self) -> None:
        """From now on the networks' kernels are captured and replayed; they must not be moved after the first call."""
        self._captured = CapturedCalls(self._networks_noise)

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> PreparedConditioning:
        parts = [cond.unconditional(), cond] if guided else [cond]
        text = self._placed([part.text if part.text.ndim == 3 else part.text[None] for part in parts])
        hint = self._placed([part.hint for part in parts])
        ray_maps = tuple(self._placed(maps) for maps in zip(*(part.ray_maps for part in parts), strict=True))
        tokens = self._placed([cond.tokens[None]])
        control = self.networks.controlnet.constants(hint, ray_maps, tokens, blank=len(cond) if guided else 0)
        return PreparedConditioning(len(cond), guided, control, text, prompt_keys_values(self.networks.unet, text))

    def predict_noise(
        self, latents: Tensor, timestep: Tensor | int | float, prepared: PreparedConditioning, guidance: float
    ) -> Tensor:
        """Both passes run in one batch: e = e_u + s(e_c - e_u); scale 1 needs the conditional one only."""
        check_type("cond", prepared, PreparedConditioning, "make it with condition or prepare")
        check_shape("latents", latents, (prepared.views, *self.latent_shape), "one a conditioned camera")
        if prepared.guided == (guidance == 1):
            wanted = f"the conditions must be prepared for guidance {guidance}, but are not"
            raise InputError(f"{wanted}; prepare them again")
        steps = torch.as_tensor(timestep, device=self.device, dtype=torch.float32)
        copies = 2 if prepared.guided else 1
        batch = latents.to(self.device, self.dtype).repeat(copies, 1, 1, 1)
        steps = steps.expand(prepared.views).repeat(copies)
        eps = (self._captured or self._networks_noise)(batch, steps, prepared).float()
        if not prepared.guided:
            return eps
        unconditional, conditional = eps.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def _networks_noise(self, latents: Tensor, steps: Tensor, prepared: PreparedConditioning) -> Tensor:
        residuals = self.networks.controlnet(latents, steps, prepared.control)
        return predict(self.networks.unet, latents, steps, prepared.text, prepared.text_keys_values, residuals)

    def _placed(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(parts)).to(self.device, self.dtype)

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        return encode_images(self.networks.vae, rgb.to(self.device), noise)

    def decode(self, latents: Tensor) -> Tensor:
        return decode_latents(self.networks.vae, latents.to(self.device))


Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
# runs a function and gives its result, and a function that computes the result again in the same memory


def capture_graph(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Captures the call's kernels on the current CUDA device."""
    if not torch.cuda.is_available():
        raise InputError("calls can be recorded on a CUDA device only, and there is none; leave the recording out")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # in which libraries choose their kernels
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph.replay


class CapturedCalls:
    """`function(first, second, constants)` captured once for every set of shapes and replayed from then on.

    Plain values among the constants, a dataclass, count as part of the shapes. A graph reads its inputs from where they
    were at its capture, so that new ones are copied there. Weights may change their values, not their place. Results
    have no gradients.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Any], Tensor], capture: Capture = capture_graph) -> None:
        self.function, self.capture = function, capture
        self._calls: dict[tuple[Any, ...], tuple[Any, Tensor, Callable[[], None]]] = {}
        self._constants: dict[tuple[Any, ...], Any] = {}  # those that were copied last

    def __call__(self, first: Tensor, second: Tensor, constants: Any) -> Tensor:  # noqa: ANN401 - any dataclass
        """What the function gives, in memory of its own."""
        given = (first, second, constants)
        key = tuple((value.shape, value.dtype) if isinstance(value, Tensor) else value for value in leaves(given))
        if key not in self._calls:
            with torch.inference_mode(False), torch.no_grad():  # else they could not be changed outside of it
                own = tuple(map(copy.deepcopy, given))  # each apart, should two be one tensor
                self._calls[key] = (own, *self.capture(lambda: self.function(*own)))
        own, result, replay = self._calls[key]
        new = given[:2] if self._constants.get(key) is constants else given
        self._constants[key] = constants
        for mine, theirs in zip(leaves(own[: len(new)]), leaves(new), strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(theirs)
        replay()
        return result.clone()


def leaves(value: Any) -> Iterator[Any]:  # noqa: ANN401 - a tree of dataclasses, tuples, tensors and plain values
    if isinstance(value, tuple) or is_dataclass(value):
        for part in value if isinstance(value, tuple) else [getattr(value, item.name) for item in fields(value)]:
            yield from leaves(part)
    else:
        yield value
