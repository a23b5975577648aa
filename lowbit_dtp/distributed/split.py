"""A network of which this rank has some layers: the others are of arrays without numbers, and links send over wires."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any

import numpy as np

from ..backends import Array, backend_of
from ..backends.shapes import ShapeArray
from ..data import Samples
from ..layers import Layer
from ..ledger import Direction, Ledger
from ..links import Link, Signal
from ..network import Network
from ..randomness import RandomStream
from ..rules import LearningRule
from ..tasks import Task
from .transport import HEADER_BYTES, Bytes, Envelope, Transport


class SplitError(ValueError):
    """A network, rule or task cannot be split as described; the message says what would be right."""


@dataclass(frozen=True)
class Placement:
    """The rank of each layer, by name, lowest first; inputs are where the lowest layer is."""

    ranks: Mapping[str, int]

    @classmethod
    def parse(cls, text: str, layers: Sequence[str], size: int) -> "Placement":
        """The placement that `text` spells for the names of `layers`, lowest first, on `size` ranks.

        Ranks are separated by `|`, layers of one rank by commas. SplitError if a layer is missing, unknown or named
        twice, or there are not `size` ranks.

        >>> Placement.parse("h1,h2|output", ["h1", "h2", "output"], 2).ranks
        {'h1': 0, 'h2': 0, 'output': 1}
        """
        groups = [[name.strip() for name in group.split(",")] for group in text.split("|")]
        named = Counter(name for group in groups for name in group)
        for name, times in named.items():
            if name not in layers:
                raise SplitError(f"--split {text!r}: no layer {name!r}; there are: {', '.join(layers)}")
            if times > 1:
                raise SplitError(f"--split {text!r}: {name} is named twice; a layer is on one rank")
        if missing := [name for name in layers if name not in named]:
            raise SplitError(f"--split {text!r}: {', '.join(missing)} is on no rank; name every layer")
        if len(groups) != size:
            raise SplitError(
                f"--split {text!r} is for {len(groups)} ranks, and {size} run; "
                f"start torchrun with --nproc-per-node {len(groups)}, or --nnodes"
            )
        ranks = {name: rank for rank, group in enumerate(groups) for name in group}
        return cls({name: ranks[name] for name in layers})

    def __getitem__(self, layer: str) -> int:
        return self.ranks.get(layer, next(iter(self.ranks.values())))

    def on(self, rank: int) -> list[str]:
        """Names of the layers on `rank`."""
        return [name for name, there in self.ranks.items() if there == rank]


@dataclass
class ElsewhereLayer(Layer):
    """A layer of another rank: arrays without numbers. What it computes is counted there."""

    @classmethod
    def of(cls, layer: Layer) -> "ElsewhereLayer":
        """The layer with arrays of the same shapes, without numbers."""
        made = layer.each_array(lambda _, x: ShapeArray(x.shape, x.dtype))
        return cls(**{each.name: getattr(made, each.name) for each in fields(made)})

    def _count(self, ledger: Ledger, count: Callable[..., None], *details: Any) -> None:
        # not even once, but noted: so the ledgers of all ranks have their rows in one order
        once, _ = self._cost(count, *details)
        ledger.counts.repeat(once, 0)


@dataclass(frozen=True)
class SplitSignal(Signal):
    """What went from rank to rank, as the layer that gets it has it: without numbers on the rank that sent it."""

    at_sender: Signal | None = None
    """The same signal as the layer that sent it has it: without numbers on the rank that got it."""

    @property
    def sent(self) -> Array:
        assert self.at_sender is not None
        return self.at_sender.values


@dataclass(frozen=True)
class SplitLink(Link):
    """A link of which each end may be on another rank. A message between ranks is a minibatch of packed words.

    Whoever sends counts the message in its ledger.
    """

    placement: Placement | None = field(default=None, compare=False)
    transport: Transport | None = field(default=None, compare=False, repr=False)
    like: Array | None = field(default=None, compare=False, repr=False)
    """An array of this rank, which says on which device and by which library messages are decoded."""
    numbers: dict[Direction, int] = field(default_factory=dict, compare=False, repr=False)
    """Messages so far."""

    def send(
        self, x: Array | Signal, direction: Direction, purpose: str, ledger: Ledger, stream: RandomStream | None = None
    ) -> Signal:
        assert self.placement is not None and self.transport is not None
        ends = self.placement[self.lower], self.placement[self.upper]
        sender, receiver = ends if direction is Direction.FORWARD else ends[::-1]
        here = self.transport.rank
        if here not in ends:
            return self._noted(x, direction, purpose, ledger, stream)
        if sender == receiver:
            return super().send(x, direction, purpose, ledger, stream)
        number = self.numbers[direction] = self.numbers.get(direction, -1) + 1
        name = f"link {self.name}, {direction} {purpose!r}"
        if sender == here:
            signal = super().send(x, direction, purpose, ledger, stream)
            words = signal.packed().carried
            payload = _bytes(words)
            rows = prod(words.shape[:-1])
            envelope = Envelope(name, number, payload.size, rows)
            self.transport.send(receiver, envelope.wrapped(payload, signal.packed_neurons is not None))
            shape = ShapeArray(signal.carried.shape, signal.carried.dtype)
            like = _without_numbers(signal.like)
            return SplitSignal(shape, signal.format, like, signal.packed_neurons, self.name, at_sender=signal)
        due = self._noted(x, direction, purpose, ledger, stream)
        words = due.packed().carried
        size, rows = 8 * prod(words.shape), prod(words.shape[:-1])
        message = self.transport.receive(sender, HEADER_BYTES + size)
        payload, is_packed = Envelope(name, number, size, rows).opened(message, sender)
        return self._received(payload, due, words.shape, is_packed)

    def _noted(
        self, x: Array | Signal, direction: Direction, purpose: str, ledger: Ledger, stream: RandomStream | None
    ) -> Signal:
        """The signal, without numbers, of a message that another rank sends and counts."""
        signal = super().send(x, direction, purpose, Ledger(), stream)
        ledger.crossed(self._message_type(direction, purpose, int(x.shape[-1])), 0, 0, 0)
        return signal

    def _received(self, payload: Bytes, due: Signal, shape: tuple[int, ...], is_packed: bool) -> Signal:
        """The signal `due`, with the numbers in `payload`: packed words or codes, as its sender has it.

        Kernels for either round differently.
        """
        assert self.like is not None
        xp, fmt, neurons = backend_of(self.like), due.format, due.format.codes_in_row(due.shape[-1])
        carried = xp.moved(payload.view(np.uint64).reshape(shape), self.like)
        if not is_packed:
            carried = xp.unpack(carried, fmt, neurons)
        like = xp.moved(np.zeros(0, due.like.dtype), self.like)
        return SplitSignal(carried, fmt, like, neurons if is_packed else None, self.name, at_sender=due)


def _bytes(words: Array) -> Bytes:
    return np.ascontiguousarray(backend_of(words).numpy(words)).view(np.uint8).ravel()


def _without_numbers(x: Array) -> ShapeArray:
    return ShapeArray(x.shape, backend_of(x).numpy(x[:0]).dtype)


def split_network(net: Network, placement: Placement, transport: Transport) -> Network:
    """`net` as the rank of `transport` has it: its own layers, the same arrays, and the others without numbers.

    `net` must have everything that its rule needs: see `LearningRule.prepare`.
    """
    layers = [layer if placement[layer.name] == transport.rank else ElsewhereLayer.of(layer) for layer in net.layers]
    like = next(layer.weight for layer in layers if not isinstance(layer, ElsewhereLayer))
    links: list[Link] = [
        SplitLink(x.forward, x.feedback, x.lower, x.upper, x.label, placement=placement, transport=transport, like=like)
        for x in net.links
    ]
    return Network(layers, links)


def split_samples(samples: Samples, net: Network) -> Samples:
    """Of `samples`, what the layers of this rank need: inputs for the lowest layer, labels for the output layer."""
    stored, labels = samples.stored, samples.labels
    if isinstance(net.layers[0], ElsewhereLayer):
        stored = ShapeArray(stored.shape, stored.dtype)
    if isinstance(net.layers[-1], ElsewhereLayer):
        labels = ShapeArray(labels.shape, labels.dtype)
    return replace(samples, stored=stored, labels=labels)


def check(rule: LearningRule, task: Task, placement: Placement) -> None:
    """SplitError if `rule` or `task` needs numbers of layers on several ranks at one place."""
    if rule.without_data() != rule:
        raise SplitError(
            f"{rule.name} stops when all layers have settled, which no rank knows alone; "
            "leave tolerance out, so that it makes a fixed number of steps"
        )
    ranks = list(placement.ranks.values())
    if task.name in ("reconstruct", "quantize") and ranks[0] != ranks[-1]:
        raise SplitError(
            f"to {task.name}, the output layer needs the inputs; put the lowest layer and the output on one rank"
        )
