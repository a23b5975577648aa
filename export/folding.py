"""Folding: how many neurons and inputs of each layer are computed side by side, and how many cycles that takes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from lowbit_dtp.choices import choose

from .fixed import FixedLayer, FixedNetwork, HiddenLayer

BUS_BITS = 64
"""Widest beat of the network's inputs that is chosen for the user."""


@dataclass(frozen=True)
class Fold:
    """Neurons (`outputs`) and `inputs` of a layer that are computed in one cycle."""

    outputs: int
    inputs: int

    def __str__(self) -> str:
        return f"{self.outputs}x{self.inputs}"


DEFAULT = Fold(4, 4)


@dataclass(frozen=True)
class FoldedLayer:
    """A layer with its folding, and the cycles that follow from it."""

    layer: FixedLayer
    fold: Fold

    @property
    def beats(self) -> int:
        """Beats in a frame of inputs."""
        return -(-self.layer.below.neurons // self.fold.inputs)

    @property
    def groups(self) -> int:
        """Groups of neurons computed one after the other."""
        return -(-self.layer.neurons // self.fold.outputs)

    @property
    def comparators(self) -> int:
        """Comparators of each neuron: the fewest that take no more cycles than the beats do."""
        return -(-self._thresholds // self.beats)

    @property
    def steps(self) -> int:
        """Cycles in which a sum is compared with its thresholds."""
        return -(-self._thresholds // self.comparators)

    @property
    def _thresholds(self) -> int:
        return self.layer.thresholds.shape[1] if isinstance(self.layer, HiddenLayer) else 1

    @property
    def period(self) -> int:
        """Cycles of a group. Logits leave an output layer one after the other, one in two cycles."""
        return self.beats if isinstance(self.layer, HiddenLayer) else max(self.beats, 2 * self.fold.outputs)

    @property
    def cycles(self) -> int:
        """Cycles of a frame."""
        return self.groups * self.period

    @property
    def size(self) -> int:
        """A measure of the logic: bits of the products, the adders and the comparators."""
        product = self.layer.weight_levels.bits * self.layer.below.levels.bits
        return self.fold.outputs * (self.fold.inputs * product + (1 + self.comparators) * self.layer.sum_bits)


def fold_layers(network: FixedNetwork, fold: str = "", target_cycles: int | None = None) -> list[FoldedLayer]:
    """Each layer of `network` with its folding: as `fold` says, or the smallest that takes at most `target_cycles`.

    `fold` is `4x4`, outputs by inputs, for all layers, or `h1=4x8,h2=8x4`; the layers it does not name have 4x4, or
    what fits. An output layer that is not named has the fewest outputs side by side that slow down no other layer.
    Raises ValueError naming the layer or link if that is impossible.
    """
    if target_cycles is None:
        return _as_given(network, fold)
    if fold:
        raise ValueError(f"give a fold or target cycles, not both: {fold!r} and {target_cycles}")
    if target_cycles < 1:
        raise ValueError(f"target cycles must be 1 or more, not {target_cycles}")
    return _smallest(network, target_cycles)


def _as_given(network: FixedNetwork, text: str) -> list[FoldedLayer]:
    named = dict.fromkeys((layer.name for layer in network.layers), "")
    wanted = DEFAULT
    if text and "=" not in text:
        wanted = _parse(text, "all layers")
    elif text:
        for entry in text.split(","):
            name, _, value = entry.strip().partition("=")
            choose("layer", name, named)
            named[name] = value
    layers: list[FoldedLayer] = []
    for layer in network.layers:
        fold = _exactly(named[layer.name], layer) if named[layer.name] else _fitting(wanted, layer, layers)
        layers.append(FoldedLayer(layer, fold))
    for below, above in pairwise(layers):
        if not _fits(below.fold.outputs, above.fold.inputs):
            raise ValueError(
                f"link {above.layer.below.name}: layer {below.layer.name} sends {below.fold.outputs} codes a beat and "
                f"layer {above.layer.name} takes {above.fold.inputs}; one must divide the other"
            )
    return layers


def _parse(text: str, owner: str) -> Fold:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ValueError(f"fold of {owner}: {text!r} must be OUTPUTSxINPUTS, as 4x4")
    return Fold(int(match[1]), int(match[2]))


def _exactly(text: str, layer: FixedLayer) -> Fold:
    fold = _parse(text, f"layer {layer.name}")
    if fold.outputs > layer.neurons or fold.inputs > layer.below.neurons:
        raise ValueError(
            f"fold of layer {layer.name}: {text} is more than its {layer.neurons} outputs and "
            f"{layer.below.neurons} inputs"
        )
    return fold


def _fitting(wanted: Fold, layer: FixedLayer, below: list[FoldedLayer]) -> Fold:
    """At most `wanted` of `layer`, which gets its inputs from the last of `below`."""
    sent = below[-1].fold.outputs if below else 1
    inputs = next(n for n in range(min(wanted.inputs, layer.below.neurons), 0, -1) if _fits(sent, n))
    fold = Fold(min(wanted.outputs, layer.neurons), inputs)
    if isinstance(layer, HiddenLayer) or not below:
        return fold
    fewer = (FoldedLayer(layer, Fold(outputs, inputs)) for outputs in range(1, fold.outputs))
    slowest = max(x.cycles for x in below)
    return next((x.fold for x in fewer if x.cycles <= slowest), fold)


def _fits(sent: int, taken: int) -> bool:
    return sent % taken == 0 or taken % sent == 0


def _smallest(network: FixedNetwork, cycles: int) -> list[FoldedLayer]:
    """The smallest foldings, by `size`, that fit each other; found layer by layer for each number of outputs."""
    best: dict[int, tuple[int, list[FoldedLayer]]] = {1: (0, [])}
    for layer in network.layers:
        above: dict[int, tuple[int, list[FoldedLayer]]] = {}
        for sent, (size, layers) in best.items():
            for candidate in _candidates(layer, sent, cycles, first=not layers):
                total = size + candidate.size
                outputs = candidate.fold.outputs
                if outputs not in above or total < above[outputs][0]:
                    above[outputs] = total, [*layers, candidate]
        if not above:
            least = min(x.cycles for x in _all_side_by_side(layer))
            raise ValueError(
                f"layer {layer.name}: no folding takes at most {cycles} cycles a frame; it takes at least {least}"
            )
        best = above
    return min(best.values(), key=lambda found: found[0])[1]


def _all_side_by_side(layer: FixedLayer) -> Iterator[FoldedLayer]:
    for outputs in range(1, layer.neurons + 1):
        yield FoldedLayer(layer, Fold(outputs, layer.below.neurons))


def _candidates(layer: FixedLayer, sent: int, cycles: int, first: bool) -> Iterator[FoldedLayer]:
    """Foldings of `layer`, which gets `sent` codes a beat, that take at most `cycles`: for each number of inputs, the
    fewest outputs and a few more, so that the layer above finds one that fits."""
    most = layer.below.neurons
    if first:
        most = max(1, min(most, BUS_BITS // layer.below.levels.bits))
    for inputs in range(1, most + 1):
        if not _fits(sent, inputs):
            continue
        found = 0
        for outputs in range(max(1, layer.neurons * -(-layer.below.neurons // inputs) // cycles), layer.neurons + 1):
            candidate = FoldedLayer(layer, Fold(outputs, inputs))
            if candidate.cycles <= cycles:
                yield candidate
                found += 1
            if found == 8:
                break
