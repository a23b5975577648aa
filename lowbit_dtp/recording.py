"""Steps that are written down once: where they take what changes from one to the next, and how they count.

What a step depends on, its place among the samples, its number and the epoch, is in arrays that it counts up itself.
"""

import warnings
from collections.abc import Callable

import numpy as np

from .backends import Array, Backend, CannotRecord, Recording
from .counts import Counts, Traffic
from .ledger import Ledger


class LoopState:
    """Where a run is, in arrays on the device, which recorded steps read and count up by themselves."""

    def __init__(self, moved: Callable[[np.ndarray], Array]) -> None:
        """`moved` brings a NumPy array to the device."""
        self._moved = moved
        self.start, self.step = moved(np.zeros((), np.int64)), moved(np.zeros((), np.int64))
        self.epoch = moved(np.zeros(()))
        self.order: Array = None
        self._counts: dict[int, Array] = {}

    def begin(self, order: np.ndarray, start: int = 0, step: int = 0, epoch: int = 0) -> None:
        """A pass over the samples in an `order` [samples] or [members, samples], from the one at `start`."""
        if self.order is None:
            self.order = self._moved(order)
        else:
            self.order[...] = self._moved(order)
        self.go_to(start, step, epoch)

    def go_to(self, start: int, step: int, epoch: int) -> None:
        """Go to the sample and step, where some were taken in another way."""
        self.start[...], self.step[...], self.epoch[...] = start, step, epoch

    def prepare(self, rows: int) -> None:
        """Make what `indices` needs, before it is recorded."""
        self._counts[rows] = self._moved(np.arange(rows))

    def indices(self, rows: int) -> Array:
        """Of the next `rows` samples."""
        return self.order[..., self.start + self._counts[rows]]

    def advance(self, rows: int) -> None:
        """Go on to the next samples and step."""
        self.start += rows
        self.step += 1

    def changed(self) -> list[Array]:
        """What a step changes."""
        return [self.start, self.step]

    def constants(self) -> list[Array]:
        """What it reads."""
        return [self.epoch, self.order, *self._counts.values()]


_WAYS = 4
"""Ways through the work, by what it decides on its numbers, that are recorded at most."""
_OFTEN = 100
"""Times that the work may go yet another way, before all of it is done as it is written."""
_CHECKS = 2
"""Epochs in which a repetition is held to the work as it is written: the first, and another."""


class ReplayedStep:
    """Work that is recorded while it is done, and then repeated.

    It is done as it is written first, unless it was before and is `warm`: that makes what is made once, optimizer
    state, wires and constants. `work` counts in the ledger it is given; it reads `arrays`, and what it changes is in
    those of `changed` and the ledger's. Work that cannot be recorded, or that repeated does not come to the same to
    the bit, is done as it is written.
    """

    def __init__(
        self,
        work: Callable[[Ledger], None],
        changed: Callable[[], list[Array]],
        arrays: Callable[[], list[Array]],
        xp: Backend,
        ledger: Ledger | None,
        *,
        compiled: bool,
        warm: bool = False,
    ) -> None:
        self.work, self.changed, self.arrays, self.xp, self.ledger = work, changed, arrays, xp, ledger
        self.compiled, self.warm = compiled, warm
        self.plain = False
        """Whether it had better be done as it is written."""
        self.unknown = 0
        self.checked: set[int] = set()
        self.once = Ledger()
        self.ways: list[Recording] = []

    def __call__(self, epoch: int = 0) -> None:
        """Do it, in some `epoch`."""
        ledger = Ledger() if self.ledger is None else self.ledger
        if self.plain or not self.warm:
            with self.xp.unrecorded():
                self._do(ledger)
            self.warm = True
            return
        if not self.ways:
            self._record(ledger)
        elif self.xp.checks and len(self.checked) < _CHECKS and epoch not in self.checked:
            self.checked.add(epoch)
            self._check(ledger)
        elif not self._repeat():
            self._go_another_way(ledger)
        ledger.counts.repeat(self.once.counts)

    def _repeat(self) -> bool:
        """Whether it went one of the ways that are known; nothing has changed if not."""
        for i, way in enumerate(self.ways):
            if way() is not False:
                if i:
                    self.ways.insert(0, self.ways.pop(i))
                return True
        return False

    def _go_another_way(self, ledger: Ledger) -> None:
        self.unknown += 1
        if len(self.ways) < _WAYS:
            self._record(ledger)
        else:
            self._as_written(ledger)
            self.plain = self.unknown > _OFTEN

    def _record(self, ledger: Ledger) -> None:
        before: list[Array] = []
        if self.xp.checks:
            _count_in_arrays(ledger)
            before = self._copies(ledger)
        self.once = _of_one_step(ledger, self.xp.traceable)
        arrays = [*self.changed(), *self.arrays(), *_arrays(ledger)]
        try:
            way = self.xp.record(lambda: self._do(self.once), arrays)
        except CannotRecord:
            if not self.xp.checks:
                raise
            self.plain = True
            self._put_back(before, ledger)
            self.once = self._as_written(ledger)
            return
        if self.compiled:
            way.compile()
        self.ways.insert(0, way)

    def _check(self, ledger: Ledger) -> None:
        """Do it as it was recorded, then take that back and do it as it is written; keep to the latter if they differ.

        In this order, since what the one left behind somewhere must not serve the other.
        """
        before = self._copies(ledger)
        if not self._repeat():
            self._go_another_way(ledger)
            return
        repeated = self._copies(ledger)
        self._put_back(before, ledger)
        self._as_written(ledger)
        if any(x.tobytes() != y.tobytes() for x, y in zip(repeated, self._all(ledger), strict=True)):
            self.plain = True
            warnings.warn(
                "a recorded step gives other numbers than the step as it is written; steps are taken as written",
                stacklevel=4,
            )

    def _as_written(self, ledger: Ledger) -> Ledger:
        """Do it as it is written; what that counts but ones and toggles."""
        once = _of_one_step(ledger, self.xp.traceable)
        with self.xp.unrecorded():
            self._do(once)
        return once

    def _all(self, ledger: Ledger) -> list[Array]:
        return [*self.changed(), *_arrays(ledger)]

    def _copies(self, ledger: Ledger) -> list[Array]:
        return [np.array(x) for x in self._all(ledger)]

    def _put_back(self, copies: list[Array], ledger: Ledger) -> None:
        for x, copy in zip(self._all(ledger), copies, strict=True):
            np.copyto(x, copy)

    def _do(self, ledger: Ledger) -> None:
        with ledger.wires.in_place():
            self.work(ledger)


def _count_in_arrays(ledger: Ledger) -> None:
    """Have `ledger` count ones and toggles in arrays from here on."""
    for traffic in ledger.counts.traffic.values():
        for name in ("ones", "toggles"):
            count = getattr(traffic, name)
            setattr(traffic, name, np.array(count) if isinstance(count, int) else count)


def _of_one_step(ledger: Ledger, seen: Callable[[Array], Array]) -> Ledger:
    """A ledger for a step that will be repeated: it adds ones and toggles to `ledger`, and counts all else anew.

    They are added in place, so they must have been counted in arrays before. Its wires are those of `ledger`. Both are
    what `seen` makes of these arrays, in the same memory.
    """
    traffic = {c: Traffic(0, seen(t.ones), seen(t.toggles), t.invalid) for c, t in ledger.counts.traffic.items()}
    return Ledger(0, wires=ledger.wires.each(seen), counts=Counts(traffic))


def _arrays(ledger: Ledger) -> list[Array]:
    """The arrays that `ledger` counts in, and the words on its wires."""
    traffic = ledger.counts.traffic.values()
    counts = [x for t in traffic for x in (t.ones, t.toggles, t.invalid) if hasattr(x, "shape")]
    return [*counts, *ledger.wires.values()]
