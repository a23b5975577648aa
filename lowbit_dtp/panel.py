"""What a page needs to price the rules of a comparison on other hardware: counts of a sample, and prices."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .codings import CODINGS
from .formats import Float, parse
from .ledger import BUFFERS, Direction, Ledger, MessageType
from .summary import (
    AccessCount,
    Baseline,
    CodedCount,
    MessageCount,
    PlacedWire,
    PriceList,
    Range,
    Row,
    SampleCounts,
    TechnologyCost,
    WireCost,
)

if TYPE_CHECKING:
    from hw_models import Bill, Constant, HardwareConfig, Technology


def sample_counts(ledger: Ledger, bills: "Mapping[str, Bill]") -> SampleCounts:
    """What a training sample sends and accesses by `ledger`; its operations cost what `bills` say, by technology."""
    from hw_models.memory import is_shared, most_reuse
    from hw_models.wires import lone_messages, sends_events

    lone, samples = lone_messages(ledger), ledger.samples
    messages = [
        MessageCount(
            link=message.link,
            direction=message.direction.value,
            bits=message.message_bits,
            width=message.width,
            messages=traffic.messages / samples,
            ones=traffic.ones / samples,
            toggles=traffic.messages * message.message_bits / 2 / samples
            if (message.link, message.direction) in lone
            else traffic.toggles / samples,
            events=sends_events(parse(message.format)),
            coded=_coded(ledger, message),
        )
        for message, traffic in ledger.traffic.items()
    ]
    accesses: Counter[tuple[int, bool, bool]] = Counter()
    for access, words in ledger.accesses.items():
        accesses[access.capacity_bits, is_shared(access), access.array in BUFFERS] += words * access.bits
    return SampleCounts(
        most_reuse=most_reuse(ledger),
        messages=messages,
        accesses=[AccessCount(*kind, bits / samples) for kind, bits in accesses.items()],
        compute={name: cost(bill, "compute") for name, bill in bills.items()},
    )


def _coded(ledger: Ledger, message: MessageType) -> dict[str, CodedCount]:
    """What crosses of `message` in a sample with each coding that was counted for all messages of the type."""
    from hw_models.wires import coded_traffic

    coded = {}
    for name in (name for name in CODINGS if name in ledger.codings):
        try:
            traffic = coded_traffic(ledger, message, name)
        except ValueError:  # a part of the run did not count it
            continue
        if traffic:
            toggles = traffic.bits / 2 if traffic.toggles is None else traffic.toggles
            coded[name] = CodedCount(traffic.bits / ledger.samples, toggles / ledger.samples)
    return coded


def cost(bill: "Bill | None", part: str = "") -> Range:
    """The total of `bill`, or of one part; of no bill, zero."""
    found = bill and (bill.by("part").get(part) if part else bill.total)
    return Range(found.low, found.typical, found.high) if found else Range(0.0, 0.0, 0.0)


def energy_tree(bill: "Bill") -> dict[str, dict[str, dict[str, float]]]:
    """Typical joules of `bill` by part, link or layer, and purpose."""
    tree: dict[str, dict[str, dict[str, float]]] = {}
    for item in bill.items:
        purposes = tree.setdefault(item.part, {}).setdefault(item.where, {})
        purposes[item.purpose] = purposes.get(item.purpose, 0.0) + item.joules.typical
    return tree


def baseline(ledger: Ledger, counts: SampleCounts, estimated: bool = False) -> Baseline | None:
    """Straight-through as a baseline, by its training ledger; None if no link carries few bits up, and gradients."""
    up, down = (ledger.message_types(direction=direction) for direction in Direction)
    few = {message.link for message, _ in up if not isinstance(parse(message.format), Float)}
    links = few & {message.link for message, _ in down}
    return Baseline([link for link in ledger.links() if link in links], counts, estimated) if links else None


def price_list(
    technologies: "Sequence[Technology]", placement: "HardwareConfig", rows: Sequence[Row], baseline: Baseline | None
) -> PriceList:
    """What messages and accesses cost on `technologies`, and which wires `placement` gives the links of `rows`."""
    from hw_models import Technology

    placed = {link: placement.wire(link) for row in rows for link in row.links}
    kinds = [*Technology.names("wires"), *(wire.kind for wire in placed.values())]
    own = [name for technology in technologies for name in technology.constants if name.startswith("wire ")]
    kinds += [name.removeprefix("wire ").partition(",")[0] for name in own]
    return PriceList(
        technologies={technology.name: _cost(technology, kinds) for technology in technologies},
        links={link: PlacedWire(wire.kind, wire.metres, wire.hops, wire.times) for link, wire in placed.items()},
        baseline=baseline,
    )


def _cost(technology: "Technology", kinds: Iterable[str]) -> TechnologyCost:
    """Memories and wires of `technology`, of those of `kinds` that it has."""
    from hw_models.memory import memories_of
    from hw_models.wires import wire_constants

    wires = {}
    for kind in dict.fromkeys(kinds):
        try:
            constants, flit_bits = wire_constants(kind, technology, kind)
        except ValueError:  # another technology's own wire
            continue
        wires[kind] = WireCost([(constant.per, _range(constant)) for constant in constants], flit_bits)
    memory = [(x.capacity_bits or 0, _range(x)) for x in memories_of(technology, "sram", "the panel of a report")]
    return TechnologyCost(memory, wires)


def _range(constant: "Constant") -> Range:
    return Range(constant.low, constant.typical, constant.high)
