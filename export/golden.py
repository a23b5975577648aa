"""Golden vectors: expected values on every link, before and after the thresholds.

Three kinds, because vectors from data alone do not detect all single flipped bits:

- `network`: inputs from the first link to the class.
- `layers`: inputs of one layer that bring each of its neurons just below and just above a threshold.
- `comparators`: sums at, and one below, every threshold of every neuron, and equal logits.

Files are lines of hexadecimal as in `memory_files`, one line a vector, field `i` being neuron `i`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fixed import FixedLayer, FixedNetwork, HiddenLayer, Integers, OutputLayer
from .memory_files import hex_lines

STARTS = 32
"""Random inputs from which the search for one vector near a threshold starts, at most."""

RANDOM_VECTORS = 64
"""Random inputs of the output layer, which has no thresholds."""


@dataclass(frozen=True, eq=False)
class Golden:
    """The content of one golden file: `values` [vectors, fields] in `bits` bits each."""

    path: str
    """Path below the folder of the golden vectors."""
    values: Integers
    bits: int


def golden_vectors(network: FixedNetwork, inputs: npt.ArrayLike) -> list[Golden]:
    """All golden vectors of `network`: for `inputs` [samples, inputs], and for each layer. The same in every call."""
    codes = network.encode(inputs)
    if not len(codes):
        raise ValueError("golden vectors need at least one sample of inputs, but were given none")
    random = np.random.default_rng(0)
    vectors = _run("network", network.layers, codes)
    for layer in network.layers:
        vectors += _run(f"layers/{layer.name}", [layer], stimuli(layer, random))
    for hidden in network.hidden:
        vectors += _thresholds_probed(hidden)
    return vectors + _classes_probed(network.output)


def golden_files(vectors: Sequence[Golden]) -> dict[str, bytes]:
    """`vectors` as files, by path below the folder of an export."""
    return {f"golden/{golden.path}": hex_lines(golden.values, golden.bits) for golden in vectors}


def _run(folder: str, layers: Sequence[FixedLayer], codes: Integers) -> list[Golden]:
    link = layers[0].below
    vectors = [Golden(f"{folder}/{link.name}.codes.mem", codes, link.levels.bits)]
    for layer in layers:
        sums = layer.sums(codes)
        vectors.append(Golden(f"{folder}/{layer.output_name}.sums.mem", sums, layer.sum_bits))
        if isinstance(layer, HiddenLayer):
            codes = layer.codes(sums)
            vectors.append(Golden(f"{folder}/{layer.output_name}.codes.mem", codes, layer.above.levels.bits))
        elif isinstance(layer, OutputLayer):
            vectors += _decided(folder, layer, layer.logits(sums))
    return vectors


def _decided(folder: str, layer: OutputLayer, logits: Integers) -> list[Golden]:
    return [
        Golden(f"{folder}/{layer.output_name}.logits.mem", logits, layer.logit_bits),
        Golden(f"{folder}/{layer.output_name}.classes.mem", layer.classes(logits)[:, None], layer.class_bits),
    ]


def _thresholds_probed(layer: HiddenLayer) -> list[Golden]:
    """Sums at, and one below, each threshold of each neuron, within the range of its sums."""
    probes = np.concatenate([layer.thresholds.T - 1, layer.thresholds.T]).clip(*layer.sum_bounds)
    folder = f"comparators/{layer.name}"
    return [
        Golden(f"{folder}/{layer.output_name}.sums.mem", probes, layer.sum_bits),
        Golden(f"{folder}/{layer.output_name}.codes.mem", layer.codes(probes), layer.above.levels.bits),
    ]


def _classes_probed(layer: OutputLayer) -> list[Golden]:
    """Logits in which each class is the only largest, and equal to all classes after it."""
    alone = np.eye(layer.neurons, dtype=np.int64)
    return _decided(f"comparators/{layer.name}", layer, np.concatenate([alone, np.triu(np.ones_like(alone))]) - 1)


def stimuli(layer: FixedLayer, random: np.random.Generator) -> Integers:
    """Codes [vectors, below] that bring each neuron of `layer` just below and just above one of its thresholds.

    As near as a greedy search from a few starts gets; a neuron whose sums reach none of its thresholds is left out.
    In the first two vectors all inputs have their lowest and highest level, so every weight matters in one of them.
    """
    levels = np.array(layer.below.levels.values)
    below = layer.below.neurons
    ranks = [np.zeros((1, below), np.int64), np.full((1, below), len(levels) - 1)]
    if isinstance(layer, HiddenLayer):
        neurons, targets = _reachable(layer)
        weight = layer.weight.T[neurons]
        under = _closest_below(weight, levels, random.integers(0, len(levels), weight.shape), targets - 1, random)
        over = _closest_below(-weight, levels, under, -targets, random)  # alike, so that most inputs face both ways
        ranks += [under, over]
    else:
        ranks.append(random.integers(0, len(levels), (RANDOM_VECTORS, below)))
    codes: Integers = layer.below.levels.codes[np.concatenate(ranks)]
    return codes


def _reachable(layer: HiddenLayer) -> tuple[Integers, Integers]:
    """Neurons with a threshold inside the range of their sums, and one such threshold of each."""
    neurons, targets = [], []
    for neuron, (row, low, high) in enumerate(zip(layer.thresholds, *layer.sum_bounds, strict=True)):
        inside = row[(row > low) & (row <= high)]
        if len(inside):
            neurons.append(neuron)
            targets.append(inside[neuron % len(inside)])
    return np.array(neurons, np.int64), np.array(targets, np.int64)


def _closest_below(
    weight: Integers, levels: Integers, start: Integers, target: Integers, random: np.random.Generator
) -> Integers:
    """Ranks [vectors, below], near `start` if possible, whose sums are at most `target` [vectors] and close to it.

    `weight` is [vectors, below]: each vector is for another neuron.
    """
    step = np.gcd.reduce(weight, axis=1) * np.gcd.reduce(np.diff(levels))  # all sums of a neuron differ by multiples
    best, room = _greedy(weight, levels, start, target)
    for _ in range(STARTS - 1):
        off = np.flatnonzero(room >= step)
        ranks, left = _greedy(weight[off], levels, random.integers(0, len(levels), weight[off].shape), target[off])
        better = left < room[off]
        best[off[better]], room[off[better]] = ranks[better], left[better]
    return best


def _greedy(weight: Integers, levels: Integers, ranks: Integers, target: Integers) -> tuple[Integers, Integers]:
    """Ranks near the given ones whose sums are at most `target`, and how far below it they are."""
    lowering = np.where(weight > 0, 0, np.where(weight < 0, len(levels) - 1, ranks))
    saving = weight * (levels[ranks] - levels[lowering])
    excess = (weight * levels[ranks]).sum(1) - target
    needed = saving.cumsum(1) - saving < excess[:, None]
    ranks = np.where(needed, lowering, ranks)
    room = target - (weight * levels[ranks]).sum(1)
    vectors = np.arange(len(weight))
    for inputs in np.argsort(-np.abs(weight), axis=1).T:  # large weights first, small ones for the remainder
        factor, rank = weight[vectors, inputs], ranks[vectors, inputs]
        step = room // np.maximum(np.abs(factor), 1) * np.sign(factor)
        upward = np.searchsorted(levels, levels[rank] + step, side="right") - 1
        downward = np.searchsorted(levels, levels[rank] + step, side="left")
        moved = np.where(factor > 0, upward, np.where(factor < 0, downward, rank))
        room = room - factor * (levels[moved] - levels[rank])
        ranks[vectors, inputs] = moved
    return ranks, room
