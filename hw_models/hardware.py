"""HardwareConfig: the wire and coding of each link, and the memory, reuse and sums of each layer."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from lowbit_dtp.choices import choose
from lowbit_dtp.codings import CODINGS
from lowbit_dtp.ledger import BUFFERS, Access, Ledger

METRES = {"um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
T = TypeVar("T")


@dataclass(frozen=True)
class Wire:
    """A kind of wire, by the name of its TOML file, and its length or hops if its cost is per metre or hop."""

    kind: str
    metres: float | None = None
    hops: float | None = None
    """A mean, where messages take several ways."""
    times: float = 1.0
    """How often each message crosses such a wire: once for each core that gets a copy, say; a mean, too."""

    def __post_init__(self) -> None:
        if self.metres is not None and not (self.metres >= 0 and isfinite(self.metres)):
            raise ValueError(f"wire {self.kind!r}: a length must be 0 m or more and finite, not {self.metres}")
        for name in ("hops", "times"):
            given = getattr(self, name)
            if given is not None and not 0 <= given < 2**63:
                raise ValueError(f"wire {self.kind!r}: {name} must be 0 or more and below 2^63, not {given}")

    @classmethod
    def parse(cls, text: str) -> "Wire":
        """The wire that `text` names.

        >>> Wire.parse("board"), Wire.parse("on-die:5mm")
        (Wire(kind='board', metres=None, hops=None, times=1.0), Wire(kind='on-die', metres=0.005, hops=None, times=1.0))
        >>> str(Wire.parse("noc:3hops")), str(Wire.parse("noc:2.5hops:2mm:4times"))
        ('noc:3hops', 'noc:2.5hops:2mm:4times')
        """
        kind, *given = (part.strip() for part in text.split(":"))
        read: dict[str, float] = {}
        for part in given:
            number = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) *([a-z]+)", part)
            unit = number[2] if number else ""
            name = "metres" if unit in METRES else f"{unit.removesuffix('s')}s"
            if not number or name not in ("metres", "hops", "times") or name in read:
                kind = ""
                break
            read[name] = float(number[1]) * METRES.get(unit, 1.0)
        if given and not kind:
            raise ValueError(
                f"wire {text!r}: a length is a number with um, mm, cm or m, as in on-die:5mm; "
                "hops and times are numbers, as in noc:3hops or board:2times"
            )
        return cls(kind, **read)

    def without(self, distance: str) -> "Wire":
        """The same wire without its length (`metre`) or its hops (`hop`)."""
        return replace(self, metres=None) if distance == "metre" else replace(self, hops=None)

    def __str__(self) -> str:
        hops = "" if self.hops is None else f":{self.hops:g}hop{'' if self.hops == 1 else 's'}"
        metres = "" if self.metres is None else f":{self.metres / METRES['mm']:g}mm"
        times = "" if self.times == 1 else f":{self.times:g}times"
        return self.kind + hops + metres + times


class Core(NamedTuple):
    """A core of a machine: its chip, the column and row of its router there, and its number at that router."""

    chip: int = 0
    column: int = 0
    row: int = 0
    core: int = 0

    def __str__(self) -> str:
        at = f"{self.column},{self.row},{self.core}" if self.core else f"{self.column},{self.row}"
        return f"{self.chip}:{at}" if self.chip else at


@dataclass(frozen=True)
class HardwareConfig:
    """The wire of each link in `links`, `rest` for the others, and how layers keep and use their weights.

    A link of `links` may be LINK.DIRECTION, `h1-h2.feedback` say, whose wire is then that of the direction alone.
    `memory`, `reuse` and `accumulator_bits` are one value for all, or a mapping. Its keys are LAYER, LAYER.ARRAY or
    LAYER.ARRAY.PURPOSE, `h1.weight.gradient` say; `rest` in place of a layer is all others. The most precise one holds.
    """

    links: Mapping[str, Wire] = field(default_factory=dict)
    rest: Wire = Wire("on-die", 1e-3)
    memory: str | Mapping[str, str] = "sram"
    """How arrays are held: `sram`, the name of a constant such as `dram`, or one of `HOLDINGS`."""
    reuse: float | Mapping[str, float] = 1.0
    """Samples that share one read of a weight or a bias by a product, or one read and write of a gradient.

    At most the samples of a minibatch. What the optimizer reads and writes once a step is never shared.
    """
    word_bits: int = 1
    """Each message is padded to whole words of so many bits on its link; 1 adds no padding."""
    accumulator_bits: int | Mapping[str, int] = 32
    """Width of integer sums; keys are layers."""
    coding: Mapping[str, str] = field(default_factory=dict)
    """Coding of a link, or of one direction of it: {"h1-h2": "best"} or {"h1-h2.feedback": "silence"}; else plain."""
    feedback_weights: Mapping[str, str] = field(default_factory=dict)
    """End of a link where its feedback weights are: `lower`, as networks are built, or `upper`."""
    cores: Mapping[str, tuple[Core, ...]] = field(default_factory=dict)
    """Cores of each layer, where a machine placed them."""

    def __post_init__(self) -> None:
        for name in ("reuse", "word_bits", "accumulator_bits"):
            given = getattr(self, name)
            for key, value in given.items() if isinstance(given, Mapping) else [("", given)]:
                if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
                    of = f" of {key}" if key else ""
                    raise ValueError(f"placement: {name}{of} must be 1 or more, not {value}")
        for link, end in self.feedback_weights.items():
            if end not in ("lower", "upper"):
                raise ValueError(
                    f"placement: feedback weights of {link} must be at the end lower or upper, not {end!r}"
                )

    @classmethod
    def default(cls) -> "HardwareConfig":
        """Everything on one die: links are wires of one millimetre, weights are in SRAM, nothing is reused."""
        return cls()

    @classmethod
    def parse(cls, wires: str | Iterable[str], **others: Any) -> "HardwareConfig":
        """A configuration from texts `LINK=WIRE`, comma-separated or one by one; the link `rest` is all others.

        >>> config = HardwareConfig.parse("h1-h2=board, rest=on-die:2mm")
        >>> str(config.wire("h1-h2")), str(config.wire("input-h1"))
        ('board', 'on-die:2mm')
        """
        links: dict[str, Wire] = {}
        for text in [part for given in ([wires] if isinstance(wires, str) else wires) for part in given.split(",")]:
            link, equals, wire = (part.strip() for part in text.partition("="))
            if not (link and equals and wire):
                raise ValueError(f"placement {text.strip()!r}: write LINK=WIRE, as in h1-h2=board or h1-h2=on-die:5mm")
            if link in links:
                raise ValueError(f"placement names link {link!r} twice: {links[link]} and {wire}")
            links[link] = Wire.parse(wire)
        return cls(links, links.pop("rest", cls.rest), **others)

    def wire(self, link: str, direction: str = "") -> Wire:
        """The wire of `link` in a direction."""
        return self.links.get(f"{link}.{direction}", self.links.get(link, self.rest))

    def memory_of(self, access: Access) -> str:
        """How the array of `access` is held: buffers of activations in SRAM, unless the array is named."""
        given = {"rest": self.memory} if isinstance(self.memory, str) else self.memory
        if access.array in BUFFERS:
            given = {key: held for key, held in given.items() if "." in key}
        return _most_precise(given, access, "sram")

    def reuse_of(self, access: Access) -> float:
        """Samples that share one `access`, if it is of a kind that can be shared."""
        return _most_precise(self.reuse, access, 1.0) if isinstance(self.reuse, Mapping) else self.reuse

    def sum_bits(self, layer: str) -> int:
        """Width of the integer sums of `layer`."""
        if isinstance(self.accumulator_bits, Mapping):
            return self.accumulator_bits.get(layer, self.accumulator_bits.get("rest", 32))
        return self.accumulator_bits

    def coding_of(self, link: str, direction: str) -> str:
        """Coding of a direction of `link`."""
        return self.coding.get(f"{link}.{direction}", self.coding.get(link, "plain"))

    def check(self, ledger: Ledger) -> None:
        """Raise ValueError if a link, layer, array or purpose is named that is not in `ledger`."""
        known = dict.fromkeys(ledger.links())
        for link in self.feedback_weights:
            choose("link", link, known)
        for link in self.links:
            choose("link", _link(link), known)
        for link, coding in self.coding.items():
            choose("link", _link(link), known)
            choose(f"coding of link {_link(link)}", coding, {**CODINGS, "best": None})
        keys = {key: None for access in ledger.accesses for key in _keys(access)}
        for name in ("memory", "reuse"):
            for key in given if isinstance(given := getattr(self, name), Mapping) else ():
                if key != "rest" and key not in keys:
                    raise ValueError(f"{name}: nothing is called {key!r}; there are: {', '.join(_named(keys))}, rest")

    def within(self, ledger: Ledger) -> "HardwareConfig":
        """The configuration without what `ledger` does not have: of one rule's network among others, say."""
        known = set(ledger.links())
        keys = {key for access in ledger.accesses for key in _keys(access)} | {"rest"}
        kept: dict[str, Any] = {
            name: {key: value for key, value in given.items() if key in keys}
            for name in ("memory", "reuse")
            if isinstance(given := getattr(self, name), Mapping)
        }
        return replace(
            self,
            links={link: wire for link, wire in self.links.items() if _link(link) in known},
            coding={link: x for link, x in self.coding.items() if _link(link) in known},
            feedback_weights={link: end for link, end in self.feedback_weights.items() if link in known},
            **kept,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "links": {link: str(wire) for link, wire in self.links.items()},
            "rest": str(self.rest),
            "memory": _plain(self.memory),
            "reuse": _plain(self.reuse),
            "word_bits": self.word_bits,
            "accumulator_bits": _plain(self.accumulator_bits),
            "coding": dict(self.coding),
            "feedback_weights": dict(self.feedback_weights),
            **({"cores": {layer: list(map(str, cores)) for layer, cores in self.cores.items()}} if self.cores else {}),
        }


HOLDINGS = ("stationary", "in-memory")
"""Ways to hold weights: next to the arithmetic, loaded once a minibatch; in a memory that multiplies."""


def parsed_choices(text: str, name: str, kind: type[T]) -> T | dict[str, T]:
    """One value for all, or a table, of the option `name`; values are of type `kind`.

    >>> parsed_choices("dram", "memory", str), parsed_choices("h1=50,rest=1", "reuse", float)
    ('dram', {'h1': 50.0, 'rest': 1.0})
    """
    if "=" in text or "," in text:
        return parsed_table(text, name, kind, "h1=50,rest=1" if kind is float else "h1=dram,rest=sram")
    return _value(text, text, name, kind)


def parsed_table(text: str, name: str, kind: type[T], example: str) -> dict[str, T]:
    """A table `KEY=VALUE,...` of the option `name`; empty if `text` is."""
    table: dict[str, T] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (x.strip() for x in part.rpartition("="))
        if not (key and equals) or key in table:
            raise ValueError(f"{name} {text!r}: write KEY=VALUE, each key once, as in {example}")
        table[key] = _value(value, part, name, kind)
    return table


def _value(value: str, given: str, name: str, kind: type[T]) -> T:
    try:
        if not value:
            raise ValueError
        return kind(value)  # type: ignore[call-arg]
    except ValueError:
        what = "a number" if kind is float else "a name"
        raise ValueError(f"{name} {given!r}: {value!r} is not {what}") from None


def _link(key: str) -> str:
    """The link of LINK or LINK.DIRECTION."""
    return re.sub(r"\.(forward|feedback)$", "", key)


def _keys(access: Access) -> list[str]:
    """Keys that hold for `access`, the most precise first."""
    names = [x for x in (access.array, access.purpose) if x]
    parts = [".".join(["", *names[:n]]) for n in range(len(names), -1, -1)]
    return [layer + part for layer in (access.layer, "rest") for part in parts]


def _named(keys: Iterable[str]) -> list[str]:
    """Keys that name a layer, or a layer and an array: enough to show what there is."""
    return sorted(key for key in keys if key.partition(".")[0] != "rest" and key.count(".") < 2)


def _most_precise(given: Mapping[str, T], access: Access, otherwise: T) -> T:
    return next((given[key] for key in _keys(access) if key in given), otherwise)


def _plain(given: Any) -> Any:
    return dict(given) if isinstance(given, Mapping) else given
