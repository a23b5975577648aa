"""The ledger: what crossed which link, what was computed where, and which memory was touched, counted as it happens.

Only links and layers write here. Everything is a count of events; joules and seconds are somebody else's reading.
Counts add up over steps, epochs and seeds, and answer per sample, per step, per epoch or per run. Ones and toggles may
be counted in arrays, by member of an ensemble and on the device where the signals are; reading them waits for it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from .storage import StorageError, read_json, write_json


class Direction(StrEnum):
    """Which way a message crosses a link."""

    FORWARD = "forward"
    FEEDBACK = "feedback"

    __hash__ = str.__hash__  # an enumeration's own is Python, and takes longer than a look-up


class MessageType(NamedTuple):
    """A kind of message: which link, which way, why, in which format, and how many codes wide."""

    link: str
    direction: Direction
    purpose: str
    format: str
    bits: int
    """Bits a code."""
    width: int
    """Codes a message; one message carries one sample."""


@dataclass
class Traffic:
    """How often a kind of message crossed, and what its bits did."""

    messages: int = 0
    ones: Any = 0
    """Bits that were 1. In a ledger that is being written, perhaps an array of them [members], as are the others."""
    toggles: Any = 0
    """Wires that changed level: bits that differ from the word before on the same wires."""
    invalid: Any = 0
    """Numbers that the format cannot send, where a device found them and could not stop."""


class Work(NamedTuple):
    """A kind of operation: in which layer, what for, which, and on operands of which formats.

    `operation` is one of `OPERATIONS`; `right` is empty for those of one operand.
    """

    layer: str
    purpose: str
    operation: str
    left: str
    right: str = ""


OPERATIONS = ("multiply-accumulate", "multiply", "add", "divide", "square-root", "tanh", "exp")
"""What a `Work` can be. `exp` stands for a sigmoid or one term of a softmax as well."""


class Access(NamedTuple):
    """A kind of memory traffic: which array of which layer, read or written, in words of which format.

    Counted as if each sample were processed by itself (no reuse of a word over a minibatch); `capacity_bits` is the
    size of the whole array, from which a technology chooses a memory.
    """

    layer: str
    array: str
    operation: str
    """`read` or `write`."""
    format: str
    bits: int
    capacity_bits: int


PER = ("run", "epoch", "step", "sample")
_COUNTED = ("messages", "ones", "toggles")
_RENAMED = {"flow": "direction", "way": "operation"}
"""Columns of files of format version 1, by today's names."""
_RENAMED_PURPOSES = {"activity": "activations", "noisy activity": "noisy activations", "echo": "reconstruction"}
"""Purposes in files of format version 1, by today's names."""


@dataclass(eq=False)
class Ledger:
    """Everything a run sent, computed and touched, and over how much of it that was counted."""

    runs: int = 1
    epochs: int = 0
    steps: int = 0
    samples: int = 0
    wires: dict[tuple[str, Direction], Any] = field(default_factory=dict, repr=False)
    """Last word on each link's wires, each way: what the next one toggles against. Not added, compared or saved."""
    _traffic: dict[MessageType, Traffic] = field(default_factory=dict, repr=False)
    _work: dict[Work, int] = field(default_factory=dict, repr=False)
    _accesses: dict[Access, int] = field(default_factory=dict, repr=False)
    _repeated: dict[int, list[Any]] = field(default_factory=dict, repr=False)
    """Ledgers of what has been repeated, and how often; not yet in the counts."""

    @property
    def traffic(self) -> dict[MessageType, Traffic]:
        """How often each kind of message crossed. ValueError, naming the link, if one was of numbers it cannot send."""
        self._settle()
        for message_type, traffic in self._traffic.items():
            if _total(traffic.invalid):
                where = [i for i, number in enumerate(self._listed(traffic.invalid)) if number]
                member = f" (member {where[0]} of the ensemble)" if self.runs > 1 else ""
                why = f"{message_type.format} was given NaN, or infinity, which it cannot send{member}"
                raise invalid_message(message_type, why)
        return {c: Traffic(t.messages, _total(t.ones), _total(t.toggles)) for c, t in self._traffic.items()}

    @property
    def work(self) -> dict[Work, int]:
        """How often each kind of operation was done."""
        self._settle()
        return self._work

    @property
    def accesses(self) -> dict[Access, int]:
        """Words of each kind of memory traffic."""
        self._settle()
        return self._accesses

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._counts() == other._counts()

    def _counts(self) -> tuple[Any, ...]:
        return self.runs, self.epochs, self.steps, self.samples, self.traffic, self.work, self.accesses

    def crossed(self, message_type: MessageType, messages: int, ones: Any, toggles: Any, invalid: Any = 0) -> None:
        """Count `messages` of a kind, with their ones and toggles: numbers, or arrays [members]."""
        traffic = self._traffic.get(message_type)
        if traffic is None:
            traffic = self._traffic[message_type] = Traffic()
        traffic.messages += messages
        traffic.ones += ones
        traffic.toggles += toggles
        traffic.invalid += invalid

    def worked(self, work: Work, times: int) -> None:
        """Count an operation done `times` times."""
        if work.operation not in OPERATIONS:
            raise ValueError(f"no operation {work.operation!r}; there are: {', '.join(OPERATIONS)}")
        self._work[work] = self._work.get(work, 0) + times

    def accessed(self, access: Access, words: int) -> None:
        """Count `words` of memory read or written."""
        self._accesses[access] = self._accesses.get(access, 0) + words

    def repeated(self, once: "Ledger", times: int = 1) -> None:
        """Count the messages, work and accesses of `once`, which must not change any more, `times` times.

        A layer does the same in every step: this is one addition instead of one for each kind of event. What depends
        on data, ones and toggles, is not repeated.
        """
        counted = self._repeated.get(id(once))
        if counted is None:
            counted = self._repeated[id(once)] = [once, 0]
        counted[1] += times

    def count_in_arrays(self, made: Callable[[Any], Any]) -> None:
        """Count ones and toggles in arrays from here on, which `made` makes of numbers."""
        for traffic in self._traffic.values():
            for name in ("ones", "toggles"):
                count = getattr(traffic, name)
                setattr(traffic, name, made(count) if isinstance(count, int) else count)

    def of_one_step(self, seen: Callable[[Any], Any] = lambda x: x) -> "Ledger":
        """A ledger for a step that will be `repeated`: it adds ones and toggles to this one, and counts all else anew.

        They are added in place, so they must have been counted in arrays before. Its wires are this one's. Both are
        what `seen` makes of these arrays, in the same memory.
        """
        traffic = {c: Traffic(0, seen(t.ones), seen(t.toggles), t.invalid) for c, t in self._traffic.items()}
        return Ledger(0, wires={wire: seen(x) for wire, x in self.wires.items()}, _traffic=traffic)

    @contextmanager
    def wires_in_place(self) -> Iterator[None]:
        """Have words that cross in the meantime written over the last ones, not put in their place."""
        before = dict(self.wires)
        yield
        for wire, last in before.items():
            now = self.wires[wire]
            if now is not last and (now.shape, now.dtype) == (last.shape, last.dtype):
                last[...] = now
                self.wires[wire] = last

    def arrays(self) -> list[Any]:
        """The arrays that the ledger counts in, and the words on its wires."""
        counts = [x for t in self._traffic.values() for x in (t.ones, t.toggles, t.invalid) if hasattr(x, "shape")]
        return [*counts, *self.wires.values()]

    def _settle(self) -> None:
        repeated, self._repeated = self._repeated, {}
        for once, times in repeated.values():
            once._settle()
            for message_type, traffic in once._traffic.items():
                self._traffic.setdefault(message_type, Traffic()).messages += traffic.messages * times
            for work, number in once._work.items():
                self._work[work] = self._work.get(work, 0) + number * times
            for access, words in once._accesses.items():
                self._accesses[access] = self._accesses.get(access, 0) + words * times

    def per(self, unit: str) -> int:
        """How many runs, epochs, steps or samples the counts are over: what to divide by."""
        if unit not in PER:
            raise ValueError(f"no unit {unit!r}; there are: {', '.join(PER)}")
        number: int = getattr(self, f"{unit}s")
        if not number:
            raise ValueError(f"the ledger has counted no {unit}, so it has no answer per {unit}")
        return number

    def message_types(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None
    ) -> Iterator[tuple[MessageType, Traffic]]:
        """Kinds of message on `link`, `direction` and for `purpose`, where given, with their traffic."""
        for message_type, traffic in self.traffic.items():
            if (
                link in (None, message_type.link)
                and direction in (None, message_type.direction)
                and purpose in (None, message_type.purpose)
            ):
                yield message_type, traffic

    def codes(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None, per: str = "run"
    ) -> float:
        """Codes that crossed, on average `per` run, epoch, step or sample."""
        return sum(t.messages * c.width for c, t in self.message_types(link, direction, purpose)) / self.per(per)

    def bits(
        self,
        link: str | None = None,
        direction: Direction | None = None,
        purpose: str | None = None,
        per: str = "run",
        word_bits: int = 1,
    ) -> float:
        """Bits that crossed, each message padded to whole words of `word_bits`; 1 leaves the bare payload."""
        total = sum(
            t.messages * padded(c.width * c.bits, word_bits) for c, t in self.message_types(link, direction, purpose)
        )
        return total / self.per(per)

    def ones(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None, per: str = "run"
    ) -> float:
        """Bits that crossed as 1."""
        return sum(t.ones for _, t in self.message_types(link, direction, purpose)) / self.per(per)

    def toggles(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None, per: str = "run"
    ) -> float:
        """Changes of level on the wires."""
        return sum(t.toggles for _, t in self.message_types(link, direction, purpose)) / self.per(per)

    def links(self) -> list[str]:
        """Names of the links that carried something, in the order of their first message."""
        return list(dict.fromkeys(message_type.link for message_type in self.traffic))

    def layers(self) -> list[str]:
        """Names of the layers that computed something, in the order of their first operation."""
        return list(dict.fromkeys(work.layer for work in self.work))

    def members(self) -> list["Ledger"]:
        """The ledger of each of the `runs` members of an ensemble that were trained together, as if alone.

        One that was to send what it cannot is invalid when its `traffic` is read.
        """
        self._settle()
        counts = [
            (message_type, t.messages, [self._listed(count) for count in (t.ones, t.toggles, t.invalid)])
            for message_type, t in self._traffic.items()
        ]
        ledgers = []
        for i in range(self.runs):
            ledger = Ledger(1, self.epochs // self.runs, self.steps // self.runs, self.samples // self.runs)
            ledger.wires = {wire: x[i] for wire, x in self.wires.items()}
            for message_type, messages, lists in counts:
                ledger.crossed(message_type, messages // self.runs, *(x[i] for x in lists))
            ledger._work = {work: times // self.runs for work, times in self._work.items()}
            ledger._accesses = {access: words // self.runs for access, words in self._accesses.items()}
            ledgers.append(ledger)
        return ledgers

    def _listed(self, count: Any) -> list[int]:
        """A count of each member."""
        return count.tolist() if hasattr(count, "tolist") and count.ndim else [count] * self.runs

    @classmethod
    def of_members(cls, ledgers: "list[Ledger]", stack: Callable[[list[Any]], Any]) -> "Ledger":
        """The ledger of an ensemble of which `members` gives `ledgers`; `stack` makes an array of one value of each."""
        together = merged(ledgers)
        for message_type in together._traffic:
            each = [ledger.traffic[message_type] for ledger in ledgers]
            together._traffic[message_type].ones = stack([t.ones for t in each])
            together._traffic[message_type].toggles = stack([t.toggles for t in each])
        together.wires = {wire: stack([ledger.wires[wire] for ledger in ledgers]) for wire in ledgers[0].wires}
        return together

    def __add__(self, other: "Ledger") -> "Ledger":
        """Both together, as of two runs."""
        return merged([self, other])

    def __iadd__(self, other: "Ledger") -> "Ledger":
        self.runs += other.runs
        self.epochs += other.epochs
        self.steps += other.steps
        self.samples += other.samples
        for message_type, traffic in other.traffic.items():
            self.crossed(message_type, traffic.messages, traffic.ones, traffic.toggles)
        for work, times in other.work.items():
            self.worked(work, times)
        for access, words in other.accesses.items():
            self.accessed(access, words)
        return self

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            **{f"{unit}s": getattr(self, f"{unit}s") for unit in PER},
            "traffic": [c._asdict() | {name: getattr(t, name) for name in _COUNTED} for c, t in self.traffic.items()],
            "work": [w._asdict() | {"times": n} for w, n in self.work.items()],
            "accesses": [a._asdict() | {"words": n} for a, n in self.accesses.items()],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Ledger":
        """The ledger of which `as_dict` made `content`; KeyError or TypeError if it is no ledger."""
        ledger = cls(**{f"{unit}s": content[f"{unit}s"] for unit in PER})
        for row in content["traffic"]:
            row = _renamed(row)
            counts = [row.pop(name) for name in _COUNTED]
            ledger.crossed(MessageType(**(row | {"direction": Direction(row["direction"])})), *counts)
        for row in content["work"]:
            row = _renamed(row)
            times = row.pop("times")
            ledger.worked(Work(**row), times)
        for row in content["accesses"]:
            row = _renamed(row)
            words = row.pop("words")
            ledger.accessed(Access(**row), words)
        return ledger


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a file, under the names that its columns and its purpose have today."""
    row = {_RENAMED.get(name, name): value for name, value in row.items()}
    if "purpose" in row:
        row["purpose"] = _RENAMED_PURPOSES.get(row["purpose"], row["purpose"])
    return row


def invalid_message(message_type: MessageType, why: str) -> ValueError:
    """What is to be said where numbers were to cross that cannot."""
    return ValueError(f"link {message_type.link}, {message_type.direction} {message_type.purpose!r}: {why}")


def _total(count: Any) -> int:
    return count if isinstance(count, int) else int(count.sum())


def padded(bits: int, word_bits: int) -> int:
    """`bits` rounded up to whole words of `word_bits`.

    >>> padded(500, 8), padded(500, 64), padded(500, 1)
    (504, 512, 500)
    """
    return -(-bits // word_bits) * word_bits


def merged(ledgers: Iterable[Ledger]) -> Ledger:
    """One ledger of many: of seeds, or of parts of a run."""
    total = Ledger(runs=0)
    for ledger in ledgers:
        total += ledger
    return total


def save(path: Path, **ledgers: Ledger) -> None:
    """Write named ledgers, `training` and `inference` say, as one JSON file."""
    write_json(path, {name: ledger.as_dict() for name, ledger in ledgers.items()})


def load(path: Path) -> dict[str, Ledger]:
    """The named ledgers that `save` wrote. Raises `StorageError` naming `path` if it cannot be that."""
    content = read_json(path)
    try:
        return {name: Ledger.from_dict(ledger) for name, ledger in content.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path}: not a ledger ({type(error).__name__}: {error})") from None
