import math

from golden_files import QUERY_ROUNDING, golden, golden_cameras, sizes, worst
from rule_weights import golden_shapes, rule_state_dict, upsrt_shapes
from torch import Tensor

from upfusion_core.config import UpSRTConfig
from upfusion_core.geometry import patch_rays, plucker, reference_camera, reference_plucker
from upfusion_core.models.upsrt import UpSRT


def camera_plucker(size: int) -> Tensor:
    return reference_plucker(golden_cameras()[5], reference_camera(), size).reshape(1, -1, 6)


def test_values_of_the_release() -> None:
    network = UpSRT(UpSRTConfig(**sizes("upsrt", UpSRTConfig))).requires_grad_(False)
    network.load_state_dict(rule_state_dict(golden_shapes("upsrt")))
    stored, patches = golden("upsrt"), plucker(patch_rays(4, 4))
    assert worst(network.encode(stored["dino_features"], patches), stored["set_latents"]) < 1e-5
    assert worst(network.encode(stored["dino_features"][:, :1], patches), stored["set_latents_one_view"]) < 1e-5
    tokens = stored["set_latents"]
    from_stored = network.decode(tokens, stored["query_plucker"].reshape(1, 16, 6))
    assert worst(from_stored.reshape(1, 4, 4, 48), stored["query_features"]) < 1e-5
    # the highest harmonic, pi 2^8, turns the rounding of the rays into angles; layers whose rows have a length of about
    # 1 pass on three quarters of that, where queries are moved by it at random
    found = network.decode(tokens, camera_plucker(4)).reshape(1, 4, 4, 48)
    assert worst(found, stored["query_features"]) < math.pi * 2**8 * QUERY_ROUNDING
    rays = camera_plucker(6)
    whole = network.decode(tokens, rays)
    assert worst(network.read_rgb(whole).reshape(1, 6, 6, 3), stored["pred_rgb"]) < 5e-5
    assert worst(network.decode(tokens, rays, chunk=7), whole) < 1e-5


def test_sizes() -> None:
    shapes = upsrt_shapes()
    assert (len(shapes), round(sum(map(math.prod, shapes.values())) / 1e5)) == (154, 484)
    assert shapes["linear_scene.weight"] == (768, 768 + 16 * 15)  # harmonics of 6 ray numbers and of 2 ids
    assert shapes["linear_query_pixel_rays.weight"] == (768, 12 * 15)
