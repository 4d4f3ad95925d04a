"""A run's folder: its lock, its record `run.json`, which stages are finished, and what is left when it stops."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..files import check_target, made_folder, replacing, write_json
from ..version import version
from .console import answer, say
from .guard import check_sources, source_paths
from .lock import locked
from .record import RECORD_NAME, check_listed, inside, listed_files, read_record

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
