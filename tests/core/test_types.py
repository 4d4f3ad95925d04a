"""What flows between the stages: shapes, ranges and types are checked where a value is made."""

import torch
from refusals import refused
from torch import Tensor

from upfusion_core import Cameras, InputViews, NovelViews, SceneEncoding, ViewConditioning, orbit_cameras

CAMERA, PAIR = orbit_cameras(0), orbit_cameras([0, 90])


def make_views(count: int = 2, **changes: Tensor) -> InputViews:
    good = {"rgb": torch.rand(count, 3, 4, 4), "mask": torch.ones(count, 1, 4, 4), "focal": torch.full((count, 2), 4.5)}
    return InputViews(**(good | changes))


def make_cameras(**changes: Tensor) -> Cameras:
    good = {"camera_to_world": torch.eye(4)[None], "focal": torch.ones(1, 2), "principal": torch.zeros(1, 2)}
    return Cameras(**(good | changes))


def make_conditioning(**changes: object) -> ViewConditioning:
    good = {"hint": torch.ones(2, 9, 4, 4), "ray_maps": [torch.ones(2, 6, 4, 4), torch.ones(2, 6, 2, 2)]}
    good |= {"text": torch.ones(7, 3), "unconditional_text": torch.full((7, 3), 2.0)}
    good |= {"tokens": torch.ones(5, 3), "cameras": PAIR}
    return ViewConditioning(**(good | changes))


def test_what_flows_between_the_stages() -> None:
    refused(r"InputViews.rgb must be \(V, 3, S, S\).*; photos go through", make_views, rgb=torch.rand(2, 4, 4, 3))
    refused("divide 8-bit photos by 255", make_views, rgb=torch.full((2, 3, 4, 4), 255.0))
    refused("finite", make_views, rgb=torch.full((2, 3, 4, 4), torch.nan))
    refused("must be floating point, got torch.uint8", make_views, rgb=torch.ones(2, 3, 4, 4, dtype=torch.uint8))
    refused(r"InputViews.mask must be in \[0, 1\], got \[7, 7\]", make_views, mask=torch.full((2, 1, 4, 4), 7.0))
    refused("InputViews.focal", make_views, focal=torch.ones(2))
    refused("floating point above 0, got 1 as torch.int64", make_views, focal=torch.ones(2, 2, dtype=torch.int64))
    refused("1 to 64 photos, got 65", make_views, count=65)
    refused(r"within \+-1e\+09, got 1e\+20; check its unit", make_cameras, camera_to_world=torch.eye(4)[None] * 1e20)
    refused("must be finite", make_cameras, camera_to_world=torch.eye(4, dtype=torch.float64)[None] * 1e300)
    refused("must be rigid", make_cameras, camera_to_world=torch.zeros(1, 4, 4))
    refused("at least 0.001", make_cameras, focal=torch.full((1, 2), 1e-4))
    refused("within", make_cameras, principal=torch.full((1, 2), 1e5))
    refused("got none", Cameras.concatenate, parts=[])
    refused("each of parts must be Cameras, got int", Cameras.concatenate, parts=[1])
    refused("hint must be", make_conditioning, cameras=CAMERA)
    refused(r"tokens must be \(V·P, C\), got \(8,\)", SceneEncoding, tokens=torch.ones(8), reference=CAMERA)
    refused(r"must be \(1, 3, H, W\).*; one picture a", NovelViews, rgb=torch.rand(2, 3, 4, 4), cameras=CAMERA)
    refused("must be finite", SceneEncoding, torch.ones(2, 3) / 0, CAMERA)
    refused(r"must hold tokens, got \(0, 8\)", SceneEncoding, torch.ones(0, 8), CAMERA)
    null = make_conditioning().unconditional()
    assert float(null.hint.abs().sum() + null.tokens.abs().sum() + sum(m.abs().sum() for m in null.ray_maps)) == 0
    assert (float(null.text.mean()), len(null)) == (2.0, 2)
    part = make_conditioning()[slice(1, 2)]
    assert (part.hint.shape, part.tokens.shape, len(part.cameras)) == ((1, 9, 4, 4), (5, 3), 1)
    assert [tuple(ray_map.shape) for ray_map in part.ray_maps] == [(1, 6, 4, 4), (1, 6, 2, 2)]
    cameras = orbit_cameras([0, 30, 60])
    assert torch.equal(Cameras.concatenate(iter(cameras)).camera_to_world, cameras.camera_to_world)
    assert make_views().to("cpu").rgb.shape == (2, 3, 4, 4)
