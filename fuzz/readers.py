"""Coverage-guided fuzzing of what reads strangers' files: weights, fields, configurations and lists of cameras.

Linux and Python 3.12, in an environment of its own:

    python3.12 -m venv fuzz-environment
    fuzz-environment/bin/pip install '.[train]' atheris
    fuzz-environment/bin/python fuzz/readers.py -max_total_time=600

Arguments are names of readers (all unless some are named), then libFuzzer's own options. It stops at the first
finding, which is anything but a value that is fit for use or one of our exceptions, and keeps the input as `crash-*`;
`fuzz/readers.py READER crash-...` runs that one again. Inputs are mutated from small whole files that are made first,
and those that reach new code are kept in the folder `fuzz-corpus` beside where it is run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import _weights_only_unpickler

try:
    import atheris
except ImportError:  # the seeds and the readers are tried without it too
    atheris = None

sys.path.append(str(Path(__file__).resolve().parents[1]))
with atheris.instrument_imports(include=["upfusion_core"]) if atheris else nullcontext():
    from upfusion_core import load_field, orbit_cameras
    from upfusion_core.cli.inputs import read_cameras
    from upfusion_core.cli.run import new_record, read_record
    from upfusion_core.config import FieldConfig, GridConfig, ModelConfig, TrainConfig
    from upfusion_core.field.radiance import RadianceField
    from upfusion_core.models.checkpoint import open_checkpoint
    from upfusion_core.support.errors import UpFusionError
    from upfusion_core.support.files import parse_json
    from upfusion_core.support.weights import check_finite_weights, read_weights

_MEMORY = Path("/dev/shm")
SCRATCH = (_MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())) / f"upfusion-fuzz-{os.getpid()}"
"""Where each input is written, for readers that want a file: not on a disk."""
CORPUS = Path("fuzz-corpus")


def _weights(name: str, data: bytes) -> None:
    path = SCRATCH / name
    path.write_bytes(data)
    weights = read_weights(path)
    assert all(value.device.type == "cpu" for value in weights.values())
    check_finite_weights(weights, torch.float16)


def pickles(data: bytes) -> None:
    """Weights as torch.save writes them."""
    _weights("weights.pt", data)


def safetensors(data: bytes) -> None:
    """Weights as safetensors, and as a merged file."""
    try:
        _weights("weights.safetensors", data)
    finally:
        open_checkpoint(SCRATCH / "weights.safetensors")


def fields(data: bytes) -> None:
    """Fields; one that is accepted has finite densities and colours."""
    path = SCRATCH / "field.safetensors"
    path.write_bytes(data)
    stored = load_field(path)
    density, color = stored.field(torch.rand(4, 3) - 0.5)
    assert torch.isfinite(density).all()
    assert torch.isfinite(color).all()


def configurations(data: bytes) -> None:
    """Sizes of a model, and settings of a training run; one that is accepted says the same again."""
    text = data.decode("utf-8", "replace")
    for kind in (ModelConfig, TrainConfig):
        try:
            config = kind.from_dict(parse_json(text, "it"), "it")
        except UpFusionError:
            continue
        assert kind.from_dict(json.loads(json.dumps(config.to_dict())), "it") == config


def cameras(data: bytes) -> None:
    """Lists of cameras."""
    path = SCRATCH / "cameras.json"
    path.write_bytes(data)
    assert torch.isfinite(read_cameras(path, 22.5).camera_to_world).all()


def records(data: bytes) -> None:
    """run.json."""
    path = SCRATCH / "run.json"
    path.write_bytes(data)
    read_record(path)


READERS: dict[str, Callable[[bytes], None]] = {
    reader.__name__: reader for reader in (pickles, safetensors, fields, configurations, cameras, records)
}


def write_seeds(folder: Path) -> None:
    """Small whole files of each kind, which mutation begins from; the first byte chooses the reader."""
    folder.mkdir(exist_ok=True)
    SCRATCH.mkdir(exist_ok=True)
    weights = {"a.weight": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    grid = GridConfig(levels=2, features=1, coarsest=1, finest=2, table_size=8)
    field = RadianceField(FieldConfig(grid=grid, hidden=1, layers=2))
    field.save(SCRATCH / "field", cameras=orbit_cameras([0.0]), settings={"seed": 0})
    from safetensors.torch import save

    files = {"fields": [(SCRATCH / "field").read_bytes()], "pickles": [], "safetensors": []}
    for zipped in (True, False):
        torch.save({"state_dict": weights}, SCRATCH / "seed", _use_new_zipfile_serialization=zipped)
        files["pickles"].append((SCRATCH / "seed").read_bytes())
    files["safetensors"].append(
        save(weights, {"upfusion_config": json.dumps({"image_size": 64}), "upfusion_facts": "{}"})
    )
    model = ModelConfig().to_dict()
    training = TrainConfig(train_upsrt=True).to_dict()
    matrix = orbit_cameras(90.0).camera_to_world[0].tolist()
    lists = [
        {"azimuth_degrees": 90, "elevation_degrees": 1e1, "distance": 1},
        {"camera_to_world": matrix, "focal": 4.5},
    ]
    record = new_record("demo", {"steps": 3}, {"photos": ["a.png"]}, {}).model_dump()
    record |= {"stages": ["a"], "timings_seconds": {"a": 1.5}, "files": ["views/0.png"]}
    texts = {"configurations": [model, training, {"model": model}], "cameras": [lists], "records": [record]}
    files |= {name: [json.dumps(value).encode() for value in values] for name, values in texts.items()}
    for index, name in enumerate(READERS):
        for number, data in enumerate(files[name]):
            (folder / f"seed-{name}-{number}").write_bytes(bytes([index]) + data)


def one(data: bytes, chosen: list[str]) -> None:
    """Gives an input to its reader; raises on a finding."""
    name = list(READERS)[data[0] % len(READERS)] if data else ""
    if name not in chosen:
        return
    try:
        READERS[name](data[1:])
    except UpFusionError as error:
        message = str(error)
        if not 10 < len(message) < 3000:
            raise RuntimeError(f"a sentence was expected, got {message[:300]!r}") from error


def main() -> None:
    """Reads the arguments and hands the rest to libFuzzer."""
    options = sys.argv[1:]
    if "--help" in options:
        print(__doc__)
        raise SystemExit
    if atheris is None:
        raise SystemExit("fuzzing needs the package atheris, which is not installed; run: pip install atheris")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _weights_only_unpickler.Unpickler.load = atheris.instrument_func(_weights_only_unpickler.Unpickler.load)
    chosen = [option for option in options if option in READERS]
    options = [option for option in options if option not in READERS]
    write_seeds(CORPUS)
    own = [option for option in options if not option.startswith("-")]
    corpus = [] if own else [str(CORPUS)]
    arguments = [sys.argv[0], *corpus, "-timeout=60", "-rss_limit_mb=6000", *options]
    atheris.Setup(arguments, lambda data: one(data, chosen or list(READERS)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
