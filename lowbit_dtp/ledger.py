"""The ledger: counts of messages on links, operations in layers and memory accesses.

Only links and layers write to it. It counts events; joules are computed elsewhere. Counts add up over steps, epochs and
seeds, and can be read per sample, per step, per epoch or per run. Ones and toggles may be counted in arrays, by member
of an ensemble and on the device of the signals; reading them waits for the device.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .choices import choose
from .codings import BOUNDS, CODINGS, MAX_BITS, Coded, CodedCounts
from .counts import Counts, by_member, total
from .counts import Traffic as Traffic
from .events import BUFFERS as BUFFERS
from .events import OPERATIONS as OPERATIONS
from .events import Access as Access
from .events import Direction as Direction
from .events import MessageType as MessageType
from .events import Work as Work
from .storage import StorageError, read_json, write_json
from .wires import Wires

PER = ("run", "epoch", "step", "sample")
_COUNTED = ("messages", "ones", "toggles")
_ASSUMED = "assumed"
"""Key in a file of ledgers for what is assumed, not counted."""
_COLUMNS = {"flow": "direction", "way": "operation"}
_PURPOSES = {"activity": "activations", "noisy activity": "noisy activations", "echo": "reconstruction"}
"""Columns and purposes in files of format version 1, by today's names."""
_NO_CODINGS = "it was not counted; give the names of codings to count: Ledger(codings=[...]), or --codings"


@dataclass(eq=False)
class Ledger:
    """Everything that a run sent, computed and accessed, and the number of runs, epochs, steps and samples counted."""

    runs: int = 1
    epochs: int = 0
    steps: int = 0
    samples: int = 0
    batch: int = 0
    """Samples in the largest minibatch that a run learned from; 0 where none is known: in inference, in older files."""
    wires: Wires = field(default_factory=Wires, repr=False)
    """Last word on the wires of each link, with which the next one is compared. Not added, compared or saved."""
    counts: Counts = field(default_factory=Counts, repr=False)
    """Counts as they are collected: arrays of ones and toggles on the device, repetitions not yet added up."""
    codings: Sequence[str] = ()
    """Codings and bounds whose bits are counted, too, by name (see `codings`); "all" stands for all of them."""
    coded_counts: CodedCounts | None = field(default=None, repr=False)
    """Counts of the bits of `codings`; None if there are none."""

    def __post_init__(self) -> None:
        if self.coded_counts is None and self.codings:
            self.coded_counts = CodedCounts((self.codings,) if isinstance(self.codings, str) else tuple(self.codings))
        self.codings = () if self.coded_counts is None else self.coded_counts.names

    @property
    def traffic(self) -> dict[MessageType, Traffic]:
        """Traffic of each type of message. ValueError, naming the link, if a message had an invalid number."""
        counted = self.counts.settle().traffic
        for message_type, traffic in counted.items():
            if total(traffic.invalid):
                where = [i for i, number in enumerate(by_member(traffic.invalid, self.runs)) if number]
                member = f" (member {where[0]} of the ensemble)" if self.runs > 1 else ""
                why = f"{message_type.format} was given NaN, or infinity, which it cannot send{member}"
                raise invalid_message(message_type, why)
        return {c: Traffic(t.messages, total(t.ones), total(t.toggles)) for c, t in counted.items()}

    @property
    def work(self) -> dict[Work, int]:
        """How many operations of each kind were done."""
        return self.counts.settle().work

    @property
    def accesses(self) -> dict[Access, int]:
        """Words of each kind of memory access."""
        return self.counts.settle().accesses

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._compared() == other._compared()

    def _compared(self) -> tuple[Any, ...]:
        counts = self.traffic, self.work, self.accesses, self.coded_counts
        return self.runs, self.epochs, self.steps, self.samples, self.batch, *counts

    def crossed(self, message_type: MessageType, messages: int, ones: Any, toggles: Any, invalid: Any = 0) -> None:
        """Count `messages` of a kind, with their ones and toggles: numbers, or arrays [members]."""
        self.counts.crossed(message_type, messages, ones, toggles, invalid)

    def worked(self, work: Work, times: int) -> None:
        """Count `times` operations. ValueError if `work.operation` is not in `OPERATIONS`."""
        self.counts.worked(work, times)

    def accessed(self, access: Access, words: int) -> None:
        """Count `words` of memory read or written."""
        self.counts.accessed(access, words)

    def per(self, unit: str) -> int:
        """Number of runs, epochs, steps or samples that the counts are over, to divide by."""
        if unit not in PER:
            raise ValueError(f"no unit {unit!r}; there are: {', '.join(PER)}")
        number: int = getattr(self, f"{unit}s")
        if not number:
            raise ValueError(f"the ledger has counted no {unit}, so it has no answer per {unit}")
        return number

    def message_types(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None
    ) -> Iterator[tuple[MessageType, Traffic]]:
        """Types of message on `link`, in `direction` and with `purpose`, where given, with their traffic."""
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
        """Bits that crossed, scales included, each message padded to whole words of `word_bits`; 1 adds no padding."""
        sent = sum(
            t.messages * padded(c.message_bits, word_bits) for c, t in self.message_types(link, direction, purpose)
        )
        return sent / self.per(per)

    def ones(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None, per: str = "run"
    ) -> float:
        """Bits that were 1."""
        return sum(t.ones for _, t in self.message_types(link, direction, purpose)) / self.per(per)

    def toggles(
        self, link: str | None = None, direction: Direction | None = None, purpose: str | None = None, per: str = "run"
    ) -> float:
        """Changes of level on the wires."""
        return sum(t.toggles for _, t in self.message_types(link, direction, purpose)) / self.per(per)

    @property
    def coded(self) -> dict[MessageType, dict[str, int]]:
        """Bits of each type of message with each coding and bound that was counted for it."""
        return {} if self.coded_counts is None else self.coded_counts.bits()

    def coded_bits(
        self,
        coding: str,
        link: str | None = None,
        direction: Direction | None = None,
        purpose: str | None = None,
        per: str = "run",
    ) -> float:
        """Bits that crossed if `coding` puts them on the wire, headers and scales included; of a bound, the bound.

        ValueError, naming the link, if they were not counted for each of the messages.
        """
        if coding == "plain":
            return self.bits(link, direction, purpose, per)
        sent = sum(
            self._coded(kind, traffic, coding).total_bits
            for kind, traffic in self.message_types(link, direction, purpose)
        )
        return sent / self.per(per)

    def coded_toggles(
        self,
        coding: str,
        link: str | None = None,
        direction: Direction | None = None,
        purpose: str | None = None,
        per: str = "run",
    ) -> float:
        """Changes of level on the wires and lines of `coding`, which is "bus-invert", the only one for parallel wires.

        ValueError, naming the link, if they were not counted for each of the messages.
        """
        lines = {"bus-invert": CODINGS["bus-invert"]}
        choose("coding for parallel wires", coding, lines)
        changed = [
            self._coded(kind, traffic, coding).toggles for kind, traffic in self.message_types(link, direction, purpose)
        ]
        return sum(int(toggles.sum()) for toggles in changed if toggles is not None) / self.per(per)

    def best_coding(self, link: str, direction: Direction) -> str:
        """The coding that sends the fewest bits over `link` in `direction`: "plain", or one of those that were counted.

        ValueError if nothing crossed, or no coding was counted.
        """
        if not any(self.message_types(link, direction)):
            raise ValueError(f"link {link}: nothing crossed {direction}, so no coding is the best")
        if not self.codings:
            raise ValueError(f"link {link}: {_NO_CODINGS}")
        names = [name for name in CODINGS if name == "plain" or name in self.codings]
        return min(names, key=lambda name: self.coded_bits(name, link, direction))

    def _coded(self, message_type: MessageType, traffic: Traffic, coding: str) -> Coded:
        """The counts of a type of message with `coding`."""
        choose("coding", coding, {**CODINGS, **BOUNDS})
        if coding not in self.codings or self.coded_counts is None:
            raise invalid_message(message_type, f"coding {coding!r}: {_NO_CODINGS}")
        coded = self.coded_counts.settle().counts.get(message_type, {}).get(coding)
        if coded is None or coded.messages != traffic.messages:
            number = coded.messages if coded else 0
            why = f"coding {coding!r} was counted for {number} of {traffic.messages} messages"
            if coding in BOUNDS and message_type.bits > MAX_BITS:
                why = f"no entropy of {message_type.format} is counted, which has more than {MAX_BITS} bits"
            raise invalid_message(message_type, why)
        return coded

    def links(self) -> list[str]:
        """Names of the links that carried something, in the order of their first message."""
        return list(dict.fromkeys(message_type.link for message_type in self.traffic))

    def layers(self) -> list[str]:
        """Names of the layers that computed something, in the order of their first operation."""
        return list(dict.fromkeys(work.layer for work in self.work))

    def empty(self) -> "Ledger":
        """A ledger of as many runs, epochs, steps and samples, without counts but those of coded messages."""
        return Ledger(self.runs, self.epochs, self.steps, self.samples, self.batch, coded_counts=self.coded_counts)

    def __add__(self, other: "Ledger") -> "Ledger":
        """The sum of two ledgers, as of two runs."""
        return merged([self, other])

    def __iadd__(self, other: "Ledger") -> Self:
        self.runs += other.runs
        self.epochs += other.epochs
        self.steps += other.steps
        self.samples += other.samples
        self.batch = max(self.batch, other.batch)
        for message_type, traffic in other.traffic.items():
            self.crossed(message_type, traffic.messages, traffic.ones, traffic.toggles)
        for work, times in other.work.items():
            self.worked(work, times)
        for access, words in other.accesses.items():
            self.accessed(access, words)
        if other.coded_counts is not None:
            if self.coded_counts is None:
                self.coded_counts = CodedCounts()
            self.coded_counts += other.coded_counts
            self.codings = self.coded_counts.names
        return self

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            **{f"{unit}s": getattr(self, f"{unit}s") for unit in PER},
            "batch": self.batch,
            "traffic": [c._asdict() | {name: getattr(t, name) for name in _COUNTED} for c, t in self.traffic.items()],
            "work": [w._asdict() | {"times": n} for w, n in self.work.items()],
            "accesses": [a._asdict() | {"words": n} for a, n in self.accesses.items()],
            **({"codings": list(self.codings), "coded": self.coded_counts.rows()} if self.coded_counts else {}),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Ledger":
        """The ledger that `as_dict` wrote as `content`; KeyError or TypeError if it is not a ledger."""
        ledger = cls(**{f"{unit}s": content[f"{unit}s"] for unit in PER}, batch=content.get("batch", 0))
        if "codings" in content:  # in no file of a run whose codings were not counted
            ledger.coded_counts = CodedCounts.from_rows(content["codings"], content["coded"])
            ledger.codings = ledger.coded_counts.names
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
    """A row of a file, with today's names of its columns."""
    named = {_COLUMNS.get(name, name): value for name, value in row.items()}
    if "purpose" in named:
        named["purpose"] = _PURPOSES.get(named["purpose"], named["purpose"])
    return named


def invalid_message(message_type: MessageType, why: str) -> ValueError:
    """The error for numbers that a link cannot send."""
    return ValueError(f"link {message_type.link}, {message_type.direction} {message_type.purpose!r}: {why}")


def padded(bits: int, word_bits: int) -> int:
    """`bits` rounded up to whole words of `word_bits`.

    >>> padded(500, 8), padded(500, 64), padded(500, 1)
    (504, 512, 500)
    """
    return -(-bits // word_bits) * word_bits


def merged(ledgers: Iterable[Ledger]) -> Ledger:
    """The sum of several ledgers: of seeds, or of parts of a run."""
    together = Ledger(runs=0)
    for ledger in ledgers:
        together += ledger
    return together


def save(path: Path, assumed: Sequence[Mapping[str, str]] = (), **ledgers: Ledger) -> None:
    """Write named ledgers, `training` and `inference` say, as one JSON file.

    `assumed` says which of their counts are not counted, but assumed: see `estimation`.
    """
    said = {_ASSUMED: list(assumed)} if assumed else {}
    write_json(path, said | {name: ledger.as_dict() for name, ledger in ledgers.items()})


def load(path: Path) -> dict[str, Ledger]:
    """The named ledgers that `save` wrote. Raises `StorageError` naming `path` if it cannot be that."""
    content = read_json(path)
    try:
        return {name: Ledger.from_dict(ledger) for name, ledger in content.items() if name != _ASSUMED}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path}: not a ledger ({type(error).__name__}: {error})") from None
