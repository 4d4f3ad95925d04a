"""One run at a time in a folder, or for a file: a lock file that holds the process number.

The operating system locks the file and lets go of it when the process ends, however it ends. A lock file that a killed
run left behind is therefore known to be stale, without guessing from process numbers.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import OutputError
from ..files import check_new_folders, made_folder

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
