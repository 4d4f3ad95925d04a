"""A run's folder: held by one process, with a record, `run.json`, of what was asked and what is finished."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from .. import __version__
from ..support.errors import InputError, OutputError
from ..support.files import check_target, made_folder, read_json, replacing, write_json
from .console import answer, say

RECORD_NAME = "run.json"
LOCK_NAME = ".upfusion.lock"
CHEAP_SECONDS = 60.0
"""On a disk that is full, work of less than this is removed again; of more, it is kept to be continued."""
PACKAGES = ("upfusion", "torch", "diffusers", "transformers", "safetensors", "trimesh", "scikit-image", "Pillow")


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; the message says what is left of it."""


class Record(BaseModel):
    """The content of `run.json`. Facts of a run, such as model_id, stand beside these names.

    settings: what shapes the result. sources: where inputs came from; they may move until the run is continued.
    inputs: what was in them, as checksums. timings_seconds: of each stage, over all attempts.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal[2]
    """Rises when the runs of before cannot be continued any more; the first records had none."""
    command: str
    status: str = "running"
    begun: str
    settings: dict[str, Any]
    sources: dict[str, Any]
    inputs: dict[str, Any]
    environment: dict[str, str]
    stages: list[str] = []
    timings_seconds: dict[str, float] = {}
    files: list[str] = []
    temporary_files: list[str] = []

    def note(self, **facts: object) -> None:
        """Adds facts."""
        for name, value in facts.items():
            setattr(self, name, value)


def new_record(
    command: str, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any] | None = None
) -> Record:
    """The record of what begins now."""
    begun = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    versions = {"python": platform.python_version(), "system": platform.platform(), **package_versions()}
    asked: Any = {"settings": settings, "sources": sources, "inputs": inputs or {}}
    return Record(format=2, command=command, begun=begun, environment=versions, **asked)


def read_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        InputError: it cannot be read, is no record, or one of another format.
    """
    content = read_json(path, lone_surrogates=True)  # names of files that are no UTF-8 are written so
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"])) or "content"
        raise InputError(
            f"{path} must be a record of a run in this release's format, but its {wrong} is another; "
            "use --force to begin anew"
        ) from error


@contextmanager
def recorded_files(path: Path, command: str, settings: dict[str, Any], sources: dict[str, Any]) -> Iterator[Record]:
    """The record of a command that makes files and no folder, written when the block ends, which enters the files."""
    record, start = new_record(command, settings, sources), time.monotonic()
    yield record
    record.status, record.stages = "finished", [command]
    record.timings_seconds = {command: round(time.monotonic() - start, 3)}
    write_json(path, record.model_dump())


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a result, without importing them."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = __version__ if name == "upfusion" else metadata.version(name)
    return versions


@contextmanager
def locked(folder: Path, name: str = "") -> Iterator[None]:
    """Holds `folder`, or only the file `name` in it, for this process; made if missing, and removed if left empty.

    Raises:
        OutputError: another process holds it, or nothing can be written there.
    """
    path = folder / (f".{name}{LOCK_NAME}" if name else LOCK_NAME)
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
            stack.enter_context(FileLock(path, timeout=0))
        except Timeout as error:
            what = f"{folder / name}; wait for it or choose another name"
            what = what if name else f"into {folder}; wait for it or choose another folder"
            holder = ""
            with suppress(OSError, ValueError):
                holder = f" (process {int(path.read_text(encoding='ascii'))})"
            raise OutputError(f"another run{holder} is writing {what}") from error
        except FileExistsError as error:
            raise OutputError(f"{folder} must be a folder, but is a file; choose another name") from error
        except OSError as error:
            raise OutputError(f"{folder} cannot be written to ({error.strerror}); choose another folder") from error
        with suppress(OSError):  # Windows lets nobody write there; then the number is not told
            path.write_text(str(os.getpid()), encoding="ascii")
        try:
            yield
        finally:
            with suppress(OSError):  # on Windows the lock itself removes it
                path.unlink()


class Run:
    """One run in its folder; made by `open_run`.

    previous: the record that the folder held. resumed: whether its run is continued.
    """

    def __init__(self, folder: Path, command: str, previous: Record | None, *, resume: bool) -> None:
        self.folder, self.command, self.previous, self.resumed = folder, command, previous, resume
        self.record: Record
        """What `run.json` is to hold, from `plan` on."""
        self.report: list[str] = []
        self._begun = False
        self._worth_keeping = resume

    @property
    def stored(self) -> Record | None:
        """The record of the run that is continued; None in a new one."""
        return self.previous if self.resumed else None

    @property
    def already_finished(self) -> bool:
        """Whether the run that is to be continued has nothing left to do."""
        return self.stored is not None and self.stored.status == "finished"

    @property
    def seconds(self) -> float:
        """Time that all stages took, over all attempts."""
        return sum(self.record.timings_seconds.values())

    def plan(self, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Says what the run is to do (see Record); nothing is written yet.

        Raises:
            InputError: a run is continued with other settings or inputs than it was begun with.
        """
        if self.stored is None:
            self.record = new_record(self.command, settings, sources, inputs)
            return
        for name, value in settings.items():
            before = self.stored.settings.get(name)
            if before != value:
                self._refuse(f"{name} = {json.dumps(before)}, now it is {json.dumps(value)}", "it as it was begun")
        for name, value in inputs.items():
            if self.stored.inputs.get(name) != value:
                self._refuse(f"other {name}", "it with the same ones")
        self.record = self.stored.model_copy(update={"status": "running"})

    def check_model(self, model_id: str | None) -> None:
        """Notes which model is used; raises InputError if a continued run began with another."""
        if model_id is not None and getattr(self.record, "model_id", None) not in (None, model_id):
            self._refuse("other weights", "it with the same ones")
        self.note(model_id=model_id)

    def _refuse(self, what: str, how: str) -> None:
        raise InputError(
            f"the run in {self.folder} was begun with {what}; continue {how}, or use --force to begin anew"
        )

    def begin(self, writes: Sequence[str] = ()) -> None:
        """Writes the record; all that can be checked before should be, as --force now removes the run before.

        Args:
            writes: names of files that come about in other ways than by `writing`.

        Raises:
            OutputError: files that are read would be removed or written.
        """
        if self.already_finished:
            say(f"{self.folder} is finished already; --force would make it anew")
        if self.previous is not None and not self.resumed:
            self._check_inputs(*_files(self.folder, self.previous))
        self._check_inputs(*(self.folder / name for name in writes if name not in self.record.files))
        if self.previous is not None and not self.resumed:
            _remove_files(self.folder, self.previous)
        # what a run that was killed while writing left, which its record may not name; another run's folder within
        # this one is left alone (see files.replacing)
        within = [place for place in self.folder.iterdir() if place.is_dir() and not place.is_symlink()]
        for place in (self.folder, *(place for place in within if not (place / RECORD_NAME).exists())):
            for partial in place.glob(".*.partial*"):
                partial.unlink(missing_ok=True)
        self._begun = True
        self._save()

    def _check_inputs(self, *doomed: Path) -> None:
        """Raises OutputError if files that go, or are written anew, are inputs, or lie in one that is a folder."""
        values = [*self.record.settings.values(), *self.record.sources.values()]
        texts = [item for value in values for item in (value if isinstance(value, list) else [value])]
        inputs = [Path(text) for text in texts if isinstance(text, str) and os.path.isabs(text)]
        home, present = self.folder.resolve(), [path for path in doomed if os.path.exists(path)]
        for source in (path for path in inputs if os.path.exists(path)):
            place = source.resolve()
            whole = os.path.isdir(place) and place.is_relative_to(home)  # a folder of many runs is not harmed
            for path in present:
                if os.path.samefile(place, path) or (whole and place in path.resolve().parents):
                    raise OutputError(
                        f"{source} is read by this run, which would replace {path}; choose another folder"
                    )

    def note(self, **facts: object) -> None:
        """Adds facts to the record."""
        self.record.note(**facts)
        self._save()

    def finished(self, stage: str) -> bool:
        """Whether an earlier attempt has finished `stage`."""
        return stage in self.record.stages

    def has(self, name: str) -> bool:
        """Whether the file `name` was completely written, now or by an earlier attempt."""
        return name in self.record.files and (self.folder / name).is_file()

    @contextmanager
    def stage(self, name: str, *, keep: bool = True) -> Iterator[None]:
        """Times a stage and records that it is finished; `keep`: whether its results alone are worth keeping."""
        start = time.monotonic()
        try:
            yield
        finally:
            timings = self.record.timings_seconds
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - start, 3)
        if not self.finished(name):
            self.record.stages.append(name)
        self._worth_keeping |= keep
        self._save()

    @contextmanager
    def writing(self, name: str, *, keep: bool = True) -> Iterator[Path]:
        """Gives a temporary path for the file `name` of the folder, and records the file when it is complete."""
        if name not in self.record.files:
            self._check_inputs(self.folder / name)
        with replacing(self.folder / name) as partial:
            yield partial
        self.keep(name, keep=keep)

    def keep(self, name: str, *, keep: bool = True) -> None:
        """Records the file `name` of the folder, which is complete."""
        if name not in self.record.files:
            self.record.files.append(name)
        self._worth_keeping |= keep
        self._save()

    def temporary(self, name: str) -> Path:
        """The path of a file that is needed until the run is finished, such as a checkpoint, and no result."""
        if name not in self.record.temporary_files:
            self.record.files = [file for file in self.record.files if file != name]
            self.record.temporary_files.append(name)
            self._save()
        return self.folder / name

    def discard(self, name: str) -> None:
        """Removes a temporary file that has done its work."""
        if _lies_in(self.folder, self.folder / name):
            (self.folder / name).unlink(missing_ok=True)

    def tell(self, text: str) -> None:
        """A line of the answer on stdout, which comes when the run is finished and on record."""
        self.report.append(text)

    def tell_files(self, *names: str) -> None:
        """Lines of the answer that name those of the files which the run has written."""
        self.report += [f"  {self.folder / name}" for name in names if self.has(name)]

    def finish(self) -> None:
        """Records the end and removes the temporary files; killed between the two, the run is finished all the same."""
        self.record.status = "finished"
        self._save()
        for name in self.record.temporary_files:
            self.discard(name)
        self.record.temporary_files = []
        self._save()

    def stop(self, status: str, *, cheap: float = 0.0) -> bool:
        """Records why the run stopped, or removes it if nothing in it was worth keeping; returns whether it was kept.

        Work of fewer than `cheap` seconds is not worth keeping.
        """
        if not self._begun:
            return self.resumed
        kept = self._worth_keeping or any((self.folder / name).is_file() for name in self.record.temporary_files)
        if kept and (self.resumed or self.seconds >= cheap):
            self.record.status = status
            self._save()
            return True
        _remove_files(self.folder, self.record)
        return False

    def _save(self) -> None:
        write_json(self.folder / RECORD_NAME, self.record.model_dump())


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
    shown = f'"{folder}"' if any(letter in str(folder) for letter in " '()&;") else str(folder)
    again = f"upfusion {command} --resume -o {shown}"
    with locked(folder):
        run = Run(folder, command, _previous(folder, command, resume=resume, force=force), resume=resume)
        try:
            yield run
        except KeyboardInterrupt as error:
            kept = run.stop("interrupted")
            left = f"to continue: {again}" if kept else "nothing was finished, so nothing was kept"
            raise Interrupted(f"interrupted; {left}") from error
        except BaseException as error:
            kept, full = True, isinstance(error, OutputError)
            with suppress(OutputError):  # a disk that refuses even that must not hide what went wrong first
                kept = run.stop("failed", cheap=CHEAP_SECONDS if full else 0.0)
            if full and kept:
                raise OutputError(f"{error}; what is finished was kept: {again}") from error
            raise
        run.finish()
        for line in run.report:
            answer(line)


def _previous(folder: Path, command: str, *, resume: bool, force: bool) -> Record | None:
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
    if force:
        with suppress(InputError):  # what cannot be read is written over
            return read_record(path)
        return None
    if not resume:
        raise OutputError(
            f"{folder} holds a run already; choose another folder, --force to replace it or --resume to continue it"
        )
    record = read_record(path)
    if record.command != command:
        raise OutputError(
            f"{folder} holds a run of `upfusion {record.command}`, not of `upfusion {command}`; continue that one"
        )
    return record


def refuse_existing(*paths: Path, source: Path, force: bool) -> None:
    """Raises OutputError if something is at one of the paths and is not to be replaced, or is the source itself."""
    for path in paths:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise OutputError(f"{path} is the source itself; choose another name")
        if os.path.exists(path) and not force:
            raise OutputError(f"{path} exists already; choose another name, or --force to replace it")


def _lies_in(folder: Path, path: Path) -> bool:
    """Whether a file that a record names is one of the run's folder, which may have come from somebody else."""
    return path.parent.resolve().is_relative_to(folder.resolve())


def _files(folder: Path, record: Record) -> list[Path]:
    """The files that the record lists, and itself, but for those outside of the folder."""
    paths = [folder / name for name in (*record.files, *record.temporary_files, RECORD_NAME)]
    return [path for path in paths if _lies_in(folder, path)]


def _remove_files(folder: Path, record: Record) -> None:
    """Removes what the record lists and itself, and the subfolders that this empties."""
    for path in _files(folder, record):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with suppress(OSError):  # it holds other files
                path.parent.rmdir()
