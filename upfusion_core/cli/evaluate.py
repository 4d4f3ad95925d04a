"""`upfusion evaluate`: a model measured on a data set, with tables, plots and pictures in a report's folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..config.commands import PROCEDURAL, Evaluate
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME
from .console import duration, progress, say
from .inputs import load_model
from .options import planned_run
from .pack import asks_for_procedural, object_count, open_objects
from .run import Run, package_versions

if TYPE_CHECKING:
    from ..config import EvaluationConfig
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
    if asks_for_procedural(command.data, command.split):
        split = split or "test"
    if split in (None, "held_out"):
        if held_out:
            raise InputError("--held-out is beside the splits test and validation of procedural objects; leave it out")
    elif held_out is None and new:
        held_out = command.objects // 10 * 2
    guidance = recommended_guidance(networks.model or BUNDLED_NAME) if command.guidance is None else command.guidance
    photos = tuple(sorted(command.photos))
    return replace(command, networks=networks, split=split, held_out=held_out, guidance=guidance, photos=photos)


def evaluation_config(command: Evaluate) -> EvaluationConfig:
    """The protocol's settings of the command's."""
    from ..config import DistillConfig, EvaluationConfig
    from ..pipeline.sampling import make_scheduler

    make_scheduler(command.scheduler, command.steps)  # refuses names that mean nothing
    distill: dict[str, Any] = {"guidance": command.guidance, "batch_size": command.batch_size}
    if command.perceptual is not None:
        distill["perceptual"] = command.perceptual
    names = ("photos", "stages", "views", "seed", "steps", "guidance", "scheduler", "alignment", "batch_size")
    return EvaluationConfig(
        distill=DistillConfig.named(command.preset, **distill), **{name: getattr(command, name) for name in names}
    )


def _evaluate(run: Run, command: Evaluate) -> None:
    from ..evaluation.report import evaluate
    from ..models.perceptual import load_lpips

    config = evaluation_config(command)
    model = load_model(command.networks)
    assert command.data is not None, "completed sees to it"
    dataset = open_objects(command.data, command.split, model.image_size)
    available = len(dataset)
    wanted = object_count(command.data, available, command.objects)
    # the first objects of a split, which are in no order; of a folder, which is sorted, some spread evenly
    spread = wanted if command.data == PROCEDURAL else available
    indices = [place * spread // wanted for place in range(wanted)]
    groups = _groups(command, dataset, wanted)
    lpips = None if command.lpips is None else load_lpips(command.lpips, model.device)
    settings, inputs = run.record.settings, {} if lpips is None else {"lpips": lpips.weights_id()}
    run.plan(settings, {}, inputs)
    run.begin()
    run.check_model(model)
    about = {name: settings[name] for name in ("model", "data", "split", "objects", "dtype") if settings[name]}
    with run.stage("evaluate"), progress(f"Evaluating {wanted} objects") as on_step:
        report = evaluate(
            model, dataset, indices, run.folder, config,
            groups=groups, lpips=lpips, about=about | inputs | {"versions": package_versions()}, writing=run.writing,
            temporary=run.temporary, on_step=on_step,
        )  # fmt: skip
    for name, reason in report.skipped:
        say(f"Skipped {name}: {reason}")
    apart = sum(len(group.indices) for group in groups if group.dataset is not dataset)
    run.tell(
        f"{run.folder / 'report.md'}: {len(report.objects)} objects, {len(report.skipped)} skipped"
        + (f", {apart} held out reported apart" if apart else "")
        + f" ({duration(run.record.seconds)})"
    )


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
