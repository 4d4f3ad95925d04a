"""Files of weights, by whomever, and the states that our own runs go on from: read whole and as saved, or refused."""

import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .checks import magnitude
from .errors import CheckpointError
from .files import inside, read_json, reading

# how a file of weights goes on after its stem: as it is, in parts, or as a copy of half the size
_ENDINGS = (
    *(".pt", ".pth", ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".ckpt"),
    *(".fp16.safetensors", ".safetensors.index.fp16.json", ".fp16.bin"),
)
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})(\..*)")  # of a file that was cut into several
# what training programs put before names: DataParallel, Lightning, torch.compile; Stable Diffusion's own `model.` stays
_WRAPPER = re.compile(r"^(module\.|model\.(?!diffusion_model\.))+")
_EMA = re.compile(r"(^|[._])ema([._]|$)")
# what Lightning saves beside its tensors; nothing of it is imported, an `_Inert` stands in its place
_TRAINER = re.compile(
    r"((pytorch_|)lightning(_fabric|)|omegaconf|pathlib|typing)\..*|argparse\.Namespace"
    r"|numpy\.(ndarray|dtype.*|_?core\.multiarray\.(scalar|_reconstruct))"
)


def find_weights(folder: Path, *stems: str) -> Path | None:
    """The file in `folder` with the weights of the first of the `stems` that has one; in parts, their index."""
    names = [stem + ending for stem in stems for ending in _ENDINGS]
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found and ".fp16." in found.name:
        warnings.warn(f"{folder} holds the weights as float16 only, in {found.name}; these are taken", stacklevel=3)
    return found


def is_safetensors(path: Path) -> bool:
    """Whether a file is `.safetensors` by its name, or the index of one in parts."""
    return path.is_file() and (path.suffix == ".safetensors" or ".safetensors.index." in path.name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors`, `.pt`, `.pth`, `.bin` or `.ckpt` file by name, mapped from it, not copied.

    Of a file in parts all of them, by its index or one of the parts. Wrappers are taken off names, and EMA copies left
    out, with a warning. CheckpointError where the file is missing, truncated, of another kind, or holds anything but
    plain tensors.
    """
    weights: dict[str, Tensor] = {}
    for part in _parts(path):
        with _reading(part):
            content: Any = read_safetensors(part)[0] if part.suffix == ".safetensors" else _read_pickle(part)
        if not isinstance(content, dict) or not content:
            got = type(content).__name__
            raise CheckpointError(f"{part} must hold named tensors, got {got}; it is not a state dict")
        for name, value in content.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                wanted = f"{part} must hold named tensors only, got {type(value).__name__} under {name!r:.60}"
                raise CheckpointError(f"{wanted}; is it another kind of checkpoint?")
            if fault := _fault(value):
                wanted = f"{part} must hold plain float16, bfloat16 or float32 weights, got {fault} for {name:.200}"
                raise CheckpointError(f"{wanted}; use a file that is not quantised, or get it again")
        weights |= content
    kept = {name: value for name, value in weights.items() if not _EMA.search(name)} or weights
    plain, wrappers = {}, set()
    for name, value in kept.items():
        bare = _WRAPPER.sub("", name.replace("_orig_mod.", ""))
        if bare in plain:
            raise CheckpointError(f"{path} must hold each tensor once, got {bare:.200} in two wrappers; leave one away")
        plain[bare] = value
        wrappers |= {name[: len(name) - len(bare)]} if name.endswith(bare) else {"_orig_mod."}
    notes = [f"the wrapper {wrapper} was taken off names" for wrapper in sorted(wrappers - {""})]
    if len(kept) < len(weights):
        notes.insert(0, f"{len(weights) - len(kept)} tensors of EMA copies were left out")
    if notes:
        warnings.warn(f"{path}: {listed(notes, 3)}", stacklevel=2)
    return plain


def _parts(path: Path) -> list[Path]:
    """The files of which `path` is the index, or a part; else itself."""
    if path.name.endswith(".json"):
        _check_file(path)
        index = read_json(path, CheckpointError)
        names = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise CheckpointError(f"{path} must be an index of files of weights, got no weight_map; get it again")
        with reading(path, "get it again", what="an index of files beside it", error=CheckpointError):
            return [inside(path.parent, name) for name in sorted(set(names.values()))]
    if part := _PART.fullmatch(path.name):
        stem, count, ending = part.groups()
        numbers = range(1, int(count) + 1)
        return [path.with_name(f"{stem}-{number:05d}-of-{count}{ending}") for number in numbers] or [path]
    return [path]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, mapped from the file, and metadata of a `.safetensors` file; raises what the library does."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file, or of all its parts; empty where it has none."""
    metadata: dict[str, str] = {}
    for part in _parts(path):
        with _reading(part), safe_open(part, framework="pt") as file:
            metadata |= file.metadata() or {}
    return metadata


def misfits(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Sequence[int]],
    *,
    dtype: torch.dtype | None = None,
    padded: bool = False,
) -> str:
    """What keeps tensors from having the wanted names and shapes, and `dtype` or any of floating point; "" for nothing.

    padded: further axes of size 1 are taken, as of 1x1 convolutions for linear layers.
    """
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    shapes, kinds = list[str](), list[str]()
    for name in [name for name in wanted if name in tensors]:
        came, shape, kind = tuple(tensors[name].shape), tuple(wanted[name]), tensors[name].dtype
        if came != shape and not (padded and came == shape + (1,) * (len(came) - len(shape))):
            shapes.append(f"{name} {came} instead of {shape}")
        if not (kind == dtype if dtype else kind.is_floating_point):
            kinds.append(f"{name} {kind} instead of {dtype or 'floating-point numbers'}")
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another kind": kinds}
    return "; ".join(f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names)


def check_finite_weights(weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Raises CheckpointError if any weights are NaN, infinite, or too large for the precision `dtype`."""
    largest = {name: magnitude(value) for name, value in weights.items() if value.is_floating_point() and value.numel()}
    broken = [name for name, value in largest.items() if not math.isfinite(value)]
    if broken:
        wanted = f"the weights must be finite numbers, got NaN or infinity in {listed(broken, 5)}"
        raise CheckpointError(f"{wanted}; the file is damaged or its training went wrong: get it again")
    large = [name for name, value in largest.items() if value > torch.finfo(dtype).max]
    if large:
        wanted = f"the weights must fit into {str(dtype).removeprefix('torch.')}"
        raise CheckpointError(f"{wanted}, got larger numbers in {listed(large, 5)}; choose bfloat16 or float32")


def listed(names: list[str], most: int = 20) -> str:
    """Names for a message, not too many and none too long."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if len(name) <= 200 else f"{name[:200]}..." for name in names[:most]) + more


def _check_file(path: Path) -> None:
    try:
        str(path).encode("utf-8")  # as the readers want it
    except UnicodeEncodeError as error:
        raise CheckpointError(f"a file of weights must have a UTF-8 name, got {str(path)!a:.300}; rename it") from error
    if not os.path.exists(path):  # unlike pathlib's, also false for names that no file can have
        raise CheckpointError(f"{path} does not exist; check the path or get it again")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise CheckpointError(f"{path} must be a file of weights, got {kind}; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; get it again")


def _reading(path: Path) -> AbstractContextManager[None]:
    _check_file(path)
    advice = "it is damaged, cut short or another kind of file: get it again"
    return reading(path, advice, what="a file of weights", error=CheckpointError)


def _read_pickle(path: Path) -> object:
    """The named tensors, if it is a state dict; code in the file never runs."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or unpacked > 2 * path.stat().st_size + 2**20:
            wanted = f"{path} must be a file that torch.save wrote (stored, not compressed)"
            raise CheckpointError(f"{wanted}, got one that unpacks to {unpacked:,} bytes; get it from its authors")
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        trainers = [name.rpartition(".") for name in unsafe if _TRAINER.fullmatch(name)]
        inert: Any = [type(name, (_Inert,), {"__module__": module}) for module, _, name in trainers]
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise
        wanted = f"{path} must hold tensors only, but it asks to run other code or is damaged, so it was not opened"
        raise CheckpointError(f"{wanted}; get it from its authors, preferably as .safetensors") from error
    if not isinstance(content, dict):
        return content
    nested = (content.get(key) for key in ("model_state_dict", "state_dict", "model", "module"))
    found = next((part for part in nested if isinstance(part, dict)), content)
    copies = [name for name in map(str, content) if found is not content and _EMA.search(name)]
    if inert or copies:
        notes = ["what a training program saved beside them"] * bool(inert) + copies
        warnings.warn(f"{path}: of this file the weights are taken, not {' and '.join(notes)}", stacklevel=3)
    return found


class _Inert:
    """Stands for an object of a training program: takes what a pickle says of it, and does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _fault(value: Tensor) -> str:
    """What is wrong with a tensor of a stranger's file, in words; empty for one of plain real numbers."""
    plain = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    faults = {
        "one without values (on the device meta)": value.is_meta,
        "a nested one": value.is_nested,
        f"one in the layout {str(value.layout).removeprefix('torch.')}": value.layout != torch.strided,
        f"a quantised one ({value.dtype})": value.is_quantized,
        f"a complex one ({value.dtype})": value.is_complex(),
        f"one of {value.dtype}": value.is_floating_point() and value.dtype not in plain,
    }
    if fault := next((fault for fault, there in faults.items() if there), ""):
        return fault
    claimed = value.numel() * value.element_size()  # a stride of 0 makes terabytes of bytes
    held = value.untyped_storage().nbytes()
    return f"{tuple(value.shape)} numbers of which the file holds only a part" if claimed > held else ""


def read_saved(path: Path, what: str, *, mapped: bool = False) -> dict[str, Any]:
    """What `save_tensors` wrote, "fingerprint" among it, if unchanged, by the zip's checksums; else CheckpointError.

    mapped: tensors stay in the file; but not on Windows, which replaces no file that is mapped.
    """
    advice = "it is damaged or of another kind; delete it to begin anew"
    with reading(path, advice, what=what, error=CheckpointError):
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
        if changed:
            raise CheckpointError(f"{path} was changed or damaged since it was saved; delete it to begin anew")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and sys.platform != "win32")
    if not isinstance(content, dict) or "fingerprint" not in content:  # of the run that it belongs to
        raise CheckpointError(f"{path} must be {what}, but is another kind of file; delete it to begin anew")
    return content
