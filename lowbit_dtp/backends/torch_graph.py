"""Work on tensors that is recorded once and replayed without Python: on a GPU, as one launch.

A small network's step is hundreds of operations of a few microseconds each, and Python takes longer to launch one than
the device takes to run it.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from . import CannotRecord

_WARM = 2
"""Replays before a CUDA graph is captured, in which libraries choose kernels and allocate memory."""


_TRIES = 10
"""Calls in which compiled work may differ from the original before it is given up.

Rounding can flip a bit of a neuron, which changes other numbers by more than rounding, but other ones in each call.
"""


@cache
def _pool() -> Any:
    """Memory for intermediate results of graphs, which share it: none needs the results of another."""
    return torch.cuda.graph_pool_handle()


class Recorded:
    """`body`, run once while it is recorded, and replayed with each call.

    `body` changes only `arrays`, in place, and does not read numbers. Its Python code runs only once. On a GPU the
    first calls run operation by operation, so that libraries can set up; then the work is captured as a CUDA graph.
    Raises `CannotRecord` if `body` cannot be recorded.
    """

    def __init__(self, body: Callable[[], None], arrays: Sequence[Tensor]) -> None:
        self._arrays = list({id(x): x for x in arrays}.values())
        versions = [x._version for x in self._arrays]
        try:
            with torch.no_grad():
                self._operations: Any = make_fx(lambda *arrays: body())(*self._arrays)
        except RuntimeError as error:
            if "value out of a tracing tensor" not in str(error):
                raise
            raise CannotRecord(
                "a recorded step cannot read a number, in an `if` or by `float(...)`: a rule of "
                "your own that has to is trained by fit(..., mode='plain')"
            ) from error
        self._changed = [x for x, version in zip(self._arrays, versions, strict=True) if x._version != version]
        self._operations.graph.eliminate_dead_code()
        self._operations.recompile()
        self._count = sum(node.op == "call_function" for node in self._operations.graph.nodes)
        self._cuda = next((x.device for x in self._arrays if x.is_cuda), None)
        self._graph: Any = None
        self._calls = self._tries = 0

    @property
    def operations(self) -> int:
        """Number of operations on tensors."""
        return self._count

    def compile(self) -> None:
        """Have torch.compile fuse the operations into few kernels in the next call, which takes long.

        The next calls run both versions, until every number has agreed, up to rounding, in one of them. If one never
        agrees, or if torch.compile fails, the operations are not fused, with a warning.
        """
        plain = self._operations
        compiled: Any = torch.compile(plain, fullgraph=True, dynamic=False)
        self._tries = _TRIES
        differed: list[Any] = [True for _ in self._changed]

        def attempt(*arrays: Tensor) -> None:
            nonlocal differed
            before = [x.clone() for x in self._changed]
            try:
                compiled(*arrays)
            except torch._dynamo.exc.TorchDynamoException as error:  # before anything was done
                reason = str(error).strip().splitlines()[0]
                self._stay(plain, f"torch.compile cannot be used here, so steps stay as they are: {reason}")
                plain(*arrays)
                return
            found = [x.clone() for x in self._changed]
            for x, old in zip(self._changed, before, strict=True):
                x.copy_(old)
            plain(*arrays)
            self._tries -= 1
            compared = [_compared(*both) for both in zip(found, self._changed, before, strict=True)]
            differed = [x & there for x, (there, _) in zip(differed, compared, strict=True)]
            if not any(bool(x.any()) for x in differed) and not any(bool(much) for _, much in compared):
                self._tries, self._operations = 0, compiled
            elif not self._tries:
                self._stay(plain, "a step compiled by torch.compile gives other numbers, so steps stay as they are")

        self._operations = attempt

    def _stay(self, plain: Any, why: str) -> None:
        warnings.warn(why, stacklevel=5)
        self._tries, self._operations = 0, plain

    @torch.no_grad()
    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._cuda is None:
            self._operations(*self._arrays)
        elif self._calls < _WARM:
            self._on_the_side()
            self._calls += not self._tries
        else:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=_pool()):
                self._operations(*self._arrays)
            self._graph = graph
            graph.replay()

    def _on_the_side(self) -> None:
        """Run it on a side stream, which is required before a capture."""
        here, side = torch.cuda.current_stream(self._cuda), torch.cuda.Stream(self._cuda)  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            self._operations(*self._arrays)
        here.wait_stream(side)


def _compared(found: Tensor, expected: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Where two versions of a changed array differ by more than rounding; and whether they differ much overall."""
    same = (found == expected) | (torch.isnan(found) & torch.isnan(expected))
    off = torch.where(same, 0.0, found.double() - expected.double()).abs()
    size, changed = (
        torch.nan_to_num(x, 0.0, 0.0, 0.0).abs() for x in (expected.double(), expected.double() - before.double())
    )
    spread = changed.norm() / max(1, changed.numel()) ** 0.5
    agree = off <= 1e-3 * changed + 1e-4 * spread + 1e-6 * size
    return ~agree, ~(off.norm() <= 0.1 * changed.norm() + 1e-6 * size.norm())
