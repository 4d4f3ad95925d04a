"""Fields: renders and files of a field whose shape and colour are known by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from known_shapes import COLOR
from safetensors.torch import save_file
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

RENDER, SAVE, LOAD = "UpFusionRenderField", "UpFusionSaveField", "UpFusionLoadField"


def kept(field: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in field.state_dict().items()}


def test_renders_show_the_ball_over_each_background(run_node: Callable, ball: nn.Module) -> None:
    (cameras,) = run_node("UpFusionOrbitCameras", count=2)
    before = kept(ball)
    for background, value in (("white", 1.0), ("grey", 0.5), ("black", 0.0)):
        images, masks, depth = run_node(RENDER, field=ball, cameras=cameras, size=32, background=background)
        assert images.shape == depth.shape == (2, 32, 32, 3)
        assert masks.shape == (2, 32, 32)
        torch.testing.assert_close(images[0, 16, 16], torch.tensor(COLOR), atol=0.01, rtol=0)
        over = masks[..., None] * torch.tensor(COLOR) + (1 - masks[..., None]) * value
        torch.testing.assert_close(images, over, atol=1e-4, rtol=0)
        assert masks[0, 16, 16] > 0.99
        assert masks[0, 0, 0] < 0.5
        assert torch.equal(depth[..., 0], depth[..., 1])
        # light stops before the middle of the ball, which is half way between nearest and furthest
        assert 0.5 < float(depth[0, 16, 16, 0]) < 0.5 + 0.3 / (2 * 0.3 * math.sqrt(3))
    assert all(torch.equal(value, before[name]) for name, value in ball.state_dict().items())
    assert not ball._forward_pre_hooks  # the cached field does not get what its working copy gets


def test_a_view_does_not_depend_on_its_company(run_node: Callable, ball: nn.Module, lines: list[str]) -> None:
    (cameras,) = run_node("UpFusionOrbitCameras", count=3, distance=1.2)
    together = run_node(RENDER, field=ball, cameras=cameras, size=24)
    assert lines[-1] == "rendering: step 3/3"
    for index in range(3):
        alone = run_node(RENDER, field=ball, cameras=cameras[index], size=24)
        assert all(torch.equal(one[0], many[index]) for one, many in zip(alone, together, strict=True))


def test_less_memory_makes_the_same_picture(
    run_node: Callable, ball: nn.Module, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = pack("upfusion_core").orbit_cameras(0.0)
    expected = run_node(RENDER, field=ball, cameras=camera, size=16)
    forward = type(ball).forward

    def short_of_memory(self: nn.Module, points: torch.Tensor) -> object:
        if points[..., 0].numel() > 20_000:
            raise torch.cuda.OutOfMemoryError
        return forward(self, points)

    monkeypatch.setattr(type(ball), "forward", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory with 256 rays at a time; going on with 128"):
        found = run_node(RENDER, field=ball, cameras=camera, size=16)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))


def test_cancel_comes_between_the_rays_of_one_view(
    run_node: Callable, ball: nn.Module, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class CancelledError(BaseException):
        pass

    calls = []

    def cancel() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise CancelledError

    monkeypatch.setattr(pack("nodes.field"), "check_interrupted", cancel)
    with pytest.raises(CancelledError):
        run_node(RENDER, field=ball, cameras=pack("upfusion_core").orbit_cameras(0.0), size=128)
    assert len(calls) == 3


def test_fields_are_numbered_and_come_back_the_same(run_node: Callable, ball: nn.Module, folders: Path) -> None:
    (first,) = run_node(SAVE, field=ball, filename_prefix="shapes/ball")
    (second,) = run_node(SAVE, field=ball, filename_prefix="shapes/ball")
    assert (first, second) == ("shapes/ball_00001_.safetensors [output]", "shapes/ball_00002_.safetensors [output]")
    assert (folders / "output" / "shapes" / "ball_00002_.safetensors").is_file()
    (loaded,) = run_node(LOAD, field=second)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in ball.state_dict().items())
    assert loaded.config == ball.config


def test_fields_are_listed_and_a_changed_one_is_read_again(
    run_node: Callable, ball: nn.Module, folders: Path, node_classes: dict[str, type]
) -> None:
    node = node_classes[LOAD]
    ball.save(folders / "input" / "mine.safetensors")
    (saved,) = run_node(SAVE, field=ball)
    assert node.define_schema().inputs[0].options == ["mine.safetensors", saved]
    assert node.validate_inputs(field=saved) is True
    assert node.validate_inputs(field="gone.safetensors") == (
        "field must name a .safetensors file in the input or output folder, got 'gone.safetensors'; choose another"
    )
    before = node.fingerprint_inputs(field="mine.safetensors")
    assert node.fingerprint_inputs(field="mine.safetensors") == before
    (folders / "input" / "mine.safetensors").touch()
    assert node.fingerprint_inputs(field="mine.safetensors") != before


def hostile_files(ball: nn.Module, folder: Path) -> dict[str, str]:
    """Files that are no fields -> a part of the sentence each of them must get."""
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "junk.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "long.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    torch.save({"a": torch.zeros(2)}, folder / "pickle.safetensors")
    save_file({"weight": torch.zeros(3)}, folder / "weights.safetensors")
    ball.save(folder / "whole.safetensors")
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.safetensors").unlink()
    described = {"version": 1, "config": {"grid": {"table_size": 2**62}}, "cameras": None, "settings": {}}
    for name, content in (
        ("huge", json.dumps(described)),
        ("nojson", "{"),
        ("list", "[]"),
        ("deep", "[" * 5000 + "]" * 5000),
    ):
        save_file({"weight": torch.zeros(3)}, folder / f"{name}.safetensors", metadata={"upfusion_field": content})
    unreadable = "could not be read as .safetensors"
    undescribed = "cannot read|must be JSON"
    return {
        **dict.fromkeys(("empty", "junk", "long", "pickle", "cut"), unreadable),
        "weights": "is not a field",
        **dict.fromkeys(("huge", "nojson", "list", "deep"), undescribed),
    }


def test_files_that_are_no_fields_get_a_sentence(run_node: Callable, ball: nn.Module, folders: Path) -> None:
    for name, message in hostile_files(ball, folders / "input").items():
        with pytest.raises(ValueError, match=message) as caught:
            run_node(LOAD, field=f"{name}.safetensors")
        assert "\n" not in str(caught.value), name


def test_a_field_at_work_notices_cancel_however_it_is_asked(
    pack: Callable[[str], ModuleType], run_node: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, nodes = pack("upfusion_core"), pack("nodes.field")
    field = core.RadianceField(pack("upfusion_core.field.radiance").FieldConfig.draft())
    asked: list[bool] = []

    def cancel() -> None:
        asked.append(True)
        raise InterruptedError

    monkeypatch.setattr(nodes, "check_interrupted", cancel)
    own = nodes._working_copy(field)
    points = torch.zeros(1, 3)
    for question in (own.density, own.color, own):
        with pytest.raises(InterruptedError):
            question(points)
    field.density(points)  # the one in the socket stays as it is
    assert len(asked) == 3
