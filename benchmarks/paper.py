"""What a GPU should need at full size in float16: memory, arithmetic, bytes, launches, and seconds of a card, on paper.

    python benchmarks/paper.py [--photos 6] [--texture 1024] [--measured fast.json] [--out results.json]

Every part is walked on a GPU that is not there (tests/phantom_cuda.py). Networks are walked without values, only for
the sizes of what they make, so no weights are needed; the fit and the mesh, whose sizes depend on values, compute on
the CPU. The field's grid is torch's: the Triton kernels hold nothing of the corners that they look up.

Memory is what torch gives out in pieces of 512 bytes: on top come the CUDA context (a third of a GB), libraries'
workspaces and what torch's allocator keeps between its pieces. Arithmetic is that of products and convolutions, two
for a multiplication and an addition. Bytes are what each kernel reads and writes, nothing being fused or cached.

A part takes a card  max(FLOP / (REACHED · its FLOP/s), bytes / (REACHED · its bytes/s), launches · LAUNCH).  Of the
FLOP/s the networks have those of float16 with sums in float32, the field's those of float32. `fast` is the sum of its
parts by how often they happen: `photos` to a mesh with a texture, without the search for the photos' cameras, files
and the start. --measured prints what benchmarks/distillation.py wrote on a card beside that, as gpu.sh does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests")]
sys.path.append(str(Path(__file__).resolve().parent))

import phantom_cuda
from measuring import write_json

from upfusion_core import HostedUpFusion, RadianceField, orbit_cameras
from upfusion_core.config import DistillConfig, FastSchedule, ModelConfig, ReferenceSchedule
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.rendering import render_views
from upfusion_core.models.checkpoint import build_networks
from upfusion_core.pipeline.distill import targets_on_white
from upfusion_core.pipeline.prior import DiffusersPrior
from upfusion_core.pipeline.reference import ReferenceFitter, reference_order
from upfusion_core.pipeline.sampling import repaint_steps
from upfusion_core.types import InputViews

LIMITS = {"fast, draft": 4.0, "reference": 6.0, "conditioning": 3.5}  # GB, weights included
REACHED, LAUNCH = 0.5, 8e-6  # share of what its maker names; seconds of the host a kernel
# float16 with sums in float32 and float32, TFLOP/s; memory GB/s; its GB: by NVIDIA's data sheets, without sparsity
CARDS = {
    "RTX 3060, 8 GB": (25.5, 12.7, 240, 8), "RTX 3060, 12 GB": (25.5, 12.7, 360, 12),
    "RTX 4090": (165.2, 82.6, 1008, 24), "H200": (989.5, 66.9, 4800, 141),
}  # fmt: skip
CONTEXT = 0.35  # GB
SIZE, BATCH = 256, 4
TURN = [360.0 * index / 250 for index in range(250)]
GATHERS = ("index", "embedding", "gather", "index_select", "index_copy", "index_add", "scatter", "searchsorted")
Row = dict[str, Any]
aten = torch.ops.aten


class Meter(phantom_cuda.State):
    """Counts the bytes that phantoms hold too, now and at most. Views of one storage hold it together."""

    def __init__(self, kind: str) -> None:
        self.holders: dict[int, int] = {}
        self.bytes = 0
        super().__init__(kind)

    def reset(self) -> None:
        super().reset()
        self.peak = self.bytes


class Lease:
    """What a phantom holds, until it dies."""

    def __init__(self, meter: Meter, storage: torch.UntypedStorage) -> None:
        self.meter, self.storage, self.key = meter, storage, storage._cdata
        self.size = -(-storage.nbytes() // 512) * 512  # torch gives memory in pieces of 512 bytes
        if self.key not in meter.holders:
            meter.bytes += self.size
            meter.peak = max(meter.peak, meter.bytes)
        meter.holders[self.key] = meter.holders.get(self.key, 0) + 1

    def __del__(self) -> None:
        self.meter.holders[self.key] -= 1
        if not self.meter.holders[self.key]:
            self.meter.bytes -= self.size
            del self.meter.holders[self.key]


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """A GPU that is not there, its memory measured."""
    make = phantom_cuda.Phantom.__new__

    def made(cls: type, inner: Tensor) -> Any:  # noqa: ANN401 - a phantom
        phantom = make(cls, inner)
        phantom.lease = Lease(phantom_cuda.STATE, inner.untyped_storage())
        return phantom

    made_instead = patch.object(phantom_cuda.Phantom, "__new__", staticmethod(made))
    with patch.object(phantom_cuda, "State", Meter), made_instead, phantom_cuda.phantom() as state:
        yield state


@contextlib.contextmanager
def hollow() -> Iterator[None]:
    """Within it the device holds only shapes; what the host reads of it is 1."""
    compute, special = phantom_cuda.computed, phantom_cuda._SPECIAL

    def computed(func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - torch's operations
        if func is aten._local_scalar_dense.default:
            return args[0].new_ones((), device="cpu").item()
        return compute(func, args, kwargs)

    def moved(func: Any, args: Any, options: Any) -> Any:  # noqa: ANN401
        if func is aten.copy_.default:
            return args[0]
        if args[0].is_meta and options["device"] == "cpu":
            return torch.ones(args[0].shape, dtype=options["dtype"] or args[0].dtype)
        return func(*args, **options)

    with (
        patch.object(phantom_cuda, "STORE", torch.device("meta")),
        patch.object(phantom_cuda, "computed", computed),
        patch.object(phantom_cuda, "moved", moved),
        patch.dict(special, {scaled_dot_product_attention: _attention}),
    ):
        yield


def _attention(func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
    """Attention without the (L, L) matrix, as CUDA's fast kernels have it."""
    given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
    query, key, value = given["query"], given["key"], given["value"]
    if not isinstance(query, phantom_cuda.Phantom):
        return NotImplemented
    return aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, given.get("dropout_p", 0.0), given.get("is_causal", False),
        attn_mask=given.get("attn_mask"), scale=given.get("scale"),
    )[0]  # fmt: skip


class Work:
    """Arithmetic and bytes of what was computed."""

    def __init__(self) -> None:
        self.flop, self.bytes = 0, 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        compute = phantom_cuda.computed

        def counted(func: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - torch's operations
            result = compute(func, args, kwargs)
            if phantom_cuda._facts(func).launches:
                self.add(func, args, kwargs, result)
            return result

        with patch.object(phantom_cuda, "computed", counted):
            yield

    def add(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:  # noqa: ANN401
        name = phantom_cuda._facts(func).name.split(".")[0]
        if "scaled_dot_product" in name:
            self.flop += (3 if "backward" in name else 1) * sdpa_flop_count(*(args[at].shape for at in (0, 1, 2)))
        elif (count := flop_registry.get(func.overloadpacket)) is not None:
            self.flop += count(*args, **kwargs, out_val=result)
        read, made = (list(phantom_cuda._tensors(values)) for values in ((*args, *kwargs.values()), [result]))
        if name.startswith(GATHERS):  # of a table only what is taken
            read = [value for value in read if value.numel() <= max(each.numel() for each in made)]
        self.bytes += sum(min(value.nbytes, value.untyped_storage().nbytes()) for value in (*read, *made))


def walk(state: Meter, part: str, of: str, work: Callable[[], object], times: int = 0, beside: float = 0.0) -> Row:
    """A part's row, which it prints: what was most at once, with all that lies on the device or does `beside`.

    times: how often `fast` does it.
    """
    state.reset()
    held, counted = state.bytes, Work()
    with counted.counting():
        work()
    row: Row = {"part": part, "of": of, "times": times, "own_gb": (state.peak - held) / 1e9, "limit_gb": LIMITS[of]}
    row |= {"peak_gb": state.peak / 1e9 + beside, "launches": state.launches, "waits": state.waited}
    row |= {"flop": counted.flop, "bytes": counted.bytes, "field": beside > 0}
    above = " **above**" if row["peak_gb"] > row["limit_gb"] else ""
    memory = f"{row['own_gb']:.2f} | {row['peak_gb']:.2f}{above} | {row['limit_gb']:.1f}"
    amounts = f"{row['flop'] / 1e12:.3f} | {row['bytes'] / 1e9:.2f} | {row['launches']:,} | {row['waits']:,}"
    print(f"| {part} | {of} | {memory} | {amounts} | {times or ''} |", flush=True)
    return row


def full_size(device: torch.device) -> HostedUpFusion:
    """The networks in float16 without values; the text encoder stays on the CPU."""
    config = ModelConfig()
    made = build_networks(config, device)
    for part in vars(made).values():
        part.half().requires_grad_(False).eval()
    prior, text = DiffusersPrior(made, config.latent_size), (torch.zeros(77, config.diffusion.context_dim),) * 2
    parts: dict[str, Any] = {"dino": made.dino, "upsrt": made.upsrt, "prior": prior, "text": text, "model_id": "paper"}
    return HostedUpFusion(config, **parts, device=device, dtype=torch.float16)


def networks(state: Meter, count: int) -> list[Row]:
    model, schedule, anyone = full_size(state.device), DistillConfig.fast().schedule, "fast, draft"
    assert isinstance(schedule, FastSchedule)
    views = schedule.cameras
    rows = [walk(state, "weights of all networks", anyone, lambda: None)]
    masks = torch.ones(count, 1, SIZE, SIZE)
    photos = InputViews(torch.ones(count, 3, SIZE, SIZE), masks, torch.full((count, 2), 4.5))
    rows.append(walk(state, f"encode {count} photos", anyone, lambda: model.encode(photos), 1))
    scene, cameras = model.encode(photos), orbit_cameras(TURN)
    predict = partial(model.predict, scene, cameras[:views], schedule.predicted_size)
    rows.append(walk(state, f"predict {views} cameras, {schedule.predicted_size}²", anyone, predict, 1))
    rows.append(walk(state, f"condition {views} cameras", anyone, lambda: model.condition(scene, cameras[:views]), 1))
    rows.append(walk(state, "condition 250 cameras", "conditioning", lambda: model.condition(scene, cameras)))
    batches, rounds = views // BATCH, len(schedule.levels)
    for batch, often in ((BATCH, batches), (2 * BATCH, 0)):
        cond, rgb = model.condition(scene, cameras[:batch]), torch.ones(batch, 3, SIZE, SIZE)
        latents, prepared = torch.zeros(batch, *model.prior.latent_shape, device=state.device), model.prepare(cond)
        steps = sum(repaint_steps(level, schedule.steps) for level in schedule.levels)
        works = {
            f"constants of {batch} views": (partial(model.prepare, cond), rounds),
            f"guided step of {batch} views": (partial(model.predict_noise, latents, 500, prepared), steps),
            f"VAE, encoding {batch} views": (partial(model.prior.encode, rgb), rounds - 1),
            f"VAE, decoding {batch} views": (partial(model.prior.decode, latents), rounds),
        }
        rows += [walk(state, name, anyone, torch.no_grad()(work), n * often) for name, (work, n) in works.items()]
    config, generator = DistillConfig.reference(), torch.Generator().manual_seed(0)
    assert isinstance(config.schedule, ReferenceSchedule)
    cond, order = model.condition(scene, cameras), reference_order(config.schedule, generator)
    field = RadianceField(replace(config.field, backend="torch")).to(state.device)
    fitter = ReferenceFitter(field, model, cond, config, order=order, generator=generator)
    return [*rows, walk(state, "iteration", "reference", fitter.step)]


def fields(state: Meter, weights: float, texture: int) -> list[Row]:
    config = DistillConfig.fast()
    assert isinstance(config.schedule, FastSchedule)
    fit, views = config.schedule.fit, config.schedule.cameras
    field = RadianceField(replace(config.field, backend="torch")).to(state.device)
    cameras = orbit_cameras([360.0 * index / views for index in range(views)])
    pictures = torch.ones(views, 3, SIZE, SIZE)
    pictures[..., 64:192, 64:192] = torch.rand(128, 128, generator=torch.Generator().manual_seed(0))
    targets = vars(targets_on_white(cameras, pictures))
    fitter = FieldFitter(field, **targets, config=fit, generator=torch.Generator().manual_seed(0))
    looks = -(-fit.iterations // fit.occupancy_every)
    seen: dict[str, Any] = {"sampling": fit.sampling, "visible": fitter.occupancy}
    render = partial(render_views, field, field.aabb, cameras[0], SIZE, **seen)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "step of a fit that looks where something is": (fitter.step, looks),
        "step of a fit": (fitter.step, fit.iterations - looks),
        f"render of a view, {SIZE}²": (torch.no_grad()(render), views * (len(config.schedule.levels) - 1)),
        f"mesh of 256 samples, texture {texture}²": (partial(field.extract_mesh, 256, texture_size=texture), 1),
    }
    return [walk(state, name, "fast, draft", work, times, weights) for name, (work, times) in works.items()]


def seconds(row: Row, card: str) -> float:
    """Of a part once."""
    half, single, bandwidth, _ = CARDS[card]
    speeds = (single if row["field"] else half) * 1e12 * REACHED, bandwidth * 1e9 * REACHED
    return max(row["flop"] / speeds[0], row["bytes"] / speeds[1], row["launches"] * LAUNCH)


def print_cards(rows: list[Row], measured: Row | None) -> list[Row]:
    done = [row for row in rows if row["times"]]
    kinds = {"networks": [row for row in done if not row["field"]], "fit, renders and mesh": [*filter(_field, done)]}
    total = {name: sum(row[name] * row["times"] for row in done) for name in ("flop", "bytes", "launches")}
    amounts = f"{total['flop'] / 1e12:,.0f} TFLOP, {total['bytes'] / 1e12:.2f} TB, {total['launches']:,} launches"
    print(f"\n`fast` on paper: {amounts}\n\n| card | networks, s | fit, renders and mesh, s | all, s | GB of its GB |")
    print("| --- | --- | --- | --- | --- |")
    most, found = max(row["peak_gb"] for row in done) + CONTEXT, []
    for card in CARDS:
        parts = {name: sum(seconds(row, card) * row["times"] for row in some) for name, some in kinds.items()}
        found.append({"card": card, **parts, "seconds": sum(parts.values()), "gb": most})
        print(f"| {card} | {' | '.join(f'{part:.0f}' for part in (*parts.values(), sum(parts.values())))} |", end="")
        print(f" {most:.1f} of {CARDS[card][3]} |")
    if measured is not None:
        row = next(row for row in measured["presets"] if row["preset"] == "fast")
        gb = "-" if row["gpu_peak_megabytes"] is None else f"{row['gpu_peak_megabytes'] / 1e3:.1f}"
        spent = f"{row['distil_seconds']:.0f} s + {row['mesh_seconds']:.0f} s of mesh"
        card = f"{measured['device']}, driver {measured['driver']}, torch {measured['torch']}"
        print(f"| **measured: {card}** | {spent} | | {row['total_seconds']:.0f} | {gb} |")
    return found


def _field(row: Row) -> bool:
    return bool(row["field"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--texture", type=int, default=1024)
    parser.add_argument("--measured", type=Path, help="what benchmarks/distillation.py wrote on a card")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    given = parser.parse_args()
    print("| part | of | its own, GB | all, GB | asked | TFLOP | GB moved | launches | waits | times in `fast` |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with hollow(), metered() as state:
        rows = networks(state, given.photos)
    with metered() as state:
        rows += fields(state, rows[0]["peak_gb"], given.texture)
    there = given.measured is not None and given.measured.is_file()
    cards = print_cards(rows, json.loads(given.measured.read_text(encoding="utf-8")) if there else None)
    write_json(given.out, {"rows": rows, "cards": cards})


if __name__ == "__main__":
    main()
