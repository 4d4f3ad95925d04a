"""`upfusion batch`: a list of objects, each reconstructed by a worker into its folder, and the overview of them all."""

import csv
import io
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unicodedata import normalize

import typer
from pydantic import ValidationError

from ..config.base import Option, built, flat, from_value, options_of
from ..config.models import MAX_VIEWS
from ..config.options import Batch, Folder, Networks, Reconstruct
from ..support import files
from ..support.errors import InputError, OutputError, UpFusionError
from .console import answer, bar, duration, say
from .overview import CSV_NAME, HTML_NAME, Overview, Row
from .run import LOCK_NAME, RECORD_NAME, Record, read_record, recorded, settled_run
from .spread import Work, spread

LARGEST_LIST = 1_000_000_000  # bytes; a row has about a hundred


class Job(NamedTuple):
    """One object; `command` says all but where its result goes. In place of its photos there may be their folder."""

    name: str
    command: Reconstruct


def run_batch(command: Batch, given: frozenset[str]) -> None:
    """All objects that are not finished; exit code 3 where some fail."""
    root = files.located(command.output)
    results = Results(root.absolute() if isinstance(root, Path) else root)
    with ExitStack() as stack:
        folder = replace(command.folder, output=stack.enter_context(results.home()))
        command = replace(command, each=replace(command.each, folder=folder))
        run, command = stack.enter_context(settled_run(command, given, command.output))
        if command.jobs is None:
            raise InputError("what to reconstruct is needed, got none; give a folder of folders, a .csv or a .jsonl")
        jobs, results = JobList(command.jobs, command.each, run.folder).jobs, replace(results, archive=command.archive)
        run.plan(recorded(command, "settings"), recorded(command, "sources"), {})
        rows = {job.name: Row(job.name) for job in jobs}
        for name in rows if folder.force else ():
            with suppress(FileNotFoundError):
                results.place(name).unlink()
        rows |= {name: Row.of(name, record) for name, record in results.records(list(rows)).items()}
        left = [job for job in jobs if rows[job.name].status != "finished"]
        run.already_finished &= not left
        run.begin()
        overview = Overview(run, rows, results.put, command.archive)
        overview.write()
        stack.callback(overview.write)
        load = Reconstructing(results, command.networks).loaded
        spreading = closing(spread(load, left, command.spread, command.networks.device, overview.tell))
        with run.stage("objects"), bar(f"Reconstructing {len(left)} objects") as overview.show, spreading as done:
            for place, row in done if left else ():
                name = left[place].name
                overview.enter(Row(name, "failed", reason=str(row)) if isinstance(row, OutputError) else row)
        failed = sum(row.status == "failed" for row in rows.values())
        told = f"{root}: {len(rows) - failed} objects finished, {failed} failed"
        run.tell(f"{told} ({duration(run.record.seconds)})", *([HTML_NAME] if isinstance(root, Path) else []))
        if failed:
            answer("\n".join(run.report))
            say(f"{failed} of {len(rows)} objects failed; {CSV_NAME} says why, and --resume tries them again")
            raise typer.Exit(3)


class JobList:
    """The objects of a folder, but `output` in it, or of a list; InputError with line and column where it errs."""

    def __init__(self, source: Path, each: Reconstruct, output: Path) -> None:
        self.jobs: list[Job] = []
        self._source, self._each = source, each
        of_all = "output", "resume", "force"
        known = {name: option for name, option in options_of(Reconstruct).items() if name not in of_all}
        self._columns = {"name": replace(known["prompt"], name="name", annotation=str)}
        for name, option in known.items():
            self._columns |= dict.fromkeys([name, *map(self._spelled, option.spellings)], option)
        self._commands: dict[str, Reconstruct] = {}  # by their options
        own = RECORD_NAME, LOCK_NAME, CSV_NAME, HTML_NAME
        self._lines: dict[str, object] = dict.fromkeys(own, "the batch's own files")  # where a name was first
        if source.is_dir():
            for folder in files.subfolders(source.absolute()):
                if folder != output.absolute():
                    self._add(folder.name, {"photos": (folder,)}, f"{folder}: the name")
        elif (suffix := source.suffix.lower()) in (".csv", ".jsonl", ".ndjson"):
            with files.reading(source, "check the path", what="a list"):
                lines = files.read_regular(source, LARGEST_LIST).removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
            for line, row in self._of_csv(lines) if suffix == ".csv" else self._of_json(lines):
                self._enter(f"{source}, line {line}", row)
        else:
            wanted = f"{source} must be a folder, or a list that ends in .csv or .jsonl"
            raise InputError(f"{wanted}, but is {'another file' if source.exists() else 'missing'}; check the path")
        if not self.jobs:
            raise InputError(f"{source} must hold objects, a folder or a line each, got none; choose another")

    @staticmethod
    def _spelled(name: str) -> str:
        return name.split("/")[0].strip().strip("-").replace("-", "_").lower()

    def _of_csv(self, lines: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        head, columns = next(filter(bytes.strip, lines), b""), list[str]()
        between = next((mark for mark in ";\t" if mark.encode() in head), ",")  # programs write all three
        rows = csv.reader((line.decode() for line in lines), strict=True, delimiter=between)
        while True:
            line = rows.line_num + 1
            where = f"{self._source}, line {line}"
            with files.reading(where, "correct it, in UTF-8", what="CSV"):
                if (found := next(rows, None)) is None:
                    return
            cells = list(map(str.strip, found))
            if any(cells) and not columns:
                columns = list(map(self._spelled, cells))
                if len({self._option(where, column).name for column in columns}) < len(columns):
                    raise InputError(f"{where}: columns must differ, got {', '.join(columns)}; remove one")
            elif any(cells):
                if len(cells) != len(columns):
                    wanted = f"{where} must have {len(columns)} columns, got {len(cells)}"
                    raise InputError(f'{wanted}; put cells with "{between}" in quotes')
                yield line, {column: cell for column, cell in zip(columns, cells, strict=True) if cell}

    def _of_json(self, lines: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, content in enumerate(lines, 1):
            where = f"{self._source}, line {line}"
            with files.reading(where, "correct it, in UTF-8", what="JSON"):
                text = content.decode().strip()
            if text:
                row = from_value(dict[str, Any], files.parse_json(text, where), where)
                yield line, {self._spelled(name): value for name, value in row.items()}

    def _option(self, where: str, column: str) -> Option:
        if column not in self._columns:
            known = ", ".join(dict.fromkeys(option.name for option in self._columns.values()))
            raise InputError(f"{where}, column {column} must be name or an option of reconstruct ({known}); rename it")
        return self._columns[column]

    def _enter(self, where: str, row: dict[str, Any]) -> None:
        values: dict[str, Any] = {}
        for column, value in row.items():
            option, place = self._option(where, column), f"{where}, column {column}"
            if isinstance(value, str) and option.several:
                value = [part.strip() for part in value.split(";")]
            elif isinstance(value, str) and option.kind in (int, float, bool):
                with suppress(ValueError):  # what it cannot mean stays text
                    value = json.loads(value.lower())
            if option.name in values or (option.kind is Path and "" in (value if option.several else [value])):
                raise InputError(f"{place} must be given once, no part empty, got {files.shown(value)}; correct it")
            if value is None:
                continue
            values[option.name] = value = from_value(option.annotation, value, place)
            if option.kind is Path:  # paths are relative to the list
                base = self._source.absolute().parent
                values[option.name] = tuple(map(base.joinpath, value)) if option.several else base / value
        for name in ("name", "photos"):
            if not values.get(name):
                raise InputError(f"{where}, column {name} must be given; every object has a name and photos")
        photos, masks = len(values["photos"]), len(values.get("masks", ()))
        if photos > MAX_VIEWS or masks not in (0, photos):
            wanted = f"column photos must name 1 to {MAX_VIEWS}, and column masks none or one for each"
            raise InputError(f"{where}, {wanted}, got {photos} and {masks}; correct it")
        self._add(values.pop("name"), values, where)

    def _add(self, name: str, values: dict[str, Any], where: str) -> None:
        files.check_file_name(name, f"{where}, column name")
        before = self._lines.setdefault(normalize("NFC", name).lower(), where)  # many systems take them for one
        if before is not where:
            raise InputError(f"{where}, column name must be another than in {before}, got {name}; rename one")
        own = {key: values.pop(key) for key in ("photos", "masks", "photo_cameras") if key in values}
        told = repr(sorted(values.items()))
        try:
            if (command := self._commands.get(told)) is None:
                command = self._commands[told] = built(Reconstruct, flat(self._each) | values)
                if command.sampler.scheduler or command.perceptual_weights:  # only what makes them knows
                    from .reconstruct import distill_config

                    distill_config(command)
        except UpFusionError as error:
            raise InputError(f"{where}: {error}") from error
        self.jobs.append(Job(name, replace(command, photos=replace(command.photos, **own))))


@dataclass(frozen=True)
class Results:
    """Where results go: a folder, or an address of fsspec. `archive`: one tar an object, in place of a folder."""

    root: Path | files.Remote
    archive: bool = False

    @contextmanager
    def home(self) -> Iterator[Path]:
        """The folder of the batch's own files; of an address a copy, whose record goes there in the end."""
        with ExitStack() as stack:
            if isinstance(self.root, Path):
                return (yield self.root)
            home = Path(stack.enter_context(TemporaryDirectory(prefix="upfusion-")))
            with files.reading(self.root, "check the address, and what its package needs"):
                if (record := self.root / RECORD_NAME).is_file():
                    (home / RECORD_NAME).write_bytes(record.read_bytes())
            stack.callback(self.put, home, RECORD_NAME)
            yield home

    def put(self, home: Path, *names: str) -> None:
        """Copies files of the folder `home` to the address, if it is one."""
        if isinstance(root := self.root, files.Remote):
            for name in filter(lambda name: (home / name).is_file(), names):
                (root / name).put(home / name)

    def place(self, name: str) -> Path | files.Remote:
        """Where an object's record is, or its archive, which begins with it."""
        return self.root / (f"{name}.tar" if self.archive else f"{name}/{RECORD_NAME}")

    def records(self, names: Sequence[str]) -> dict[str, Record]:
        """The records of those that are finished."""
        with ThreadPoolExecutor(1 if isinstance(self.root, Path) else 16) as pool:
            found = zip(names, pool.map(self._record, names), strict=True)
            return {name: record for name, record in found if record is not None and record.status == "finished"}

    def _record(self, name: str) -> Record | None:
        try:
            with self.place(name).open("rb") as file:
                if not self.archive:
                    text = file.read().decode()
                else:
                    with tarfile.open(fileobj=file) as tar:  # its first member
                        text = tar.extractfile(next(iter(tar))).read().decode()  # type: ignore[union-attr]
            return Record.model_validate(files.parse_json(text, name, lone_surrogates=True))
        except (FileNotFoundError, InputError, ValidationError, UnicodeDecodeError, tarfile.TarError):
            return None  # or no record of ours, which its worker will say

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """The folder in which an object is made; when the block ends well, all of it is put where it belongs."""
        with ExitStack() as stack:
            root = self.root
            if isinstance(root, files.Remote):
                root = Path(stack.enter_context(TemporaryDirectory(prefix="upfusion-")))
            yield root / name
            made = [path for path in (root / name).rglob("[!.]*") if path.is_file()]
            made.sort(key=lambda path: (path.name != RECORD_NAME, path))
            if not self.archive:
                self.put(root, *(path.relative_to(root).as_posix() for path in made[::-1]))  # its record last
                return
            with files.replacing(root / f"{name}.tar") as partial:
                with tarfile.open(partial, "w") as tar:  # one sample of WebDataset, whose key ends at the first dot
                    for path in made:
                        ending = path.relative_to(root / name).as_posix().replace("/", ".")
                        info = tarfile.TarInfo(f"{name.replace('.', '_')}.{ending}")
                        info.size, info.mode = path.stat().st_size, 0o444
                        with path.open("rb") as file:
                            tar.addfile(info, file)
                rmtree(root / name)
            self.put(root, f"{name}.tar")


@dataclass(frozen=True)
class Reconstructing:
    """What a worker does: a job -> its row of the overview."""

    results: Results
    networks: Networks

    def loaded(self) -> Work:
        from .inputs import load_model  # with torch, which the first process does without

        load_model(self.networks)
        return self

    def __call__(self, job: Job) -> Row:
        begun = time.monotonic()
        try:
            with self.results.making(job.name) as folder:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    self._run(job.command, folder)
                return Row.of(job.name, read_record(folder / RECORD_NAME))
        except Exception as error:  # a fault of ours must not stop the others either
            reason = str(error) if isinstance(error, UpFusionError) else f"{type(error).__name__}: {error}"
        return Row(job.name, "failed", round(time.monotonic() - begun, 1), reason=reason)

    def _run(self, command: Reconstruct, folder: Path) -> None:
        """Goes on where an attempt has begun, unless it was begun with something else."""
        from .reconstruct import run_reconstruct

        told, resume = frozenset(options_of(Reconstruct)), (folder / RECORD_NAME).is_file()
        try:
            run_reconstruct(replace(command, folder=Folder(folder, resume=resume, force=not resume)), told)
        except InputError:
            if not resume:
                raise
            run_reconstruct(replace(command, folder=Folder(folder, force=True)), told)
