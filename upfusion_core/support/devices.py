"""Where work is done: devices by name, chunks that fit into their memory, and generators of random numbers."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch

from .errors import InputError, OutOfMemoryError

Result = TypeVar("Result")


def existing_device(device: torch.device | str | None) -> torch.device:
    """One of torch's devices on which tensors can be made, or InputError; "auto" and None take the best there is."""
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"device must be one of torch's, such as cpu or cuda, got {device!r:.40}") from error
    if device.type == "meta":
        raise InputError("device must hold values, got meta; choose cpu or cuda")
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    with suppress(RuntimeError, AssertionError, ImportError):  # torch is built without it
        if (device.index or 0) < counts.get(device.type, 1):
            torch.empty(0, device=device)
            return device
    raise InputError(f"this machine has no {device} device that torch can use; choose cpu, or install another torch")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on whatever device."""
    # how allocators without an exception of their own say it: of CPUs, Apple's GPUs, cuBLAS and cuDNN
    messages = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
    told = isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    return told or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)


class Chunk:
    """How many of `what`, in the singular, are worked on at a time; from where memory runs out, half as many."""

    def __init__(self, size: int, what: str) -> None:
        self.size, self.what = size, what

    def map(self, work: Callable[[slice], Result], count: int, each: int = 1) -> Iterator[Result]:
        """The results of `work` for slices that cover 0 to `count` in order; one item stands for `each` of the size.

        A slice that there was no memory for comes again as smaller ones; OutOfMemoryError where one item is too much.
        """
        start = 0
        while start < count:
            items = min(max(1, self.size // each), count - start)
            try:
                done = [work(slice(start, start + items))]
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                done = []  # nothing keeps the error, whose traceback holds all that was allocated
            if done:
                start += items
                yield done[0]
                continue
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            elif torch.backends.mps.is_available():
                torch.mps.empty_cache()
            if items == 1:
                some = f"one {self.what}" if each == 1 else f"{each} {self.what}s"
                advice = "close other programs, ask for smaller pictures or use another device"
                raise OutOfMemoryError(f"memory must suffice for {some} at a time, but does not; {advice}")
            self.size = items // 2 * each
            message = f"out of memory with {items * each} {self.what}s at a time; going on with {self.size}"
            warnings.warn(message, stacklevel=2)


def derived_seed(*parts: int | str) -> int:
    """A seed in 0 … 2^63 - 1 that follows from `parts`, such as a seed, a purpose and a step; nearby ones differ."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int | str, *purpose: int | str) -> torch.Generator:
    """A CPU generator for one purpose, whose numbers no other purpose shares: `generator_for(0, "objects", 3)`."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))
