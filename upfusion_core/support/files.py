"""Files written whole or not at all, strangers' files read, names checked; JSON; files of data sets and the package."""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import IO, Any, NoReturn

from .errors import InputError, OutputError, UpFusionError

# name of a file -> a temporary path that becomes it when the block ends well
Writing = Callable[[str], AbstractContextManager[Path]]

BUNDLED = Path(__file__).parents[1] / "bundled"  # the small model, photos of objects that it was not trained on
BUNDLED_NAME = "mini"  # the bundled model wherever weights are named; a folder of that name is `./mini` or a Path
LARGEST_JSON = 64_000_000  # bytes of a file; Objaverse's list of 800,000 ids has 29 MB

_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in "123456789\u00b9\u00b2\u00b3"}
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | _PORTS  # on Windows, with any suffix
_LONGEST_NAME = 180  # bytes; systems take 255, and temporary names and numbers are put round it


def bundled_path(name: str) -> Path:
    """Where a file of the package's own data is, or would be."""
    return BUNDLED / name


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path`, of the same suffix; on success it is renamed to `path`, else removed.

    What fails becomes OutputError; an older file then stays as it was, and folders that were made for it go again. Who
    may read the file follows the umask, whatever its writer thinks: safetensors lets nobody else.
    """
    check_path("path", path)
    path = Path(path)
    check_target(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with made_folder(path.parent):
            try:
                partial.touch()
                mode = partial.stat().st_mode
                partial.unlink()
                yield partial
                if partial.stat().st_mode != mode:  # some systems know no modes
                    partial.chmod(stat.S_IMODE(mode))
                os.replace(partial, path)
            finally:
                if partial.is_file():
                    partial.unlink()
    except OSError as error:
        raise OutputError(f"{path} could not be written: {_reason(error)}") from error


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Makes `folder` and its parents where they are missing; of these, what is empty in the end goes again."""
    _check_new_folders(folder)
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in made:
            with suppress(OSError):  # it holds what was written
                path.rmdir()


def check_file_name(name: str, label: str = "a file's name") -> None:
    """Raises OutputError unless every system can write `name`: not "aux.png", "mug ", "a:b" and ".."."""
    bad = sorted({letter for letter in name if letter in '<>:"|?*/\\' or not (letter.isprintable() or letter == " ")})
    fault = ""
    if not name.strip(" ."):
        fault = "no name"
    elif name.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        fault = f"{name!r:.60}, which is a device on Windows"
    elif name.endswith((" ", ".")):
        fault = f"{name!r:.60} with a space or dot at its end, which Windows drops"
    elif bad:
        fault = f"{name!r:.60} with {bad[0]!r}"
    elif len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        fault = f"one of {len(name)} letters"
    if fault:
        raise OutputError(f"{label} must be one that every system can write, got {fault}; choose another name")


def _check_new_folders(folder: Path) -> None:
    for depth, path in enumerate((folder, *folder.parents)):
        if os.path.lexists(path):  # unlike Path.exists, this takes names that are too long for the system
            break
        if depth == 100:
            raise OutputError(f"{folder!s:.60}... must be at most 100 new folders deep; choose another name")
        check_file_name(path.name, "the name of a new folder")


def check_target(path: Path) -> None:
    """Raises OutputError unless a file can be written, or replaced, under `path` and in the folders above it."""
    check_file_name(path.name, "the name of the file to write")
    _check_new_folders(path.parent)
    if os.path.isdir(path):
        raise OutputError(f"{path} could not be written: {_reason(IsADirectoryError(errno.EISDIR, 'Is a directory'))}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(f"{path} must be an ordinary file, but is a device or pipe; choose another name")


def check_path(name: str, value: object) -> None:
    """Raises InputError unless `value` names a file or folder: a text that is not empty, or a path."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str) or not os.fspath(value):
        raise InputError(f"{name} must be a path, got {value!r:.40}; give the name of a file or folder")


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another place, then run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; choose another place"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where a folder is needed; choose another place"
    return f"{error.strerror or error}; choose another place or mend this one"


def check_regular(path: "Path | Remote", most: int) -> None:
    """Raises OSError if `path` is a device or pipe, which may never end, or has more than `most` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # opening a folder says what it is
        raise OSError("it is a device or pipe")
    if status.st_size > most:
        raise OSError(f"it has {status.st_size:,} bytes, more than {most:,}")


def read_regular(path: "Path | Remote", most: int) -> bytes:
    """The content of a stranger's file; raises OSError as check_regular, and where it cannot be read."""
    check_regular(path, most)
    return path.read_bytes()


@contextmanager
def reading(subject: object, advice: str, *, what: str = "", error: type[UpFusionError] = InputError) -> Iterator[None]:
    """Turns whatever a reader raises on a damaged or foreign file into one sentence of ours; our own errors pass.

    Example: "a.npy must be an array, but cannot be read (Permission denied); render it again". Nothing that may be
    cancelled, and no hook of the caller, belongs into the block.
    """
    try:
        yield
    except UpFusionError:
        raise
    except Exception as reason:
        text = (reason.strerror if isinstance(reason, OSError) else None) or " ".join(str(reason).split())
        text = re.sub(r" <\S+ object at 0x\w+>", "", text)  # Pillow names streams so; each is another
        if isinstance(reason, KeyError) or not text:
            text = f"{type(reason).__name__} {text}".rstrip()
        wanted = f"must be {what}, but cannot be read" if what else "cannot be read"
        raise error(f"{subject!s:.300} {wanted} ({text[:160]}); {advice}") from reason


def save_tensors(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes tensors and containers of them by torch.save, whole or not at all; OutputError where the disk fails."""
    import torch  # the command line's --help needs this module and no torch

    _save(path, lambda partial: torch.save(content, partial), RuntimeError)


def save_safetensors(tensors: dict[str, Any], path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Writes contiguous tensors and texts as a `.safetensors` file, the same bytes every time, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        save_file(tensors, partial, metadata=metadata)
        with partial.open("r+b") as file:  # safetensors writes metadata in an order that changes from run to run
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header["__metadata__"] = dict(sorted(metadata.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
            assert len(text) == size, "the same entries in another order are as long"
            file.seek(8)
            file.write(text)

    _save(path, write, SafetensorError)


def _save(path: str | os.PathLike[str], write: Callable[[Path], None], kind: type[Exception]) -> None:
    """Both writers report a full disk as an error of their `kind`, and torch's keeps the space while that lives."""
    failure = ""
    with replacing(path) as partial:
        try:
            write(partial)
        except kind as error:
            failure = str(error).strip().splitlines()[0][:120]
        if failure:
            why = f"the disk is probably full ({failure}); free some space, then run again"
            raise OutputError(f"{path} could not be written: {why}")


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Writes `content` as indented UTF-8 JSON, whole or not at all; what is no UTF-8 in names of files as escapes."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(
    path: str | os.PathLike[str],
    error: type[UpFusionError] = InputError,
    *,
    lone_surrogates: bool = False,
    finite: bool = True,
) -> Any:  # noqa: ANN401 - any JSON
    """The value in a UTF-8 file, with or without a byte order mark, of at most 64 MB; see parse_json."""
    with reading(path, "check the path, and save it as UTF-8", what="a JSON file", error=error):
        text = read_regular(located(path), LARGEST_JSON).decode("utf-8-sig")
    return parse_json(text, str(path), error, lone_surrogates=lone_surrogates, finite=finite)


def parse_json(
    text: str,
    source: str,
    error: type[UpFusionError] = InputError,
    *,
    lone_surrogates: bool = False,
    finite: bool = True,
) -> Any:  # noqa: ANN401 - any JSON
    """The value that `text` stands for; `source`, e.g. a path, names it in the message.

    Refused beside what is no JSON: NaN and Infinity if it is to be `finite`, too deep nesting, names that come twice in
    one object, and, unless `lone_surrogates`, halves of pairs, by which Python spells file names that are no UTF-8.
    """

    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number in JSON")

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"the name {shown(twice)} comes twice in one object")
        return content

    try:
        text = text.removeprefix("\ufeff")
        value = json.loads(text, parse_constant=no_number if finite else float, object_pairs_hook=without_duplicates)
        if "\\u" in text and not lone_surrogates:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could never be written
    except (ValueError, RecursionError) as reason:
        deep = isinstance(reason, RecursionError)
        why = "it is nested too deeply" if deep else str(reason).replace("line 1 column", "column")
        raise error(f"{source} must be JSON, but is not ({why}); correct it there, or remove it") from reason
    return value


def json_number(value: Any, name: str, *, finite: bool = True) -> float:  # noqa: ANN401 - any JSON
    """A number of an entry, or InputError; where it need not be `finite`, null stands for NaN."""
    if value is None and not finite:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float) or (finite and not abs(value) < 1e30):
        raise InputError(f"{name} must be a finite number, got {shown(value, 40)}; correct it there")
    return float(value)


def json_text(value: object, source: str) -> str:
    """`value` as JSON text that `parse_json` reads; `source` says what it is in the message."""
    with reading(source, "give finite numbers, texts and lists", what="what JSON can hold"):
        return json.dumps(value, allow_nan=False)


def shown(value: object, most: int = 60) -> str:
    """`value` as JSON for a message, cut short; whatever it is."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= most else f"{text[:most]}..."


class Remote(str):
    """The address of a file or folder for fsspec, such as s3://bucket/folder, as far as it is asked as a path."""

    def __init__(self, address: str) -> None:
        import fsspec

        self.name = address.rpartition("/")[2]
        with reading(address, "correct it, or install what it needs", what="an address that fsspec knows"):
            self._system, self._path = fsspec.core.url_to_fs(address)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self}/{name}")

    def glob(self, pattern: str) -> list[Any]:
        return [self / path.rpartition("/")[2] for path in self._system.glob(f"{self._path}/{pattern}")]

    def is_file(self) -> bool:
        return bool(self._system.isfile(self._path))

    def stat(self) -> os.stat_result:
        return os.stat_result((stat.S_IFREG, *[0] * 5, self._system.size(self._path), 0, 0, 0))

    def read_bytes(self, first: int | None = None, end: int | None = None) -> bytes:
        return self._system.cat_file(self._path, start=first, end=end)  # type: ignore[no-any-return]

    def open(self, mode: str = "rb") -> IO[bytes]:
        return self._system.open(self._path, mode)  # type: ignore[no-any-return]

    def unlink(self) -> None:
        self._system.rm_file(self._path)

    def put(self, path: Path) -> None:
        try:
            self._system.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(path), self._path)
        except Exception as error:  # each package has its own
            raise OutputError(f"{self} could not be written ({error!s:.200}); check the address") from error


def located(address: str | os.PathLike[str]) -> Path | Remote:
    """What is at an address of fsspec, or at a path."""
    text = os.fspath(address)
    return Remote(text.rstrip("/")) if "://" in text else Path(text)


def existing_folder(root: str | os.PathLike[str]) -> Path:
    """The folder, or InputError where there is none."""
    root = Path(root)
    if not os.path.isdir(root):  # unlike Path.is_dir, this takes names that are too long for the system
        raise InputError(f"a data set is read from a folder, but {root} is none; check the path")
    return root


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, or InputError where a stranger's name leads out of the folder, or is no file's at all."""
    parts = PureWindowsPath(name)  # knows both slashes and drives, whatever the system
    if not name or parts.drive or parts.root or ".." in parts.parts or not name.isprintable():
        raise InputError(f"a file of the data set must lie in its folder, got {name!a:.80}; correct the list")
    return folder / name


def subfolders(root: Path) -> list[Path]:
    """Folders directly in `root`, hidden ones left out, in the order of their names."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def existing_file(*candidates: Path) -> Path | None:
    """The first of the paths that is a file and not empty, or None."""
    return next((path for path in candidates if path.is_file() and path.stat().st_size), None)
