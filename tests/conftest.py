"""Fixtures that every test may ask for: folders of weights made by the rule of the golden tensors."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, here and in the commands that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Appended, never inserted: with --import-mode=importlib the test folders are no packages, and a folder put first would
# let a test module shadow an installed one.
sys.path += [str(Path(__file__).resolve().parent / "core"), str(Path(__file__).resolve().parent)]

import rule_weights
import tiny_training

from upfusion_core.support import files

ROOT = Path(__file__).resolve().parents[1]


class RootIsNoPackage:
    """The root has an `__init__.py` for ComfyUI; collected as a package, its tests could not be imported."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


# The same few inputs in every run of the suite; `--hypothesis-profile=slow` looks for new ones.
settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("slow", max_examples=2000, deadline=None, database=None, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RootIsNoPackage(), "root_is_no_package")
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("quick")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the suite; none besides this one for a part of it, or for what `-m` asks for."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    return 2 if whole and "-m" not in config.invocation_params.args else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a real ComfyUI run wherever COMFYUI_PATH names one, and then fail where something is missing."""
    if not os.environ.get("COMFYUI_PATH"):
        for item in items:
            if item.get_closest_marker("comfyui"):
                item.add_marker(pytest.mark.skip(reason="needs COMFYUI_PATH, a ComfyUI checkout"))


@pytest.fixture(scope="session")
def loopback() -> None:
    """Skips where this machine cannot even speak to itself, as in `unshare -n`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        try:
            socket.create_connection(server.getsockname(), timeout=5).close()
        except OSError as error:
            pytest.skip(f"needs a loopback network: {error}")


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the released layout, of 16 pixels: read only, it is shared by the whole session."""
    return rule_weights.write_folder(tmp_path_factory.mktemp("small_weights"), tiny_training.tiny_model())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged file of random weights, for pictures of 16 pixels: read only, it is shared by the whole session."""
    return tiny_training.write_tiny_mini(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture
def tiny_bundle(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder of bundled data for one test: a random model of 16 pixels, and the real photos."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    shutil.copy(tiny, folder / "mini.safetensors")
    if (files.BUNDLED / "examples").is_dir():
        shutil.copytree(files.BUNDLED / "examples", folder / "examples")
    monkeypatch.setattr(files, "BUNDLED", folder)
    return folder


@pytest.fixture(scope="session")
def full_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The full-size folder (6.5 GB): that in UPFUSION_FULL_WEIGHTS, made there if missing, or a temporary one."""
    kept = os.environ.get("UPFUSION_FULL_WEIGHTS")
    folder = rule_weights.write_full_folder(Path(kept) if kept else tmp_path_factory.mktemp("full_weights"))
    yield folder
    if not kept:
        shutil.rmtree(folder)  # pytest keeps temporary folders of three runs
