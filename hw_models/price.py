"""Price: from a ledger, a hardware configuration and a technology to a bill in joules."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lowbit_dtp.choices import choose
from lowbit_dtp.ledger import PER, Direction, Ledger, Work

from .compute import work_terms
from .feedback_weights import with_feedback_weights_above
from .hardware import HardwareConfig
from .layout import ends
from .memory import access_terms, is_shared, most_reuse
from .technology import Constant, Range, Technology, Term
from .wires import coded_traffic, crossing_terms, lone_messages

KEYS = ("part", "where", "direction", "operation", "purpose", "format")
"""Keys by which a bill can be broken down."""


@dataclass(frozen=True)
class Item:
    """One line of a bill: the cost of one kind of message, operation or memory access."""

    part: str
    """`link`, `compute` or `memory`; `static` for power that is drawn all the time."""
    where: str
    """Link, or layer."""
    direction: str
    """`forward` or `feedback` on a link; `local` in a layer."""
    operation: str
    """`send` on a link, the operation in compute, `read` or `write` in memory."""
    purpose: str
    """Purpose; in memory, the array."""
    format: str
    terms: tuple[Term, ...]
    """The constants that were used, and how often each."""

    @property
    def joules(self) -> Range:
        """Its cost."""
        return _sum(term.joules for term in self.terms)


@dataclass(frozen=True)
class Bill:
    """The cost of a ledger, line by line."""

    technology: str
    config: HardwareConfig
    items: tuple[Item, ...]
    counts: Mapping[str, int]
    """Number of runs, epochs, steps and samples that the ledger is over, by `run`, `epoch`, `step` and `sample`."""
    break_even: Mapping[str, float] = field(default_factory=dict)
    """Of each link with feedback: `break_even_gradient_bits`."""
    unit: str = "ledger"
    """Unit of the joules: the whole ledger, or one run, epoch, step or sample."""
    notes: tuple[str, ...] = ()
    """What a reader must know: what the constants of a machine cover, what is left out."""

    @property
    def total(self) -> Range:
        """The sum of all lines."""
        return _sum(item.joules for item in self.items)

    def by(self, key: str) -> dict[str, Range]:
        """The total, broken down by one of `KEYS`; the values add up to the total."""
        choose("split", key, dict.fromkeys(KEYS))
        split: dict[str, Range] = {}
        for item in self.items:
            name = getattr(item, key)
            split[name] = split.get(name, Range()) + item.joules
        return split

    def per(self, unit: str) -> "Bill":
        """The same bill for one average run, epoch, step or sample; only of the bill of a whole ledger."""
        if self.unit != "ledger":
            raise ValueError(f"this bill is already per {self.unit}; take the bill of the whole ledger per {unit}")
        if not (number := choose("unit", unit, self.counts)):
            raise ValueError(f"the ledger has counted no {unit}, so its bill has no answer per {unit}")
        items = (
            replace(item, terms=tuple(replace(term, times=term.times / number) for term in item.terms))
            for item in self.items
        )
        return replace(self, items=tuple(items), unit=unit)

    @property
    def links_share(self) -> Range:
        """Fraction of the total spent on links: low for cheap links and expensive rest, high for the reverse.

        ValueError if the total is zero.
        """
        links = self.by("part").get("link", Range())
        rest = _sum(item.joules for item in self.items if item.part != "link")
        if not (links + rest).typical:
            raise ValueError("nothing in this bill cost anything, so links have no share of it")
        return Range(_share(links.low, rest.high), _share(links.typical, rest.typical), _share(links.high, rest.low))

    @property
    def constants(self) -> list[Constant]:
        """Constants that were used, each once, with their sources."""
        return list(dict.fromkeys(term.constant for item in self.items for term in item.terms))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each term of each line: what it is of, constant, how often, and joules. For a table, as CSV."""
        return [
            {"technology": self.technology, "unit": self.unit}
            | {key: getattr(item, key) for key in KEYS}
            | {"constant_of": term.constant.technology, "constant": term.constant.name, "per": term.constant.per}
            | {"times": term.times, **asdict(term.joules)}
            for item in self.items
            for term in item.terms
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; joules are `{"low", "typical", "high"}`."""
        return {
            "technology": self.technology,
            "placement": self.config.as_dict(),
            "unit": self.unit,
            "counts": {f"{unit}s": number for unit, number in self.counts.items()},
            "total": asdict(self.total),
            **{f"by_{key}": {name: asdict(cost) for name, cost in self.by(key).items()} for key in KEYS},
            "links_share": asdict(self.links_share) if self.total.typical else None,
            "break_even_gradient_bits": dict(self.break_even),
            "notes": list(self.notes),
            "items": [
                {key: getattr(item, key) for key in KEYS}
                | {"joules": asdict(item.joules)}
                | {"terms": [_term_as_dict(term) for term in item.terms]}
                for item in self.items
            ],
            "constants": [constant.as_dict() for constant in self.constants],
        }


def price(ledger: Ledger, config: HardwareConfig, technology: Technology) -> Bill:
    """The cost of everything in `ledger`: each message on its wire, each operation, each memory access.

    ValueError if `config` names what is not in `ledger`, shares an access among more samples than a minibatch has, or a
    constant is missing.
    """
    config.check(ledger)
    ledger = where_weights_are(ledger, config)
    items = [
        *link_items(ledger, config, technology),
        *compute_items(ledger, config, technology),
        *memory_items(ledger, config, technology),
    ]
    return bill_of(items, ledger, config, technology.name)


def where_weights_are(ledger: Ledger, config: HardwareConfig) -> Ledger:
    """`ledger`, with the feedback weights at the end of each link where `config` has them."""
    for link, end in config.feedback_weights.items():
        if end == "upper":
            ledger = with_feedback_weights_above(ledger, link, ends(link, ledger.layers())[0])
    return ledger


def link_items(ledger: Ledger, config: HardwareConfig, technology: Technology, graded: bool = False) -> Iterator[Item]:
    """Lines for each kind of message; with `graded`, codes of any format are spikes: see `crossing_terms`."""
    lone = lone_messages(ledger)
    for m, traffic in ledger.traffic.items():
        coded = coded_traffic(ledger, m, config.coding_of(m.link, m.direction))
        terms = crossing_terms(m, traffic, config, technology, (m.link, m.direction) in lone, graded, coded)
        yield Item("link", m.link, m.direction.value, "send", m.purpose, m.format, terms)


def compute_items(ledger: Ledger, config: HardwareConfig, technology: Technology) -> Iterator[Item]:
    """Lines for each kind of operation."""
    held = in_memory(ledger, config)
    for w, times in ledger.work.items():
        terms = work_terms(w, times, technology, config.sum_bits(w.layer), (w.layer, w.purpose) in held)
        yield Item("compute", w.layer, "local", w.operation, w.purpose, operands(w), terms)


def memory_items(ledger: Ledger, config: HardwareConfig, technology: Technology) -> Iterator[Item]:
    """Lines for each kind of memory access."""
    samples = most_reuse(ledger)
    for a, words in ledger.accesses.items():
        terms = access_terms(a, words, config, technology, samples)
        yield Item("memory", a.layer, "local", a.operation, a.array, a.format, terms)


def bill_of(
    items: Iterable[Item], ledger: Ledger, config: HardwareConfig, technology: str, notes: Iterable[str] = ()
) -> Bill:
    """The bill of `ledger` with these lines."""
    counts = {unit: getattr(ledger, f"{unit}s") for unit in PER}
    learning = [link for link in ledger.links() if _can_break_even(ledger, link)]
    break_even = {link: break_even_gradient_bits(ledger, link) for link in learning}
    return Bill(technology, config, tuple(items), counts, break_even, notes=tuple(notes))


def operands(work: Work) -> str:
    """Formats of the operands of an operation, as text."""
    return " x ".join(filter(None, (work.left, work.right)))


def in_memory(ledger: Ledger, config: HardwareConfig) -> set[tuple[str, str]]:
    """Layers and purposes whose products are in the memory that holds the weights."""
    shared = (access for access in ledger.accesses if is_shared(access) and access.operation == "read")
    return {(a.layer, a.purpose) for a in shared if config.memory_of(a) == "in-memory"}


def break_even_gradient_bits(ledger: Ledger, link: str) -> float:
    """Width of gradient with which straight-through would send as many bits over `link` as `ledger` did.

    Straight-through sends the activations up once, and one gradient code a sample down for each neuron below. With a
    narrower gradient it sends less than this ledger's rule, with a wider one more. Payload bits, no padding. ValueError
    if `link` is unknown, or has no activations up or no feedback.
    """
    choose("link", link, dict.fromkeys(ledger.links()))
    if not _can_break_even(ledger, link):
        raise ValueError(f"link {link} carried no activity forward or no feedback, so no gradient breaks even with it")
    widths = {message_type.width for message_type, _ in ledger.message_types(link, Direction.FORWARD, "activations")}
    if len(widths) != 1:
        raise ValueError(f"link {link} carried activity of {' and '.join(map(str, sorted(widths)))} neurons")
    excess = ledger.bits(link, per="sample") - ledger.bits(link, Direction.FORWARD, "activations", per="sample")
    return excess / widths.pop()


def _can_break_even(ledger: Ledger, link: str) -> bool:
    activity = any(ledger.message_types(link, Direction.FORWARD, "activations"))
    return ledger.samples > 0 and activity and any(ledger.message_types(link, Direction.FEEDBACK))


def _sum(ranges: Iterable[Range]) -> Range:
    return sum(ranges, Range())


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part else 0.0


def _term_as_dict(term: Term) -> dict[str, Any]:
    return {"technology": term.constant.technology, "constant": term.constant.name, "times": term.times}
