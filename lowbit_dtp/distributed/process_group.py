"""A `Transport` over torch.distributed: ranks that torchrun started, on one machine or on several, joined by gloo."""

import os
import re
from collections import deque
from datetime import timedelta

import numpy as np

from .split import SplitError
from .transport import Bytes, WireError

try:
    import torch
    import torch.distributed as dist
except ImportError as error:
    raise ImportError("training on several ranks needs torch: pip install lowbit-dtp[torch]") from error

TIMEOUT = 300.0
"""Seconds that a rank waits for a message of another one that lives; of a lost one it hears at once."""
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PENDING = 64
"""Messages that a rank sends ahead of what it has been told was taken."""


class ProcessGroup:
    """The ranks that torchrun started.

    SplitError if this process is not one of them.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        if missing := [name for name in _LAUNCHED if name not in os.environ]:
            raise SplitError(
                f"--split needs several ranks, and {missing[0]} is not in the environment; start it by torchrun: "
                "torchrun --nproc-per-node 2 -m lowbit_dtp train --split 'h1|h2,output' ..."
            )
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._pending: deque[tuple[dist.Work, torch.Tensor, int]] = deque()

    def send(self, rank: int, message: Bytes) -> None:
        """Send `message` to `rank`, which may not have asked for it yet. WireError if that rank is lost."""
        tensor = torch.from_numpy(message)
        try:
            work = dist.isend(tensor, rank)
        except RuntimeError as error:
            raise _lost(self.rank, rank, error) from None
        assert work is not None
        self._pending.append((work, tensor, rank))  # which keeps the bytes in memory
        while len(self._pending) > _PENDING:
            self._wait()

    def receive(self, rank: int, size: int) -> Bytes:
        """The next message from `rank`, of `size` bytes at most. WireError if it is longer, or that rank is lost."""
        tensor = torch.zeros(size, dtype=torch.uint8)
        try:
            dist.recv(tensor, rank)
        except RuntimeError as error:
            raise _lost(self.rank, rank, error) from None
        return np.asarray(tensor.numpy())

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the group; unless a rank is lost or this one was stopped, when everything that was sent has arrived."""
        while self._pending and (kind is None or issubclass(kind, SplitError)):
            self._wait()
        dist.destroy_process_group()

    def _wait(self) -> None:
        work, _, rank = self._pending.popleft()
        try:
            work.wait()
        except RuntimeError as error:
            raise _lost(self.rank, rank, error) from None


def _lost(rank: int, other: int, error: RuntimeError) -> WireError:
    why = re.sub(r"^\[.*?\] ", "", str(error)).split(". ")[0].strip()  # gloo begins with the line of its source
    return WireError(f"rank {rank} lost rank {other}, so all ranks stop ({why}); the same command goes on")
