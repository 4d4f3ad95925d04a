"""What many objects cost: a worker more, ray beside local workers, what a batch adds to an object, and long lists.

On two idle cores, five minutes: `python benchmarks/many_objects.py --parts workers --ray`.
The other parts: `python benchmarks/many_objects.py --parts object list --browser chromium`. What an object costs a GPU
is in benchmarks/paper.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from upfusion_core.pipeline.examples import example_views

DRAFT = ("--preset", "draft", "--device", "cpu", "--steps", 2)
QUICK = (*DRAFT, "--views", 0, "--resolution", 32, "--turntable-size", 16, "--texture-size", 0)
LISTED = 2000


def called(*words: object) -> float:
    """Runs the command in a process of its own; gives its seconds."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "upfusion_core", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def listed(path: Path, count: int) -> Path:
    photo = example_views(4, 1).paths[0]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "photos"), *((f"object {n:05d}", photo) for n in range(count))])
    return path


def spans(out: Path) -> list[tuple[float, float]]:
    """When each object was begun and finished: its record is written last, and says how long its stages took."""
    found = []
    for path in out.glob("*/run.json"):
        seconds = sum(json.loads(path.read_text(encoding="utf-8"))["timings_seconds"].values())
        found.append((path.stat().st_mtime - seconds, path.stat().st_mtime))
    return sorted(found)


def workers(folder: Path, count: int, ray: bool) -> None:
    """Objects an hour from the first object's beginning to the last one's end, so without the start of the workers."""
    rates, jobs = {}, listed(folder / "jobs.csv", count)
    ways = {"1 worker": ("--workers", 1), "2 workers": ("--workers", 2)}
    ways |= {"ray, 2 workers": ("--workers", 2, "--engine", "ray")} if ray else {}
    for name, way in ways.items():
        out = folder / name
        called("batch", jobs, "-o", out, *way, "--threads", 1, *QUICK)
        found = spans(out)
        span = max(end for _, end in found) - found[0][0]
        rates[name] = 3600 * count / span
        print(f"{name}: {rates[name]:.0f} objects an hour, {span / count:.2f} s an object", flush=True)
        if way == ("--workers", 1):
            between = (span - sum(end - begin for begin, end in found)) / count
            print(f"{name}: {between:.3f} s an object outside of its stages, the reading of photos among them")
    print(f"2 workers / 1 worker: {rates['2 workers'] / rates['1 worker']:.2f}, wanted 1.6 or more")
    if ray:
        print(f"ray / local: {rates['ray, 2 workers'] / rates['2 workers']:.3f}, wanted 0.95 or more")


def one_object(folder: Path) -> None:
    """Files and bytes of an object with one photo and 8 views, in a folder and as one tar."""
    jobs = listed(folder / "one.csv", 1)
    for archive in ((), ("--archive",)):
        out = folder / f"one{''.join(archive)}"
        called("batch", jobs, "-o", out, "--threads", 1, "--views", 8, *DRAFT, *archive)
        files = [path for path in out.glob("object*/**/*" if not archive else "object*.tar") if path.is_file()]
        print(f"{out.name}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes an object")


def long_list(folder: Path, browser: str | None) -> None:
    """Thousands of finished objects, copies of one: what the index holds of each, and how long it takes to see it."""
    out, jobs = folder / "long", listed(folder / "long.csv", 1)
    called("batch", jobs, "-o", out, "--threads", 1, *QUICK)
    first = out / "object 00000"
    for number in range(1, LISTED):
        shutil.copytree(first, out / f"object {number:05d}", copy_function=os.link)
    listed(jobs, LISTED)
    empty, taken = called("--version"), called("batch", "--resume", "-o", out)
    print(f"--resume of {LISTED} finished objects: {taken:.1f} s, of which {empty:.1f} s are the command's own start")
    for name in ("index.csv", "index.html"):
        print(f"{name}: {(out / name).stat().st_size / LISTED:.0f} bytes an object")
    if browser is not None:
        print(f"index.html opened after {opened(browser, out / 'index.html', folder / 'browser'):.2f} s")


def opened(browser: str, page: Path, profile: Path) -> float:
    """Seconds until the browser's load event. Not from --screenshot: that loads the lazy pictures of all rows first."""
    script = "<script>addEventListener('load', () => document.title = `opened ${performance.now()}`)</script>"
    timed = page.with_name("timed.html")
    timed.write_text(page.read_text(encoding="utf-8") + script, encoding="utf-8")
    words = ("--headless", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}")
    with subprocess.Popen([browser, *words, timed.absolute().as_uri()], stderr=subprocess.DEVNULL) as process:
        try:
            while not (port := profile / "DevToolsActivePort").is_file() or not port.read_text():
                time.sleep(0.1)
            titles = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
            while True:
                with urlopen(titles) as answer:
                    title = next((tab["title"] for tab in json.load(answer) if "opened" in tab["title"]), "")
                if title:
                    return float(title.split()[1]) / 1000
                time.sleep(0.1)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("workers", "object", "list"), default=["workers"])
    parser.add_argument("--objects", type=int, default=4, help="how many for --parts workers; half a minute each")
    parser.add_argument("--ray", action="store_true", help="ray, too")
    parser.add_argument("--browser", help="a Chromium, which draws the gallery")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "workers" in given.parts:
            workers(Path(folder), given.objects, given.ray)
        if "object" in given.parts:
            one_object(Path(folder))
        if "list" in given.parts:
            long_list(Path(folder), given.browser)


if __name__ == "__main__":
    main()
