"""Steps on a device that are written down once: where they take what changes from one to the next, and how they count.

What a step depends on, its place among the samples, its number and the epoch, is in arrays that it counts up itself.
"""

from collections.abc import Callable

import numpy as np

from .backends import Array, Backend, Recording
from .ledger import Ledger


class Place:
    """Where a run is, in arrays on the device, which recorded steps read and count up by themselves."""

    def __init__(self, moved: Callable[[np.ndarray], Array]) -> None:
        """`moved` brings a NumPy array to the device."""
        self._moved = moved
        self.start, self.step = moved(np.zeros((), np.int64)), moved(np.zeros((), np.int64))
        self.epoch = moved(np.zeros(()))
        self.order: Array = None
        self._counts: dict[int, Array] = {}

    def begin(self, order: Array, start: int = 0, step: int = 0, epoch: int = 0) -> None:
        """A pass over the samples in an `order` [samples] or [members, samples], from the one at `start`."""
        if self.order is None:
            self.order = order
        else:
            self.order[...] = order
        self.start[...], self.step[...], self.epoch[...] = start, step, epoch

    def indices(self, rows: int) -> Array:
        """Of the next `rows` samples."""
        if rows not in self._counts:
            self._counts[rows] = self._moved(np.arange(rows))
        return self.order[..., self.start + self._counts[rows]]

    def advance(self, rows: int) -> None:
        """Go on to the next samples and step."""
        self.start += rows
        self.step += 1

    def arrays(self) -> list[Array]:
        """Whatever changes."""
        return [self.start, self.step, self.epoch, self.order]


class Repeated:
    """Work on a device: done as it is written the first time, recorded while it is done the second, and then repeated.

    The first time makes what is made once: optimizer state, wires, constants. `work` counts in the ledger it is given;
    `arrays` gives those that it reads or changes, beside the ledger's.
    """

    def __init__(
        self,
        work: Callable[[Ledger], None],
        arrays: Callable[[], list[Array]],
        xp: Backend,
        ledger: Ledger | None,
        *,
        compiled: bool,
    ) -> None:
        self.work, self.arrays, self.xp, self.ledger, self.compiled = work, arrays, xp, ledger, compiled
        self.warm = False
        self.once = Ledger()
        self.again: Recording | None = None

    def __call__(self) -> None:
        ledger = Ledger() if self.ledger is None else self.ledger
        if self.again is not None:
            self.again()
        elif self.warm:
            self.once = ledger.of_one_step()
            self.again = self.xp.record(lambda: self._do(self.once), [*self.arrays(), *ledger.arrays()])
            if self.compiled:
                self.again.compile()
        else:
            self._do(ledger)
            self.warm = True
            return
        ledger.repeated(self.once)

    def _do(self, ledger: Ledger) -> None:
        with ledger.wires_in_place():
            self.work(ledger)
