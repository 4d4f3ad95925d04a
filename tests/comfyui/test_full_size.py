"""A folder of the released sizes in a running ComfyUI on the CPU."""

import re
import time
from pathlib import Path

import pytest
from comfyui_server import start_server
from workflows_api import sampled

pytestmark = [pytest.mark.comfyui, pytest.mark.full]

GIGABYTES_AT_MOST = 12.0


def test_a_full_size_folder_paints_a_view_in_12_gb(full_weights: Path, tmp_path: Path) -> None:
    models = tmp_path / "models" / "upfusion"
    models.mkdir(parents=True)
    (models / "full").symlink_to(full_weights, target_is_directory=True)
    peak, until = 0, time.monotonic() + 3 * 3600
    with start_server(tmp_path) as server:
        prompt_id = server.queue(sampled(2, weights="full", precision="auto", size=256, cameras=1))
        while time.monotonic() < until and not server.get(f"/history/{prompt_id}"):
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            peak = max(peak, int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024)
            time.sleep(0.1)
        assert len(server.wait(prompt_id)["outputs"]["saved"]["images"]) == 1
    print(f"peak of anonymous memory: {peak / 1e9:.2f} GB")
    assert peak / 1e9 <= GIGABYTES_AT_MOST
