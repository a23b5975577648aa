"""What a network that is split over ranks would send over each wire, and how long a step would take, before training.

The learning rule runs on arrays without numbers, as in `estimation`, and each message between layers on two ranks is
noted: as many bytes as `SplitLink` sends. So a network may have any size, and any number of ranks.

>>> from lowbit_dtp import Comparison
>>> made = plan(Comparison.load("mnist").experiment("dtp", seed=0), "h1|h2,output")
>>> [(x.link, str(x.direction), x.messages, x.payload, x.headers) for x in made.crossings]
[('h1-h2', 'forward', 1.0, 6400.0, 32.0), ('h1-h2', 'feedback', 1.5, 9600.0, 48.0)]

Inverses and forward mappings learn in separate epochs here, so a step sends two messages down, or one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod

from ..backends import Array
from ..backends.shapes import ShapeArray
from ..data import Outline, outline
from ..estimation import WITHOUT_NUMBERS, minibatches, samples_without_numbers
from ..experiment import Experiment
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Network
from ..randomness import RandomStream
from ..rules.rule import StepContext
from ..steps import Subject, Training
from .split import Placement
from .transport import HEADER_BYTES

_RATES = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9, "Tbit/s": 10**12}
_SECONDS = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Wire:
    """What joins two ranks."""

    bits_per_second: float
    latency: float
    """Seconds from the first bit sent to the first bit received."""

    @classmethod
    def parse(cls, text: str) -> "Wire":
        """The wire that `text` spells: bits a second and latency, `10Mbit/s,1ms`. ValueError if it spells none.

        >>> Wire.parse("2.5Gbit/s,1ms")
        Wire(bits_per_second=2500000000.0, latency=0.001)
        """
        number = r"(\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"{number}({'|'.join(_RATES)}),{number}({'|'.join(_SECONDS)})", text.replace(" ", ""))
        if not found or not float(found[1]):
            raise ValueError(f"wire {text!r}: give its bits a second and its latency, 10Mbit/s,1ms for example")
        return cls(float(found[1]) * _RATES[found[2]], float(found[3]) * _SECONDS[found[4]])

    def seconds(self, messages: float, size: float) -> float:
        """For so many messages of `size` bytes together, one after the other."""
        return messages * self.latency + 8 * size / self.bits_per_second


@dataclass(frozen=True)
class Crossing:
    """What goes from one rank to another over a link, in one direction, on average a step of training."""

    sender: int
    receiver: int
    link: str
    direction: Direction
    messages: float
    payload: float
    """Bytes of packed words."""

    @property
    def headers(self) -> float:
        """Bytes of headers."""
        return HEADER_BYTES * self.messages

    @property
    def size(self) -> float:
        """Bytes, headers included."""
        return self.payload + self.headers


@dataclass(frozen=True)
class RankLoad:
    """What a rank computes and holds."""

    rank: int
    layers: tuple[str, ...]
    operations: float
    """Multiply-accumulates a step."""
    parameters: int
    """Numbers in its layers."""


@dataclass(frozen=True)
class Plan:
    """The wires and the ranks of a split network, for a step of training on average."""

    crossings: tuple[Crossing, ...]
    ranks: tuple[RankLoad, ...]
    steps: int
    """Steps of an epoch."""

    def turns(self, wire: Wire, operations_per_second: float) -> float:
        """Seconds of a step if one rank works or one message crosses at a time: the most that it takes."""
        crossing = sum(wire.seconds(x.messages, x.size) for x in self.crossings)
        return crossing + sum(x.operations for x in self.ranks) / operations_per_second

    def overlapped(self, wire: Wire, operations_per_second: float) -> float:
        """Seconds of a step if everything overlaps: those of the busiest rank or wire, without latencies."""
        times = [8 * x.size / wire.bits_per_second for x in self.crossings]
        return max(times + [x.operations / operations_per_second for x in self.ranks])


@dataclass(frozen=True)
class _NotedLink(Link):
    """A link that notes the bytes that it would send between ranks."""

    placement: Placement | None = field(default=None, compare=False)
    sent: dict[tuple[str, Direction], list[int]] = field(default_factory=dict, compare=False, repr=False)
    """Messages and bytes of payload, by link and direction."""

    def send(
        self, x: Array | Signal, direction: Direction, purpose: str, ledger: Ledger, stream: RandomStream | None = None
    ) -> Signal:
        assert self.placement is not None
        signal = super().send(x, direction, purpose, ledger, stream)
        if self.placement[self.lower] != self.placement[self.upper]:
            noted = self.sent.setdefault((self.name, direction), [0, 0])
            noted[0] += 1
            noted[1] += 8 * prod(signal.packed().carried.shape)
        return signal


def plan(experiment: Experiment, split: str, data: Outline | None = None) -> Plan:
    """What the ranks of `experiment` would send and compute if its layers were on ranks as `split` spells it.

    `split` may be "each", for a rank for each layer. `data` has the sizes of the data, by default those of the
    experiment's. ValueError if the parts do not fit together, SplitError if `split` is none.
    """
    rates = {"learning_rate": 1.0, "feedback_learning_rate": None}
    net, rule, optimizer = replace(experiment, start="", optimizer=experiment.optimizer | rates).built(WITHOUT_NUMBERS)
    names = [layer.name for layer in net.layers]
    split = "|".join(names) if split == "each" else split
    placement = Placement.parse(split, names, split.count("|") + 1)
    data = outline(experiment.data) if data is None else data
    rule = rule.without_data()
    training, total = Training(rule, optimizer, experiment.learned_task(), experiment.batch, 0), ShapeArray((), float)
    sent: dict[tuple[str, Direction], list[int]] = {}
    noted: list[Link] = [
        _NotedLink(x.forward, x.feedback, x.lower, x.upper, x.label, placement=placement, sent=sent)
        for x in rule.training_links(net.links)
    ]
    trained, ledger = Network(net.layers, noted), Ledger()
    steps, crossed = 0, dict[tuple[str, Direction], tuple[int, int]]()
    for phase in rule.phases:
        for rows, times in minibatches(data.train, experiment.batch):
            sent.clear()
            context = StepContext(0, phase, RandomStream(0), training.task)
            subject = Subject(trained, samples_without_numbers(data, rows), total)
            training.step(subject, slice(None), context, once := Ledger(), 1.0)
            ledger.counts.repeat(once.counts, times)
            for wire, (messages, size) in sent.items():
                before = crossed.get(wire, (0, 0))
                crossed[wire] = before[0] + messages * times, before[1] + size * times
            steps += times
    return Plan(
        tuple(_crossings(net.links, placement, crossed, steps)),
        tuple(_loads(net, placement, ledger, steps)),
        steps,
    )


def _crossings(
    links: Iterable[Link], placement: Placement, crossed: dict[tuple[str, Direction], tuple[int, int]], steps: int
) -> Iterable[Crossing]:
    by_name = {link.name: link for link in links}
    for (name, direction), (messages, size) in crossed.items():
        ends = placement[by_name[name].lower], placement[by_name[name].upper]
        sender, receiver = ends if direction is Direction.FORWARD else ends[::-1]
        yield Crossing(sender, receiver, name, direction, messages / steps, size / steps)


def _loads(net: Network, placement: Placement, training: Ledger, steps: int) -> Iterable[RankLoad]:
    operations: dict[int, int] = {}
    parameters: dict[int, int] = {}
    layers: dict[int, list[str]] = {}
    for work, times in training.work.items():
        if work.operation == "multiply-accumulate":
            rank = placement[work.layer]
            operations[rank] = operations.get(rank, 0) + times
    for layer in net.layers:
        rank, numbers = placement[layer.name], sum(prod(x.shape) for x in layer.arrays().values())
        parameters[rank] = parameters.get(rank, 0) + numbers
        layers.setdefault(rank, []).append(layer.name)
    for rank in sorted(layers):
        yield RankLoad(rank, tuple(layers[rank]), operations.get(rank, 0) / steps, parameters[rank])
