"""Layout: the layers of a network on the cores of a machine, and how far their messages go.

Layers are taken in order. Each begins at the first core that none has, and takes the cores after it, as many as its
neurons and weights need. Cores follow each other in a snake through the mesh of a chip: along the first row of routers,
back along the second; the cores of one router one after the other; then the next chip. On a machine of one core, all
layers are there. Every core of a layer has whole neurons, with all their weights.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import BUFFERS, Access, Direction, Ledger

from .hardware import Core

INPUT = "input"
"""Name of the layer below the first: inputs arrive at the first core, unless it is placed."""
KEPT_WHILE_LEARNING = (" gradient", " optimizer state", "_master", " norm")
"""Ends of the names of arrays that only learning needs."""


class LayerSize(NamedTuple):
    """What a layer needs of cores."""

    neurons: int
    inputs: int = 0
    """Inputs of each neuron, over all links."""
    weight_bits: int = 0
    """Bits of all weights and biases, as the ledger counts them; 0 where it counts none."""
    learning_bits: int = 0
    """Bits of arrays that only learning needs: gradients, the optimizer's state."""

    @property
    def synapses(self) -> int:
        """Weights, without biases."""
        return self.neurons * self.inputs


def sizes_of(network: Ledger | Mapping[str, int] | Sequence[int]) -> dict[str, LayerSize]:
    """The size of each layer, lowest first: from a ledger, or from the neurons of each layer, inputs first.

    A sequence names its layers `input`, `h1`, ..., `output`. A network of neurons alone has a weight from each neuron
    to each of the next layer, and no bits.
    """
    if isinstance(network, Ledger):
        return {layer: _size(network, layer) for layer in network.layers()}
    if not isinstance(network, Mapping):
        hidden = (f"h{i}" for i in range(1, len(network) - 1))
        network = dict(zip((INPUT, *hidden, "output"), network, strict=False))
    wrong = [f"{name}={n!r}" for name, n in network.items() if isinstance(n, bool) or not isinstance(n, int) or n < 1]
    if wrong or len(network) < 2:
        said = f", not {', '.join(wrong)}" if wrong else ""
        raise ValueError(f"a network is the neurons of two or more layers, inputs first, whole and positive{said}")
    names = list(network)
    return {name: LayerSize(network[name], network[below]) for below, name in pairwise(names)}


def ends(link: str, layers: Sequence[str]) -> tuple[str, str]:
    """Lower and upper layer of a link that is named after both, `h1-h2` or `output-h1`; `layers` are lowest first.

    What follows a dot is no part of the name: copies of weights go over `h1-h2.weights`.
    """
    known = [INPUT, *layers]
    parts = link.partition(".")[0].split("-")
    pairs = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    for a, b in pairs:
        if a in known and b in known:
            return (a, b) if known.index(a) < known.index(b) else (b, a)
    if len(pairs) == 1:  # a layer that computes nothing
        return pairs[0]
    raise ValueError(f"link {link} joins no two layers, so it has no place; the layers are: {', '.join(known)}")


def receiver(link: str, direction: Direction, layers: Sequence[str]) -> str:
    """The layer that gets what crosses `link`."""
    return ends(link, layers)[1 if direction is Direction.FORWARD else 0]


def distance(senders: Sequence[Core], receivers: Sequence[Core], multicast: bool) -> tuple[float, float]:
    """How often a message crosses the mesh of a chip, and the routers it passes each time, from one core to all others.

    Both are means over `senders`. Without `multicast`, a copy goes to each of the `receivers` by itself, and the
    distance is the mean of the Manhattan distances; with it, one message goes along the row and branches off into
    columns, and the distance is that of the whole tree.
    """
    if multicast:
        routers = Counter((core.column, core.row) for core in senders)
        tree = sum(n * _tree(at, receivers) for at, n in routers.items()) / len(senders)
        return 1.0, tree
    axes = (([core[i] for core in senders], [core[i] for core in receivers]) for i in (1, 2))  # columns, rows
    return float(len(receivers)), sum(_mean_difference(a, b) for a, b in axes)


def others(senders: Sequence[int], receivers: Sequence[int]) -> float:
    """Chips, or boards, among `receivers` that are not the sender's own: a mean over `senders`."""
    distinct = set(receivers)
    return sum(len(distinct - {sender}) for sender in senders) / len(senders)


def _size(ledger: Ledger, layer: str) -> LayerSize:
    layers = ledger.layers()
    arrays = {a.array: a for a in ledger.accesses if a.layer == layer}
    up = [m for m, _ in ledger.message_types(direction=Direction.FORWARD)]
    below = {m.link: m.width for m in up if ends(m.link, layers)[1] == layer}
    above = [m.width for m in up if ends(m.link, layers)[0] == layer]
    products = {w: n for w, n in ledger.work.items() if w.layer == layer and w.operation == "multiply-accumulate"}
    held = {name: a for name, a in arrays.items() if name not in BUFFERS}
    weights = {name: a for name, a in held.items() if not name.endswith(KEPT_WHILE_LEARNING)}
    formats = {work.right for work in products}
    matrices = [_numbers(a) for name, a in weights.items() if a.format in formats and "bias" not in name]
    buffers = [_numbers(arrays[name]) for name in ("state", "error") if name in arrays]
    if buffers or above:
        neurons = (buffers or above)[0]
    elif matrices and below:
        neurons = matrices[0] // next(iter(below.values()))
    else:
        codes = sum(t.messages * m.width for m, t in ledger.message_types(purpose="activations") if m.link in below)
        neurons = sum(n for work, n in products.items() if work.purpose == "activations") // max(codes, 1)
    neurons = max(neurons, 1)
    if weights:
        inputs, bits = sum(matrices) // neurons, sum(a.capacity_bits for a in weights.values())
    else:
        inputs = sum(below.values())
        bits = neurons * inputs * max((parse(name).bits for name in formats if name), default=0)
    learning = sum(a.capacity_bits for name, a in held.items() if name not in weights)
    return LayerSize(neurons, inputs, bits, learning)


def _numbers(access: Access) -> int:
    """Numbers in an array."""
    return access.capacity_bits // access.bits


def _tree(at: tuple[int, int], receivers: Sequence[Core]) -> int:
    """Hops of a tree that goes along the row of the sender and branches off into the columns of the receivers."""
    column, row = at
    rows: dict[int, list[int]] = {}
    for core in receivers:
        rows.setdefault(core.column, [row]).append(core.row)
    columns = [column, *rows]
    return max(columns) - min(columns) + sum(max(r) - min(r) for r in rows.values())


def _mean_difference(a: Sequence[int], b: Sequence[int]) -> float:
    """Mean of |x - y| over all x of `a` and y of `b`."""
    counted = Counter(b)
    return sum(n * m * abs(x - y) for x, n in Counter(a).items() for y, m in counted.items()) / (len(a) * len(b))


@dataclass(frozen=True)
class Mesh:
    """All cores of a machine: chips of `columns` x `rows` routers, with `cores` at each."""

    columns: int = 1
    rows: int = 1
    cores: int = 1
    chips: int = 1

    @property
    def of_chip(self) -> int:
        """Cores of a chip."""
        return self.columns * self.rows * self.cores

    @property
    def number(self) -> int:
        """Cores of the machine."""
        return self.of_chip * self.chips

    def core(self, index: int) -> Core:
        """The core at `index` of the snake."""
        chip, within = divmod(index, self.of_chip)
        router, core = divmod(within, self.cores)
        row, column = divmod(router, self.columns)
        return Core(chip, self.columns - 1 - column if row % 2 else column, row, core)

    def index(self, core: Core) -> int:
        """Where `core` is on the snake."""
        column = self.columns - 1 - core.column if core.row % 2 else core.column
        return core.chip * self.of_chip + (core.row * self.columns + column) * self.cores + core.core

    def __contains__(self, core: Core) -> bool:
        most = self.core_at_the_end
        return all(0 <= number <= limit for number, limit in zip(core, most, strict=True))

    @property
    def core_at_the_end(self) -> Core:
        """The core with the highest numbers."""
        return Core(self.chips - 1, self.columns - 1, self.rows - 1, self.cores - 1)

    def __str__(self) -> str:
        end = self.core_at_the_end
        last = f"{end.chip}:{end.column},{end.row},{end.core}"
        return f"a core is COLUMN,ROW or CHIP:COLUMN,ROW,CORE from 0:0,0,0 to {last}"

    def free(self, start: int, taken: set[int]) -> Iterator[int]:
        """Indices from `start` on that are not taken."""
        return (i for i in range(start, self.number) if i not in taken)


def share(whole: int, cores: int) -> int:
    """What the fullest of `cores` has of `whole`."""
    return ceil(whole / cores)
