"""Wires: the cost of a message on a link."""

import warnings
from collections import Counter
from typing import NamedTuple

from lowbit_dtp.formats import Bernoulli, FixedPoint, Format, Table, parse
from lowbit_dtp.ledger import Direction, Ledger, MessageType, Traffic, padded

from .hardware import HardwareConfig
from .technology import MESSAGE_EVENTS, Constant, Technology, Term


def crossing_terms(
    message_type: MessageType,
    traffic: Traffic,
    config: HardwareConfig,
    technology: Technology,
    alone: bool = False,
    graded: bool = False,
    coded: "CodedTraffic | None" = None,
) -> tuple[Term, ...]:
    """Cost of `traffic` on the wire that `config` gives its link: a term for each constant of that kind of wire.

    The constants are `technology`'s own for this kind of wire, else those of its file. They are multiplied by the
    toggles counted, or by all bits, padding included (padding does not toggle), by flits, messages, ones or spikes;
    by the length or the hops of the wire, and by how often a message crosses it. A message that was `alone` on its link
    has nothing to toggle against: it is charged as random bits, half of which toggle, with a UserWarning. A wire that
    costs per spike carries values 0 and 1; with `graded`, it carries others, too, each code as one event. With a
    coding, `coded` is what crosses: a stream without padding. ValueError for a cost per metre or hop and a wire without
    a length or hops, or the reverse.
    """
    wire = config.wire(message_type.link, message_type.direction.value)
    constants, flit_bits = wire_constants(wire.kind, technology, message_type.link)
    for given, unit, example in ((wire.metres, "metre", "5mm"), (wire.hops, "hop", "3hops")):
        pers = [constant.per for constant in constants if constant.per.endswith(f" and {unit}")]
        what = f"wire {wire.kind!r} of link {message_type.link} costs per"
        if pers and given is None:
            need = {"metre": "a length", "hop": "hops"}[unit]
            raise ValueError(f"{what} {pers[0]}, so it needs {need}, as in {message_type.link}={wire.kind}:{example}")
        if not pers and given is not None:
            whatever = {"metre": "whatever its length", "hop": "however many hops"}[unit]
            correct = f"{message_type.link}={wire.without(unit)}"
            raise ValueError(
                f"{what} {' and per '.join(dict.fromkeys(c.per for c in constants))} {whatever}; write {correct}"
            )
    terms = []
    for constant in constants:
        event, _, along = constant.per.partition(" and ")
        distance = {"": 1.0, "metre": wire.metres, "hop": wire.hops}[along]
        if coded is None:
            number = message_events(event, message_type, traffic, config, flit_bits, alone, graded)
        else:
            number = coded_events(event, message_type, traffic.messages, coded, flit_bits)
        number *= wire.times
        terms.append(Term(constant, number * (1.0 if distance is None else distance)))
    return tuple(terms)


class CodedTraffic(NamedTuple):
    """Messages of a type with a coding."""

    coding: str
    bits: float
    toggles: float | None
    """Changes of level, of a coding for parallel wires; a stream toggles as random bits do."""


def coded_traffic(ledger: Ledger, message_type: MessageType, coding: str) -> CodedTraffic | None:
    """What crosses with `coding`, as `ledger` counted it; None for the plain coding. ValueError if it did not.

    `best` is the coding with the fewest bits on the link and in the direction.
    """
    if coding == "best":
        coding = ledger.best_coding(message_type.link, message_type.direction)
    if coding == "plain":
        return None
    kind = message_type.link, message_type.direction, message_type.purpose
    bits = ledger.coded_bits(coding, *kind)
    return CodedTraffic(coding, bits, ledger.coded_toggles(coding, *kind) if coding == "bus-invert" else None)


def lone_messages(ledger: Ledger) -> set[tuple[str, Direction]]:
    """Links and directions that carried one message a run, and so have no toggles in `ledger`."""
    messages: Counter[tuple[str, Direction]] = Counter()
    toggles: Counter[tuple[str, Direction]] = Counter()
    for message_type, traffic in ledger.traffic.items():
        messages[message_type.link, message_type.direction] += traffic.messages
        toggles[message_type.link, message_type.direction] += traffic.toggles
    return {way for way, number in messages.items() if 0 < number <= ledger.runs and not toggles[way]}


def wire_constants(kind: str, technology: Technology, link: str) -> tuple[list[Constant], int | None]:
    """Constants of the terms of a wire, and the bits of a flit. Of a machine: what its messages cost."""
    if own := technology.wire(kind):
        return own, technology.flit_bits
    wire = Technology.load(kind)
    constants = [constant for constant in wire.constants.values() if constant.unit == "joule"]
    if wire.event_driven is not None:
        constants = [constant for constant in constants if constant.per in MESSAGE_EVENTS]
    for constant in constants:
        if constant.per not in MESSAGE_EVENTS:
            raise ValueError(
                f"technology {wire.name!r} is no wire, which link {link} needs: "
                f"its constant {constant.name!r} is per {constant.per}"
            )
    if not constants:
        raise ValueError(f"technology {wire.name!r} has no cost of a message in joules, which link {link} needs")
    return constants, wire.flit_bits


def message_events(
    event: str,
    message_type: MessageType,
    traffic: Traffic,
    config: HardwareConfig,
    flit_bits: int | None,
    alone: bool,
    graded: bool,
) -> float:
    """How many events of a kind `traffic` is: one of `MESSAGE_EVENTS`, without the distance."""
    bits = padded(message_type.message_bits, config.word_bits)
    match event:
        case "bit":
            return traffic.messages * bits
        case "transition" if alone:
            warnings.warn(
                f"link {message_type.link}, {message_type.direction}: toggles need two messages in a row, and a run "
                "sent one; it is charged as random bits, half of the wires toggling",
                stacklevel=5,  # who called price
            )
            return traffic.messages * message_type.message_bits / 2
        case "transition":
            return traffic.toggles
        case "one":
            return traffic.ones
        case "flit":
            return traffic.messages * (padded(bits, flit_bits) // flit_bits) if flit_bits else 0
        case "message":
            return traffic.messages
    if not sends_events(parse(message_type.format)):
        if graded:
            return traffic.messages * message_type.width
        raise ValueError(
            f"link {message_type.link} sends {message_type.format}, which has no address events: "
            "a wire that costs per event needs values 0 and 1 (binary01, bernoulli)"
        )
    return traffic.ones


def coded_events(
    event: str, message_type: MessageType, messages: int, coded: CodedTraffic, flit_bits: int | None
) -> float:
    """How many events of a kind coded messages are. Half of the bits of a stream are ones, and half toggle."""
    match event:
        case "bit":
            return coded.bits
        case "transition":
            return coded.bits / 2 if coded.toggles is None else coded.toggles
        case "one":
            return coded.bits / 2
        case "flit":
            return coded.bits / flit_bits if flit_bits else 0
        case "message":
            return messages
    raise ValueError(
        f"link {message_type.link} sends {coded.coding}, and its wire costs per event, for which a message is plain"
    )


def sends_events(fmt: Format) -> bool:
    """Whether the values of `fmt` are 0 and one other, so that a bit that is 1 is an event."""
    if fmt.bits != 1:
        return False
    if isinstance(fmt, Table):
        return fmt.values[0] == 0
    return isinstance(fmt, Bernoulli) or (isinstance(fmt, FixedPoint) and fmt.lowest_level == 0)
