"""Tests marked `gpu` are skipped, saying so, where there is no CUDA device. Workers share cores and compiled code."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # before NumPy and torch read them: a core for each worker
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

os.environ.setdefault("LOWBIT_DTP_JOBS", "1")  # what a comparison trains at once, unless a test says otherwise

LOCKS = "LOWBIT_DTP_TEST_LOCKS"
"""Names the folder in which workers say which kernel they are compiling."""


def pytest_configure(config: pytest.Config) -> None:
    if WORKER and LOCKS in os.environ:
        from numba.core.dispatcher import Dispatcher

        Dispatcher.compile = by_one_worker(Dispatcher.compile)
    elif config.getoption("numprocesses", None):
        locks = tempfile.TemporaryDirectory()
        os.environ[LOCKS] = locks.name
        config.add_cleanup(locks.cleanup)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=WORKER)
def one_thread() -> None:
    """Kernels run on one thread, unless a test says otherwise."""
    import numba

    numba.set_num_threads(1)


# --- a kernel is compiled by one worker, and the others take it from Numba's cache ------------------------------------


def by_one_worker(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """`Dispatcher.compile`, which looks into the cache first, while no other worker compiles the same function."""

    def locked(self: Any, signature: Any) -> Any:
        if not self.stats.cache_path:
            return compiled(self, signature)
        with lock(f"{self.py_func.__module__}.{self.py_func.__qualname__}"):
            return compiled(self, signature)

    return locked


_held: set[str] = set()


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Within, no other worker holds `name`. Functions call each other in no circle, and so nobody waits for ever."""
    if name in _held:
        yield
        return
    with Path(os.environ[LOCKS], name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _held.add(name)
        try:
            yield
        finally:
            _held.discard(name)
