"""Baselines: what others would do on the same network, placement and technology, and where a bill breaks even with it.

A baseline says which rule would train the network, and with which formats. Its ledger comes from a run or an estimate
of that rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowbit_dtp.formats import Format, float32, parse
from lowbit_dtp.ledger import BUFFERS, Access, Direction, Ledger, MessageType, Traffic

from .memory import is_shared
from .price import Bill
from .uncertainty import COVERAGE, DRAWS, part_of, totals


@dataclass(frozen=True)
class Baseline:
    """A way to train a network, to compare others with."""

    name: str
    rule: str
    gradient: str = ""
    """Format of gradients on links that carry few bits; empty for the formats that the links have."""
    number: str = "float32"
    """Format of signals, errors and weights, on links and in products: see `in_number`."""


GRADIENT = "fixed(4,-2)"
"""Format of the gradients of the baseline with which others break even."""
GRADIENTS = ("binary", "ternary", "fixed(3,-2)", GRADIENT, "fixed(8,-2)", "fixed(16,-2)", "float32")
"""Formats of straight-through's gradients: of 1, 2, 3, 4, 8, 16 and 32 bits. The binary point changes no count."""

BASELINES = (
    Baseline("backprop float32", "backprop"),
    Baseline("backprop bfloat16", "backprop", number="bfloat16"),
    Baseline("backprop int8", "backprop", number="fixed(8,1)"),
    *(Baseline(f"straight-through {parse(x).bits} bit", "straight-through", x) for x in GRADIENTS),
)


def with_gradients(ledger: Ledger, name: str, before: str = GRADIENT) -> Ledger:
    """`ledger` of straight-through, whose gradients had the format `before`, with gradients of the format `name`.

    Nothing else depends on that format. Ones and toggles are taken to be as frequent as they were.
    """
    made, old, new = ledger.empty(), parse(before), parse(name)
    for message, traffic in ledger.traffic.items():
        is_gradient = (message.direction, message.format) == (Direction.FEEDBACK, old.name)
        _cross(made, message, traffic, new if is_gradient else None)
    for work, times in ledger.work.items():
        made.worked(work, times)
    for access, words in ledger.accesses.items():
        made.accessed(access, words)
    return made


def _cross(ledger: Ledger, message: MessageType, traffic: Traffic, fmt: Format | None) -> None:
    """Count messages in another format, with ones and toggles in proportion to their bits."""
    before = message.message_bits
    if fmt:
        message = message._replace(format=fmt.name, bits=fmt.bits, scale_bits=fmt.scale_bits(message.width))
    ones, toggles = (round(count * message.message_bits / before) for count in (traffic.ones, traffic.toggles))
    ledger.crossed(message, traffic.messages, ones, toggles)


def in_number(ledger: Ledger, name: str) -> Ledger:
    """`ledger` of a float32 run as if signals, errors and weights were of the format `name`, as mixed precision does.

    Links carry that format, and products multiply and read it. Sums, biases, functions, gradients of weights and the
    optimizer stay in float32, with a float32 master of the weights: each update reads and writes the master, and writes
    the weights. Rounding is not charged. Ones and toggles are taken to be as frequent as they were.
    """
    fmt = parse(name)
    if fmt == float32:
        return ledger
    made = ledger.empty()

    def renamed(number: str) -> str:
        return fmt.name if number == float32.name else number

    for message, traffic in ledger.traffic.items():
        _cross(made, message, traffic, fmt if message.format == float32.name else None)
    for work, times in ledger.work.items():
        if work.operation == "multiply-accumulate":
            work = work._replace(left=renamed(work.left), right=renamed(work.right))
        made.worked(work, times)
    weights = {(access.layer, access.array) for access in ledger.accesses if _is_weight(access)}
    for access, words in ledger.accesses.items():
        few = access._replace(
            format=fmt.name, bits=fmt.bits, capacity_bits=access.capacity_bits // access.bits * fmt.bits
        )
        if access.format != float32.name:
            made.accessed(access, words)
        elif _is_weight(access) or access.array in BUFFERS:
            made.accessed(few, words)
        elif (access.layer, access.array) in weights:
            made.accessed(access._replace(array=f"{access.array}_master"), words)
            if access.operation == "write":
                made.accessed(few._replace(purpose="quantization"), words)
        else:
            made.accessed(access, words)
    return made


def _is_weight(access: Access) -> bool:
    """Whether a product reads weights."""
    return is_shared(access) and access.operation == "read" and not access.array.endswith(("bias", " gradient"))


@dataclass(frozen=True)
class BreakEven:
    """Width in bits of straight-through's gradient with which it costs as much as another bill.

    With a narrower gradient straight-through costs less, with a wider one more. Where the width is 0 or less, it costs
    more with any gradient.
    """

    low: float
    typical: float
    high: float


def break_even_joules(
    bills: Sequence[Bill],
    straight_through: Bill,
    gradient: str,
    part: str = "",
    draws: int = DRAWS,
    seed: int = 0,
    coverage: float = COVERAGE,
) -> list[BreakEven]:
    """Where each bill breaks even with `straight_through`, which sent gradients in the format `gradient`.

    What they cost on their links is proportional to their width, and nothing else depends on it. `typical` is of
    typical constants, `low` and `high` are the ends of a band. Of the whole bills, or of one `part`: `link`. ValueError
    if there are no such gradients, or they cost nothing.
    """
    chosen = [part_of(each, part) if part else each for each in (straight_through, *bills)]
    if len(units := dict.fromkeys(each.unit for each in chosen)) > 1:
        raise ValueError(f"bills per {' and per '.join(units)} do not break even; take all per the same unit")
    fmt = parse(gradient)
    sent = tuple(x for x in straight_through.items if (x.direction, x.format) == (Direction.FEEDBACK, fmt.name))
    bills_of = [replace(straight_through, items=sent), *chosen]
    typical = np.array([[each.total.typical] for each in bills_of])
    costs = np.hstack([typical, totals(bills_of, draws, seed)])
    if not costs[0].all():
        raise ValueError(f"straight-through sent no gradients in {fmt} that cost anything, so no width breaks even")
    widths = fmt.bits * (1 + (costs[2:] - costs[1]) / costs[0])
    ends = np.quantile(widths[:, 1:], [(1 - coverage) / 2, (1 + coverage) / 2], axis=1, method="hazen")
    return [BreakEven(*of) for of in zip(ends[0].tolist(), widths[:, 0].tolist(), ends[1].tolist(), strict=True)]
