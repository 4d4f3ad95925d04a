"""A run's folder: its lock, its record `run.json`, which stages are finished, and what is left when it stops."""

from __future__ import annotations

import json
import os
import platform
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path, PureWindowsPath
from types import UnionType
from typing import IO, Any, Union, get_args, get_origin

from ..support.errors import InputError, OutputError
from ..support.files import check_new_folders, check_target, made_folder, replacing, write_json
from ..support.json_text import read_json, shown
from ..support.version import version
from .console import answer, say

RECORD_NAME = "run.json"

_SECTIONS = {"command": str, "settings": dict, "sources": dict, "inputs": dict, "timings_seconds": dict}
_LISTS = ("stages", "files", "temporary_files")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file; None where it cannot be read, or a section that every record has is missing or another.

    What it lists as a file is no temporary one, whatever else it says.
    """
    try:
        record = read_json(path, lone_surrogates=True)
    except InputError:
        return None
    if not isinstance(record, dict):
        return None
    sections = all(isinstance(record.get(name), kind) for name, kind in _SECTIONS.items())
    lists = all(is_of_kind(record.get(name), list[str]) for name in _LISTS)
    timings = sections and all(is_of_kind(value, float) for value in record["timings_seconds"].values())
    if not (sections and lists and timings):
        return None
    kept = {Path(name) for name in record["files"]}
    record["temporary_files"] = [name for name in record["temporary_files"] if Path(name) not in kept]
    return record


def listed_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The files that the record lists, and itself; a record that was tampered with lists none outside the folder."""
    found = (inside(folder, name) for name in (*record["files"], *record["temporary_files"], RECORD_NAME))
    return [path for path in found if path is not None]


def check_listed(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises OutputError if a record lists what is no file of its folder; continuing its run would remove that."""
    for name in (*record["files"], *record["temporary_files"]):
        if inside(folder, name) is None:
            raise OutputError(
                f"{folder / RECORD_NAME} must list files of its folder, got {shown(name)}; correct it there, "
                "or use --force to begin anew"
            )


def inside(folder: Path, name: str) -> Path | None:
    """The path of the file `name` of a folder; None if it is elsewhere, a folder, or no name."""
    parts = PureWindowsPath(name)  # knows both slashes and drives, whatever the system
    if not name or parts.drive or parts.root or ".." in parts.parts or "\0" in name:
        return None
    path, home = folder / name, folder.resolve()
    place = path.parent.resolve()  # a folder in it may be a link that leads elsewhere
    is_folder = os.path.isdir(path) and not os.path.islink(path)
    return path if home in (place, *place.parents) and not is_folder else None


def is_of_kind(value: object, kind: Any) -> bool:  # noqa: ANN401 - any annotation
    """Whether a JSON value fits the annotation of a settings' field, such as `int | None` or `tuple[str, ...]`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(is_of_kind(value, part) for part in arguments)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(is_of_kind(item, arguments[0]) for item in value)
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) < value < 2**63
        return is_number and (kind is float or isinstance(value, int))
    return isinstance(value, kind)


def source_paths(settings: Mapping[str, Any], sources: Mapping[str, Any]) -> list[Path]:
    """The files and folders that a record names: all of its sources, and the settings that are absolute paths."""
    paths = [Path(name) for name in (*_texts(sources.values()), *_texts(settings.values())) if os.path.isabs(name)]
    return [path for path in paths if os.path.exists(path)]


def check_sources(folder: Path, sources: Iterable[Path], doomed: Iterable[Path]) -> None:
    """Raises OutputError if files that go, or are written anew, are sources, or lie in one that is a folder.

    Args:
        folder: of the run. A source that merely holds it, as a folder of many runs may, is not harmed.
        sources: see source_paths.
        doomed: files of the folder; those that do not exist harm nothing.
    """
    home, present = folder.resolve(), [path for path in doomed if os.path.exists(path)]
    for source in sources:
        place = source.resolve()
        whole = os.path.isdir(place) and home in (place, *place.parents)
        for path in present:
            if os.path.samefile(place, path) or (whole and place in path.resolve().parents):
                raise OutputError(f"{source} is read by this run, which would replace {path}; choose another folder")


def refuse_existing(*paths: Path, source: Path, force: bool) -> None:
    """Raises OutputError if something is at one of the paths and is not to be replaced, or is the source itself."""
    for path in paths:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise OutputError(f"{path} is the source itself; choose another name")
        if os.path.exists(path) and not force:
            raise OutputError(f"{path} exists already; choose another name, or --force to replace it")


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)


LOCK_NAME = ".upfusion.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process.

    Raises:
        OutputError: another process holds it, or nothing can be written there.
    """
    with _held(folder / LOCK_NAME, f"into {folder}", "folder"):
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Holds the name of a file, or of a folder that is written as a whole, for this process; its parents are made.

    Raises:
        OutputError: another process holds it, or nothing can be written there.
    """
    check_new_folders(path)
    folder = path.parent
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
        except OSError as error:
            raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error
        stack.enter_context(_held(folder / f".{path.name}{LOCK_NAME}", str(path), "name"))
        yield


@contextmanager
def _held(path: Path, what: str, other: str) -> Iterator[None]:
    folder = path.parent
    try:
        handle = _acquire(path)
    except PermissionError as error:
        raise OutputError(f"{folder} must be writable, but the system denies it; choose another folder") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}); choose another folder") from error
    if handle is None:
        raise OutputError(f"another run{_holder(path)} is writing {what}; wait for it or choose another {other}")
    try:
        yield
    finally:
        if sys.platform == "win32":  # an open file cannot be removed there
            handle.close()
        with suppress(OSError):
            path.unlink()
        handle.close()


def _acquire(path: Path) -> IO[bytes] | None:
    while True:
        if _is_foreign(path):
            raise OutputError(f"{path} must be a file that a run made to hold its folder, but is none; remove it")
        handle = open(path, "a+b", opener=_open_no_link)  # noqa: SIM115 - it stays open as long as the lock is held
        if not _lock(handle):
            handle.close()
            return None
        if _is_current(handle, path):
            handle.truncate(0)
            handle.write(str(os.getpid()).encode())
            handle.flush()
            return handle
        handle.close()  # its owner removed it between our opening and locking it


def _is_foreign(path: Path) -> bool:
    """Whether something is there that no run makes: a link, another file's second name, a pipe, a folder."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_nlink > 1


def _open_no_link(path: str, flags: int) -> int:
    """Opens a file, but never what a link leads to, where the system can tell."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is_current(handle: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: IO[bytes]) -> bool:
    """Locks the file without waiting; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(1 << 20)  # locked bytes cannot be read there, and the process number should be
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _holder(path: Path) -> str:
    try:
        number = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
    return f" (process {number})" if number.isdigit() else ""


CHEAP_SECONDS = 60.0
"""On a disk that is full, work of less than this is removed again; of more, it is kept to be continued."""

PACKAGES = ("upfusion", "torch", "diffusers", "transformers", "safetensors", "trimesh", "scikit-image", "Pillow")


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; the message says what is left of it."""


def new_record(
    command: str, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any]
) -> dict[str, Any]:
    """What `run.json` holds when a run begins; see `Run.begin`."""
    return {
        "command": command,
        "status": "running",
        "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "sources": sources,
        "inputs": inputs,
        "environment": {"python": platform.python_version(), "system": platform.platform(), **package_versions()},
        "stages": [],
        "timings_seconds": {},
        "files": [],
        "temporary_files": [],
    }


def finished_record(record: dict[str, Any], stage: str, seconds: float, files: Sequence[Path]) -> dict[str, Any]:
    """The record of a command of one stage that is through."""
    return record | {
        "status": "finished",
        "stages": [stage],
        "timings_seconds": {stage: round(seconds, 3)},
        "files": [str(path) for path in files],
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a result, without importing them."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = version() if name == "upfusion" else metadata.version(name)
    return versions


class Run:
    """One run in its folder; made by `open_run`."""

    def __init__(self, folder: Path, command: str, previous: dict[str, Any] | None, *, resume: bool) -> None:
        self.folder = folder
        self.command = command
        self.previous = previous
        self.resumed = resume
        self.record: dict[str, Any] | None = None
        self.report: list[str] = []
        self._worth_keeping = resume
        self._sources: list[Path] = []

    def stored(self, section: str) -> dict[str, Any]:
        """A section of the record of the run that is being continued; empty in a new one."""
        return self.previous[section] if self.resumed and self.previous else {}

    def check_same(self, settings: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Raises InputError if a run is continued with other settings or inputs than it was begun with."""
        if self.resumed and self.previous is not None:
            _check_same(self.folder, self.previous, settings, inputs)

    def begin(
        self, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any], writes: Sequence[str] = ()
    ) -> None:
        """Writes the record; all that can be checked before should be, as --force now removes the run before.

        Args:
            settings: what shapes the result.
            sources: where photos and other inputs came from; they may move until the run is continued.
            inputs: what was in them, as checksums.
            writes: names of files that come about in other ways than by `writing`.

        Raises:
            OutputError: files that are read would be removed or written.
        """
        self._sources = source_paths(settings, sources)
        if self.resumed and self.previous is not None:
            self.record = {**self.previous, "status": "running"}
        else:
            doomed = [self.folder / name for name in writes]
            if self.previous is not None:
                doomed += listed_files(self.folder, self.previous)
            check_sources(self.folder, self._sources, doomed)
            if self.previous is not None:
                _remove_files(self.folder, self.previous)
            self.record = new_record(self.command, settings, sources, inputs)
        _remove_partial_files(self.folder)
        self._save()

    def begin_finished(self, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Says that a run that is to be continued has nothing left to do, and writes its record; see `begin`."""
        say(f"{self.folder} is finished already; --force would make it anew")
        self.begin(settings, sources, inputs)

    def note(self, name: str, value: object) -> None:
        """Adds a fact to the record."""
        self._begun[name] = value
        self._save()

    def check_model(self, model_id: str | None) -> None:
        """Notes which model is used; raises InputError if a continued run began with another."""
        before = self._begun.get("model_id")
        if before is not None and model_id is not None and before != model_id:
            raise InputError(
                f"the run in {self.folder} was begun with other weights; continue it with the same ones, "
                "or use --force to begin anew"
            )
        self.note("model_id", model_id)

    def finished(self, stage: str) -> bool:
        """Whether an earlier attempt has finished `stage`."""
        return stage in self._begun["stages"]

    @contextmanager
    def stage(self, name: str, *, keep: bool = True) -> Iterator[None]:
        """Times a stage and records that it is finished.

        Args:
            name: as in the record.
            keep: whether its results alone are worth keeping if the run stops later.
        """
        start = time.monotonic()
        try:
            yield
        finally:
            timings = self._begun["timings_seconds"]
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - start, 3)
        if name not in self._begun["stages"]:
            self._begun["stages"].append(name)
        self._worth_keeping |= keep
        self._save()

    @contextmanager
    def writing(self, name: str, *, keep: bool = True) -> Iterator[Path]:
        """Gives a temporary path for the file `name` of the folder, and records the file when it is complete."""
        path = self._place(name)
        if name not in self._begun["files"]:
            check_sources(self.folder, self._sources, [path])
        with replacing(path) as partial:
            yield partial
        self.keep(name, keep=keep)

    def keep(self, name: str, *, keep: bool = True) -> None:
        """Records the file `name` of the folder, which is complete."""
        if name not in self._begun["files"]:
            self._begun["files"].append(name)
        self._worth_keeping |= keep
        self._save()

    @property
    def already_finished(self) -> bool:
        """Whether the run that is to be continued has nothing left to do."""
        return self.resumed and self.previous is not None and self.previous.get("status") == "finished"

    @property
    def seconds(self) -> float:
        """Time that all stages took, over all attempts."""
        timings: dict[str, float] = self._begun["timings_seconds"]
        return sum(timings.values())

    def has(self, name: str) -> bool:
        """Whether the file `name` was completely written, now or by an earlier attempt."""
        return name in self._begun["files"] and (self.folder / name).is_file()

    def temporary(self, name: str) -> Path:
        """The path of a file that is needed until the run is finished, such as a checkpoint."""
        path = self._place(name)
        if name not in self._begun["temporary_files"]:
            self._begun["temporary_files"].append(name)
            self._save()
        return path

    def retire(self, name: str) -> None:
        """From now on the file `name` is a temporary one: it goes when the run is finished."""
        self._begun["files"] = [file for file in self._begun["files"] if file != name]
        self.temporary(name)

    def discard(self, name: str) -> None:
        """Removes a temporary file that has done its work."""
        (self.folder / name).unlink(missing_ok=True)

    def tell(self, text: str) -> None:
        """A line of the answer on stdout, which comes when the run is finished and on record."""
        self.report.append(text)

    def finish(self) -> None:
        """Records the end and removes the temporary files; killed between the two, the run is finished all the same."""
        self._begun["status"] = "finished"
        self._save()
        for name in self._begun["temporary_files"]:
            self.discard(name)
        self._begun["temporary_files"] = []
        self._save()

    def stop(self, status: str, *, cheap: float = 0.0) -> bool:
        """Records why the run stopped, or removes all of it if nothing in it was worth keeping; whether it was kept.

        Args:
            status: as in the record.
            cheap: seconds of work that are not worth keeping.
        """
        if self.record is None:
            return self.resumed
        checkpoints = [name for name in self.record["temporary_files"] if not name.endswith(".png")]
        kept = self._worth_keeping or any((self.folder / name).is_file() for name in checkpoints)
        if kept and (self.resumed or self.seconds >= cheap):
            self.record["status"] = status
            self._save()
            return True
        _remove_files(self.folder, self.record)
        return False

    def _place(self, name: str) -> Path:
        """The path of the file `name`; raises OutputError if a link in the folder leads elsewhere."""
        path = inside(self.folder, name)
        if path is None:
            raise OutputError(
                f"{self.folder / name} must be a file in {self.folder}, but a link leads elsewhere or a folder has "
                "that name; remove it, or choose another folder"
            )
        return path

    @property
    def _begun(self) -> dict[str, Any]:
        assert self.record is not None, "Run.begin comes first"
        return self.record

    def _save(self) -> None:
        write_json(self.folder / RECORD_NAME, self._begun)


@contextmanager
def open_run(folder: Path, command: str, *, resume: bool = False, force: bool = False) -> Iterator[Run]:
    """Holds `folder` for one run of `command`; made if missing, and removed if nothing is left in it.

    Args:
        folder: where all results go.
        command: the subcommand's name.
        resume: continue the run that `folder` holds.
        force: replace what `folder` holds.

    Raises:
        OutputError: the folder is held by another run, holds another run's results, or cannot be written.
        Interrupted: the user stopped the run; the message says how to continue.
    """
    if resume and force:
        raise InputError("--resume continues a run and --force replaces it; give one of them")
    with _made(folder), locked(folder):
        run = Run(folder, command, _previous(folder, command, resume=resume, force=force), resume=resume)
        try:
            yield run
        except KeyboardInterrupt as error:
            raise Interrupted(_how_to_continue(run, run.stop("interrupted"))) from error
        except OutputError as error:
            if _stopped(run, cheap=CHEAP_SECONDS):
                raise OutputError(f"{error}; what is finished was kept: {_continuing(run)}") from error
            raise
        except BaseException:
            _stopped(run)
            raise
        run.finish()
        for line in run.report:
            answer(line)


def _stopped(run: Run, cheap: float = 0.0) -> bool:
    """Records a failure, or cleans up after it; a disk that refuses even that must not hide what went wrong first."""
    with suppress(OutputError):
        return run.stop("failed", cheap=cheap)
    return True


def _how_to_continue(run: Run, kept: bool) -> str:
    if not kept:
        return "interrupted; nothing was finished, so nothing was kept"
    return f"interrupted; to continue: {_continuing(run)}"


def _continuing(run: Run) -> str:
    return f"upfusion {run.command} --resume -o {_quoted(run.folder)}"


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if any(letter in text for letter in " '()&;") else text


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder made, see made_folder; what prevents it in a sentence."""
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
        except FileExistsError as error:
            raise OutputError(f"{folder} must be a folder, but is a file; choose another name") from error
        except OSError as error:
            raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error
        yield


def _previous(folder: Path, command: str, *, resume: bool, force: bool) -> dict[str, Any] | None:
    """The record of the run that the folder holds, if it may be continued or replaced."""
    path = folder / RECORD_NAME
    check_target(path)
    if not path.exists():
        if resume:
            raise OutputError(f"{folder} holds no run to continue; leave out --resume to begin one")
        others = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
        if others and not force:
            raise OutputError(
                f"{folder} holds other files ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}); "
                "choose an empty folder, or --force to write among them"
            )
        return None
    if not resume and not force:
        raise OutputError(
            f"{folder} holds a run already; choose another folder, --force to replace it or --resume to continue it"
        )
    record = read_record(path)
    if record is None and resume:
        raise OutputError(f"{path} must be a record of a run, but cannot be read; use --force to begin anew")
    if resume and record is not None and record["command"] != command:
        raise OutputError(
            f"{folder} holds a run of `upfusion {record['command']}`, not of `upfusion {command}`; continue that one"
        )
    if resume and record is not None:
        check_listed(folder, record)
    return record


def _check_same(folder: Path, previous: dict[str, Any], settings: dict[str, Any], inputs: dict[str, Any]) -> None:
    for name, value in settings.items():
        before = previous["settings"].get(name)
        if before != value:
            raise InputError(
                f"the run in {folder} was begun with {name} = {json.dumps(before)}, now it is {json.dumps(value)}; "
                "continue it as it was begun, or use --force to begin anew"
            )
    for name, value in inputs.items():
        if previous["inputs"].get(name) != value:
            raise InputError(
                f"the run in {folder} was begun with other {name}; continue it with the same ones, "
                "or use --force to begin anew"
            )


def _remove_partial_files(folder: Path) -> None:
    """Removes what a run that was killed while writing left in its folders; see files.replacing.

    Its record may not name them yet. Another run's folder within this one is left alone.
    """
    within = [place for place in folder.iterdir() if place.is_dir() and not place.is_symlink()]
    for place in (folder, *(place for place in within if not (place / RECORD_NAME).exists())):
        for partial in place.glob(".*.partial*"):
            partial.unlink(missing_ok=True)


def _remove_files(folder: Path, record: dict[str, Any]) -> None:
    """Removes what the record lists and itself, and the subfolders that this empties."""
    for path in listed_files(folder, record):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with suppress(OSError):  # it holds other files
                path.parent.rmdir()
