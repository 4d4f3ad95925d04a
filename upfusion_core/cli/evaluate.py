"""`upfusion evaluate`: a model measured on a data set, with tables, plots and pictures in a report's folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..config import DistillConfig, EvaluationConfig
from ..config.options import PROCEDURAL, Evaluate
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME
from .console import duration, progress, say
from .inputs import load_model, planned_run, recorded
from .run import Run, package_versions

if TYPE_CHECKING:
    from ..data.views import MultiViewDataset
    from ..evaluation.protocol import Group


def run_evaluate(command: Evaluate, given: frozenset[str]) -> None:
    """Tables, plots and pictures in the run's folder; objects that were measured before are left as they are."""

    def completion(command: Evaluate, run: Run) -> tuple[Evaluate, dict[str, Any]]:
        return completed(command, new=not run.resumed), {}

    with planned_run("evaluate", command, given, completion) as (run, command):
        if not run.already_finished:
            _evaluate(run, command)


def completed(command: Evaluate, *, new: bool) -> Evaluate:
    """What is left out is filled in by what else is asked for."""
    from ..models.checkpoint import recommended_guidance

    networks = replace(command.networks, model=command.networks.model or BUNDLED_NAME)
    split, held_out = command.split, command.held_out
    if command.data is None:
        raise InputError("--data is needed, got none; give procedural, or the folder of a data set")
    if command.data == PROCEDURAL:
        split = split or "test"
    elif split is not None:
        raise InputError(f"--split is of procedural objects, got {split} with a folder; leave it out")
    if split in (None, "held_out"):
        if held_out:
            raise InputError("--held-out is beside the splits test and validation of procedural objects; leave it out")
    elif held_out is None and new:
        held_out = command.objects // 10 * 2
    guidance = recommended_guidance(networks.model or BUNDLED_NAME) if command.guidance is None else command.guidance
    protocol = replace(command.protocol, photos=tuple(sorted(command.protocol.photos)))
    return replace(command, networks=networks, split=split, held_out=held_out, guidance=guidance, protocol=protocol)


def evaluation_config(command: Evaluate) -> EvaluationConfig:
    """The protocol's settings of the command's."""
    from ..pipeline.sampling import make_scheduler

    protocol = command.protocol
    make_scheduler(protocol.scheduler, protocol.steps)  # refuses names that mean nothing
    sampled: dict[str, Any] = {"guidance": command.guidance}  # settled by `completed`
    distill = DistillConfig.named(command.preset, **sampled, batch_size=protocol.batch_size)
    if command.perceptual is not None:
        distill = replace(distill, perceptual=command.perceptual)
    return replace(protocol, distill=distill, **sampled)


def _evaluate(run: Run, command: Evaluate) -> None:
    from ..evaluation.report import evaluate
    from ..models.perceptual import load_lpips

    config = evaluation_config(command)
    model = load_model(command.networks)
    dataset = _dataset(command, model.image_size)
    wanted, available = command.objects, len(dataset)
    if wanted > available:
        raise InputError(f"{command.data} holds {available} objects, got --objects {wanted}; ask for fewer")
    # the first objects of a split, which are in no order; of a folder, which is sorted, some spread evenly
    places = range(wanted)
    indices = list(places) if command.data == PROCEDURAL else [place * available // wanted for place in places]
    groups = _groups(command, dataset, len(indices))
    lpips = None if command.lpips is None else load_lpips(command.lpips, model.device)
    settings = recorded(command, "settings")
    inputs = {} if lpips is None else {"lpips": lpips.weights_id()}
    run.plan(settings, {}, inputs)
    run.begin()
    run.check_model(model.model_id)
    run.note(device=f"{model.device}, {str(model.dtype).removeprefix('torch.')}")
    about = {name: settings[name] for name in ("model", "data", "split", "objects", "dtype") if settings[name]}
    with run.stage("evaluate"), progress(f"Evaluating {len(indices)} objects") as on_step:
        report = evaluate(
            model, dataset, indices, run.folder, config, groups=groups, lpips=lpips,
            about=about | inputs | {"versions": package_versions()}, writing=run.writing,
            temporary=run.temporary, on_step=on_step,
        )  # fmt: skip
    for name, reason in report.skipped:
        say(f"Skipped {name}: {reason}")
    apart = sum(len(group.indices) for group in groups if group.dataset is not dataset)
    run.tell(
        f"{run.folder / 'report.md'}: {len(report.objects)} objects, {len(report.skipped)} skipped"
        + (f", {apart} held out reported apart" if apart else "")
        + f" ({duration(run.seconds)})"
    )


def _dataset(command: Evaluate, size: int) -> MultiViewDataset:
    from ..data.formats import open_dataset
    from ..procedural import ProceduralObjects

    assert command.data is not None, "completed sees to it"
    if command.data == PROCEDURAL:
        return ProceduralObjects(command.split or "test", size=size)
    return open_dataset(command.data, size=size)


def _groups(command: Evaluate, dataset: MultiViewDataset, objects: int) -> list[Group]:
    """What is reported apart: objects that training has never shown the like of."""
    from ..evaluation.protocol import held_out_groups
    from ..procedural import ProceduralObjects

    if not isinstance(dataset, ProceduralObjects):
        return []
    if command.split == "held_out":
        return held_out_groups(dataset, objects)
    if not command.held_out:
        return []
    return held_out_groups(ProceduralObjects("held_out", size=dataset.size), command.held_out)
