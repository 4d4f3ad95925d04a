"""A real ComfyUI in a process of its own, on the CPU, with this repository as a custom node pack or without."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 900  # a shared, busy machine compiles all of ComfyUI's modules at the first start
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
"""glibc keeps up to 64 MB of freed memory at the top of each thread's arena, where malloc_trim does not reach; with
fixed thresholds it goes back to the system, and what is measured is what is held."""


@dataclass
class Server:
    """A running ComfyUI. log: its output so far; base: its folder of models, inputs and outputs."""

    process: subprocess.Popen
    port: int
    base: Path
    log_file: Path

    @property
    def log(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log_file.read_text(encoding="utf-8", errors="replace"))

    def text(self, path: str, content: dict[str, Any] | None = None) -> str:
        """The text at an address of the server, or what it answers to JSON that is sent there."""
        body, kind = None if content is None else json.dumps(content).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, kind)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()[:4000]}") from error

    def get(self, path: str) -> Any:
        """The JSON at an address of the server."""
        return json.loads(self.text(path))

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queues a workflow in API format; gives its id."""
        return json.loads(self.text("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex}))["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 900) -> dict[str, Any]:
        """The history entry of a workflow that has ended, well or not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            assert self.process.poll() is None, f"the server ended:\n{self.log[-4000:]}"
            time.sleep(0.1)
        raise AssertionError(f"no end after {seconds} s:\n{self.log[-4000:]}")

    def run(self, prompt: dict[str, Any], seconds: float = 900) -> dict[str, Any]:
        """Runs a workflow to a good end; gives its outputs by node."""
        entry = self.wait(self.queue(prompt), seconds)
        assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)[-4000:]
        return entry["outputs"]

    def pictures(self, output: dict[str, Any]) -> list[Image.Image]:
        """The pictures that a node wrote."""
        return [Image.open(self.base / "output" / image["filename"]) for image in output["images"]]

    def interrupted_after(self, prompt_id: str) -> float:
        """Cancels a running workflow; gives the seconds until it stopped, without those it waited for a processor."""
        asked, waited = time.monotonic(), self._waited()
        self.text("/interrupt", {})
        while self.get("/queue")["queue_running"]:
            assert time.monotonic() - asked < 300, f"still running:\n{self.log[-4000:]}"
            time.sleep(0.02)
        took = time.monotonic() - asked
        delayed = max(now - waited.get(thread, 0.0) for thread, now in self._waited().items())
        assert "execution_interrupted" in dict(self.wait(prompt_id)["status"]["messages"])
        return took - delayed

    def _waited(self) -> dict[str, float]:
        """Seconds that each thread was ready to run while others had the processors."""
        seconds = {}
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(FileNotFoundError):  # it has just ended
                seconds[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        return seconds


@contextmanager
def start_server(base: Path, *, with_pack: bool = True) -> Iterator[Server]:
    """ComfyUI from COMFYUI_PATH in the block, by COMFY_PYTHON or this interpreter, with COMFY_ARGS besides ours."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / "models" / "upfusion").mkdir(parents=True, exist_ok=True)
    linked = {"zz_probe.py": Path(__file__).with_name("probe.py")} | ({"upfusion": ROOT} if with_pack else {})
    for name, target in linked.items():
        (base / "custom_nodes" / name).symlink_to(target, target_is_directory=target.is_dir())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = os.environ.get("COMFY_PYTHON", sys.executable)
    command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    command += ["--disable-api-nodes", "--database-url", "sqlite:///:memory:", "--base-directory", str(base)]
    command += os.environ.get("COMFY_ARGS", "").split()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **GIVE_BACK}
    log_file, until = base / f"server_{port}.log", time.monotonic() + START_SECONDS
    with log_file.open("w") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=os.environ["COMFYUI_PATH"], env=environment, **streams)
    server = Server(process, port, base, log_file)
    try:
        while "To see the GUI go to" not in server.log:
            assert process.poll() is None, f"the server ended:\n{server.log[-4000:]}"
            assert time.monotonic() < until, f"no start after {START_SECONDS} s:\n{server.log[-4000:]}"
            time.sleep(0.2)
        yield server
    finally:
        process.kill()
        process.wait()
