"""The training loop: what a run computes, shows and saves, and what it refuses to begin."""

import importlib.util
import itertools
import json
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from refusals import refused, unfit
from safetensors.torch import load_file, save_file
from tiny_training import TinySource, run_tiny, tiny_config
from torch import Tensor

from upfusion_core import InputViews, UpFusion, orbit_cameras
from upfusion_core.config import TrainConfig
from upfusion_core.models.stable_diffusion import encode_images
from upfusion_core.support.files import save_tensors
from upfusion_core.training import report
from upfusion_core.training.batches import TrainingBatch
from upfusion_core.training.initial import initial_networks
from upfusion_core.training.loop import Training, accumulate_gradients, learning_rate, train
from upfusion_core.training.report import Averaged, History, read_state
from upfusion_core.training.stages import make_stage

pytestmark = pytest.mark.usefixtures("rough")


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tiny: Path, tmp_path: Path) -> None:
    config = tiny_config("diffusion", steps=2, accumulation=2, log_every=2)
    assert run_tiny(config, tmp_path / "whole", init=[tiny]).finished
    with pytest.raises(InterruptedError):  # killed at the first step
        run_tiny(config, tmp_path / "parts", init=[tiny], on_step=Mock(side_effect=InterruptedError))
    assert run_tiny(config, tmp_path / "parts", resume=True).finished
    whole, parts = (read_state(tmp_path / name / "training.pt", config) for name in ("whole", "parts"))
    del whole["elapsed"], parts["elapsed"]
    for name in ("weights", "text", "averaged"):
        torch.testing.assert_close(parts.pop(name), whole.pop(name), rtol=0, atol=0)
    torch.testing.assert_close(parts["optimizer"].pop("state"), whole["optimizer"].pop("state"), rtol=0, atol=0)
    assert parts == whole
    assert same_models(tmp_path / "whole", tmp_path / "parts")


def gradients(accelerator: Accelerator, config: TrainConfig, size: int) -> dict[str, Tensor]:
    """Those of one step, by batches of so many examples, and its terms."""
    stage = make_stage(config, *initial_networks(config.model))
    module = accelerator.prepare_model(stage)
    terms = accumulate_gradients(config, accelerator, stage, module, TinySource(size), 1)
    found = {name: value.grad for name, value in stage.named_parameters() if value.grad is not None}
    return found | {"terms": torch.stack([*terms.values()])}


def test_accumulation_and_larger_batches_are_the_same() -> None:
    cpu = Accelerator(cpu=True)
    one, *others = (gradients(cpu, tiny_config("diffusion", accumulation=parts), 4 // parts) for parts in (1, 2, 4))
    for parts in others:
        torch.testing.assert_close(parts, one, rtol=1e-3, atol=2e-6)


def save_gradients(path: Path, **place: str) -> None:
    """Those of one step on four examples, by as many processes as the environment `place` says."""
    if place:
        torch.set_num_threads(1)  # others do not live on in a fork
        os.environ.update(place)
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    found = gradients(accelerator, tiny_config("diffusion"), 4 // accelerator.num_processes)
    if accelerator.is_main_process:
        save_file(found | {"processes": torch.tensor(accelerator.num_processes)}, path)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, so that two processes need not import everything anew")
@pytest.mark.usefixtures("loopback")
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    workers = []
    for rank in "01":
        place = shared | {"RANK": rank, "LOCAL_RANK": rank}
        work = get_context("fork").Process(target=save_gradients, args=(tmp_path / "two",), kwargs=place, daemon=True)
        workers.append(work)
        work.start()
    save_gradients(tmp_path / "one")
    for worker in workers:
        worker.join(timeout=300)
        assert worker.exitcode == 0
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert (int(one.pop("processes")), int(two.pop("processes"))) == (1, 2)
    torch.testing.assert_close(two, one, rtol=1e-3, atol=2e-6)


def test_a_lost_process_stops_the_run_with_a_sentence(tmp_path: Path) -> None:
    lost = Mock(side_effect=RuntimeError("[gloo/pair.cc] Connection closed by peer"))
    refused("another one was lost .*closed by peer.*--resume", run_tiny, tiny_config("encoder"), tmp_path, on_step=lost)


def test_averages_rates_and_means_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    averaged = Averaged([weight], 0.5)
    with torch.no_grad():
        weight.fill_(2.0)
        averaged.update()  # decay 1/10: 0.1·1 + 0.9·2
        assert averaged.values[0].item() == pytest.approx(1.9)
        weight.fill_(4.0)
        averaged.update()  # decay 2/11
        assert averaged.values[0].item() == pytest.approx(2 / 11 * 1.9 + 9 / 11 * 4)
        averaged.updates = 1000
        before = averaged.values[0].item()
        averaged.update()  # now the decay asked for
        assert averaged.values[0].item() == pytest.approx((before + 4) / 2)
    with averaged.in_place():
        assert weight.item() == pytest.approx((before + 4) / 2)
    assert weight.item() == 4.0
    config = tiny_config(steps=12, warmup_steps=2, learning_rate=1.0, final_share=0.2)
    rates = [learning_rate(config, step) for step in (0, 1, 2, 7, 12)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2])
    constant = replace(config, warmup_steps=0, final_share=1.0)
    assert {learning_rate(constant, step) for step in range(12)} == {1.0}
    timed = replace(config, hours=2.0)  # along processor time
    rates = [learning_rate(timed, step, worked) for step, worked in ((0, 7200), (99, 0), (99, 3600), (99, 9000))]
    assert rates == pytest.approx([0.5, 1.0, 0.6, 0.2])
    history = History()
    assert history.add(1, {"rgb": 1.0}, {"learning_rate": 0.1}, 2) is None
    assert history.add(2, {"rgb": 3.0}, {"learning_rate": 0.2}, 2) == {"step": 2, "rgb": 2.0, "learning_rate": 0.2}
    assert history.add(3, {"rgb": 5.0}, {}, 2) is None
    assert (history.sums, history.count, len(history.losses)) == ({"rgb": 5.0}, 1, 1)


def test_minutes_and_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes, saved in ((0.0, False), (1e-6, True)):
        config, found = tiny_config(save_minutes=minutes, steps=3), []
        state = tmp_path / str(minutes) / "training.pt"
        run_tiny(config, state.parent, on_step=lambda *_, state=state, found=found: found.append(state.exists()))
        assert found == [False, saved, saved]
    ticks = itertools.count(step=600.0)  # a step takes ten minutes
    monkeypatch.setattr("upfusion_core.training.loop.time.process_time", lambda: next(ticks))
    config, shown = tiny_config(hours=0.5, validate_every=2), Mock()
    with pytest.raises(InterruptedError):
        run_tiny(config, tmp_path, on_step=Mock(side_effect=InterruptedError))
    assert read_state(tmp_path / "training.pt", config)["worked"] == 600
    both = dict.fromkeys(("one", "two"), TinySource(fixed=True))
    result = train(config, TinySource(), both, tmp_path, device="cpu", resume=True, on_step=shown)
    assert [call.args[:2] for call in shown.call_args_list] == [(1200, 1800), (1800, 1800)]
    assert (result.step, result.finished) == (3, True)
    (row,) = json.loads((tmp_path / "history.json").read_text())["validation"]
    assert (row["step"], row["rgb one"]) == (2, row["rgb two"])


def test_the_merged_file_is_the_trained_model(tiny: Path, tmp_path: Path) -> None:
    config = tiny_config("diffusion", ema_decay=0.0, steps=2)
    with patch.object(Training, "write_model", autospec=True, side_effect=Training.write_model) as writing:
        model = UpFusion.load(run_tiny(config, tmp_path, init=[tiny]).model, device="cpu")
    fresh = UpFusion(config.model)
    fresh._take(writing.call_args.args[0].networks)
    fresh._embeddings = model._embeddings
    photos = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    views = InputViews(photos, torch.ones(2, 1, 16, 16), torch.full((2, 2), 4.5))
    cameras, results = orbit_cameras([0.0, 90.0]), []
    with torch.no_grad():
        for each in (model, fresh):
            scene = replace(each.encode(views), model_id=None)
            results.append((each.predict(scene, cameras, 8), each.sample(scene, cameras, steps=2).rgb))
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_averaged_weights_are_saved_and_taken_by_the_next_stage(tmp_path: Path) -> None:
    config = tiny_config("encoder", ema_decay=0.9, steps=3)
    run_tiny(config, tmp_path)
    state, model = read_state(tmp_path / "training.pt", config), load_file(tmp_path / "model.safetensors")
    trained, untouched = "upsrt.linear_scene.weight", "control_model.time_embed.0.weight"
    assert not torch.equal(model[trained], state["weights"][trained])
    assert any(torch.equal(model[trained], value) for value in state["averaged"]["values"])
    assert torch.equal(model[untouched], state["weights"][untouched])
    first = run_tiny(tiny_config("encoder", steps=1), tmp_path / "encoder")
    second = run_tiny(tiny_config("autoencoder", steps=2), tmp_path / "autoencoder", init=[first.model])
    one, two = load_file(first.model), load_file(second.model)
    assert torch.equal(one[trained], two[trained])
    assert not torch.equal(one["first_stage_model.quant_conv.bias"], two["first_stage_model.quant_conv.bias"])
    pictures = torch.cat([TinySource().batch(step).targets.flatten(0, 1) for step in range(8)])
    with torch.no_grad():
        latents = encode_images(UpFusion.load(second.model, device="cpu").vae, pictures)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("stage", ["encoder", "autoencoder", "diffusion"])
def test_what_a_run_shows(stage: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(report, "importlib", importlib)  # the packages that draw curves
    config = tiny_config(stage, steps=2, validate_every=2, precision="bf16" if stage == "encoder" else "no")
    seen = []

    def on_step(step: int, total: int, preview: Callable[[], Tensor]) -> None:
        seen.append((step, total, tuple(preview().shape) if step == 1 else None))

    run_tiny(config, tmp_path, init=[tiny], on_step=on_step)
    rows, columns = 2, 6 + 1 + 2 + 1 + 2
    assert seen == [(1, 2, (3, rows * 18, columns * 18)), (2, 2, None)]
    assert Image.open(tmp_path / "validation.png").size == (columns * 18, rows * 18)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [[row["step"] for row in history[kind]] for kind in ("losses", "validation")] == [[2]] * 2
    terms = {"encoder": {"rgb"}, "autoencoder": {"kl", "l1", "mse"}, "diffusion": {"eps", "rgb"}}[stage]
    assert history["losses"][0].keys() == {"step", "learning_rate", "gradient_norm"} | terms
    assert history["validation"][0].keys() == {"step"} | terms
    assert Image.open(tmp_path / "curves.png").size[1] == 400
    assert list((tmp_path / "tensorboard").iterdir())


def test_networks_that_nothing_trains_must_come_from_somewhere(tmp_path: Path) -> None:
    unfit("does not train VAE, so", run_tiny, tiny_config("diffusion"), tmp_path)
    released = tiny_config("diffusion", train_dino=False, train_upsrt=False, rgb_weight=0.0, train_unet="output")
    unfit("does not train UpSRT and DINOv2 and UNet and VAE", run_tiny, released, tmp_path)
    unfit("does not train DINOv2, so", run_tiny, tiny_config("encoder", train_dino=False), tmp_path)
    encoder = run_tiny(tiny_config("encoder", steps=1), tmp_path / "encoder")  # its autoencoder is untrained
    with pytest.warns(UserWarning, match="should spread by about 1, got 0.1"):
        run_tiny(tiny_config("diffusion", steps=1), tmp_path / "diffusion", init=[encoder.model])


@pytest.mark.slow
def test_compiled_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    config = tiny_config("encoder", steps=2)
    graph = partial(torch.nn.Module.compile, backend="eager")  # which needs no C++ compiler
    plain = load_file(run_tiny(config, tmp_path / "plain").model)
    with patch.object(torch.nn.Module, "compile", autospec=True, side_effect=graph) as compiled:
        fused = load_file(run_tiny(replace(config, compile=True), tmp_path / "compiled").model)
    compiled.assert_called_once()
    torch.testing.assert_close(fused, plain, atol=2e-4, rtol=0)


def same_models(one: Path, two: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


DISTURBED = tiny_config("encoder", steps=3, validate_every=3)
# where Ctrl-C comes: as the third batch is made, which is given up; in the update of step 2, whose end is waited for;
# in the validation after step 3, which is left to the next attempt
PRESSED = [
    (TinySource, "batch", lambda source, step, *_: step == 2, 2),
    (Averaged, "update", lambda averaged: averaged.updates == 1, 2),  # the optimiser has stepped, the average has not
    (Training, "_validate", lambda training, _: training.state.step == 3, 3),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    return run_tiny(DISTURBED, tmp_path_factory.mktemp("whole")).model.parent


@pytest.mark.parametrize(("owner", "name", "now", "kept"), PRESSED)
def test_ctrl_c_leaves_a_whole_step(owner: type, name: str, now: Any, kept: int, tmp_path: Path, whole: Path) -> None:  # noqa: ANN401
    original = getattr(owner, name)

    def pressed(*arguments: object) -> object:
        if now(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    before = signal.getsignal(signal.SIGINT)
    with patch.object(owner, name, pressed), pytest.raises(KeyboardInterrupt):
        run_tiny(DISTURBED, tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    state = read_state(tmp_path / "training.pt", DISTURBED)
    assert (state["step"], state["averaged"]["updates"], state["history"]["validation"]) == (kept, kept, [])
    run_tiny(DISTURBED, tmp_path, resume=True)
    assert same_models(tmp_path, whole)
    one, two = (json.loads((path / "history.json").read_text()) for path in (tmp_path, whole))
    assert one == two
    assert [row["step"] for row in one["validation"]] == [3]


def test_a_loss_that_is_not_finite_stops_with_the_state_before(tmp_path: Path, whole: Path) -> None:
    class Torn(TinySource):
        def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
            batch = super().batch(step, rank, world)
            return replace(batch, photos=batch.photos * (math.nan if step == 1 else 1.0))

    refused(r"step 2 gave \{'rgb': nan\}", run_tiny, DISTURBED, tmp_path, source=Torn())
    state = read_state(tmp_path / "training.pt", DISTURBED)
    assert state["step"] == 1
    assert all(value.isfinite().all() for value in state["weights"].values())
    run_tiny(DISTURBED, tmp_path, resume=True)
    assert same_models(tmp_path, whole)


def test_states_that_do_not_fit(tmp_path: Path) -> None:
    config, path = tiny_config("encoder", steps=1), tmp_path / "training.pt"
    unfit("nothing to resume", run_tiny, config, tmp_path, resume=True)
    run_tiny(config, tmp_path)
    unfit("another configuration", run_tiny, replace(config, seed=5), tmp_path, resume=True)
    for save in (torch.save, save_tensors):
        save({"format": 0}, path)
        unfit("another kind of file", run_tiny, config, tmp_path, resume=True)
    path.write_bytes(b"PK" + bytes(100))
    unfit("damaged or of another kind", run_tiny, config, tmp_path, resume=True)
