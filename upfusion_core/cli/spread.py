"""Tasks spread over workers, each with what it loaded once: processes here, or actors of a ray cluster."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from ..config.options import Spread
from ..support.errors import MissingPackageError, OutputError
from ..support.files import reading

ATTEMPTS = 3  # of a task whose worker is lost: killed, out of memory, its machine gone
START = "spawn"  # processes begin without what this one holds, as CUDA wants it
Work = Callable[[Any], Any]  # a task -> its result


def spread(
    make: Callable[[], Work],
    tasks: Sequence[Any],
    how: Spread,
    device: str = "cpu",
    tell: Callable[[list[Any]], None] | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Places of tasks, with their results as they come; of a task whose workers were lost thrice, an OutputError.

    `make` gives the work, once a worker; it and the tasks are pickled, and what it raises is raised here. A worker has
    a GPU of its own, if there are any and `device` is not "cpu". `tell` is called each second with the tasks in work.
    """
    kind: Any = {"local": _Process, "ray": _Actor}[how.engine]
    places = kind.places(device != "cpu", how.cpus)
    count = min(how.workers or len(places), len(tasks))
    threads = how.threads or (1 if count > 1 or how.engine == "ray" else None)
    team = [kind(make, threads, places[number % len(places)], how.cpus) for number in range(count)]
    busy: dict[Future[Any], tuple[Any, int | None]] = {worker.loading: (worker, None) for worker in team}
    left, idle, lost = list(range(len(tasks)))[::-1], list[Any](), Counter[int | None]()
    try:
        while left or any(index is not None for _, index in busy.values()):
            while idle and left:
                worker, place = idle.pop(), left.pop()
                busy[worker.work(tasks[place])] = worker, place
            if tell is not None:
                tell([tasks[index] for _, index in busy.values() if index is not None])
            for future in wait(busy, timeout=1.0, return_when=FIRST_COMPLETED).done:
                worker, index = busy.pop(future)
                try:
                    result = future.result()
                except kind.lost:
                    worker.end()
                    team[team.index(worker)] = worker = kind(make, threads, worker.place, how.cpus)
                    busy[worker.loading] = worker, None
                    lost[index] += 1
                    if index is None and lost[None] >= ATTEMPTS * count:
                        raise OutputError("workers must begin, but one after the other ended; see above why") from None
                    if index is not None and lost[index] < ATTEMPTS:
                        left.append(index)
                    elif index is not None:
                        yield index, OutputError(f"its worker was lost {ATTEMPTS} times: killed, or out of memory")
                else:
                    idle.append(worker)
                    if index is not None:
                        yield index, result
    finally:
        for worker in team:
            worker.end()


def elsewhere(make: Callable[[], Work], how: Spread, device: str = "cpu") -> Callable[..., Iterator[Any]] | None:
    """Tasks -> their results in order, as of `spread`; None where this process is the only one, and is to do them."""
    if how.engine == "local" and (how.workers or len(_Process.places(device != "cpu", how.cpus))) == 1:
        if how.threads is not None:
            import torch

            torch.set_num_threads(how.threads)
        return None

    def results(tasks: Sequence[Any]) -> Iterator[Any]:
        found, following = dict[int, Any](), 0
        for place, result in spread(make, tasks, how, device):
            if isinstance(result, OutputError):
                raise OutputError(f"object {place + 1} of {len(tasks)} cannot be done: {result}; use fewer workers")
            found[place] = result
            while following in found:
                yield found.pop(following)
                following += 1

    return results


class _Held:
    """The work of a process, which has one."""

    _work: ClassVar[Work]

    def load(self, make: Callable[[], Work], threads: int | None) -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        _Held._work = make()

    def work(self, task: object) -> object:
        return _Held._work(task)


class _Process:
    """A process here; `place` is the GPU that it sees, as CUDA_VISIBLE_DEVICES names it."""

    lost: ClassVar[Any] = BrokenProcessPool

    def __init__(self, make: Callable[[], Work], threads: int | None, place: str | None, cpus: int) -> None:
        context: Any = multiprocessing.get_context(START)
        self.place, (theirs, self._ours) = place, context.Pipe()
        self._pool = ProcessPoolExecutor(1, context, self._begin, (theirs, self._ours, place))
        self.loading = self._pool.submit(_Held().load, make, threads)

    def work(self, task: object) -> Future[Any]:
        try:
            return self._pool.submit(_Held().work, task)
        except BrokenProcessPool as error:  # it was lost while it had nothing to do
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def end(self) -> None:
        self._ours.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _begin(theirs: Connection, ours: Connection, place: str | None) -> None:
        """The process ends when the other end of its pipe does, and leaves Ctrl-C to who holds that."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ours.close()  # a copy
        threading.Thread(target=lambda: theirs.poll(None) and os._exit(1), daemon=True).start()
        if place is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = place

    @staticmethod
    def places(gpus: bool, cpus: int) -> list[str | None]:
        if not gpus:
            return [None]
        import torch

        named = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15").split(",")
        return [*named[: torch.cuda.device_count()]] or [None]


class _Actor:
    """An actor of a ray cluster; `place` says whether it gets a GPU."""

    lost: ClassVar[Any] = ()

    def __init__(self, make: Callable[[], Work], threads: int | None, place: str, cpus: int) -> None:
        import ray

        self.place = place
        self._actor = ray.remote(_Held).options(num_cpus=cpus, num_gpus=int(place == "GPU")).remote()
        self.loading: Future[Any] = self._actor.load.remote(make, threads).future()

    def work(self, task: object) -> Future[Any]:
        return self._actor.work.remote(task).future()  # type: ignore[no-any-return]

    def end(self) -> None:
        import ray

        ray.kill(self._actor)

    @classmethod
    def places(cls, gpus: bool, cpus: int) -> list[str]:
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError('--engine ray needs ray; run: pip install "upfusion[cluster]"') from error
        cls.lost = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")
            with reading(f"RAY_ADDRESS {address}", "start it, or correct the address", what="a cluster of ray"):
                ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="error")
        have = ray.cluster_resources()
        return ["GPU"] * int(gpus and have.get("GPU", 0)) or ["CPU"] * max(1, int(have.get("CPU", 1)) // cpus)
