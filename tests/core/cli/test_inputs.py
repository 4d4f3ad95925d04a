"""What commands read beside photos: checksums, lists of cameras that are none."""

import hashlib
import os
from pathlib import Path

import pytest

from upfusion_core.cli.inputs import checksum, read_cameras
from upfusion_core.models.checkpoint import open_checkpoint
from upfusion_core.support.errors import CheckpointError, InputError


def test_checksums_are_of_whole_files(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # more than is read at once
    (tmp_path / "a").write_bytes(content)
    assert checksum(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match="none cannot be read"):
        checksum(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match="it is a device or pipe"):
        read_cameras(tmp_path / "config.json", 0.0)
    for name in ("upsrt.pt", "upfusion2d.pt", "dinov2_vitb14_pretrain.pth"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="it is a device or pipe"):
        open_checkpoint(tmp_path)
