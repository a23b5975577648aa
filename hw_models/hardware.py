"""HardwareConfig: the kind of wire of each link, and the memory of the weights."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from lowbit_dtp.choices import choose
from lowbit_dtp.ledger import Ledger

METRES = {"um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}


@dataclass(frozen=True)
class Wire:
    """A kind of wire, by the name of its TOML file, and its length or hops if its cost is per metre or hop."""

    kind: str
    metres: float | None = None
    hops: int | None = None

    def __post_init__(self) -> None:
        if self.metres is not None and not (self.metres >= 0 and isfinite(self.metres)):
            raise ValueError(f"wire {self.kind!r}: a length must be 0 m or more and finite, not {self.metres}")
        if self.hops is not None and not 0 <= self.hops < 2**63:
            raise ValueError(f"wire {self.kind!r}: hops must be 0 or more and below 2^63, not {self.hops}")

    @classmethod
    def parse(cls, text: str) -> "Wire":
        """The wire that `text` names.

        >>> Wire.parse("board"), Wire.parse("on-die:5mm")
        (Wire(kind='board', metres=None, hops=None), Wire(kind='on-die', metres=0.005, hops=None))
        >>> Wire.parse("noc:3hops"), Wire.parse("noc:3hops:2mm")
        (Wire(kind='noc', metres=None, hops=3), Wire(kind='noc', metres=0.002, hops=3))
        """
        kind, *given = (part.strip() for part in text.split(":"))
        metres = hops = None
        for part in given:
            number = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) *([a-z]+)", part)
            if number and number[2] in METRES and metres is None:
                metres = float(number[1]) * METRES[number[2]]
            elif number and number[2] in ("hop", "hops") and number[1].isdecimal() and hops is None:
                hops = int(number[1])
            else:
                kind = ""
        if given and not kind:
            raise ValueError(
                f"wire {text!r}: a length is a number with um, mm, cm or m, as in on-die:5mm; "
                "hops are a whole number, as in noc:3hops"
            )
        return cls(kind, metres, hops)

    def without(self, distance: str) -> "Wire":
        """The same wire without its length (`metre`) or its hops (`hop`)."""
        return replace(self, metres=None) if distance == "metre" else replace(self, hops=None)

    def __str__(self) -> str:
        hops = "" if self.hops is None else f":{self.hops}hop{'' if self.hops == 1 else 's'}"
        metres = "" if self.metres is None else f":{self.metres / METRES['mm']:g}mm"
        return self.kind + hops + metres


@dataclass(frozen=True)
class HardwareConfig:
    """The wire of each link in `links`, `rest` for the others, and the memory of the weights."""

    links: Mapping[str, Wire] = field(default_factory=dict)
    rest: Wire = Wire("on-die", 1e-3)
    memory: str = "sram"
    """`sram`, or the name of a constant such as `dram`."""
    reuse: float = 1.0
    """Samples that one read of a weight serves: it divides the reads of weights and biases, not the writes."""
    word_bits: int = 1
    """Each message is padded to whole words of so many bits on its link; 1 adds no padding."""
    accumulator_bits: int = 32
    """Width of integer sums."""

    def __post_init__(self) -> None:
        for name, least in (("reuse", 1), ("word_bits", 1), ("accumulator_bits", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"placement: {name} must be {least} or more, not {getattr(self, name)}")

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

    def wire(self, link: str) -> Wire:
        """The wire of `link`."""
        return self.links.get(link, self.rest)

    def check(self, ledger: Ledger) -> None:
        """Raise ValueError if a link is named that is not in `ledger`."""
        for link in self.links:
            choose("link", link, dict.fromkeys(ledger.links()))

    def within(self, ledger: Ledger) -> "HardwareConfig":
        """The configuration without links over which `ledger` has nothing: of one rule's network among others, say."""
        known = set(ledger.links())
        return replace(self, links={link: wire for link, wire in self.links.items() if link in known})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "links": {link: str(wire) for link, wire in self.links.items()},
            "rest": str(self.rest),
            "memory": self.memory,
            "reuse": self.reuse,
            "word_bits": self.word_bits,
            "accumulator_bits": self.accumulator_bits,
        }
