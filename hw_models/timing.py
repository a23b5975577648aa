"""Timing: the seconds of a sample on a machine, what bounds them, and the power that is drawn in them.

A machine's constants per second say how many events one unit does: `throughput synaptic operation`, `throughput
multiply-accumulate` (or `throughput operation` for all operations), `throughput memory`. A layer has the units of its
cores. Its arithmetic and its memory work at the same time, so the slowest decides. A link of the network is one wire,
which copies for several cores cross one after the other; hops take no time.

Layers and links may work one after the other, on one sample, or all at once, each on another sample of a stream: then
the slowest core or link decides. What no source gives is not guessed: the time is None, and `missing` says why.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from lowbit_dtp.ledger import Direction, Ledger

from .hardware import Core, HardwareConfig
from .layout import ends, receiver
from .machine import Machine
from .machine_price import MachineEvents, events_on
from .memory import access_terms, most_reuse
from .price import Bill, Item, where_weights_are
from .synapses import PRODUCT
from .technology import Constant, Range, Technology, Term
from .wires import coded_events, coded_traffic, message_events

TRAFFIC = ("bit", "flit", "event")
"""What the throughput of a wire may be of."""


class Load(NamedTuple):
    """What a layer or a link asks of one kind of unit, a sample."""

    where: str
    """Layer or link."""
    layer: str
    """The layer that computes, or that receives what crosses the link."""
    resource: str
    """`synaptic operation`, `multiply-accumulate`, `memory`, `wire on-die` ..."""
    events: float
    """Events of `throughput`; operations, accesses or messages where that is not known."""
    units: int
    """Units that share them."""
    throughput: Constant | None
    """Events a second of one unit; None if no source gives it."""
    bits_each: int = 0
    """Bits that an event moves: of memory, or over a link, where a spike is one."""
    products: float = 0.0
    """Products among the events."""

    @property
    def seconds(self) -> Range:
        """Time in which the units have done it; ValueError if no source gives it."""
        if self.throughput is None:
            raise ValueError(f"{self.where}: the throughput of {self.resource} is not known")
        rate = self.throughput
        return Range(*(self.events / self.units / each for each in (rate.high, rate.typical, rate.low)))


@dataclass(frozen=True)
class Timing:
    """How long a sample takes on a machine."""

    machine: Machine
    config: HardwareConfig
    layers: tuple[str, ...]
    """Layers that compute, lowest first."""
    loads: tuple[Load, ...]

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """What is not known: a resource, and the first layer or link that needs it."""
        if self.machine.step_seconds is not None:
            return ()
        unknown: dict[str, str] = {}
        for load in self.loads:
            if load.throughput is None:
                unknown.setdefault(load.resource, load.where)
        return tuple(f"throughput of {resource} ({where})" for resource, where in unknown.items())

    @property
    def sequence(self) -> Range | None:
        """Seconds of one sample, layer after layer and link after link; None if something is missing."""
        if self.missing:
            return None
        if self.machine.step_seconds is not None:
            return _exactly(self.machine.step_seconds * len(self.layers))
        stages: dict[str, list[Load]] = {}
        for load in self.loads:
            stages.setdefault(load.where, []).append(load)
        waits = _exactly(self.machine.barrier_seconds * len(self.layers))
        return sum(map(_busy, stages.values()), waits)

    @property
    def pipelined(self) -> Range | None:
        """Seconds between samples of a stream, all layers working at once; None if something is missing."""
        if self.missing:
            return None
        if self.machine.step_seconds is not None:
            return _exactly(self.machine.step_seconds)
        shared: dict[tuple[object, ...], list[Load]] = {}
        for load in self.loads:
            own = load.where == load.layer
            for at in self.cores(load.layer) if own else [(load.where, load.layer)]:
                shared.setdefault((at, load.resource), []).append(load)
        return _most(map(_together, shared.values())) + _exactly(self.machine.barrier_seconds)

    @property
    def bound(self) -> Load | None:
        """The load that takes most time; None if something is missing, or a fixed step decides."""
        if self.missing or self.machine.step_seconds is not None or not self.loads:
            return None
        return max(self.loads, key=lambda load: load.seconds.typical)

    def cores(self, layer: str) -> tuple[Core, ...]:
        """Cores of a layer; one, where nothing is placed."""
        return self.config.cores.get(layer, (Core(),))


@dataclass(frozen=True)
class Power:
    """Energy of a sample with static power, and watts."""

    seconds: float
    """Between samples, typically."""
    latency: float
    """From input to output of one sample, typically."""
    dynamic: Range
    """Joules of the events."""
    static: Range
    """Joules drawn in the time between samples, whatever happens."""

    @property
    def total(self) -> Range:
        """Joules of a sample."""
        return self.dynamic + self.static

    @property
    def watts(self) -> Range:
        """Mean power."""
        return self.total * (1 / self.seconds)

    @property
    def energy_delay(self) -> Range:
        """Joules times seconds, from input to output."""
        return self.total * self.latency


class Roof(NamedTuple):
    """Something that moves bits to a core, and how many a second."""

    name: str
    bits_per_second: float


class Point(NamedTuple):
    """A layer under a roof."""

    where: str
    roof: str
    intensity: float
    """Products a bit that is moved."""
    products_per_second: float
    """That a core of the layer does, given all that it and its link have to do."""


@dataclass(frozen=True)
class Roofline:
    """What arithmetic and traffic allow a core: at x products a bit, the lesser of `peak` and x times bits a second."""

    machine: str
    peak: float
    """Products a second."""
    roofs: tuple[Roof, ...]
    points: tuple[Point, ...]

    def attainable(self, roof: str, intensity: float) -> float:
        """Products a second at most, at so many products a bit."""
        return min(self.peak, intensity * dict(self.roofs)[roof])


def time_on(ledger: Ledger, machine: Machine, config: HardwareConfig | None = None) -> Timing:
    """How long an average sample of `ledger` takes on `machine`; `config` is where it is, as in `price_on`."""
    config = machine.place(ledger) if config is None else config
    config.check(ledger)
    samples = ledger.per("sample")
    ledger = where_weights_are(ledger, config)
    events = events_on(ledger, machine)
    loads: dict[tuple[object, ...], Load] = {}
    for load in (*_compute(events, machine), *_memory(events.rest, machine, config), *_wires(ledger, machine, config)):
        cores = len(config.cores.get(load.layer, (Core(),))) if load.where == load.layer else 1
        each = load._replace(units=load.units * cores)
        key = each[:3] + each[4:6]
        known = loads.get(key)
        loads[key] = each if known is None else _sum(known, each)
    average = (_times(load, 1 / samples) for load in loads.values())
    return Timing(machine, config, tuple(ledger.layers()), tuple(load for load in average if load.events))


def power(bill: Bill, time: Timing, samples_per_second: float | None = None) -> Power | None:
    """Energy and power of the samples of `bill`, which is per sample: one after the other, or so many a second.

    With `samples_per_second`, the machine idles between samples, and draws static power all the time. None if the time
    is not known. ValueError if `bill` is not per sample, or the machine is not fast enough.
    """
    if bill.unit != "sample":
        raise ValueError(f"power is of samples, and this bill is per {bill.unit}; take it per sample")
    latency, least = time.sequence, time.pipelined
    if latency is None or least is None:
        return None
    if samples_per_second is not None and not 0 < samples_per_second * least.typical <= 1:
        raise ValueError(
            f"machine {time.machine.name!r} takes {least.typical:.3g} s a sample, so it does not do "
            f"{samples_per_second:g} a second"
        )
    seconds = latency.typical if samples_per_second is None else 1 / samples_per_second
    static = sum((item.joules for item in _static_items(time, seconds)), Range())
    return Power(seconds, latency.typical, bill.total, static)


def with_static(bill: Bill, time: Timing, samples_per_second: float | None = None) -> Bill:
    """`bill`, which is per sample, with lines for static power over its time; a note, if that is not known."""
    drawn = power(bill, time, samples_per_second)
    if drawn is not None:
        return replace(bill, items=(*bill.items, *_static_items(time, drawn.seconds)))
    if not time.machine.static(time.config):
        return bill
    note = f"{time.machine.name}: without static power, since the time is not known: no {', '.join(time.missing)}"
    return replace(bill, notes=(*bill.notes, note))


def roofline(time: Timing) -> Roofline | None:
    """Layers under the roofs of memory and links, by core; None if arithmetic or all traffic has no throughput."""
    known = [load for load in time.loads if load.throughput is not None]
    products = [load for load in known if load.products]
    if not products or not any(load.bits_each for load in known):
        return None
    roofs: dict[tuple[str, float], str] = {}
    points = []
    for layer in dict.fromkeys(load.layer for load in products):
        own, cores = [load for load in known if load.layer == layer], len(time.cores(layer))
        done, seconds = sum(load.products for load in own), _busy(own).typical
        bits: dict[tuple[str, float], float] = {}
        for load in own:
            if load.bits_each:
                roof = load.resource, _rate(load) * load.bits_each / cores
                bits[roof] = bits.get(roof, 0.0) + load.events * load.bits_each
        for roof, moved in bits.items():
            alike = [name for name in roofs.values() if name.startswith(roof[0])]
            roofs.setdefault(roof, f"{roof[0]} of {layer}" if alike else roof[0])
            points.append(Point(layer, roofs[roof], done / moved, done / cores / seconds))
    peak = max(_rate(load) / len(time.cores(load.layer)) for load in products)
    drawn = tuple(Roof(name, rate) for (_, rate), name in roofs.items())
    return Roofline(time.machine.name, peak, drawn, tuple(points))


def _compute(events: MachineEvents, machine: Machine) -> Iterator[Load]:
    """Arithmetic, in units a core."""
    for work, number in events.synaptic.items():
        name = machine.synaptic_operation(work).name if machine.synaptic else "synaptic operation"
        yield _load(machine, work.layer, (name, "operation"), number, products=number)
    for layer, number in _by_layer(events):
        yield from _covered_load(machine, "neurons", layer, "neuron update", number)
    for work, number in events.learning.items():
        yield from _covered_load(machine, "learning", work.layer, "learning update", number)
    for work, times in events.rest.work.items():
        products = times if work.operation == PRODUCT else 0
        yield _load(machine, work.layer, (work.operation, "operation"), times, products=products)


def _by_layer(events: MachineEvents) -> Iterator[tuple[str, int]]:
    return ((layer, number) for (layer, _), number in events.neurons.items())


def _covered_load(machine: Machine, part: str, layer: str, name: str, number: float) -> Iterator[Load]:
    """Updates, unless other events include them."""
    load = _load(machine, layer, (name,), number)
    if part not in machine.covered or load.throughput is not None:
        yield load


def _load(machine: Machine, layer: str, names: Iterable[str], number: float, products: float = 0.0) -> Load:
    """The load of a layer on the first of these resources that has a throughput, or of the first."""
    first, *others = names
    name = next((x for x in (first, *others) if f"throughput {x}" in machine.technology.constants), first)
    throughput = machine.technology.constants.get(f"throughput {name}")
    return Load(layer, layer, name, number, machine.units.get(name, 1), throughput, products=products)


def _memory(rest: Ledger, machine: Machine, config: HardwareConfig) -> Iterator[Load]:
    """Accesses to memory, in ports a core."""
    samples = most_reuse(rest)
    for access, words in rest.accesses.items():
        number = sum(term.times for term in access_terms(access, words, config, machine.technology, samples))
        load = _load(machine, access.layer, ("memory",), number)
        by_bit = load.throughput is not None and load.throughput.per == "bit"
        yield load._replace(events=number * 64, bits_each=1) if by_bit else load._replace(bits_each=64)


def _wires(ledger: Ledger, machine: Machine, config: HardwareConfig) -> Iterator[Load]:
    """Messages on links."""
    layers = ledger.layers()
    for message, traffic in ledger.traffic.items():
        link, way = message.link, message.direction
        named = {link, f"{link}.{way.value}"} & set(config.links)
        if not named and "links" in machine.covered:
            continue
        layer = receiver(link, way, layers)
        wire = config.wire(link, way.value)
        copies = _copies(machine, config, ends(link, layers), way) or wire.times
        coded = coded_traffic(ledger, message, config.coding_of(link, way.value))
        unknown = not named and "links" in machine.left_out
        rates = [] if unknown else _wire_rates(wire.kind, machine)
        resource = "links" if unknown else f"wire {wire.kind}"
        if not rates:
            yield Load(link, layer, resource, traffic.messages, 1, None)
        for rate, flit_bits in rates:
            if coded is None:
                number = message_events(rate.per, message, traffic, config, flit_bits, alone=False, graded=True)
            else:
                number = coded_events(rate.per, message, traffic.messages, coded, flit_bits)
            units = machine.units.get(rate.name.removeprefix("throughput "), 1)
            bits = flit_bits if flit_bits and rate.per == "flit" else 1
            yield Load(link, layer, resource, number * copies, units, rate, bits)


def _copies(machine: Machine, config: HardwareConfig, joined: tuple[str, str], way: Direction) -> int:
    """Copies of a message that stays on its chip: hops are other wires. 0 if it leaves the chip, or has no place."""
    lower, upper = (config.cores.get(layer, ()) for layer in joined)
    if not lower or len({core.chip for core in (*lower, *upper)}) > 1:
        return 0
    return 1 if machine.multicast else len(upper if way is Direction.FORWARD else lower)


def _wire_rates(kind: str, machine: Machine) -> list[tuple[Constant, int | None]]:
    """Throughputs of a kind of wire, and the bits of its flits: of the machine's own, or of its file."""
    own = machine.technology
    if f"throughput wire {kind}" in own.constants:
        return [(own.constants[f"throughput wire {kind}"], own.flit_bits)]
    if own.wire(kind):
        return []
    wire = Technology.load(kind)
    rates = (each for each in wire.constants.values() if each.unit == "per second" and each.per in TRAFFIC)
    return [(each, wire.flit_bits) for each in rates]


def _static_items(time: Timing, seconds: float) -> Iterator[Item]:
    """Lines for the power that is drawn all the time, over so many seconds."""
    for constant, number in time.machine.static(time.config):
        yield Item("static", constant.per, "local", "draw", constant.name, "", (Term(constant, number * seconds),))


def _sum(a: Load, b: Load) -> Load:
    return a._replace(events=a.events + b.events, products=a.products + b.products)


def _times(load: Load, number: float) -> Load:
    return load._replace(events=load.events * number, products=load.products * number)


def _rate(load: Load) -> float:
    """Events a second of all units."""
    return load.units * (load.throughput.typical if load.throughput else 0.0)


def _busy(loads: Iterable[Load]) -> Range:
    """Time of a layer or a link, whose different resources work at the same time."""
    resources: dict[str, list[Load]] = {}
    for load in loads:
        resources.setdefault(load.resource, []).append(load)
    return _most(map(_together, resources.values()))


def _together(loads: Iterable[Load]) -> Range:
    """Time of loads on the same units."""
    return sum((load.seconds for load in loads), Range())


def _most(times: Iterable[Range]) -> Range:
    """Time of what works at the same time."""
    known = [Range(), *times]
    return Range(*(max(getattr(each, key) for each in known) for key in ("low", "typical", "high")))


def _exactly(seconds: float) -> Range:
    return Range(seconds, seconds, seconds)
