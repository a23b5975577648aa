"""The bill of a ledger on a machine: `price_on(ledger, machine) -> Bill`.

A machine with a constant for synaptic operations is charged by its own events: synaptic operations, neuron updates,
learning updates, and messages. They take the place of arithmetic and memory, which those constants include: additions
of biases and activations are neuron updates, and an optimizer's work is in learning updates. A machine without computes
on its process; if it is event-driven, each synaptic operation is one addition and one read of a weight.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lowbit_dtp.formats import Float, parse
from lowbit_dtp.ledger import Ledger, Work

from .compute import work_terms
from .hardware import HardwareConfig
from .machine import Machine
from .price import Bill, Item, bill_of, compute_items, in_memory, link_items, memory_items, operands, where_weights_are
from .synapses import GRADIENT, LEARNING, PRODUCT, by_events, neuron_updates, products_of, synaptic_operations
from .technology import Constant, Term
from .wires import sends_events


@dataclass(frozen=True)
class MachineEvents:
    """What a ledger is on a machine."""

    synaptic: Mapping[Work, float]
    """Synaptic operations of each kind of product that the machine charges by them."""
    neurons: Mapping[tuple[str, str], int]
    """Neuron updates, by layer and purpose."""
    learning: Mapping[Work, float]
    """Updates of synapses, for each kind of product that adds up gradients."""
    rest: Ledger
    """What the process does: operations, and accesses to memory."""
    dense: tuple[str, ...] = ()
    """Layers and formats whose products are all charged, though the machine is event-driven."""


def price_on(ledger: Ledger, machine: Machine, config: HardwareConfig | None = None) -> Bill:
    """The cost of everything in `ledger` on `machine`, without static power: see `timing` for that.

    `config` is where the network is, `machine.place(ledger)` if it is None. On an event-driven machine, codes of other
    formats than values 0 and 1 are all charged, each code a spike and each product an operation; the bill's notes say
    so, and what its constants include. ValueError as in `price`, and if the machine has no constant for what a ledger
    needs: learning, say.
    """
    config = machine.place(ledger) if config is None else config
    config.check(ledger)
    ledger = where_weights_are(ledger, config)
    events = events_on(ledger, machine)
    items = [
        *_links(ledger, machine, config),
        *_own_items(ledger, machine, config, events),
        *compute_items(events.rest, config, machine.technology),
        *memory_items(events.rest, config, machine.technology),
    ]
    return bill_of(items, ledger, config, machine.name, _notes(ledger, machine, items, events))


def events_on(ledger: Ledger, machine: Machine) -> MachineEvents:
    """The events that `machine` charges `ledger` by."""
    sparse = synaptic_operations(ledger) if machine.event_driven else {}
    products = [w for w in ledger.work if w.operation == PRODUCT]
    dense = [w for w in products if machine.event_driven and w not in sparse and w.purpose != GRADIENT]
    said = tuple(dict.fromkeys(f"{w.layer} ({operands(w)})" for w in dense))
    if not (machine.synaptic or "synapses" in machine.covered):
        return MachineEvents(sparse, {}, {}, by_events(ledger, sparse), said)
    number = {w: sparse.get(w, float(ledger.work[w])) for w in products}
    learning = machine.by_process("learning", "learning update")
    neurons = machine.by_process("neurons", "neuron update")
    return MachineEvents(
        {w: n for w, n in number.items() if w.purpose not in LEARNING},
        {} if neurons else neuron_updates(ledger),
        {} if learning else {w: n for w, n in number.items() if w.purpose == GRADIENT},
        _rest(ledger, sparse, learning, neurons),
        said,
    )


def _rest(ledger: Ledger, sparse: Mapping[Work, float], learning: bool, neurons: bool) -> Ledger:
    """What learning does, and what neurons do with their sums, for the process."""
    made = ledger.empty()
    for work, times in ledger.work.items():
        if learning if work.purpose in LEARNING else neurons and work.operation != PRODUCT:
            made.worked(work, round(sparse.get(work, times)))
    for access, words in by_events(ledger, sparse).accesses.items():
        if learning if access.purpose in LEARNING else neurons and not products_of(ledger, access):
            made.accessed(access, words)
    return made


def _links(ledger: Ledger, machine: Machine, config: HardwareConfig) -> Iterator[Item]:
    """Lines for messages; those that other constants include, or that have no source, cost nothing by themselves."""
    free = {"links"} & {*machine.covered, *machine.left_out}
    charged = ledger.empty()
    for message, traffic in ledger.traffic.items():
        link, way = message.link, message.direction.value
        if free and not {link, f"{link}.{way}"} & set(config.links):
            yield Item("link", link, way, "send", message.purpose, message.format, ())
        else:
            charged.crossed(message, traffic.messages, traffic.ones, traffic.toggles)
    yield from link_items(charged, config, machine.technology, graded=machine.event_driven)


def _own_items(ledger: Ledger, machine: Machine, config: HardwareConfig, events: MachineEvents) -> Iterator[Item]:
    """Lines for the machine's own events."""
    held = in_memory(ledger, config)
    for work, times in events.synaptic.items():
        terms: tuple[Term, ...] = ()
        if machine.synaptic:
            terms = (Term(machine.synaptic_operation(work), times),)
        elif "synapses" not in machine.covered:
            terms = _addition(work, times, machine, config, (work.layer, work.purpose) in held)
        yield Item("compute", work.layer, "local", "synaptic operation", work.purpose, operands(work), terms)
    for (layer, purpose), number in events.neurons.items():
        constant = machine.constant("neurons", "neuron update", f"layer {layer}")
        yield Item("compute", layer, "local", "neuron update", purpose, "", _terms(constant, number))
    for work, times in events.learning.items():
        constant = machine.constant("learning", "learning update", f"the gradient of layer {work.layer}")
        terms = _terms(constant, times)
        yield Item("compute", work.layer, "local", "learning update", work.purpose, operands(work), terms)


def _addition(work: Work, times: float, machine: Machine, config: HardwareConfig, held: bool) -> tuple[Term, ...]:
    """One addition of a weight for each synaptic operation; where memory multiplies, one product there."""
    bits = config.sum_bits(work.layer)
    number = work.right if isinstance(parse(work.right), Float) else f"fixed({bits},{bits})"
    adds = work if held else Work(work.layer, work.purpose, "add", number)
    once = work_terms(adds, 1, machine.technology, bits, held)
    return tuple(replace(term, times=term.times * times) for term in once)


def _terms(constant: Constant | None, times: float) -> tuple[Term, ...]:
    return () if constant is None else (Term(constant, times),)


def _notes(ledger: Ledger, machine: Machine, items: list[Item], events: MachineEvents) -> Iterator[str]:
    """What the constants of a machine cover, and what is dense or left out."""
    if machine.synaptic or machine.covered:
        for constant in dict.fromkeys(term.constant for item in items for term in item.terms):
            if constant.scope and constant.per in ("synaptic operation", "neuron update", "learning update"):
                yield f"{machine.name}: {constant.name}: {constant.scope}"
    if machine.covered:
        yield f"{machine.name}: other constants include {', '.join(machine.covered)}"
    if machine.left_out:
        yield f"{machine.name}: not in this bill, since no source gives it: {', '.join(machine.left_out)}"
    if events.dense:
        yield (f"{machine.name}: only values 0 and 1 are events; every product is charged in {', '.join(events.dense)}")
    sent = {m.link: m.format for m in ledger.traffic if machine.event_driven and not sends_events(parse(m.format))}
    if sent:
        links = ", ".join(f"{link} ({fmt})" for link, fmt in sent.items())
        yield f"{machine.name}: only values 0 and 1 are spikes; every code is charged as one on {links}"
