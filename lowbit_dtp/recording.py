"""Recorded steps: what changes from one step to the next, and how they count.

A step depends on its position in the order of samples, its number and the epoch; these are in arrays that the step
itself increments.
"""

import warnings
from collections.abc import Callable

import numpy as np

from .backends import Array, Backend, CannotRecord, Recording
from .counts import Counts, Traffic
from .ledger import Ledger


class LoopState:
    """Position of a run, in arrays on the device that recorded steps read and increment."""

    def __init__(self, moved: Callable[[np.ndarray], Array]) -> None:
        """`moved` copies a NumPy array to the device."""
        self._moved = moved
        self.start, self.step = moved(np.zeros((), np.int64)), moved(np.zeros((), np.int64))
        self.epoch = moved(np.zeros(()))
        self.order = moved(np.zeros(0, np.int64))
        self._counts: dict[int, Array] = {}

    def begin(self, order: np.ndarray, start: int = 0, step: int = 0, epoch: int = 0) -> None:
        """Begin a pass over the samples in an `order` [samples] or [members, samples], at index `start`."""
        if self.order.shape != order.shape:
            self.order = self._moved(order)
        else:
            self.order[...] = self._moved(order)
        self.go_to(start, step, epoch)

    def go_to(self, start: int, step: int, epoch: int) -> None:
        """Set sample, step and epoch, after steps that were not recorded."""
        self.start[...], self.step[...], self.epoch[...] = start, step, epoch

    def prepare(self, rows: int) -> None:
        """Create what `indices` needs, before it is recorded."""
        self._counts[rows] = self._moved(np.arange(rows))

    def indices(self, rows: int) -> Array:
        """Indices of the next `rows` samples."""
        return self.order[..., self.start + self._counts[rows]]

    def advance(self, rows: int) -> None:
        """Advance to the next samples and step."""
        self.start += rows
        self.step += 1

    def changed(self) -> list[Array]:
        """Arrays that a step changes."""
        return [self.start, self.step]

    def constants(self) -> list[Array]:
        """Arrays that a step only reads."""
        return [self.epoch, self.order, *self._counts.values()]


_WAYS = 4
"""Most recordings of one kind of work, one for each outcome of its branches."""
_OFTEN = 100
"""Times that the work may take another branch, before all of it is run in Python."""
_CHECKS = 2
"""Epochs in which a replay is compared with the work in Python: the first, and a later one."""


class ReplayedStep:
    """Work that is recorded while it runs, and then replayed.

    It is first run in Python without recording, unless it is `warm`: that creates optimizer state, wires and constants.
    `work` counts in the ledger it is given and reads `arrays`; it changes only the arrays in `changed` and those of the
    ledger. Work that cannot be recorded, or whose replay does not give the same bits, is run in Python.
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
        """Whether it is run in Python from now on."""
        self.unknown = 0
        self.checked: set[int] = set()
        self.once = Ledger()
        self.ways: list[Recording] = []

    def __call__(self, epoch: int = 0) -> None:
        """Run it once; `epoch` is the current epoch."""
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
        """Replay it; whether one of the recordings fits. If not, nothing has changed."""
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
        before: list[np.ndarray] = []
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
        """Replay it, undo that, and run it in Python; stop replaying if they differ.

        In this order, so that the replay cannot use results that the run in Python left behind.
        """
        before = self._copies(ledger)
        if not self._repeat():
            self._go_another_way(ledger)
            return
        repeated = self._copies(ledger)
        self._put_back(before, ledger)
        self._as_written(ledger)
        if any(x.tobytes() != y.tobytes() for x, y in zip(repeated, self._copies(ledger), strict=True)):
            self.plain = True
            warnings.warn(
                "a recorded step gives other numbers than the step as it is written; steps are taken as written",
                stacklevel=4,
            )

    def _as_written(self, ledger: Ledger) -> Ledger:
        """Run it in Python; returns what that counts, without ones and toggles."""
        once = _of_one_step(ledger, self.xp.traceable)
        with self.xp.unrecorded():
            self._do(once)
        return once

    def _all(self, ledger: Ledger) -> list[Array]:
        return [*self.changed(), *_arrays(ledger)]

    def _copies(self, ledger: Ledger) -> list[np.ndarray]:
        return [np.array(x) for x in self._all(ledger)]

    def _put_back(self, copies: list[np.ndarray], ledger: Ledger) -> None:
        for x, copy in zip(self._all(ledger), copies, strict=True):
            np.copyto(np.asarray(x), copy)

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
    """A ledger for a step that will be replayed: it adds ones and toggles to `ledger`, and counts all else from zero.

    They are added in place, so they must have been counted in arrays before. Its wires are those of `ledger`. `seen`
    makes views of these arrays, in the same memory.
    """
    traffic = {c: Traffic(0, seen(t.ones), seen(t.toggles), t.invalid) for c, t in ledger.counts.traffic.items()}
    return Ledger(0, wires=ledger.wires.each(seen), counts=Counts(traffic))


def _arrays(ledger: Ledger) -> list[Array]:
    """The arrays that `ledger` counts in, and the words on its wires."""
    traffic = ledger.counts.traffic.values()
    counts = [x for t in traffic for x in (t.ones, t.toggles, t.invalid) if hasattr(x, "shape")]
    return [*counts, *ledger.wires.values()]
