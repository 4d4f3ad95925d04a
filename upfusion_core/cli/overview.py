"""What `upfusion batch` shows of its objects: a bar while it works, index.csv, and index.html, a gallery."""

import csv
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

from ..support.errors import InputError
from .console import duration, say
from .run import RECORD_NAME, Record, Run, read_record

CSV_NAME, HTML_NAME = "index.csv", "index.html"
COLUMNS = ("name", "status", "seconds", "photos", "cameras", "faces", "reason")
ORDER = ("failed", "finished", "waiting")


@dataclass(frozen=True)
class Row:
    """An object in the overview; `files`: of its folder, what the gallery shows."""

    name: str
    status: str = "waiting"
    seconds: float | None = None
    photos: int | None = None
    cameras: int | None = None
    faces: int | None = None
    reason: str = ""
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, record: Record) -> "Row":
        """Of a finished reconstruction."""
        facts: Any = record.model_extra
        counts = len(record.inputs["photos"]), facts.get("cameras_accepted"), facts["mesh"]["faces"]
        shown = [file for file in record.files if file in ("photos.png", "turntable.gif") or file.startswith("mesh.")]
        return cls(name, "finished", round(record.seconds, 1), *counts, files=tuple(shown))


class Overview:
    """The state of all objects, `rows` by name: on the terminal, and in the run's files, which `put` copies further."""

    show: Callable[[str, float], None]  # on the terminal

    def __init__(self, run: Run, rows: dict[str, Row], put: Callable[..., None], archive: bool) -> None:
        self._run, self._rows, self._put, self._archive = run, rows, put, archive
        self._left = sum(row.status != "finished" for row in rows.values())
        self._seen, self._failed, self._next = 0, 0, 0.0

    def tell(self, jobs: Sequence[Any]) -> None:
        """Shows how far all are, and the first of those in work by the stage that it has finished."""
        title, stage = f"{self._seen} of {self._left} objects, {self._failed} failed", "no stage"
        for job in jobs[:1]:
            with suppress(InputError):  # not begun, or elsewhere
                stage = [stage, *read_record(self._run.folder / job.name / RECORD_NAME).stages][-1]
            title += f"; {job.name} after {stage}"
        self.show(title, self._seen / max(1, self._left))

    def enter(self, row: Row) -> None:
        """An object is finished, or has failed."""
        self._rows[row.name] = row
        self._seen += 1
        if row.status == "failed":
            self._failed += 1
            say(f"{row.name} failed: {row.reason}")
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        begun, utf8 = time.monotonic(), ("utf-8", "backslashreplace")  # names of files may be no UTF-8
        with self._run.writing(CSV_NAME) as path, path.open("w", -1, *utf8, newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows([getattr(row, column) for column in COLUMNS] for row in self._rows.values())
        rows = sorted(self._rows.values(), key=lambda row: ORDER.index(row.status))
        counts = [(sum(row.status == status for row in rows), status) for status in ORDER]
        title = ", ".join(f"{count} {status}" for count, status in counts if count)
        about = f"{len(rows)} objects, state of {time.strftime('%Y-%m-%d %H:%M:%S')}."
        page = Template(files(__package__).joinpath("gallery.html").read_text(encoding="utf-8"))
        with self._run.writing(HTML_NAME) as path:
            path.write_text(page.substitute(title=title, about=about, rows="\n".join(map(self._article, rows))), *utf8)
        self._put(self._run.folder, RECORD_NAME, CSV_NAME, HTML_NAME)
        self._next = time.monotonic() + max(2.0, 20 * (time.monotonic() - begun))

    def _article(self, row: Row) -> str:
        base, shown, links = quote(row.name), "", ""
        if self._archive and row.status == "finished":
            links = f'<a href="{base}.tar">archive</a>'
        for name in () if self._archive else row.files:
            if name.startswith("mesh."):
                links += f'<a href="{base}/{name}">{name}</a> '
            else:
                shown += f'<img loading="lazy" src="{base}/{name}" alt="{name}">'
        figures = [f"{getattr(row, name)} {name}" for name in ("photos", "cameras", "faces") if getattr(row, name)]
        told = row.reason or ", ".join([*figures, *([duration(row.seconds)] if row.seconds else [])])
        cells = [f"<h2>{escape(row.name)}</h2><p>{row.status}</p>", shown, links, f"<p>{escape(told)}</p>"]
        return f'<article class="{row.status}">{"".join(f"<div>{cell}</div>" for cell in cells)}</article>'
