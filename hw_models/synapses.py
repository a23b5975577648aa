"""Synapses: how many products an event-driven machine computes, from the ones that were sent.

Only inputs that are 1 read weights and add, so the synaptic operations of a message of values 0 and 1 are its ones
times the neurons that receive it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lowbit_dtp.formats import parse
from lowbit_dtp.ledger import Access, Ledger, Work

from .layout import receiver, sizes_of
from .memory import is_shared
from .wires import sends_events

PRODUCT = "multiply-accumulate"
GRADIENT = "gradient"
"""Purpose of products that add up gradients: of each synapse once a sample, if its input is 1."""
LEARNING = (GRADIENT, "update", "quantization")
"""Purposes of operations that change weights."""
LEARNED_FROM = ("activations", "reconstruction", "noisy activations")
"""Purposes of messages that weights learn from, the usual ones first."""


def synaptic_operations(ledger: Ledger) -> dict[Work, float]:
    """Products with an input that was 1, of each kind of product whose inputs are values 0 and 1.

    A kind of product in a layer has the ones of the messages of its purpose, if these are as many. Other kinds share
    the mean of the remaining messages of their format into that layer: the sum is exact where each message is
    multiplied once. Gradients have the ones of the messages that weights learn from. Products without such messages are
    not in the result.
    """
    activity: dict[Work, float] = {}
    sizes = sizes_of(ledger)
    for layer, name in dict.fromkeys((w.layer, w.left) for w in ledger.work if _is_event_product(w)):
        arrived = _arrived(ledger, layer, name)
        neurons = sizes[layer].neurons
        kinds = [w for w in ledger.work if _is_event_product(w) and (w.layer, w.left) == (layer, name)]
        activity |= _activity([w for w in kinds if w.purpose != GRADIENT], ledger, arrived, neurons)
        for work in kinds:
            if work.purpose == GRADIENT and arrived:
                activity[work] = _learned_activity(ledger, work, arrived, neurons)
    return {work: ledger.work[work] * part for work, part in activity.items()}


def neuron_updates(ledger: Ledger) -> dict[tuple[str, str], int]:
    """States that the neurons of each layer computed, by layer and purpose: those that a ledger writes to memory.

    Without counts of memory, one for each neuron and message that reaches it.
    """
    found: dict[tuple[str, str], int] = {}
    for access, words in ledger.accesses.items():
        if (access.array, access.operation) == ("state", "write"):
            key = access.layer, access.purpose
            found[key] = found.get(key, 0) + words
    written = {layer for layer, _ in found}
    layers, sizes = ledger.layers(), sizes_of(ledger)
    for message, traffic in ledger.traffic.items():
        layer = receiver(message.link, message.direction, layers)
        if layer in sizes and layer not in written:
            key = layer, message.purpose
            found[key] = found.get(key, 0) + traffic.messages * sizes[layer].neurons
    return found


def by_events(ledger: Ledger, operations: Mapping[Work, float]) -> Ledger:
    """`ledger` without these products, and with so many fewer accesses to weights and gradients."""
    made = ledger.empty()
    for message, traffic in ledger.traffic.items():
        made.crossed(message, traffic.messages, traffic.ones, traffic.toggles)
    for work, times in ledger.work.items():
        if work not in operations:
            made.worked(work, times)
    for access, words in ledger.accesses.items():
        made.accessed(access, round(words * _part(ledger, access, operations)))
    return made


def products_of(ledger: Ledger, access: Access) -> list[Work]:
    """Kinds of products for which weights are read, or their gradients are read and written; none for other arrays."""
    if not is_shared(access) or "bias" in access.array:
        return []
    kinds = [w for w in ledger.work if (w.layer, w.purpose, w.operation) == (access.layer, access.purpose, PRODUCT)]
    return [w for w in kinds if access.array.endswith(f" {GRADIENT}") or w.right == access.format]


class _Arrived(NamedTuple):
    """Messages of one purpose and width into a layer."""

    purpose: str
    width: int
    codes: int
    ones: int


def _is_event_product(work: Work) -> bool:
    return work.operation == PRODUCT and bool(work.right) and sends_events(parse(work.left))


def _arrived(ledger: Ledger, layer: str, name: str) -> list[_Arrived]:
    layers, found = ledger.layers(), dict[tuple[str, int], tuple[int, int]]()
    for message, traffic in ledger.traffic.items():
        if message.format == name and receiver(message.link, message.direction, layers) == layer:
            codes, ones = found.get((message.purpose, message.width), (0, 0))
            codes += traffic.messages * message.width
            found[message.purpose, message.width] = codes, ones + traffic.ones
    return [_Arrived(*key, *counts) for key, counts in found.items()]


def _activity(kinds: Sequence[Work], ledger: Ledger, arrived: Sequence[_Arrived], neurons: int) -> dict[Work, float]:
    """The part of each kind of product that has an input of 1."""
    found: dict[Work, float] = {}
    rest = list(arrived)
    for purpose in dict.fromkeys(w.purpose for w in kinds):
        alike = [w for w in kinds if w.purpose == purpose]
        own = [each for each in arrived if each.purpose == purpose]
        if own and sum(ledger.work[w] for w in alike) == neurons * sum(each.codes for each in own):
            found |= dict.fromkeys(alike, _mean(own))
            rest = [each for each in rest if each not in own]
    others = [w for w in kinds if w not in found]
    return found | (dict.fromkeys(others, _mean(rest or arrived)) if arrived else {})


def _learned_activity(ledger: Ledger, work: Work, arrived: Sequence[_Arrived], neurons: int) -> float:
    """The part of the gradient's products that has an input of 1: a mean over the inputs that were read for it."""
    read = {
        a.capacity_bits // a.bits: words
        for a, words in ledger.accesses.items()
        if (a.layer, a.array, a.operation, a.format, a.purpose) == (work.layer, "input", "read", work.left, GRADIENT)
    }
    if not read:
        read = {each.width: 0 for each in arrived}
        read[arrived[0].width] = ledger.work[work] // neurons
    ones = sum(words * _mean(_learned_from(words, width, arrived)) for width, words in read.items())
    return ones / sum(read.values())


def _learned_from(words: int, width: int, arrived: Sequence[_Arrived]) -> Sequence[_Arrived]:
    """Messages that so many inputs of a kind came from; all of that width, if none fits."""
    alike = [each for each in arrived if each.width == width] or arrived
    fitting = (each for name in LEARNED_FROM for each in alike if (each.purpose, each.codes) == (name, words))
    found = next(fitting, None)
    return [found] if found else alike


def _mean(arrived: Iterable[_Arrived]) -> float:
    counted = list(arrived)
    codes = sum(each.codes for each in counted)
    return sum(each.ones for each in counted) / codes if codes else 0.0


def _part(ledger: Ledger, access: Access, operations: Mapping[Work, float]) -> float:
    """The part of an access to weights or gradients that is left: that of the products which need it."""
    kinds = products_of(ledger, access)
    times = sum(ledger.work[w] for w in kinds)
    return sum(operations.get(w, ledger.work[w]) for w in kinds) / times if times else 1.0
