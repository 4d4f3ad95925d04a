"""A run's folder: held by one process, with a record, `run.json`, of what was asked and what is finished."""

import errno
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from .. import __version__
from ..config.base import built, flat, options_of
from ..config.options import Batch, Demo, Evaluate, Pack, Predict, Reconstruct, Views
from ..support.errors import InputError, OutputError
from ..support.files import BUNDLED_NAME, check_target, inside, made_folder, read_json, replacing, write_json
from .console import answer, say

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

Kind = TypeVar("Kind")
InFolder = TypeVar("InFolder", bound="Demo | Reconstruct | Batch | Views | Predict | Evaluate | Pack")

RECORD_NAME, LOCK_NAME = "run.json", ".upfusion.lock"
CHEAP_SECONDS = 60.0  # on a full disk, work of less than this is removed again; of more, it is kept to be continued
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # of some drives of networks
PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "trimesh", "scikit-image", "Pillow")

# of a file in the run's folder, which may have come from somebody else
Name = Annotated[str, AfterValidator(lambda name: inside(Path(), name).as_posix())]


class Record(BaseModel):
    """The content of `run.json`. Facts of a run, such as model_id, stand beside these names."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal[2]  # rises when the runs of before cannot be continued any more; the first records had none
    command: str
    status: str = "running"
    begun: str
    settings: dict[str, Any]  # what shapes the result
    sources: dict[str, Any]  # where inputs came from; they may move until the run is continued
    inputs: dict[str, Any]  # what was in them, as checksums
    environment: dict[str, str]
    stages: list[str] = []
    timings_seconds: dict[str, float] = {}  # of each stage, over all attempts
    files: list[Name] = []
    temporary_files: list[Name] = []

    @property
    def seconds(self) -> float:
        return sum(self.timings_seconds.values())

    @property
    def names(self) -> list[str]:
        return [*self.files, *self.temporary_files, RECORD_NAME]

    def note(self, **facts: object) -> None:
        for name, value in facts.items():
            setattr(self, name, value)


def new_record(command: str, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any]) -> Record:
    versions = {"python": platform.python_version(), "system": platform.platform(), **package_versions()}
    asked: Any = {"settings": settings, "sources": sources, "inputs": inputs, "environment": versions}
    return Record(format=2, command=command, begun=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **asked)


def read_record(path: Path) -> Record:
    """The record in a file; InputError where it cannot be read, is no record, or one of another format."""
    content = read_json(path, lone_surrogates=True)  # names of files that are no UTF-8 are written so
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"])) or "content"
        wanted = f"{path} must be a record of a run in this release's format, but its {wrong} is another"
        raise InputError(f"{wanted}; use --force to begin anew") from error


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a result, without importing them."""
    versions = {"upfusion": __version__}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@contextmanager
def locked(folder: Path, name: str = "") -> Iterator[None]:
    """Holds `folder`, or only the file `name` in it, for this process; made if missing, and removed if left empty.

    Where a folder knows no locks, a warning says that nothing holds it.
    """
    path = folder / (f".{name}{LOCK_NAME}" if name else LOCK_NAME)
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
            try:
                stack.enter_context(FileLock(path, timeout=0, fallback_to_soft=False))
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                    raise
                say(f"Warning: {folder} is on a drive without file locks; start no second run there before this ends")
        except Timeout as error:
            what, kind = (folder / name, "name") if name else (f"into {folder}", "folder")
            holder = ""
            with suppress(OSError, ValueError):
                holder = f" (process {int(path.read_text(encoding='ascii'))})"
            raise OutputError(f"another run{holder} is writing {what}; wait for it or choose another {kind}") from error
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
    """One run in its folder, made by `open_run`: the record of the one that it continues, or that `begin` removes."""

    record: Record  # what `run.json` is to hold, from `plan` on

    def __init__(self, folder: Path, command: str, stored: Record | None, replaced: Record | None, shown: str) -> None:
        self.folder, self.command, self.stored, self.replaced, self.shown = folder, command, stored, replaced, shown
        self.resumed = self._worth_keeping = stored is not None
        self.already_finished = stored is not None and stored.status == "finished"
        self.report: list[str] = []  # lines of the answer, for when the run is on record
        self._begun = False

    def plan(self, settings: dict[str, Any], sources: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Says what the run is to do (see Record), and writes nothing; refuses other values than it was begun with."""
        if self.stored is None:
            self.record = new_record(self.command, settings, sources, inputs)
            return
        for name, now in settings.items():
            if (before := self.stored.settings.get(name)) != now:
                self._refuse(f"{name} = {json.dumps(before)}, now it is {json.dumps(now)}", "as it was begun")
        for name, now in inputs.items():
            if self.stored.inputs.get(name) != now:
                self._refuse(f"other {name}")
        self.record = self.stored.model_copy(update={"status": "running"})

    def check_model(self, model: "UpFusion") -> None:
        """Notes which model is used, and where; refuses another than the run was begun with."""
        if getattr(self.record, "model_id", model.model_id) != model.model_id:
            self._refuse("other weights")
        self.note(model_id=model.model_id, device=f"{model.device}, {str(model.dtype).removeprefix('torch.')}")

    def _refuse(self, what: str, how: str = "with the same ones") -> None:
        begun = f"the run in {self.folder} was begun with {what}"
        raise InputError(f"{begun}; continue it {how}, or use --force to begin anew")

    def begin(self, writes: Sequence[str] = ()) -> None:
        """Writes the record; --force now removes the run before. `writes`: files that are not written by `writing`."""
        if self.already_finished:
            say(f"{self.shown} is finished already; --force would make it anew")
        replaced = self.replaced.names if self.replaced else []
        self._spare_inputs(*replaced, *(name for name in writes if name not in self.record.files))
        self._remove(*replaced)
        # what an attempt left that was killed while writing (see files.replacing), here and in folders of no other run
        for partial in (*self.folder.glob(".*.partial*"), *self.folder.glob("*/.*.partial*")):
            place = partial.parent
            if place == self.folder or not (place.is_symlink() or (place / RECORD_NAME).exists()):
                partial.unlink(missing_ok=True)
        for scratch in self.folder.glob(".upfusion-*"):  # of weights, see models.convert
            shutil.rmtree(scratch, ignore_errors=True)
        self._begun = True
        self._save()

    def _spare_inputs(self, *names: str) -> None:
        """OutputError if files that go, or are written anew, are inputs, or lie in one that is a folder."""
        values = [*self.record.settings.values(), *self.record.sources.values()]
        texts = [item for value in values for item in (value if isinstance(value, list) else [value])]
        sources = [text for text in texts if isinstance(text, str) and os.path.isabs(text) and os.path.exists(text)]
        home, doomed = self.folder.resolve(), [path for path in map(self.folder.joinpath, names) if path.exists()]
        for source, path in product(sources, doomed):
            place = Path(source).resolve()  # a folder that holds this one is not harmed
            within = place.is_relative_to(home) and place in path.resolve().parents
            if within or os.path.samefile(place, path):
                raise OutputError(f"{source} is read by this run, which would replace {path}; choose another folder")

    def _remove(self, *names: str) -> None:
        """Removes files, and the subfolders that this empties."""
        for path in map(self.folder.joinpath, names):
            path.unlink(missing_ok=True)
            if path.parent != self.folder:
                with suppress(OSError):  # it holds other files
                    path.parent.rmdir()

    def note(self, **facts: object) -> None:
        self.record.note(**facts)
        self._save()

    def finished(self, stage: str) -> bool:
        return stage in self.record.stages

    def has(self, name: str) -> bool:
        """Whether the file `name` was completely written, now or by an earlier attempt."""
        return name in self.record.files and (self.folder / name).is_file()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and records that it is finished."""
        start, timings = time.monotonic(), self.record.timings_seconds
        try:
            yield
        finally:
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - start, 3)
        if not self.finished(name):
            self.record.stages.append(name)
        self._save()

    @contextmanager
    def writing(self, name: str, *, keep: bool = True) -> Iterator[Path]:
        """Gives a temporary path for the file `name` of the folder, and records the file when it is complete."""
        if name not in self.record.files:
            self._spare_inputs(name)
        with replacing(self.folder / name) as partial:
            yield partial
        self.keep(name, keep=keep)

    def keep(self, name: str, *, keep: bool = True) -> None:
        """Records the complete file `name`; `keep`: whether it alone makes a run that stops worth keeping."""
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

    def tell(self, text: str, *names: str) -> None:
        """A line of the answer, and one for each of the files that the run has written."""
        self.report += [text, *(f"  {self.folder / name}" for name in names if self.has(name))]

    def finish(self) -> None:
        self.note(status="finished")  # killed before the temporary files are removed, it is finished all the same
        self._remove(*self.record.temporary_files)
        self.note(temporary_files=[])

    def stop(self, status: str, *, cheap: float) -> bool:
        """Records why the run stopped, or removes it if nothing is in it, or `cheap` work; returns whether kept."""
        if not self._begun:
            return self.resumed
        kept = self._worth_keeping or any((self.folder / name).is_file() for name in self.record.temporary_files)
        if kept and (self.resumed or self.record.seconds >= cheap):
            self.note(status=status)
            return True
        self._remove(*self.record.names)
        return False

    def _save(self) -> None:
        write_json(self.folder / RECORD_NAME, self.record.model_dump())


@contextmanager
def open_run(
    folder: Path, command: str, *, resume: bool = False, force: bool = False, address: str = ""
) -> Iterator[Run]:
    """Holds `folder`, made if missing, for a run of `command`; what stops it, Ctrl-C too, says how to continue."""
    if resume and force:
        raise InputError("--resume continues a run and --force replaces it; give one of them")
    shown = address or str(folder)
    shown = f'"{shown}"' if any(letter in shown for letter in " '()&;") else shown
    again = f"upfusion {command} --resume -o {shown}"
    with locked(folder):
        record = _record(folder, command, resume, force)
        run = Run(folder, command, record if resume else None, record if force else None, address or str(folder))
        try:
            yield run
        except BaseException as error:
            pressed, full, kept = isinstance(error, KeyboardInterrupt), isinstance(error, OutputError), True
            with suppress(OutputError):  # a disk that refuses even that must not hide what went wrong first
                kept = run.stop("interrupted" if pressed else "failed", cheap=CHEAP_SECONDS if full else 0.0)
            if pressed:
                left = f"to continue: {again}" if kept else "nothing was finished, so nothing was kept"
                raise KeyboardInterrupt(f"interrupted; {left}") from error
            if full and kept:
                raise OutputError(f"{error}; what is finished was kept: {again}") from error
            raise
        run.finish()
        for line in run.report:
            answer(line)


def _record(folder: Path, command: str, resume: bool, force: bool) -> Record | None:
    """The record of the run that the folder holds, if it may be continued or replaced."""
    path, fault = folder / RECORD_NAME, ""
    check_target(path)
    others = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    if force:
        with suppress(InputError):  # what cannot be read is written over
            return read_record(path)
    elif resume and path.exists():
        record = read_record(path)
        if record.command == command:
            return record
        fault = f"a run of `upfusion {record.command}`, not of `upfusion {command}`; continue that one"
    elif resume:
        fault = "no run to continue; leave out --resume to begin one"
    elif path.exists():
        fault = "a run already; choose another folder, --force to replace it or --resume to continue it"
    elif others:
        listed = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        fault = f"other files ({listed}); choose an empty folder, or --force to write among them"
    if fault:
        raise OutputError(f"{folder} holds {fault}")
    return None


def recorded(config: object, section: Literal["settings", "sources"]) -> dict[str, Any]:
    """What the record holds of a command's options in one of its sections."""
    known, values = options_of(type(config)), flat(config)
    return {name: option.written(values[name]) for name, option in known.items() if option.flag.section == section}


def settled(config: Kind, given: frozenset[str], run: Run) -> Kind:
    """The options of a continued run: of its record, or, newer than that, their defaults, except what is `given`."""
    if run.stored is None:
        return config
    known, values = options_of(type(config)), flat(config)
    for name, option in known.items():
        if option.flag.section == "settings":
            run.stored.settings.setdefault(name, option.written(option.default))
    for name, value in (run.stored.settings | run.stored.sources).items():
        if name not in known:
            rule = f"the run in {run.folder} has the option {name}, which this release does not know"
            raise InputError(f"{rule}; continue it with the one that began it, or use --force to begin anew")
        if name not in given:
            values[name] = known[name].read(value)
    return built(type(config), values)


@contextmanager
def settled_run(command: InFolder, given: frozenset[str], address: str = "") -> Iterator[tuple[Run, InFolder]]:
    """The folder held, which may stand for an address, the options settled; `given`: those of the command line."""
    folder, name = command.folder, type(command).__name__.lower()
    with open_run(folder.output, name, resume=folder.resume, force=folder.force, address=address) as run:
        if not isinstance(command, Pack) and command.networks.model is None and not run.resumed:
            say(f"no --model given, so this takes {BUNDLED_NAME}, the small model that comes with the package")
        yield run, settled(command, given, run)


def plan(run: Run, command: object, inputs: dict[str, Any]) -> None:
    """What the run is to do by the command's options, and by checksums of what is read; nothing is written yet."""
    run.plan(recorded(command, "settings"), recorded(command, "sources"), inputs)
    if run.already_finished:
        run.begin()
