"""Several pieces of work at once, whole runs say: on processes of this machine, or on the workers of a Dask scheduler.

The pieces do not depend on each other, and neither does a run depend on the number of threads, so the results are the
same however they were made.

    >>> sorted(result for _, result in run_all(abs, [-1, 2, -3], jobs=1))
    [1, 2, 3]
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from .plugins import files, load

Item = TypeVar("Item")
Result = TypeVar("Result")

THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the environment that libraries read, when they are loaded, for how many threads to start."""
PATIENCE_SECONDS = 10.0
"""How long a process may take to end when it is told to, before it is killed."""


class JobsError(ValueError):
    """Some pieces of work failed; the message names each of them, and `errors` has the reason by name."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("\n".join(f"{name}: {reason}" for name, reason in errors.items()))
        self.errors = dict(errors)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tell(message: object) -> None:
    """Send `message` to `on_message` of the `run_all` that called the running function; otherwise do nothing.

    Where the work is no longer wanted, on a Dask worker, this ends it.
    """
    if _listener is not None:
        _listener(message)


_listener: Callable[[Any], None] | None = None


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int | None = None,
    threads: int | None = None,
    dask: str = "",
    name: Callable[[Item], str] = str,
    on_message: Callable[[Item, Any], None] = lambda item, message: None,
) -> Generator[tuple[Item, Result], None, None]:
    """Call `function` with each of `items`; yield each item with its result as it finishes.

    `jobs` of them run at once, by default as many as there are cores, each in a process of its own with so many
    `threads`, by default its share of the cores. With 1, or one item, they run in this process. `dask` is the address
    of a Dask scheduler, `tcp://host:8786`, or its scheduler file: then its workers do the work, one piece at a time in
    each process and by one thread, and `jobs` is not used. Function, items and results are pickled. Plug-ins that are
    loaded here are loaded there, too.

    A piece that fails, or whose process dies, does not stop the others: at the end, JobsError tells what failed, with
    the `name` of its item. The error of an only item in this process is raised as it is. On Dask, a piece whose worker
    dies is done by another one. `on_message` gets what `function` tells (see `tell`). If the caller stops early, so
    does the work.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be 1 or more, not {jobs}")
    jobs = min(jobs or cores(), len(items))
    if dask:
        outcomes = _on_dask(function, items, dask, threads or 1, on_message)
    elif jobs > 1:
        outcomes = _on_processes(function, items, jobs, threads or max(1, cores() // jobs), on_message)
    else:
        outcomes = _here(function, items, on_message)
    errors: dict[str, str] = {}
    first = None
    for index, outcome in outcomes:
        if isinstance(outcome, _Failure):
            errors[name(items[index])], first = outcome.reason, first or outcome.error
        else:
            yield items[index], outcome
    if errors:
        raise JobsError(errors) from first


class _Failure:
    """What went wrong: the message of a user's error, with a traceback for any other."""

    def __init__(self, reason: str, error: BaseException | None = None) -> None:
        self.reason, self.error = reason, error

    @classmethod
    def of(cls, error: BaseException, keep: bool = False) -> "_Failure":
        """The failure by `error`; only where it is not sent to another process, it can `keep` it."""
        if isinstance(error, ValueError | OSError | ImportError):
            return cls(str(error), error if keep else None)
        lines = traceback.format_exception(error)
        return cls(f"{type(error).__name__}: {error}\n{''.join(lines)}", error if keep else None)


@contextmanager
def _telling(listener: Callable[[Any], None]) -> Iterator[None]:
    """Within, `tell` calls `listener`."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def _here(
    function: Callable, items: Sequence, on_message: Callable[[Any, Any], None]
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """The index and the result, or failure, of each item, in this process."""
    for index, item in enumerate(items):
        try:
            with _telling(lambda message, item=item: on_message(item, message)):  # type: ignore[misc]
                outcome = function(item)
        except Exception as error:
            if len(items) == 1:
                raise
            outcome = _Failure.of(error, keep=True)
        yield index, outcome


def _on_processes(
    function: Callable, items: Sequence, jobs: int, threads: int, on_message: Callable[[Any, Any], None]
) -> Iterator[tuple[int, Any]]:
    """As `_here`, by `jobs` processes."""
    waiting, workers = deque(range(len(items))), dict[Connection, _Process]()
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                started = _Process(function, threads)
                workers[started.connection] = started
                started.begin(waiting.popleft(), items)
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                index = worker.index
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, OSError):
                    del workers[worker.connection]
                    yield index, _Failure(worker.end())
                    continue
                if kind == "ready":
                    worker.is_ready = True
                elif kind == "told":
                    on_message(items[index], content)
                else:
                    if waiting:
                        worker.begin(waiting.popleft(), items)
                    else:
                        worker.end()
                        del workers[worker.connection]
                    yield index, content
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            worker.end()


class _Process:
    """A process that does one piece of work after the other."""

    def __init__(self, function: Callable, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process would share threads and locks of this one
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, files()), daemon=True)
        self.index, self.is_ready = 0, False
        with _environment({variable: str(threads) for variable in THREAD_VARIABLES}):
            self.process.start()
        theirs.close()

    def begin(self, index: int, items: Sequence) -> None:
        """Have item `index` done."""
        self.index = index
        with suppress(BrokenPipeError):  # it has died, as will be seen
            self.connection.send(items[index])

    def end(self) -> str:
        """Wait until the process has ended, and say how it did. It ends when nothing more can be sent to it.

        JobsError if it never began.
        """
        self.connection.close()
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        status = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if status > 0 and not self.is_ready:
            advice = 'in a script, what is not to run in each process belongs below `if __name__ == "__main__":`'
            raise JobsError({"process": f"it could not start, and {how}; {advice}"})
        return f"its process {how}"


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within, the variables of the environment have these values, for processes that start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, function: Callable, plugins: Sequence[str]) -> None:
    """Do what arrives over `connection`, until it is closed or the process that started this one has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that locks are released
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = 0
    try:
        connection.send(("ready", None))
        with _telling(lambda message: connection.send(("told", message))):
            while True:
                item = connection.recv()
                outcome = _outcome(function, item, plugins)
                try:
                    connection.send(("done", outcome))
                except (pickle.PicklingError, TypeError, AttributeError) as error:
                    connection.send(("done", _Failure.of(error)))
    except (EOFError, OSError):  # nothing more is wanted
        pass
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to take compiled kernels apart may take seconds, for which the other process would wait


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcome(function: Callable, item: Any, plugins: Sequence[str]) -> Any:
    """What `function` returns for `item`, or how it fails."""
    try:
        load(plugins)
        return function(item)
    except Exception as error:
        return _Failure.of(error)


def _on_dask(
    function: Callable, items: Sequence, address: str, threads: int, on_message: Callable[[Any, Any], None]
) -> Iterator[tuple[int, Any]]:
    """As `_here`, by the workers of the Dask scheduler at `address`, which may die."""
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("--dask needs Dask: pip install 'lowbit-dtp[dask]'") from None
    is_file = "://" not in address and Path(address).exists()
    where = {"scheduler_file": address} if is_file else {"address": address}
    topic = f"lowbit-dtp-{uuid4().hex}"
    events: SimpleQueue = SimpleQueue()
    try:
        client = Client(**where)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler at {address}: {error}; give its address, tcp://host:8786 say") from None
    with client:
        if not client.scheduler_info()["workers"]:
            warnings.warn(f"the Dask scheduler at {address} has no workers yet; waiting for them", stacklevel=2)
        client.subscribe_topic(topic, lambda event: events.put(pickle.loads(event[1])))
        futures: dict[int, Any] = {}

        def finished(future: Any) -> None:
            outcome = future.result() if future.status == "finished" else _Failure(_reason(future))
            events.put((int(future.key.rpartition("-")[2]), False, outcome))

        try:
            for index, item in enumerate(items):
                given = function, item, files(), threads, topic, index
                futures[index] = client.submit(_on_worker, *given, key=f"{topic}-{index}", pure=False)
                futures[index].add_done_callback(finished)
            while futures:
                index, is_message, content = events.get()
                if is_message:
                    on_message(items[index], content)
                else:
                    del futures[index]  # else Dask repeats the work if the worker that has the result dies
                    yield index, content
        finally:
            client.cancel(list(futures.values()))


def _reason(future: Any) -> str:
    """Why a future has no result."""
    if future.status == "cancelled":
        return "the Dask scheduler was lost, or has cancelled it"
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return "each worker that began it has died; the logs of the workers may say why"
    return _Failure.of(error).reason


_one_at_a_time = threading.Lock()
"""Held by the thread of a Dask worker that does a piece of work: kernels and settings belong to the whole process."""


class _Cancelled(BaseException):
    """The work is no longer wanted."""


def _on_worker(
    function: Callable, item: Any, plugins: Sequence[str], threads: int, topic: str, index: int
) -> Any:  # fmt: skip
    """`_outcome` on a Dask worker."""
    from distributed import get_worker

    from .backends.devices import prepare_kernels

    worker, key = get_worker(), f"{topic}-{index}"

    def listener(message: Any) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise _Cancelled
        worker.log_event(topic, pickle.dumps((index, True, message)))

    with _one_at_a_time, _telling(listener):
        prepare_kernels(threads)
        try:
            return _outcome(function, item, plugins)
        except _Cancelled:
            return _Failure("cancelled")
