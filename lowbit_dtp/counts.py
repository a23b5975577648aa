"""Counts of events, added one by one or at once for many repetitions."""

from dataclasses import dataclass, field
from typing import Any

from .events import OPERATIONS, Access, MessageType, Work


@dataclass
class Traffic:
    """How many messages of a type crossed, and how many of their bits were 1 or toggled."""

    messages: int = 0
    ones: Any = 0
    """Bits that were 1. A number, or an array [] or [members]; likewise `toggles` and `invalid`."""
    toggles: Any = 0
    """Wires that changed level: bits that differ from the previous word on the same wires."""
    invalid: Any = 0
    """Numbers that the format cannot send, found by a device, which cannot stop to raise an error."""


@dataclass(eq=False)
class Counts:
    """How often each kind of message, operation and memory access happened.

    The dictionaries do not include what `repeat` counted until the next `settle`.
    """

    traffic: dict[MessageType, Traffic] = field(default_factory=dict)
    work: dict[Work, int] = field(default_factory=dict)
    accesses: dict[Access, int] = field(default_factory=dict)
    """Words read or written."""
    _repeated: dict[int, list[Any]] = field(default_factory=dict)
    """Counts that were repeated and how often, by identity: comparing them would take more time than it saves."""

    def crossed(self, message_type: MessageType, messages: int, ones: Any, toggles: Any, invalid: Any = 0) -> None:
        """Count `messages` of a kind, with their ones and toggles: numbers, or arrays [members]."""
        traffic = self.traffic.get(message_type)
        if traffic is None:
            traffic = self.traffic[message_type] = Traffic()
        traffic.messages += messages
        traffic.ones += ones
        traffic.toggles += toggles
        traffic.invalid += invalid

    def worked(self, work: Work, times: int) -> None:
        """Count `times` operations. ValueError if `work.operation` is not in `OPERATIONS`."""
        if work.operation not in OPERATIONS:
            raise ValueError(f"no operation {work.operation!r}; there are: {', '.join(OPERATIONS)}")
        self.work[work] = self.work.get(work, 0) + times

    def accessed(self, access: Access, words: int) -> None:
        """Count `words` of memory read or written."""
        self.accesses[access] = self.accesses.get(access, 0) + words

    def repeat(self, once: "Counts", times: int = 1) -> None:
        """Count the messages, work and accesses of `once`, which must not change any more, `times` times.

        A layer does the same in every step: this is one addition instead of one for each kind of event. Ones and
        toggles depend on data and are not repeated.
        """
        counted = self._repeated.get(id(once))
        if counted is None:
            counted = self._repeated[id(once)] = [once, 0]
        counted[1] += times

    def settle(self) -> "Counts":
        """Add up what was repeated; returns these counts."""
        repeated, self._repeated = self._repeated, {}
        for once, times in repeated.values():
            once.settle()
            for message_type, traffic in once.traffic.items():
                self.traffic.setdefault(message_type, Traffic()).messages += traffic.messages * times
            for work, number in once.work.items():
                self.work[work] = self.work.get(work, 0) + number * times
            for access, words in once.accesses.items():
                self.accesses[access] = self.accesses.get(access, 0) + words * times
        return self


def total(count: Any) -> int:
    """A count over all members."""
    return count if isinstance(count, int) else int(count.sum())


def by_member(count: Any, members: int) -> list[int]:
    """The count of each member: an array [members], or one number that holds for each."""
    return count.tolist() if hasattr(count, "tolist") and count.ndim else [count] * members
