"""Memory: the cost of reading or writing the words of an array."""

from dataclasses import replace
from itertools import pairwise
from math import exp, log

from lowbit_dtp.ledger import BUFFERS, Access, Ledger

from .hardware import HOLDINGS, HardwareConfig
from .technology import Constant, Technology, Term

ONCE_A_STEP = ("update", "quantization", "norm")
"""Purposes for which a whole array is accessed once a minibatch, whatever the number of samples."""
ONCE_A_SAMPLE = ("winner", "softmax")
"""Purposes for which each sample reads another part of an array."""


def access_terms(
    access: Access, words: int, config: HardwareConfig, technology: Technology, samples: int
) -> tuple[Term, ...]:
    """Cost of `words` read or written: bits / 64 times the cost of a 64-bit access.

    `samples` bounds `config.reuse`: see `most_reuse`. Buffers of activations hold as many samples as share a read. A
    write costs as much as a read, since the sources publish only reads.
    """
    needed_by = f"{access.operation} of {access.array} in layer {access.layer}"
    kind, reuse = config.memory_of(access), config.reuse_of(access)
    if is_shared(access) and reuse > samples:
        raise ValueError(
            f"reuse {reuse:g} of {access.array} in layer {access.layer}: a minibatch of this ledger has {samples} "
            "samples, so that is the most that can share one access"
        )
    if kind in HOLDINGS:
        if is_shared(access) and access.operation == "read" and kind == "in-memory":
            return ()  # the product is charged with the read
        kind, reuse = "sram", samples
    held = access.capacity_bits * max(1, round(reuse)) if access.array in BUFFERS else access.capacity_bits
    constant = memory_of_size(technology, kind, held, needed_by)
    return (Term(constant, words * access.bits / 64 / (reuse if is_shared(access) else 1)),)


def is_shared(access: Access) -> bool:
    """Whether samples of a minibatch can share the access: products read the same weights, gradients are summed."""
    if access.array in BUFFERS or access.purpose in ONCE_A_STEP + ONCE_A_SAMPLE:
        return False
    if access.array.endswith(" gradient"):
        return access.purpose == "gradient"
    return access.operation == "read" and not access.array.endswith((" optimizer state", "_master", " norm"))


def most_reuse(ledger: Ledger) -> int:
    """The most samples that can share an access: those of a minibatch, or in inference all."""
    return max(1, ledger.batch or ledger.samples)


def memory_of_size(technology: Technology, kind: str, bits: int, needed_by: str) -> Constant:
    """The cost of an access to a memory called `kind` that holds `bits`.

    Memories of that kind with a size, `sram 8 KiB` say, are points of a curve, straight between neighbours if size and
    cost are logarithmic. An array below the smallest size costs as much as that, since the curve has no source there;
    an array above the largest is held in banks of it.
    """
    points = memories_of(technology, kind, needed_by)
    sizes = [memory.capacity_bits or 0 for memory in points]
    for (smaller, low), (larger, high) in pairwise(zip(sizes, points, strict=True)):
        if smaller < bits < larger:
            return _between(low, high, bits, log(bits / smaller) / log(larger / smaller))
    return points[0] if bits <= sizes[0] else points[sizes.index(max(x for x in sizes if x <= bits))]


def memories_of(technology: Technology, kind: str, needed_by: str) -> list[Constant]:
    """Memories called `kind`, the smallest first; one without a size holds any number of bits."""
    points = [memory for memory in technology.memories() if memory.name.partition(" ")[0] == kind]
    if points:
        return points
    constant = technology.constant(kind, needed_by)
    if constant.per != "64-bit access":
        raise ValueError(
            f"constant {constant.name!r} of technology {technology.name!r} is per {constant.per}; "
            f"{needed_by} needs one per 64-bit access"
        )
    return [constant]


def _between(smaller: Constant, larger: Constant, bits: int, part: float) -> Constant:
    """The memory of `bits`, a `part` of the way from `smaller` to `larger` on logarithmic axes."""

    def cost(name: str) -> float:
        low, high = getattr(smaller, name), getattr(larger, name)
        return float(exp((1 - part) * log(low) + part * log(high))) if low > 0 < high else low + part * (high - low)

    return replace(
        smaller,
        name=f"{smaller.name.partition(' ')[0]} {bits / 8192:.4g} KiB",
        source=f"between {smaller.name} and {larger.name}, log-log: {smaller.source}",
        capacity_bits=bits,
        low=cost("low"),
        typical=cost("typical"),
        high=cost("high"),
    )
