from __future__ import annotations

import torch

from upfusion_core.support.devices import derived_seed
from upfusion_core.training.batches import BatchRandom


def test_parts_are_cut_from_the_whole() -> None:
    whole = BatchRandom(7)
    parts = [BatchRandom(7, shard, 3) for shard in range(3)]
    for draw in ("uniform", "normal"):
        together = torch.cat([getattr(part, draw)(2, 5, 3) for part in parts])
        assert torch.equal(together, getattr(whole, draw)(6, 5, 3))


def test_draws_are_what_they_say() -> None:
    random = BatchRandom(1)
    uniform, normal = random.uniform(4000), random.normal(4000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.02
    assert abs(float(normal.std()) - 1) < 0.05


def test_seeds_differ_and_stay() -> None:
    seeds = {derived_seed(seed, "losses", step) for seed in range(3) for step in range(50)}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "losses", 1) == derived_seed(0, "losses", 1) != derived_seed(0, "views", 1)
    assert derived_seed(1, 23) != derived_seed(12, 3)
